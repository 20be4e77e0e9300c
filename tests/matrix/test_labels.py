"""Ignored examples, weights of zero and soft labels of zero, for every loss that they apply to."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import FORMULAS, distributions, hard_logits, over, some_mask, weighted
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(4)

CLASSES = 5
UNSMOOTHED = [case for case in FORMULAS if "label_smoothing" not in case.options]
WITHOUT_WEIGHT = [case for case in FORMULAS if case.function != weighted]


def value_and_grad(function, logits):
    """Return the values and the gradient of the sum of the finite ones, with no NaN in them."""

    def total(z):
        out = function(z)
        return jnp.sum(jnp.where(jnp.isfinite(out), out, 0)), out

    with jax.debug_nans(True):
        (_, out), bar = jax.jit(jax.value_and_grad(total, has_aux=True))(logits)
        return np.asarray(out), np.asarray(bar)


def test_smoothed_loss_with_a_class_at_minus_infinity():
    logits = jnp.array([[1.0, -jnp.inf, 0.0]])
    out, bar = value_and_grad(
        lambda z: js.cross_entropy(z, jnp.array([0]), label_smoothing=0.1), logits
    )
    assert_array_equal(out, [np.inf])
    assert bar[0, 1] == 0


def test_a_single_class_has_loss_zero():
    cases = [
        case
        for case in UNSMOOTHED
        if "z_loss" not in case.options and "temperature" not in case.options
    ]

    @jax.jit
    def everything(z):
        labels = jnp.zeros(3, int)
        pullbacks = [jax.vjp(lambda z, c=c: c.function(z, labels, **c.options), z) for c in cases]
        return [(out, pullback(jnp.ones_like(out))[0]) for out, pullback in pullbacks]

    results = everything(jnp.array([[1e30], [0.0], [-5.0]]))
    for case, (out, bar) in zip(cases, results, strict=True):
        assert_array_equal(out, [0, 0, 0], err_msg=case.name)
        assert_array_equal(bar, [[0], [0], [0]], err_msg=case.name)


@over(WITHOUT_WEIGHT)
def test_ignored_examples_and_no_example_left(case):
    @jax.jit
    def run(logits, labels, ignored, weight):
        def mean(z):
            out = case.function(z, labels, **case.options, ignore_index=ignored)
            return js.weighted_mean(out, weight), out

        return jax.value_and_grad(mean, has_aux=True)(logits)

    for ignored in (-100, 2):
        labels = jnp.array([0, 1, ignored, 3, 4, 0, ignored, 3])
        out_rows = np.asarray(labels) == ignored
        logits = jnp.where(out_rows[:, None], jnp.nan, hard_logits(CLASSES)).at[6].set(jnp.inf)
        (mean_loss, out), bar = run(logits, labels, ignored, ~out_rows)
        kept = np.where(out_rows, 0, labels)
        clean = jnp.where(out_rows[:, None], 0, logits)
        expected = case.oracle(clean, oracles.one_hot(kept, CLASSES), **case.options)
        assert_array_equal(out[out_rows], 0)
        assert_array_equal(bar[out_rows], 0)
        assert np.all(np.isfinite(bar))
        assert_allclose(out[~out_rows], expected[~out_rows], rtol=5e-5, atol=3e-5)
        assert_allclose(mean_loss, expected[~out_rows].mean(), rtol=1e-5)
    for rows in (0, 8):
        no_labels, none = jnp.zeros(rows, labels.dtype), np.zeros(rows, bool)
        (value, _), bar = run(jnp.zeros((rows, CLASSES)), no_labels, -100, none)
        assert value == 0
        assert_array_equal(bar, np.zeros((rows, CLASSES)))


def test_ignored_with_class_weight_and_mask():
    labels, where = jnp.array([-1, 1]), np.array([[False] * 3, [True] * 3])
    weight = jnp.array([1.0, 3.0, 0.0])
    out, bar = value_and_grad(
        lambda z: js.cross_entropy(z, labels, where=where, class_weight=weight, ignore_index=-1),
        jnp.zeros((2, 3)),
    )
    assert_allclose(out, [0, 3 * np.log(3)], rtol=1e-6)
    assert_array_equal(bar[0], 0)


def test_class_weight_zero_wins_over_an_infinite_loss():
    out, bar = value_and_grad(
        lambda z: js.cross_entropy(z, jnp.array([0]), class_weight=jnp.array([0.0, 1.0])),
        jnp.array([[-jnp.inf, 0.0]]),
    )
    assert_array_equal(out, [0])
    assert_array_equal(bar, [[0, 0]])


@over(UNSMOOTHED)
def test_distribution_with_zero_on_a_class_at_minus_infinity(case):
    logits = jnp.array([[0.5, -jnp.inf, 1.0], [-jnp.inf, 0.0, -jnp.inf]])
    q = jnp.array([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]])
    finite = jnp.where(jnp.isinf(logits), -1e4, logits)

    @jax.jit
    def run(z, q):
        def function(z):
            return case.function(z, q, **case.options)

        out, pullback = jax.vjp(function, z)
        moved = jax.jvp(function, (z,), (jnp.ones_like(z),))[1]
        return out, pullback(jnp.ones_like(out))[0], moved

    out, bar, moved = run(logits, q)
    # At -1e4 the oracle has rounding left, and heavy tails something more.
    atol = (
        1e-10 if "max_loss" in case.name or case.name in ("entmax15_loss", "bi_tempered") else 1e-37
    )
    assert_allclose(out, case.oracle(finite, q, **case.options), rtol=3e-6, atol=atol)
    assert_array_equal(bar[np.isinf(logits)], 0)
    assert np.all(np.isfinite(bar))
    assert_allclose(moved, bar.sum(-1), atol=2e-6)
    # Positive probability on it is an infinite loss, bounded losses apart, and never NaN.
    out, bar, _ = run(logits, jnp.roll(q, 1, -1))
    assert not np.isnan(out).any()
    assert not np.isnan(bar).any()
    assert_array_equal(bar[np.isinf(logits)], 0)


def test_kl_and_binary_cross_entropy_at_infinite_logits():
    q = np.array([[1.0, 0.0]], np.float32)

    @jax.jit
    def of_kl(z, q):
        out, pullback = jax.vjp(lambda z: js.kl_divergence(z, q), z)
        return out, pullback(jnp.ones_like(out))[0]

    logits = np.array([[0.5, -np.inf]], np.float32)
    out, bar = of_kl(logits, q)
    assert_array_equal(out, [0])
    assert_array_equal(bar, [[0, 0]])
    assert_array_equal(of_kl(logits, 1 - q)[0], [np.inf])
    inf = np.array([np.inf, -np.inf, np.inf, -np.inf], np.float32)
    with jax.debug_nans(True):  # eager, so that a NaN in any single step is an error
        out = js.binary_cross_entropy(inf, np.array([1, 0, 0, 1]))
    assert_array_equal(out, [0, 0, np.inf, np.inf])
    bad = js.binary_cross_entropy(np.zeros(4, np.float32), np.array([2, -1, 2, -1]))
    assert np.isnan(bad).all()


@pytest.mark.parametrize("classes", [3])
def test_a_masked_distribution(classes):
    q, where = distributions(classes), some_mask(classes)
    logits = hard_logits(classes)
    out, bar = value_and_grad(
        lambda z: js.cross_entropy(z, jnp.where(where, q, 0), where=where), logits
    )
    assert np.all(np.isfinite(out))
    assert_array_equal(bar[~where], 0)


@pytest.mark.parametrize("more", [{}, {"class_weight": jnp.ones(3)}], ids=["alike", "weighted"])
def test_of_a_masked_label_nothing_is_left_by_a_smoothing_of_1(more):
    z, where, one_hot = jnp.array([1.0, 2.0, 3.0]), jnp.arange(3) < 2, jnp.array([0.0, 0.0, 1.0])
    expected = js.cross_entropy(z[:2], jnp.array([0.5, 0.5]))
    for labels in (2, one_hot, js.SparseLabels(jnp.array([2]), jnp.ones(1))):
        for smoothing in (0.0, 0.5, 1.0):
            loss = partial(
                js.cross_entropy, labels=labels, where=where, label_smoothing=smoothing, **more
            )
            value, gradient = jax.jit(jax.value_and_grad(loss))(z)
            assert_allclose(value, expected if smoothing == 1 else np.inf, rtol=1e-6)
            assert np.all(np.isfinite(gradient))
