"""The maps with a solved threshold, against sorting, other code and closed forms.

What every map must do is in the matrices.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import hard_logits
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(10)

# Computed with the `entmax` package 1.3 (torch, float64).
LOGITS = [[1.0, 0.8, -2.0, 0.3], [0.1, 0.0, -0.1, 0.05], [3.0, -1.0, 2.5, 2.6]]
LABELS = jnp.array([1, 3, 0])
PROBABILITIES = {
    2.0: [
        [0.6, 0.4, 0.0, 0.0],
        [0.3375, 0.2375, 0.1375, 0.2875],
        [0.6333333333, 0.0, 0.1333333333, 0.2333333333],
    ],
    1.5: [
        [0.501648008911, 0.369993780748, 0.0, 0.128358210341],
        [0.294177082090, 0.242438988273, 0.195700894456, 0.267683035181],
        [0.514313661938, 0.0, 0.218235336486, 0.267451001576],
    ],
    1.2: [
        [0.455003230620, 0.357999794854, 0.001063177181, 0.185933797344],
        [0.279195995553, 0.244973751029, 0.214192740109, 0.261637513309],
        [0.464872187230, 6.540600461e-07, 0.250166746349, 0.284960412360],
    ],
}
LOSSES = {
    2.0: [0.36, 0.3484375, 0.1033333333],
    1.5: [0.534355311118, 0.634569339281, 0.305091775835],
    1.2: [0.772987697709, 0.974988162252, 0.551991006041],
}
ALPHA_SLOPES = [0.147572288048, 0.040431933413, 0.141869317889]  # of the first column at 1.2


@pytest.mark.parametrize("alpha", PROBABILITIES)
def test_agrees_with_the_entmax_package(alpha):
    z = jnp.array(LOGITS)
    p, loss = jax.jit(
        lambda z: (js.entmax(z, alpha=alpha), js.entmax_loss(z, LABELS, alpha=alpha))
    )(z)
    assert_allclose(p, PROBABILITIES[alpha], rtol=3e-6, atol=1e-7)
    assert_allclose(loss, LOSSES[alpha], rtol=3e-6)


def test_derivative_to_alpha_agrees_with_the_entmax_package():
    alpha = jnp.full((3, 1), 1.2)
    first = jax.jit(lambda alpha: jnp.sum(js.entmax(jnp.array(LOGITS), alpha=alpha)[:, 0]))
    slopes = jax.grad(first)(alpha)
    assert_allclose(slopes[:, 0], ALPHA_SLOPES, rtol=1e-5)


def sorted_sparsemax(z):
    """Return the map by the algorithm of its paper, in float64."""
    z = np.asarray(z, np.float64)
    z = z - z.max(-1, keepdims=True)
    falling = -np.sort(-z, -1)
    count = np.arange(1, z.shape[-1] + 1)
    total = np.cumsum(falling, -1)
    size = np.sum(1 + count * falling > total, -1, keepdims=True)
    tau = (np.take_along_axis(total, size - 1, -1) - 1) / size
    return np.maximum(z - tau, 0)


def sorted_entmax15(z):
    """Return the map by the algorithm of its paper, in float64."""
    z = np.asarray(z, np.float64)
    z = (z - z.max(-1, keepdims=True)) / 2
    falling = -np.sort(-z, -1)
    count = np.arange(1, z.shape[-1] + 1)
    mean = np.cumsum(falling, -1) / count
    square = count * (np.cumsum(falling**2, -1) / count - mean**2)
    tau = mean - np.sqrt(np.maximum((1 - square) / count, 0))
    size = np.sum(tau <= falling, -1, keepdims=True)
    return np.maximum(z - np.take_along_axis(tau, size - 1, -1), 0) ** 2


both_maps = jax.jit(lambda z: (js.sparsemax(z), js.entmax15(z)))


# From 64 classes on the largest of every 8 are solved first; 143 leaves 7 of them out.
@pytest.mark.parametrize("classes", [1, 2, 17, 63, 143, 5000])
def test_newton_finds_what_sorting_finds(classes):
    rng = np.random.default_rng(classes)
    rows = [hard_logits(classes), rng.normal(size=(4, classes)) * [[0.01], [0.1], [3.0], [100.0]]]
    ties = np.round(rng.normal(size=(2, classes)) * 2) / 2
    close = np.where(np.arange(classes) == classes // 2, 0, -1 + 1e-6)[None]  # a full support, just
    logits = jnp.asarray(np.concatenate([*rows, ties, np.zeros((1, classes)), close]), jnp.float32)
    for p, expected in zip(
        both_maps(logits), (sorted_sparsemax(logits), sorted_entmax15(logits)), strict=True
    ):
        assert_allclose(p, expected, rtol=1e-5, atol=3e-7)
        # Each p is as good as the largest: with all classes at the threshold that adds up.
        assert_allclose(p.sum(-1), 1, atol=2e-6 + classes * 2.0**-24)
        assert np.all(np.asarray(p)[expected == 0] <= 1e-7)


@pytest.mark.parametrize("offset", [1e6, -1e6, 300.0])
def test_an_offset_changes_nothing(offset):
    z = jnp.array([[0.0, 0.25, 0.5, -4.0]])
    for p, shifted in zip(both_maps(z), both_maps(z + offset), strict=True):
        assert_array_equal(p, shifted)
    assert_allclose(both_maps(z + offset)[0], [[1 / 12, 1 / 3, 7 / 12, 0]], rtol=1e-6)


def test_logits_of_size_1e30_and_ties():
    z = jnp.array([[1e30, -1e30, 0.0], [-1e30, 1e30, 1e30], [7.0, 7.0, 7.0]])
    for p in both_maps(z):
        assert_allclose(p, [[1, 0, 0], [0, 0.5, 0.5], [1 / 3] * 3], rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3), (0, 100), (2, 0, 64)])
def test_no_examples(shape):
    for alpha in (2.0, 1.25, 1.3):
        assert js.entmax(jnp.zeros(shape), alpha=alpha).shape == shape


# The sum of p is steepest where a class enters the support, so above 2 each p is good to less.
ORDERS = [-1.0, 0.0, 0.5, 0.999, 1.0, 1 + 1e-6, 1.001, 1.3, 1.5, 2.0, 2.5]


@pytest.mark.parametrize("classes", [3, 1000])
def test_every_alpha_in_one_array(classes):
    logits = jnp.broadcast_to(hard_logits(classes)[:, None], (8, len(ORDERS), classes))
    alpha = jnp.array(ORDERS)[None, :, None]
    p = jax.jit(lambda alpha: js.entmax(logits, alpha=alpha))(alpha)
    for i, order in enumerate(ORDERS):
        expected = oracles.entmax(
            logits[:, i], alpha=order if order == 1 else float(alpha[0, i, 0])
        )
        assert_allclose(p[:, i], expected, rtol=3e-5, atol=3e-7 if order < 2 else 2e-6)
    for order, same in [(1.0, js.softmax), (1.5, js.entmax15), (2.0, js.sparsemax)]:
        assert_allclose(p[:, ORDERS.index(order)], same(logits[:, 0]), rtol=1e-5, atol=3e-7)


def supported_entmax(z, alpha):
    """Return the map of one row, solved for the smallest probability that is not 0, in float64.

    Above α = 2 that one is the hardest to tell: p = e^(1/β) is infinitely steep where it is 0.
    """
    beta = alpha - 1
    z = np.asarray(z, np.float64)
    falling = -np.sort(-z)

    def of(low, r):  # r^β may underflow
        p = np.maximum(beta * (z - low) + r**beta, 0) ** (1 / beta)
        return np.where(z == low, r, np.where(z < low, 0, p))

    low = falling[sum(of(low, 0).sum() < 1 for low in falling) - 1]
    least, most = 0.0, 1.0
    for _ in range(100):
        r = (least + most) / 2
        least, most = (least, r) if of(low, r).sum() > 1 else (r, most)
    return of(low, r)


@pytest.mark.parametrize("classes", [3, 200])
def test_a_large_alpha(classes):
    # A float32 threshold leaves the smallest p open by 0.4% at α = 4, and by 17% at α = 10.
    rng = np.random.default_rng(classes)
    rows = np.concatenate([rng.normal(size=(20, classes)) * s for s in (0.1, 1.0, 3.0)])
    logits = jnp.asarray(np.concatenate([rows, np.round(rows[:20] * 40) / 4]), jnp.float32)
    orders = jnp.array([3.0, 4.0, 6.0, 10.0, 50.0, 1000.0])
    repeated = jnp.broadcast_to(logits[:, None], (len(logits), len(orders), classes))
    of_rows = jnp.broadcast_to(orders, repeated.shape[:-1])
    p = jax.jit(lambda z: js.entmax(z, alpha=of_rows))(repeated)
    assert_allclose(p.sum(-1), 1, atol=1e-6)
    for i, alpha in enumerate(np.asarray(orders, np.float64)):
        expected = np.stack([supported_entmax(row, alpha) for row in logits])
        assert_allclose(p[:, i], expected, atol=1e-5, err_msg=str(alpha))


@pytest.mark.parametrize("classes", [5, 67, 1000])
@pytest.mark.parametrize("alpha", [1.1, 1.2, 1.25, 4 / 3, 1.5, 2.0])
def test_a_static_alpha_of_an_integer_power_is_as_a_traced_one(alpha, classes):
    logits = hard_logits(classes)
    weights = jnp.cos(jnp.arange(classes))

    def value_and_gradient(alpha):
        p, pullback = jax.vjp(lambda z: js.entmax(z, alpha=alpha), logits)
        return p, pullback(jnp.broadcast_to(weights, p.shape))[0]

    static = jax.jit(lambda: value_and_gradient(alpha))()
    traced = jax.jit(value_and_gradient)(jnp.asarray(alpha))
    for one, other in zip(static, traced, strict=True):
        assert_allclose(one, other, rtol=2e-5, atol=2e-6)
    assert_allclose(static[0], oracles.entmax(logits, alpha=alpha), rtol=3e-5, atol=6e-7)
    assert_allclose(static[0].sum(-1), 1, atol=2e-6)


def test_tempered_softmax_is_its_formula():
    z = jnp.array([3.0, 0.0, -3.0])
    for t, p in [(0.5, js.tempered_softmax(z, t=0.5)), (2.0, js.tempered_softmax(z, t=2.0))]:
        p = oracles.float64(p)
        inner = (p ** (1 - t) - 1) / (1 - t)  # log_t p = z - λ where p > 0
        level = (oracles.float64(z) - inner)[p > 0]
        assert_allclose(level, level[0], atol=2e-5)
    assert_array_equal(js.tempered_softmax(z, t=1.0), js.softmax(z))


@pytest.mark.parametrize("alpha", [0.7, 1.0, 1.25, 1.3, 1.5, 2.0])
def test_jacobian(alpha):
    with jax.enable_x64(True):
        z = jnp.array([0.7, 0.5, 0.2, -0.1, -3.0])
        function = jax.jit(partial(js.entmax, alpha=alpha))
        p, jacobian = function(z), jax.jacobian(function)(z)
        known = np.asarray(p)
        g = np.where(known > 0, np.where(known > 0, known, 1) ** (2 - alpha), 0)
        assert_allclose(jacobian, np.diag(g) - np.outer(g, g) / g.sum(), atol=1e-12)
        if alpha not in (1.0, 1.25, 1.5, 2.0):
            slope = jax.jacfwd(jax.jit(lambda alpha: js.entmax(z, alpha=alpha)))(alpha)
            surprise, share = known * np.log(np.where(known > 0, known, 1)), g / g.sum()
            expected = (known - share) / (alpha - 1) ** 2
            expected -= (surprise - share * surprise.sum()) / (alpha - 1)
            assert_allclose(slope, expected, atol=1e-12)


def test_bad_alpha_and_nan():
    with pytest.raises(AssertionError, match="alpha"):
        js.entmax(jnp.zeros((3, 4)), alpha=jnp.ones(4))
    with pytest.raises(ValueError, match="alpha"):
        js.entmax_loss(jnp.zeros((3, 4)), jnp.zeros(3, int), alpha=0.0)
    with pytest.raises(ValueError, match="t1"):
        js.bi_tempered_loss(jnp.zeros((3, 4)), jnp.zeros(3, int), t1=1.1, t2=1.2)
    z = jnp.array([[0.0, jnp.nan, 1.0], [0.0, 2.0, jnp.inf], [0.0, 1.0, 2.0]])
    for alpha in (1.3, 1.5, 2.0):
        bad = np.isnan(js.entmax(z, alpha=alpha))
        assert_array_equal(bad, [[True] * 3, [True] * 3, [False] * 3])
