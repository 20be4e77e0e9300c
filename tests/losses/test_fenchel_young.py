"""The losses of the sparse maps: exact zeros, gradients, and their limits."""

from functools import partial

import jax
import jax.numpy as jnp
import oracles
import pytest
from cases import hard_logits, labels_for
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(4)


@pytest.mark.parametrize("alpha", [1.3, 1.5, 2.0, 2.2, 3.0])
def test_zero_exactly_from_the_margin_on(alpha):
    margin = 1 / (alpha - 1)
    lead = jnp.array([margin * 0.75, margin * 1.001, 4.0 * margin, 1e6])
    z = jnp.stack([lead, jnp.zeros(4), jnp.full(4, -0.5)], -1) + 8.0

    def total(z):
        loss = js.entmax_loss(z, jnp.zeros(4, int), alpha=alpha)
        return loss.sum(), loss

    (_, loss), bar = jax.jit(jax.value_and_grad(total, has_aux=True))(z)
    assert loss[0] > 1e-4
    assert_array_equal(loss[1:], 0)
    assert_array_equal(bar[1:], 0)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 1.3, 1.5, 2.0])
def test_gradient_is_p_minus_q(alpha, soft):
    logits, y = hard_logits(10), labels_for(10)
    q = jax.nn.softmax(hard_logits(10, seed=5)[::-1] / 100) if soft else jax.nn.one_hot(y, 10)
    labels = q if soft else y
    bar = jax.jit(jax.grad(lambda z: jnp.sum(js.entmax_loss(z, labels, alpha=alpha))))(logits)
    expected = oracles.entmax(logits, alpha=alpha) - oracles.float64(q)
    assert_allclose(bar, expected, rtol=1e-5, atol=5e-7)


def test_at_alpha_one_it_is_cross_entropy():
    logits, labels = hard_logits(10), labels_for(10)
    same = jax.jit(js.cross_entropy)(logits, labels)
    for alpha in (1.0, jnp.ones((8, 1))):
        loss = jax.jit(lambda z, alpha=alpha: js.entmax_loss(z, labels, alpha=alpha))(logits)
        assert_allclose(loss, same, rtol=5e-6, atol=1e-37)


def test_a_distribution_equal_to_p_has_loss_zero():
    logits = hard_logits(10)
    for alpha in (1.0, 1.5, 2.0):
        q = jax.jit(partial(js.entmax, alpha=alpha))(logits)
        loss = jax.jit(lambda q, alpha=alpha: js.entmax_loss(logits, q, alpha=alpha))(q)
        assert_allclose(loss, 0, atol=1e-12)
