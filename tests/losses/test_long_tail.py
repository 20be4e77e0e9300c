"""Rare classes: adjusted logits and class weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import hard_logits, labels_for
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(4)

COUNTS = np.array([5000, 1, 40, 1200, 7, 300, 3, 90, 2, 15])
SHARES = np.array([0.5, 0.125, 0.25, 0.0625, 0.03125, 0.015625, 0.015625])


# --- adjusted logits ---


def log_prior(counts):
    counts = np.asarray(counts, np.float64)
    counts = np.where(counts == 0, counts[counts > 0].min(), counts)
    return np.log(counts / counts.sum())


@jax.jit
def adjust(logits, counts, tau=1.0):
    return js.adjust_logits(logits, counts, tau=tau)


def adjusted(logits, counts, tau=1.0):
    return oracles.float64(logits) + tau * log_prior(counts)


@pytest.mark.parametrize("tau", [1.0, -1.0, 0.5])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32"])
def test_adjusted_logits(dtype, tau):
    logits = hard_logits(10, dtype)
    got = adjust(logits, COUNTS, tau)
    assert got.dtype == ("float32" if dtype == "int32" else dtype)
    expected = adjusted(logits, COUNTS, tau)
    # One rounding of the result, and in float32 a few.
    rtol = {"bfloat16": 2**-8, "float16": 2**-10}.get(dtype, 5e-7)
    assert_allclose(oracles.float64(got), expected, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "float32", "bfloat16", "float16"])
def test_counts_of_any_dtype_and_shares(dtype):
    counts = np.array([128, 32, 64, 16, 8, 4, 4])
    logits = hard_logits(7)
    expected = adjusted(logits, counts)
    assert_allclose(adjust(logits, jnp.asarray(counts).astype(dtype)), expected, rtol=1e-6)
    assert_array_equal(adjust(logits, SHARES), adjust(logits, jnp.asarray(counts, jnp.float32)))


def test_counts_beyond_the_integers_of_float32():
    counts = np.array([2**31 - 1, 2**31 - 1, 2**24 + 1], np.int32)
    assert_allclose(adjust(jnp.zeros(3), counts), log_prior(counts), rtol=1e-6)


def test_the_class_axis():
    logits = hard_logits(10).reshape(2, 4, 10)

    @partial(jax.jit, static_argnums=1)
    def along(logits, axis):
        moved = js.adjust_logits(jnp.moveaxis(logits, -1, axis), COUNTS, axis=axis)
        return jnp.moveaxis(moved, axis, -1)

    for axis in (-1, 1, -3):
        assert_allclose(along(logits, axis), adjusted(logits, COUNTS), rtol=5e-7, atol=1e-6)


def test_a_class_without_examples_is_as_rare_as_the_rarest():
    got = adjust(jnp.zeros(5), np.array([10, 0, 2, 3, 0]))
    assert_allclose(got, np.log(np.array([10, 2, 2, 3, 2]) / 19), rtol=1e-6)
    assert_allclose(adjust(jnp.zeros(5), np.zeros(5, int)), np.full(5, np.log(0.2)), rtol=1e-6)


def test_a_masked_class_stays_masked():
    logits = jnp.array([[1.0, -jnp.inf, 0.0]])

    @jax.jit
    @jax.value_and_grad
    def run(z):
        return js.cross_entropy(js.adjust_logits(z, np.array([3, 2, 1])), jnp.array([0]))[0]

    out, bar = run(logits)
    p = oracles.softmax(np.array([1 + np.log(3), 0]))
    assert_allclose(out, -np.log(p[0]), rtol=1e-6)
    assert_allclose(bar, [[p[0] - 1, 0, p[1]]], rtol=1e-6)


def test_cross_entropy_of_adjusted_logits():
    logits, labels = hard_logits(10), labels_for(10)

    def total(z, tau):
        losses = js.cross_entropy(js.adjust_logits(z, COUNTS, tau=tau), labels)
        return jnp.sum(losses), losses

    run = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    for tau in (1.0, 0.3):
        (_, losses), (bar, bar_tau) = run(logits, tau)
        q = oracles.one_hot(labels, 10)
        assert_allclose(losses, oracles.cross_entropy(adjusted(logits, COUNTS, tau), q), rtol=2e-5)
        expected = oracles.softmax(adjusted(logits, COUNTS, tau)) - q
        # Logits of size 300 are rounded by 1.5e-5 when something is added to them.
        assert_allclose(bar, expected, atol=2e-5)
        assert_allclose(bar[:6], expected[:6], atol=2e-6)
        assert_allclose(bar_tau, (expected * log_prior(COUNTS)).sum(), rtol=1e-4)


@pytest.mark.parametrize("function", [js.class_balanced_weights, js.ldam], ids=["weights", "ldam"])
def test_negative_counts(function):
    def first(counts):
        out = function(counts)
        return out.m3 if isinstance(out, js.AngularMargin) else out

    def logits(counts):
        return js.adjust_logits(jnp.zeros(3), counts)

    counts = jnp.array([3, -1, 2])
    for called in (first, logits):
        with pytest.raises(ValueError, match="`class_counts`"):
            called(counts)
        assert np.isnan(jax.jit(called)(counts)).all()
    with pytest.raises(AssertionError, match="`class_counts`"):
        first(jnp.ones((3, 1)))
    with pytest.raises(AssertionError, match="`class_counts`"):
        logits(jnp.ones(2))


# --- class weights ---


def weights_oracle(counts, beta):
    n = np.asarray(counts, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = n if beta == 1 else -np.expm1(n * np.log1p(beta - 1)) / (1 - beta)
        weight = np.where(n > 0, 1 / effective, 0)
    return weight * (n > 0).sum() / weight.sum()


MANY = np.array([1, 2, 3, 10, 99, 1000, 12_345, 10**6, 0])
traced_weights = jax.jit(lambda counts, beta: js.class_balanced_weights(counts, beta=beta))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 1 - 1e-7, 1.0])
def test_class_balanced_weights(beta):
    counts = jnp.asarray(MANY)
    got = jax.jit(partial(js.class_balanced_weights, beta=beta))(counts)
    assert_allclose(got, weights_oracle(MANY, beta), rtol=1e-6)
    assert_allclose(np.sum(got), 8, rtol=1e-6)
    # A traced β has been rounded to float32: that of 0.9999 is another one by 1e-8 of its 1e-4.
    traced = traced_weights(counts.astype(jnp.float32), jnp.float32(beta))
    assert_allclose(traced, weights_oracle(MANY, float(np.float32(beta))), rtol=1e-6)


def test_limits_of_beta():
    counts = np.array([4, 2, 1, 0])
    assert_allclose(traced_weights(counts, 0.0), [1, 1, 1, 0], rtol=1e-6)
    by_inverse = np.array([1 / 4, 1 / 2, 1, 0]) * 3 / 1.75
    assert_allclose(traced_weights(counts, 1.0), by_inverse, rtol=1e-6)
    assert_array_equal(traced_weights(np.zeros(4, int), 0.9), np.zeros(4))
    for beta in (-0.1, 1.1):
        with pytest.raises(ValueError, match="`beta`"):
            js.class_balanced_weights(counts, beta=beta)


def test_gradient_of_beta():
    counts = jnp.asarray(MANY[:8])
    slope = jax.jit(jax.jacfwd(traced_weights, 1))
    for beta in (0.5, 0.9, 0.999):
        beta = float(np.float32(beta))
        around = [weights_oracle(counts, beta + step) for step in (1e-6, -1e-6)]
        got = slope(counts, jnp.float32(beta))
        assert_allclose(got, (around[0] - around[1]) / 2e-6, rtol=1e-4, atol=1e-4)


def test_weights_of_a_loss():
    logits, labels = hard_logits(10), labels_for(10)
    weight = jax.jit(partial(js.class_balanced_weights, beta=0.99))(COUNTS)
    got = jax.jit(js.cross_entropy)(logits, labels, class_weight=weight)
    q = oracles.one_hot(labels, 10)
    expected = oracles.cross_entropy(logits, q, class_weight=weights_oracle(COUNTS, 0.99))
    assert_allclose(got, expected, rtol=5e-6)
