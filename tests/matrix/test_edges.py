"""Masked classes, classes at -inf and out-of-range labels, for every map and loss.

The tests of one function share their shapes, and so what is compiled.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import (
    FORMULAS,
    GUMBEL,
    HEADS,
    MAPS,
    hard_logits,
    labels_for,
    over,
    some_mask,
    vectors_of,
)
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(13)

CLASSES = 5
UNSMOOTHED = [case for case in FORMULAS if "label_smoothing" not in case.options]
# The loss of a label of probability 0, or with all classes masked.
BOUNDED = {"gce": 1 / 0.7, "mae": 2.0, "brier": 1.0, "bi_tempered": 1 / (1.2 * 0.2)}
CONTINUOUS_MAPS = [case for case in [*MAPS, *GUMBEL] if "num_samples" not in case.options]


@cache
def compiled(function, **options):
    """Return the values and a pullback, compiled once for all tests with the same shapes."""

    def run(logits, cotangent, *labels, **more):
        out, pullback = jax.vjp(lambda z: function(z, *labels, **options, **more), logits)
        return out, pullback(cotangent)[0]

    return jax.jit(run)


def pulled_back(case, logits, cotangent, *labels, **more):
    """Return the values and what becomes of the cotangent, infinite values included."""
    logits = jnp.asarray(logits, jnp.float32)
    labels = [jnp.asarray(x, jnp.int32) for x in labels]
    run = compiled(case.function, **case.options)
    return [np.asarray(x) for x in run(logits, np.float32(cotangent), *labels, **more)]


def masked_as(how, logits, where):
    """Return logits and options that mask the same classes, in one of two ways."""
    if how == "-inf":
        return jnp.where(where, logits, -jnp.inf), {}
    return logits, {"where": where}


# The tests of one function share their shapes, and so what is compiled: `compiled`.


def weights_like(expected):
    """Return different weights, since the sum of a softmax has no gradient; none for infinity."""
    weights = np.linspace(0.5, 1.5, expected.size).reshape(expected.shape)
    return np.where(np.isfinite(expected), weights, 0)


@pytest.mark.parametrize("how", ["-inf", "where"])
@over(CONTINUOUS_MAPS)
def test_map_with_masked_classes(case, how):
    logits = jax.random.normal(jax.random.key(0), (4, CLASSES))
    where = np.broadcast_to([True, False, True, True, False], (4, CLASSES))
    hidden, options = masked_as(how, jnp.where(where, logits, 1e30), where)
    expected = case.oracle(logits, where=where, **case.options)
    out, bar = pulled_back(case, hidden, weights_like(expected), **options)
    assert_allclose(out, expected, rtol=2e-5, atol=1e-6)
    assert_array_equal(bar[~where], 0)
    assert np.all(np.isfinite(bar))


@pytest.mark.parametrize("how", ["-inf", "where", "where over NaN"])
@over(FORMULAS)
def test_loss_with_masked_classes(case, how):
    if how == "-inf" and case not in UNSMOOTHED:
        pytest.skip("smoothing puts probability on the class: see test_labels.py")
    logits, where = hard_logits(CLASSES), some_mask(CLASSES)
    where[:, 0] = True
    labels = np.where(np.arange(8) % 2 == 0, CLASSES - 1, 0)
    hidden = jnp.where(where, logits, jnp.nan if "NaN" in how else 1e30)
    hidden, options = masked_as(how, hidden, where)
    out, bar = pulled_back(case, hidden, np.ones(8), labels, **options)
    expected = case.oracle(logits, oracles.one_hot(labels, CLASSES), where=where, **case.options)
    assert_allclose(out, expected, rtol=5e-5, atol=1e-37 if case in UNSMOOTHED else 3e-5)
    assert_array_equal(bar[~where], 0)
    assert np.all(np.isfinite(bar))


ODD = np.arange(8) % 2 == 1  # the rows in which something is masked


@pytest.mark.parametrize("how", ["-inf", "where"])
@over(FORMULAS)
def test_label_on_a_masked_class(case, how):
    logits = np.tile(np.float32([1.0, 2.0, 0.5, -1.0, 0.0]), (8, 1))
    where = ~(ODD[:, None] & (np.arange(CLASSES) == 2))
    labels = np.full(8, 2)
    hidden, options = masked_as(how, logits, where)
    out, bar = pulled_back(case, hidden, np.ones(8), labels, **options)
    plain = {k: v for k, v in case.options.items() if k != "label_smoothing"}
    bounded = case.name in BOUNDED
    expected = case.oracle(logits, oracles.one_hot(labels, CLASSES), where=where, **plain)[ODD]
    assert_allclose(out[ODD], expected if bounded else np.full(4, np.inf), rtol=1e-6)
    assert np.all(np.isfinite(out[~ODD]))
    assert not np.isnan(bar).any()
    assert_array_equal(bar[ODD, 2], 0)


@pytest.mark.parametrize("how", ["-inf", "where"])
@over([*MAPS, *GUMBEL])
def test_map_with_all_classes_masked(case, how):
    if "num_samples" in case.options and how == "-inf":
        pytest.skip("these maps have a floor: a logit of -inf still has a probability")
    logits = np.tile(np.float32([[1.0, 2.0, 0.0, 0.5, -1.0], [0.0] * CLASSES]), (2, 1))
    odd = ODD[:4]
    hidden, options = masked_as(how, logits, np.broadcast_to(~odd[:, None], logits.shape))
    shape = (4,) if case.name == "logsumexp" else (4, CLASSES)
    none = np.full(shape, -np.inf if case.name.startswith("log") else 0.0)
    on_rows = (~odd).reshape(4, *[1] * (len(shape) - 1))
    out, bar = pulled_back(case, hidden, weights_like(np.where(on_rows, 1, none)), **options)
    assert_array_equal(out[odd], none[odd])
    assert not np.isnan(out).any()
    assert np.all(np.isfinite(bar))
    assert_array_equal(bar[odd], 0)


@pytest.mark.parametrize("how", ["-inf", "where"])
@over(FORMULAS)
def test_loss_with_all_classes_masked(case, how):
    where = np.broadcast_to(~ODD[:, None], (8, CLASSES))
    hidden, options = masked_as(how, np.ones((8, CLASSES), np.float32), where)
    out, bar = pulled_back(case, hidden, np.ones(8), ODD, **options)
    assert_allclose(out[ODD], np.full(4, BOUNDED.get(case.name, np.inf)), rtol=1e-6)
    assert not np.isnan(out).any()
    assert not np.isnan(bar).any()
    assert_array_equal(bar[ODD], 0)


def every_function_of_labels(logits, labels):
    """Return functions of logits, and of features, that have these labels."""

    def head(margin):
        weight = vectors_of(margin, CLASSES, 3)
        return lambda x: js.linear_loss(x, weight, labels, margin=margin, reduction=None)

    metrics = js.perplexity, js.expected_calibration_error, js.top_k_accuracy
    of_logits = {case.name: partial(case.function, **case.options) for case in FORMULAS}
    of_logits |= {metric.__name__: metric for metric in metrics}
    heads = {"none": head(None)} | {name: head(margin) for name, margin in HEADS.items()}
    found = {name: function(logits, labels) for name, function in of_logits.items()}
    return found | {f"head {name}": function(logits[:, :3]) for name, function in heads.items()}


@pytest.mark.thorough
def test_a_label_that_a_compiler_knows_to_be_out_of_range():
    """XLA's CPU backend gives anything for the exponential of a NaN that it knows, too."""
    labels = np.full(8, -1)
    found = jax.jit(partial(every_function_of_labels, labels=labels))(hard_logits(CLASSES))
    assert [name for name, value in found.items() if not np.isnan(value).all()] == []


