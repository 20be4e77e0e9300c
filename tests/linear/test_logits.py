"""linear_logits without margins, and the order of its steps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import MARGINS, head, over
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(4)

BIAS = np.array([1.0, -2.0, 0.5, 0.0, 3.0], np.float32)


@pytest.mark.parametrize("x_dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("w_dtype", ["float32", "bfloat16"])
def test_mixed_dtypes_bias_and_softcap(x_dtype, w_dtype):
    features, weight = head(x_dtype)[0], head(w_dtype)[1]

    @jax.jit
    def run(x, w):
        bars = jax.grad(lambda x, w: jnp.sum(js.linear_logits(x, w)), (0, 1))(x, w)
        return js.linear_logits(x, w, bias=BIAS, softcap=2.5), bars

    got, bars = run(features, weight)
    scores = oracles.float64(features) @ oracles.float64(weight).T + BIAS
    assert got.dtype == jnp.float32
    assert_allclose(got, 2.5 * np.tanh(scores / 2.5), rtol=2e-6, atol=1e-6)
    assert [bar.dtype for bar in bars] == [x_dtype, w_dtype]


def test_order_of_margin_scale_bias_and_softcap():
    features, weight, labels = head()
    options = {"bias": BIAS, "softcap": 5.0, "margin": js.cosface(0.25, 8.0)}
    got = jax.jit(partial(js.linear_logits, **options))(features, weight, labels)
    x, w = oracles.float64(features), oracles.float64(weight)
    cosine = x @ w.T / np.linalg.norm(x, axis=-1, keepdims=True) / np.linalg.norm(w, axis=-1)
    scores = 8 * (cosine - 0.25 * oracles.one_hot(labels, 5)) + BIAS
    assert_allclose(got, 5 * np.tanh(scores / 5), rtol=2e-6, atol=2e-6)


@over(MARGINS)
def test_without_labels_there_is_no_margin(case):
    features, weight, labels = head()
    got = jax.jit(js.linear_logits)(features, weight, margin=case.function)
    plain = {
        k: v for k, v in case.options.items() if k in ("scale", "unit_features", "unit_weight")
    }
    assert_allclose(
        got, oracles.margin_logits(features, weight, labels, **plain), rtol=3e-6, atol=1e-5
    )
    # With labels, only the true class changes.
    with_labels = jax.jit(js.linear_logits)(features, weight, labels, margin=case.function)
    other = ~oracles.one_hot(labels, 5).astype(bool)
    assert_array_equal(with_labels[other], got[other])


def test_a_bad_label_leaves_its_row_to_the_loss():
    features, weight, _ = head()
    labels = jnp.array([0, -1, 7, 4])
    cases = [c for c in MARGINS if c.name in ("l_softmax, anneal", "a_softmax", "arcface")]

    @jax.jit
    def run(features):
        def of(margin):
            logits = js.linear_logits(features, weight, labels, margin=margin)
            plain = js.linear_logits(features, weight, margin=margin)
            return logits, plain, js.cross_entropy(logits, labels)

        return {case.name: of(case.function) for case in cases}

    for name, (logits, plain, losses) in run(features).items():
        assert_array_equal(logits[1:3], plain[1:3], err_msg=name)
        assert_array_equal(np.isnan(losses), [False, True, True, False], err_msg=name)


def test_leading_shapes():
    shapes = (), (2,), (2, 3), (0,)

    @jax.jit
    def run():
        heads = [(jnp.ones((*shape, 4)), jnp.zeros(shape, jnp.uint8)) for shape in shapes]
        return [js.linear_logits(x, jnp.eye(5, 4), y, margin=js.arcface()) for x, y in heads]

    assert [logits.shape for logits in run()] == [(*shape, 5) for shape in shapes]


def test_traced_softcap_has_a_gradient():
    features, weight, _ = head()

    def total(cap):
        return jnp.sum(js.linear_logits(features, weight, softcap=cap))

    a = oracles.float64(features) @ oracles.float64(weight).T
    expected = (np.tanh(a / 2) - a / 2 / np.cosh(a / 2) ** 2).sum()
    assert_allclose(jax.jit(jax.grad(total))(2.0), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="softcap"):
        js.linear_logits(features, weight, softcap=0.0)
