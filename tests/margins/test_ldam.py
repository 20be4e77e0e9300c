"""Margins per class, those of `ldam` among them: dense and in blocks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import head
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js
from jsoftmax.stats.logit_stats import UNSHIFTED

pytestmark = pytest.mark.one_in(3)

N, D, C = 5, 3, 7
BLOCKS = {"rows": {"row_block": 2, "class_block": 3}, "classes": {"class_block": 3}}
FEW = np.array([400.0, 1, 16, 0, 81, 3, 1])


def ldam_oracle(counts, max_margin=0.5):
    n = np.asarray(counts, np.float64)
    rarest = n[n > 0].min()
    return max_margin * (rarest / np.where(n > 0, n, rarest)) ** 0.25


@pytest.mark.parametrize("dtype", ["int32", "bfloat16"])
def test_margins_of_ldam(dtype):
    margin = js.ldam(jnp.asarray(FEW, dtype), 0.3, 20.0)
    assert margin.m3.dtype == jnp.float32
    assert_allclose(margin.m3, ldam_oracle(FEW, 0.3), rtol=1e-6)
    assert margin.scale == 20.0
    assert_allclose(js.ldam(np.array([16, 1, 81])).m3, [0.25, 0.5, 0.5 / 3], rtol=1e-6)
    assert_array_equal(js.ldam(np.zeros(2)).m3, [0.5, 0.5])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_of_ldam(dtype):
    x, w, labels = head(dtype, examples=16, size=24, classes=7)

    @jax.jit
    def logits(x, w, max_margin):
        margin = js.ldam(FEW, max_margin)
        return js.linear_logits(x, w, labels, margin=margin), js.linear_logits(x, w, margin=margin)

    # Without labels, for inference, there is no margin.
    for got, m3 in zip(logits(x, w, 0.5), (ldam_oracle(FEW)[labels][:, None], 0.0), strict=True):
        expected = oracles.margin_logits(x, w, labels, m3=m3, scale=30.0)
        assert_allclose(got, expected, rtol=2e-6, atol=3e-5)


def margin_per_class(name):
    """Return a function from a traced array per class, and a traced scalar, to a margin."""
    if name == "ldam":
        return lambda counts, number: js.ldam(counts, number, scale=8.0)
    # All four per class, and one traced scale.
    return lambda m, scale: js.AngularMargin(1 + m / 4, m, m / 2, scale=scale, anneal=m)


MARGINS = {
    "ldam": (np.array([400.0, 1, 16, 2, 81, 3, 9]), 0.5),
    "all per class": (np.linspace(0.1, 0.6, C), 6.0),
}
over_margins = pytest.mark.parametrize("name", MARGINS)


def test_logits_with_all_parameters_per_class():
    x, w, labels = head(examples=16, size=24, classes=C)
    m, scale = MARGINS["all per class"]
    margin = margin_per_class("all per class")(jnp.asarray(m, jnp.float32), scale)
    got = jax.jit(lambda x, w: js.linear_logits(x, w, labels, margin=margin))(x, w)
    m = oracles.float64(margin.m2)[labels][:, None]
    own = {"m1": 1 + m / 4, "m2": m, "m3": m / 2, "anneal": m, "scale": scale}
    assert_allclose(got, oracles.margin_logits(x, w, labels, **own), rtol=2e-6, atol=1e-5)


def dense(margin, x, w, labels):
    return js.cross_entropy(js.linear_logits(x, w, labels, margin=margin), labels)


@over_margins
def test_blocks_agree_with_dense_logits(name):
    """In value and in all gradients, however it is cut; once in jvp and second derivatives."""
    x, w, labels = head(examples=N, size=D, classes=C)
    weights = jnp.array([1.0, 0.5, 2.0, 0.0, 1.5])
    per_class, scalar = (jnp.asarray(v, jnp.float32) for v in MARGINS[name])
    make = margin_per_class(name)

    def at_once(x, w, per_class, scalar):
        return js.weighted_mean(dense(make(per_class, scalar), x, w, labels), weights)

    def in_blocks(x, w, per_class, scalar, **blocks):
        options = {"margin": make(per_class, scalar), "sample_weight": weights, **blocks}
        return js.linear_cross_entropy(x, w, labels, **options)

    def per_example(x, w, per_class, scalar):
        options = {"margin": make(per_class, scalar), "reduction": None, **BLOCKS["rows"]}
        return js.weighted_mean(js.linear_cross_entropy(x, w, labels, **options), weights)

    functions = {which: partial(in_blocks, **blocks) for which, blocks in BLOCKS.items()}
    functions |= {"per example": per_example, "dense": at_once}
    if name != "ldam":  # compiling is what costs
        functions = {which: functions[which] for which in ("rows", "dense")}

    def derivatives(which, *at):
        both = jax.value_and_grad(functions[which], range(4))
        if name != "ldam" or which not in ("rows", "dense"):
            return both(*at)
        along = jax.tree.map(lambda v: 0.25 * jnp.cos(jnp.arange(v.size)).reshape(v.shape), at)
        return jax.tree.leaves(jax.jvp(both, at, along))  # jvp and second derivatives too

    got = jax.jit(lambda *at: {which: derivatives(which, *at) for which in functions})(
        x, w, per_class, scalar
    )
    expected = jax.tree.leaves(got.pop("dense"))
    assert all(np.abs(leaf).max() > 1e-4 for leaf in expected)
    for which, found in got.items():
        for i, (leaf, same) in enumerate(zip(jax.tree.leaves(found), expected, strict=False)):
            atol = 5e-6 * np.abs(same).max()
            assert_allclose(leaf, same, rtol=2e-5, atol=atol, err_msg=f"{which}, {i}")


def test_against_the_oracle_and_statistics():
    x, w, labels = head(examples=N, size=D, classes=C)
    own = {"m3": ldam_oracle(FEW)[labels][:, None], "scale": 30.0}
    logits = oracles.margin_logits(x, w, labels, **own)
    q = oracles.one_hot(labels, C)

    def run(x, w):
        options = {"margin": js.ldam(FEW), **BLOCKS["rows"]}
        mean, stats = js.linear_loss(x, w, labels, return_stats=True, **options)
        losses = js.linear_loss(x, w, labels, reduction=None, **options)
        return mean, losses, stats, js.linear_stats(x, w, labels, **options)

    mean, losses, stats, same = jax.jit(run)(x, w)
    # Logits are 30 cosines, each rounded to 1e-7.
    close = partial(assert_allclose, rtol=1e-5, atol=1e-5)
    close(losses, oracles.cross_entropy(logits, q))
    close(mean, oracles.cross_entropy(logits, q).mean())
    close(stats.target, (logits * q).sum(-1))
    close(stats.logsumexp, oracles.logsumexp(logits))
    same = same._replace(**dict.fromkeys(UNSHIFTED))  # which the loss does not read
    jax.tree.map(partial(assert_allclose, rtol=1e-6, atol=1e-6), stats, same)


def test_vmap_over_the_largest_margin_and_over_counts():
    x, w, labels = head(examples=N, size=D, classes=C)
    stacked = jnp.stack([jnp.asarray(FEW), jnp.asarray(FEW[::-1])])

    def loss(counts, max_margin):
        return js.linear_loss(x, w, labels, margin=js.ldam(counts, max_margin), **BLOCKS["rows"])

    def at_once(counts, max_margin):
        return jnp.mean(dense(js.ldam(counts, max_margin), x, w, labels))

    def mapped(f):
        return jax.vmap(jax.value_and_grad(f, 1))(stacked, jnp.array([0.1, 0.5]))

    got, expected = jax.jit(lambda: (mapped(loss), mapped(at_once)))()
    jax.tree.map(partial(assert_allclose, rtol=1e-5), got, expected)


def test_an_angle_per_class():
    m2 = np.linspace(0, 0.8, C)
    x, w, labels = head(examples=N, size=D, classes=C)
    margin = js.angular_margin(1.0, jnp.asarray(m2, jnp.float32), scale=8.0)
    logits = jax.jit(lambda x, w: js.linear_logits(x, w, labels, margin=margin))(x, w)
    own = {"m2": m2[labels][:, None], "scale": 8.0}
    assert_allclose(logits, oracles.margin_logits(x, w, labels, **own), rtol=2e-6, atol=8e-6)
    loss = jax.jit(partial(js.linear_loss, margin=margin, **BLOCKS["rows"]))
    expected = oracles.cross_entropy(logits, oracles.one_hot(labels, C)).mean()
    assert_allclose(loss(x, w, labels), expected, rtol=2e-6)


def test_an_out_of_range_label_is_nan_in_its_own_row():
    x, w, labels = head(examples=N, size=D, classes=C)
    bad = np.where(np.arange(N) == 1, C, np.where(np.arange(N) == 3, -1, labels))
    options = {"margin": js.ldam(FEW), **BLOCKS["rows"]}

    def losses(x):
        return js.linear_loss(x, w, bad, reduction=None, **options)

    def mean(x):
        return js.linear_loss(x, w, bad, **options)

    out, bar = jax.jit(lambda x: (losses(x), jax.grad(mean)(x)))(x)
    rows = np.isin(np.arange(N), [1, 3])
    assert_array_equal(np.isnan(out), rows)
    assert_array_equal(np.isnan(bar).any(-1), rows)


@pytest.mark.parametrize("field", ["m1", "m2", "m3", "anneal", "scale"])
def test_wrong_shapes(field):
    x, w, labels = head(examples=N, size=D, classes=C)
    # A scale per class would change the logits of the other classes too.
    shapes = [(C,), (1,)] if field == "scale" else [(C + 1,), (1,), (N, 1), (C, 1)]
    for shape in shapes:
        margin = js.AngularMargin(**{field: jnp.ones(shape)})
        for evaluate in (js.linear_loss, js.linear_logits, js.linear_stats):
            with pytest.raises(AssertionError, match=rf"`margin\.{field}`"):
                evaluate(x, w, labels, margin=margin)