@over(FORMULAS)
def test_out_of_range_label_is_nan_in_its_own_row_only(case):
    logits = hard_logits(CLASSES)
    good = labels_for(CLASSES)
    bad = jnp.array([-1, CLASSES, 10**6, -(2**31)])
    out, bar = pulled_back(case, logits, np.ones(8), good.at[1:5].set(bad))
    expected, expected_bar = pulled_back(case, logits, np.ones(8), good)
    row = (np.arange(8) >= 1) & (np.arange(8) < 5)
    assert np.all(np.isnan(out[row]))
    assert np.all(np.isnan(bar[row]))
    assert_array_equal(out[~row], expected[~row])
    assert_array_equal(bar[~row], expected_bar[~row])


# --- derivatives of which a masked class is no part ---

CE, SOFT = js.cross_entropy, jnp.array([0.4, 0.6, 0.0])
OF_NUMBERS = {
    "softmax": (lambda z, h, q, **on: js.softmax(z, temperature=h, **on)[0], 1.3),
    "entmax": (lambda z, h, q, **on: js.entmax(z, alpha=h, **on)[0], 1.3),
    "temperature": (lambda z, h, q, **on: CE(z, 0, temperature=h, **on), 1.3),
    "temperature, soft": (lambda z, h, q, **on: CE(z, q, temperature=h, **on), 1.3),
    "z_loss": (lambda z, h, q, **on: CE(z, 0, z_loss=h, temperature=h, **on), 1.3),
    "gamma": (lambda z, h, q, **on: js.focal_loss(z, q, gamma=h, **on), 1.3),
    "epsilon": (lambda z, h, q, **on: js.poly_loss(z, q, epsilon=h, **on), 1.3),
    "q": (lambda z, h, q, **on: js.generalized_cross_entropy(z, q, q=h, **on), 0.7),
    "alpha": (lambda z, h, q, **on: js.symmetric_cross_entropy(z, q, alpha=h, **on), 0.1),
    "beta": (lambda z, h, q, **on: js.symmetric_cross_entropy(z, q, beta=h, **on), 0.1),
    "alpha of entmax": (lambda z, h, q, **on: js.entmax_loss(z, q, alpha=h, **on), 1.3),
    "t1": (lambda z, h, q, **on: js.bi_tempered_loss(z, q, t1=h, t2=1.2, **on), 0.7),
    "t2": (lambda z, h, q, **on: js.bi_tempered_loss(z, q, t1=0.7, t2=h, **on), 1.2),
}


