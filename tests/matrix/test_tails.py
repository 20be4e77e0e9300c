"""Relative accuracy of values and gradients, however sure the model is, right or wrong.

The oracle knows the exact float32 logits and takes the log-odds u of the true class, the
probabilities of the other classes given that it is none of them, and everything else, in float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import hard_logits, labels_for
from numpy.testing import assert_allclose, assert_array_equal
from tails import BOUND, bound_of, confident_logits

import jsoftmax as js

pytestmark = [pytest.mark.optimised, pytest.mark.one_in(5)]


def split(logits):
    """Return u, σ(u), σ(-u) and the shares of the other classes, all float64."""
    z = np.asarray(logits, np.float64)
    others = np.logaddexp.reduce(z[:, :-1], -1)
    u = z[:, -1] - others
    return u, np.exp(-softplus(-u)), np.exp(-softplus(u)), np.exp(z[:, :-1] - others[:, None])


def softplus(x):
    return np.logaddexp(0, x)


def with_gradient(loss, logits):
    """Return per-example losses and their gradients."""
    out, pullback = jax.vjp(loss, logits)
    return out, pullback(jnp.ones_like(out))[0]


def check(results, value, slope, logits, bound=BOUND, least=1e-37):
    """Compare with a loss of u whose derivative is `slope`: d/dz_y = slope, d/dz_j = -slope w_j.

    The bound is on the relative error of numbers down to the size `least`.
    """
    u, _, _, shares = split(logits)
    out, bar = (np.asarray(x, np.float64) for x in results)
    expected_bar = np.column_stack([-slope[:, None] * shares, slope])
    for got, expected in [(out, value), (bar.T, expected_bar.T)]:
        error = np.abs(got - expected) / np.maximum(np.abs(expected), least)
        assert np.max(error / bound) < 1, (
            f"relative error {error.max()} at u = {u[error.argmax() % len(u)]}"
        )
    assert_allclose(bar.sum(-1) / np.abs(bar).max(-1).clip(1e-37), 0, atol=1e-6)


def one_hot(logits):
    return jax.nn.one_hot(jnp.full(len(logits), logits.shape[-1] - 1), logits.shape[-1])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_cross_entropy(classes, soft):
    @jax.jit
    def run(logits):
        labels = one_hot(logits) if soft else jnp.full(len(logits), classes - 1)
        return with_gradient(lambda z: js.cross_entropy(z, labels), logits)

    for side, sign in (("right", 1), ("wrong", -1)):
        logits = confident_logits(sign * np.linspace(0, 80, 321), classes)
        u, _, wrong, _ = split(logits)
        bound = bound_of(u, classes)
        # A distribution is measured from its largest logit. Where that is one of many equal ones,
        # its gradient p = 1 - (1 - p) is right to 1e-7, not to 1e-7 of p.
        least = 0.02 if soft and side == "wrong" else 1e-37
        check(run(logits), softplus(-u), -wrong, logits, bound, least)


# name: loss, value and slope as functions of u, p, 1 - p
CLOSED_FORMS = {
    "gce": (
        partial(js.generalized_cross_entropy, q=0.7),
        lambda u, p, r: -np.expm1(-0.7 * softplus(-u)) / 0.7,
        lambda u, p, r: -(p**0.7) * r,
    ),
    "mae": (js.mae_loss, lambda u, p, r: 2 * r, lambda u, p, r: -2 * p * r),
    "poly": (
        js.poly_loss,
        lambda u, p, r: softplus(-u) + 2 * r,
        lambda u, p, r: -r - 2 * p * r,
    ),
    "sce": (
        js.symmetric_cross_entropy,
        lambda u, p, r: 0.1 * softplus(-u) + 4 * r,
        lambda u, p, r: -0.1 * r - 4 * p * r,
    ),
    "focal": (
        partial(js.focal_loss, gamma=2.0),
        lambda u, p, r: r**2 * softplus(-u),
        lambda u, p, r: -(r**2) * (2 * p * softplus(-u) + r),
    ),
    "focal, gamma 0.5": (
        partial(js.focal_loss, gamma=0.5),
        lambda u, p, r: r**0.5 * softplus(-u),
        lambda u, p, r: -(r**0.5) * (0.5 * p * softplus(-u) + r),
    ),
}


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("classes", [2, 10])
def test_other_losses(classes, soft):
    # focal takes exp(-2 u), which is as good as |2 u| roundings and underflows beyond 40.
    logits = confident_logits(np.linspace(-40, 25, 131), classes)
    labels = one_hot(logits) if soft else jnp.full(len(logits), classes - 1)
    u, p, rest, _ = split(logits)

    @jax.jit
    def run(logits):
        return {
            name: with_gradient(lambda z, loss=loss: loss(z, labels), logits)
            for name, (loss, _, _) in CLOSED_FORMS.items()
        }

    for name, results in run(logits).items():
        _, value, slope = CLOSED_FORMS[name]
        bound = 1e-5 if "focal" in name else BOUND
        check(results, value(u, p, rest), slope(u, p, rest), logits, bound)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("soft", [False, True])
def test_a_common_offset_of_a_million(soft, classes):
    labels = labels_for(classes)[2:6]
    q = oracles.one_hot(labels, classes)
    label = jnp.float32(q) if soft else labels

    @jax.jit
    def run(logits):
        smoothed = js.cross_entropy(logits, label, label_smoothing=0.1, temperature=2.0)
        cold = js.softmax(logits, temperature=0.5)
        return with_gradient(lambda z: js.cross_entropy(z, label), logits), cold, smoothed

    for sign in (-1, 1):
        # The logits keep only 1/16 of resolution; what is left of them counts exactly.
        logits = sign * 1e6 + jnp.round(hard_logits(classes)[2:6] * 16) / 16
        (out, bar), cold, got_smoothed = run(logits)
        assert_allclose(out, oracles.cross_entropy(logits, q), rtol=BOUND)
        assert_allclose(bar, oracles.softmax(logits) - q, rtol=BOUND, atol=1e-7)
        assert_allclose(cold, oracles.softmax(logits, temperature=0.5), rtol=1e-5, atol=1e-37)
        smoothed = oracles.cross_entropy(logits, q, label_smoothing=0.1, temperature=2.0)
        assert_allclose(got_smoothed, smoothed, rtol=BOUND)


@pytest.mark.parametrize("soft", [False, True])
def test_logits_of_size_1e30(soft):
    logits = jnp.array([[1e30, -1e30, 0.0], [-1e30, 1e30, 1e30], [1e30, -1e30, 1e30]], jnp.float32)
    labels = jnp.array([0, 1, 1])
    given = jax.nn.one_hot(labels, 3) if soft else labels

    @jax.jit
    def run(logits):
        maps = js.softmax(logits), js.log_softmax(logits, temperature=10.0)
        return with_gradient(lambda z: js.cross_entropy(z, given), logits), maps

    with jax.debug_nans(True):
        (out, bar), (p, log_p) = run(logits)
    assert_array_equal(p, [[1, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]])
    assert_allclose(log_p[1], [-2e29, -np.log(2), -np.log(2)], rtol=1e-6)
    assert_allclose(out, [0, np.log(2), 2e30], rtol=1e-6)
    expected = [[0, 0, 0], [0, -0.5, 0.5], [0.5, -1, 0.5]]
    assert_allclose(bar, expected, atol=1e-7)


ONE = {
    "entmax_loss": partial(js.entmax_loss, alpha=1.0),
    "entmax_loss, by example": partial(js.entmax_loss, alpha=jnp.ones(2)),
    "bi_tempered_loss": partial(js.bi_tempered_loss, t1=1.0, t2=1.0),
}


@pytest.mark.parametrize("name", ONE)
def test_logits_of_size_1e30_where_a_loss_is_cross_entropy(name):
    logits = jnp.array([[1e30, 2e30, -1e30, 3e30], [0.0, -1e21, -5e3, -jnp.inf]])
    labels = jnp.array([1, 1])

    @jax.jit
    def run(logits):
        return with_gradient(lambda z: ONE[name](z, labels), logits)

    out, bar = run(logits)
    assert_allclose(out, [1e30, 1e21], rtol=1e-6)
    assert_allclose(bar, [[0, -1, 0, 1], [1, -1, 0, 0]], atol=1e-7)


@pytest.mark.parametrize("classes", [3, 10, 1000])
def test_gradient_of_a_distribution_is_p_minus_q(classes):
    logits = hard_logits(classes)
    q = oracles.softmax(np.random.default_rng(0).normal(size=logits.shape)).astype(np.float32)
    losses = js.cross_entropy, js.kl_divergence

    @jax.jit
    def run(logits):
        return [with_gradient(lambda z, loss=loss: loss(z, q), logits)[1] for loss in losses]

    expected = oracles.softmax(logits) - oracles.float64(q)
    for bar in run(logits):
        assert_allclose(bar, expected, rtol=BOUND, atol=3e-7)
