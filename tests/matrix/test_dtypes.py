"""Dtypes of logits, labels and results, for every map and loss."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import FORMULAS, GUMBEL, LOSSES, MAPS, hard_logits, labels_for, over
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = [pytest.mark.slow, pytest.mark.one_in(13)]

CLASSES = 5
UNSMOOTHED = [case for case in FORMULAS if "label_smoothing" not in case.options]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@over([*MAPS, *GUMBEL, *LOSSES])
def test_dtypes_of_results(case, dtype):
    is_map = case not in LOSSES
    arguments = () if is_map else (labels_for(CLASSES),)

    def function(z):
        return case.function(z, *arguments, **case.options)

    def run(z):
        out, pullback = jax.vjp(function, z)
        return out, pullback(jnp.ones_like(out))[0]

    out, bar = jax.eval_shape(run, jax.ShapeDtypeStruct((8, CLASSES), dtype))
    assert out.dtype == (dtype if is_map else "float32")
    assert bar.dtype == dtype


def test_integer_logits():
    # As unsigned integers or in 8 bits, z - max z would wrap around.
    logits = np.array([[0, 120, 3, 127, 1]])

    @jax.jit
    def everything(z):
        maps = [case.function(z, **case.options) for case in MAPS]
        return maps + [case.function(z, jnp.array([1]), **case.options) for case in UNSMOOTHED]

    same = everything(logits.astype("float32"))
    for dtype in ("int8", "uint32"):
        given = everything(logits.astype(dtype))
        for case, got, expected in zip([*MAPS, *UNSMOOTHED], given, same, strict=True):
            assert got.dtype == jnp.float32, case.name
            assert_array_equal(got, expected, err_msg=f"{case.name}, {dtype}")


@pytest.mark.parametrize("classes", [10, 300])
def test_small_label_dtypes(classes):
    # With 300 classes, `iota < 300` or a negative check in the labels' own dtype would wrap.
    labels, dtypes = np.array([0, 7, 9, 1, 2, 3, 4, 5]), ("int8", "uint8", "uint16", "uint32")
    logits = hard_logits(classes)
    expected = oracles.cross_entropy(logits, oracles.one_hot(labels, classes))

    @jax.jit
    def run(z, of_dtypes):
        return [(js.cross_entropy(z, y), js.cross_entropy(z[:, :3], y)) for y in of_dtypes]

    results = run(logits, [labels.astype(dtype) for dtype in dtypes])
    for dtype, (losses, of_three) in zip(dtypes, results, strict=True):
        assert_allclose(losses, expected, rtol=5e-6, atol=1e-37, err_msg=dtype)
        assert_array_equal(np.isnan(of_three), labels >= 3, err_msg=dtype)


def test_ignore_index_beyond_the_labels_dtype():
    run = jax.jit(partial(js.cross_entropy, ignore_index=-100))
    for dtype in ("int8", "uint8", "int32"):
        losses = run(np.zeros((3, 3), np.float32), np.array([0, 1, 4], dtype))
        assert_array_equal(np.isnan(losses), [False, False, True], err_msg=dtype)


@pytest.mark.optimised  # which sums in parallel; one after another, the rounding adds up
@pytest.mark.parametrize("classes", [65_536, 100_000])
def test_many_classes_in_float16(classes):
    last = jnp.array([classes - 1])

    @jax.jit
    def run(z):
        return js.softmax(z), js.log_softmax(z), js.cross_entropy(z, last)

    p, log_p, loss = run(jnp.zeros((1, classes), jnp.float16))
    assert_allclose(p.astype(jnp.float32), np.full((1, classes), 1 / classes), atol=2.0**-25)
    assert_allclose(log_p[0, -1], -np.log(classes), rtol=2**-10)
    assert_allclose(loss, np.log(classes), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@over(FORMULAS)
def test_gradient_of_a_distribution_is_rounded_once(case, dtype):
    """Where p is close to q, a difference of two rounded arrays has no digits left."""
    z = jax.random.normal(jax.random.key(0), (8, 16)).astype(dtype)
    q = jax.nn.softmax(z.astype(float) + 0.01 * jax.random.normal(jax.random.key(1), z.shape))

    @jax.jit
    def gradients(z):
        return [
            jax.grad(lambda z: case.function(z, q, **case.options).sum())(given)
            for given in (z, z.astype(float))
        ]

    got, expected = gradients(z)
    step = float(jnp.finfo(dtype).eps)
    assert_allclose(
        got.astype(float), expected, rtol=step, atol=float(jnp.finfo(dtype).tiny) + 1e-7
    )