@pytest.mark.parametrize("how", ["-inf", "where"])
@pytest.mark.parametrize("name", OF_NUMBERS)
def test_derivatives_in_a_number_beside_a_masked_class(name, how):
    function, h = OF_NUMBERS[name]
    z, where = jnp.array([1.0, 2.0, 3.0]), jnp.arange(3) < 2
    hidden, on = masked_as(how, z, where)

    def derivatives(z, q, **on):
        def f(h, z):
            return function(z, h, q, **on)

        both = jax.value_and_grad(f, (0, 1))(h, z), jax.jvp(lambda h: f(h, z), (h,), (1.0,))
        second = jax.grad(jax.grad(f))(h, z), jax.jacfwd(jax.grad(f))(h, z)
        return both, second, jax.jacfwd(jax.grad(f, 1))(h, z)[:2]

    def without(z, q):
        return derivatives(z, q)

    got = jax.jit(partial(derivatives, **on))(hidden, SOFT)
    expected = jax.jit(without)(z[:2], SOFT[:2])
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert_allclose(a[: len(b)] if a.ndim else a, b, rtol=1e-4, atol=1e-6)
        assert_array_equal(a[len(b) :] if a.ndim else 0, 0)


@pytest.mark.parametrize("how", ["-inf", "where"])
@over(FORMULAS)
def test_forward_and_reverse_mode_agree_beside_a_masked_label(case, how):
    hidden, on = masked_as(how, jnp.array([1.0, 2.0, 3.0]), jnp.arange(3) < 2)

    def f(z):
        return case.function(z, jnp.array([0.2, 0.3, 0.5]), **case.options, **on)

    @jax.jit
    def run(z):
        return jax.jacrev(f)(z), jax.jacfwd(f)(z)

    reverse, forward = run(hidden)
    assert np.all(np.isfinite(reverse))
    assert_allclose(forward, reverse, rtol=1e-5, atol=1e-6)


@over(MAPS)
def test_a_nan_is_kept(case):
    z = jnp.array([[1.0, jnp.nan, 2.0], [0.5, 0.25, -1.0]])
    found = [f(z, **case.options) for f in (case.function, jax.jit(partial(case.function)))]
    assert_array_equal(*map(np.isnan, found))
    assert np.isnan(found[0][0]).any()
    assert not np.isnan(found[0][1]).any()
