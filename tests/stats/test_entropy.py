"""The entropy of the softmax and of the other classes alone, against decimals of 50 digits."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import head
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(4)

C = 40
LABEL = 3


def entropy(z):
    """Return the entropy of the softmax of a row."""
    with localcontext() as context:
        context.prec = 50
        e = [(Decimal(float(x)) - Decimal(float(max(z)))).exp() for x in z]
        p = [x / sum(e) for x in e]
        return float(-sum(x * x.ln() for x in p))


def logits_with(log_odds, gap):
    """Return logits whose label has these log-odds, and whose largest other leads by the gap."""
    z = np.random.default_rng(0).normal(size=C)
    z[7] = np.delete(z, 7).max() + gap
    z[LABEL] = -np.inf
    z[LABEL] = np.logaddexp.reduce(z) + log_odds
    return np.float32(z)


GRID = [(u, gap) for u in (-80, -30, -1, 0, 2, 30, 80) for gap in (0, 0.5, 5, 30, 80)]


def test_accuracy_in_both_tails():
    z = np.stack([logits_with(u, gap) for u, gap in GRID])
    labels = jnp.full(len(GRID), LABEL)
    blocks = {"row_block": 16, "class_block": 7}
    found = {
        "dense": jax.jit(js.logit_stats)(z, labels),
        "blocks": js.linear_stats(np.eye(C, dtype=np.float32), z, jnp.arange(C) % 35, **blocks),
    }
    stats = found["dense"]
    assert_allclose(stats.entropy, [entropy(row) for row in z], rtol=1e-5)
    others = [entropy(np.delete(row, LABEL)) for row in z]
    assert_allclose(stats.others_entropy, others, rtol=2e-6)
    assert (np.asarray(stats.log_prob) <= 0).all()
    # The identity as features: the logits of a row are a column of the weight.
    expected = [entropy(np.delete(z[:, i], i % 35)) for i in range(C)]
    assert_allclose(found["blocks"].others_entropy, expected, rtol=5e-6)


@pytest.mark.thorough
def test_gradient_in_both_tails():
    """dH / dz_j = -p_j (log p_j + H), in float64 from the decimals' H."""
    for u, gap in [(u, gap) for u, gap in GRID if gap < 80]:  # beyond, float32 has fewer digits
        z = logits_with(u, gap)
        got = jax.grad(lambda z: js.logit_stats(z, LABEL).entropy)(jnp.asarray(z))
        wide = np.float64(z)
        log_p = wide - np.logaddexp.reduce(wide)
        # Of the most probable class log p + H cancels; its gradient is minus that of the others.
        top = wide.argmax()
        expected = -np.exp(log_p) * (log_p + entropy(z))
        expected[top] = 0
        expected[top] = -expected.sum()
        if min(abs(u), gap) > 1:  # else all that matters is of order 1
            assert_allclose(got[top], expected[top], rtol=5e-6)
        rounding = 1e-7 * np.exp(-abs(u))  # of the log-odds
        atol = rounding + float(np.finfo(np.float32).tiny)
        assert_allclose(got, expected, rtol=2e-5, atol=atol)


def plain(x, w):
    log_p = jax.nn.log_softmax(x @ w.T)
    return jnp.sum(-jnp.sum(jnp.exp(log_p) * log_p, -1) * jnp.arange(1.0, 1 + len(x)))


@pytest.mark.thorough
@pytest.mark.parametrize(("classes", "ties"), [(2, False), (9, True)])
def test_derivatives(classes, ties):
    """Hessians, and the same in a loop, where JAX drops the rules of what is in it."""
    x, w, labels = map(jnp.asarray, head(examples=4, size=3, classes=classes))
    w = w.at[1].set(w[0]) if ties else w
    weights = jnp.arange(1.0, 5)

    def of_loss(x, w, **blocks):
        options = {"sample_weight": weights, "reduction": "sum", **blocks}
        return js.linear_loss(x, w, labels, lambda stats: stats.entropy, **options)

    ways = {
        "dense": lambda x, w: jnp.sum(js.logit_stats(x @ w.T, labels).entropy * weights),
        "loss": of_loss,
        "blocks": lambda x, w: of_loss(x, w, row_block=3, class_block=4),
        "stats": lambda x, w: jnp.sum(js.linear_stats(x, w, labels).entropy * weights),
    }

    def in_loop(way):
        def total(w):
            def body(total, _):
                return total + way(x, w + 0 * total), None

            return jax.lax.scan(body, 0.0, None, length=1)[0]

        return total

    expected = jax.jit(jax.hessian(plain, (0, 1)))(x, w)
    v = jnp.cos(jnp.arange(w.size, dtype=w.dtype)).reshape(w.shape)
    product = jnp.tensordot(expected[1][1], v)
    for name, way in ways.items():
        got = jax.jit(jax.hessian(way, (0, 1)))(x, w)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            assert_allclose(a, b, rtol=1e-4, atol=2e-5, err_msg=name)
        gradient = jax.grad(in_loop(way))
        for hvp in (
            lambda w, g=gradient: jax.jvp(g, (w,), (v,))[1],
            lambda w, g=gradient: jax.grad(lambda w: jnp.vdot(g(w), v))(w),
        ):
            assert_allclose(jax.jit(hvp)(w), product, rtol=1e-4, atol=5e-5, err_msg=name)


@pytest.mark.thorough
def test_edges():
    def both(z, label, **options):
        stats = js.logit_stats(jnp.asarray(z), label, **options)
        return [float(stats.entropy), float(stats.others_entropy)]

    inf = jnp.inf
    assert both([3.0], 0) == [0, 0]
    assert both([-inf, -inf], 0) == [0, 0]
    assert both([1.0, -inf, -inf], 0) == [0, 0]
    assert_allclose(both([0.0, 0.0, 0.0], 1), np.log([3, 2]), rtol=1e-6)
    assert_allclose(both([-inf, 0.0, 0.0], 0), np.log([2, 2]), rtol=1e-6)
    where = jnp.array([True, False, True, True])
    assert_allclose(both([0.0, 9.0, 0.0, 0.0], 0, where=where), np.log([3, 2]), rtol=1e-6)
    assert both([1e30, -1e30, 0.0], 0) == [0, 0]
    gradient = jax.grad(lambda z: js.logit_stats(z, 0).entropy)
    for z in ([3.0], [-inf, -inf], [1.0, -inf, -inf], [1e30, -1e30, 0.0], [2.0, 1.0, -inf]):
        assert np.isfinite(gradient(jnp.array(z))).all()
    assert_array_equal(np.isnan(both([0.0, 1.0], 5)), [True, False])


def test_it_does_not_follow_from_the_rest():
    stats = js.LogitStats(*jnp.arange(4.0))
    assert stats.others_entropy is None
    with pytest.raises(ValueError, match="others_entropy"):
        _ = stats.entropy
    assert js.LogitStats(*jnp.arange(5.0)).others_entropy == 4
