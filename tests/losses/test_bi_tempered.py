"""bi_tempered_loss: gradient in closed form, its bound, and its limit."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from cases import hard_logits, labels_for
from numpy.testing import assert_allclose

import jsoftmax as js


def test_bi_tempered_gradient_and_bound():
    t1, t2 = 0.7, 1.5
    logits, labels = hard_logits(10), labels_for(10)
    loss = jax.jit(lambda z: js.bi_tempered_loss(z, labels, t1=t1, t2=t2))
    bar = jax.jit(jax.grad(lambda z: jnp.sum(loss(z))))(logits)
    p, q = oracles.tempered_softmax(logits, t=t2), oracles.one_hot(labels, 10)
    pull = (p - q) * p ** (t2 - t1)
    escort = p**t2 / (p**t2).sum(-1, keepdims=True)
    expected = pull - escort * pull.sum(-1, keepdims=True)
    assert_allclose(bar, expected, rtol=2e-5, atol=5e-7)
    far = loss(jnp.where(q == 1, -1e30, 1e30 * (q[:, ::-1] == 1)))
    assert_allclose(far, 1 / (1 - t1), rtol=5e-6)


def test_slope_where_a_label_is_zero():
    """It is the limit for small labels: -p^(1 - t1) / (1 - t1) beside what is of the loss alone."""
    t1, t2 = 0.7, 1.4
    z = jnp.array([0.0, 1.0, 2.0])
    bar = jax.jit(jax.grad(lambda q: js.bi_tempered_loss(z, q, t1=t1, t2=t2)))(jnp.eye(3)[0])
    p = oracles.tempered_softmax(z, t=t2)
    assert_allclose(bar[1:], -(p[1:] ** (1 - t1)) / (1 - t1), rtol=1e-5)
    assert_allclose(bar[0], (1 - p[0] ** (1 - t1)) / (1 - t1), rtol=1e-5)


def test_bi_tempered_at_one_is_cross_entropy():
    logits, labels = hard_logits(10), labels_for(10)
    one = jnp.ones(())
    loss = jax.jit(lambda one: js.bi_tempered_loss(logits, labels, t1=one, t2=one))(one)
    assert_allclose(loss, js.cross_entropy(logits, labels), rtol=5e-6, atol=1e-37)
    slopes = jax.jit(
        jax.grad(lambda t1, t2: js.bi_tempered_loss(logits, labels, t1=t1, t2=t2).sum(), (0, 1))
    )
    assert np.all(np.isfinite(slopes(one, one)))
