"""The fields of LogitStats against float64 numpy."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import CLASSES, close, hard_logits, head, labels_for, some_mask
from heads import dense, over_ways
from meshes import mesh_of
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js
from jsoftmax.stats.dense import class_stats

pytestmark = pytest.mark.one_in(12)

ALL_CLASSES = pytest.mark.parametrize("classes", CLASSES)


@ALL_CLASSES
def test_logit_stats_fields(classes):
    logits, labels, where = hard_logits(classes), labels_for(classes), some_mask(classes)

    @jax.jit
    def run(logits):
        stats = js.logit_stats(logits, labels, where=where)
        return stats, stats.logsumexp, stats.prob, stats.correct

    stats, logsumexp, prob, correct = run(logits)
    z = oracles.masked(logits, where)
    true = oracles.one_hot(labels, classes).astype(bool)
    rest = np.where(true, -np.inf, z)
    assert_allclose(stats.target, z[true], rtol=0)
    assert_allclose(stats.runner_up, rest.max(-1), rtol=0)
    assert_allclose(stats.mean, np.nanmean(np.where(where, z, np.nan), -1), rtol=2e-6, atol=1e-6)
    assert_allclose(stats.others, np.logaddexp.reduce(rest, -1), rtol=2e-6, atol=1e-6)
    assert_allclose(logsumexp, np.logaddexp.reduce(z, -1), rtol=2e-6, atol=1e-6)
    p = oracles.softmax(logits, where=where)[true]
    assert_allclose(prob, p, rtol=6e-5, atol=1e-37)
    assert np.array_equal(correct, z[true] > rest.max(-1))


X, W, LABELS = head(examples=5, size=3, classes=7)
BIAS = jnp.linspace(-1, 1, 7)
MARGINS = {
    "none": None,
    "cosface": js.cosface(scale=4.0),
    "l_softmax": js.l_softmax(3, anneal=1.0),
    "per class": js.AngularMargin(m2=jnp.linspace(0.1, 0.9, 7), scale=4.0),
}
over_margins = pytest.mark.parametrize("name", MARGINS)


def of_score(stats):
    return jnp.tanh(stats.runner_up - stats.score) + js.nll(stats) - 0.3 * stats.score


@cache
def total_of_score(way, name):
    def total(x, w, bias, softcap):
        options = {"margin": MARGINS[name], "bias": bias, "softcap": softcap}
        return way(x, w, LABELS, of_score, **options)

    return jax.jit(jax.value_and_grad(total, (0, 1, 2, 3)))(X, W, BIAS, 3.0)


@over_margins
@over_ways
def test_score_is_the_logit_without_margin(way, name):
    got, expected = (total_of_score(each, name) for each in (way, dense))
    close(got, expected, rtol=1e-4, atol=1e-5)


@over_margins
def test_a_margin_does_not_touch_accuracy(name):
    """The right class is the one with the largest logit, whatever a margin took from it."""
    options = {"margin": MARGINS[name], "bias": BIAS}
    labels = jnp.argmax(js.linear_logits(X, W, **options), -1).at[1].set(0)
    right = jnp.arange(5) != 1
    mesh = js.sharded_linear_loss(mesh_of(), batch_axis="data", class_axis="model", num_classes=7)
    found = {
        "stats": js.linear_stats(X, W, labels, **options),
        "loss": js.linear_loss(X, W, labels, return_stats=True, **options)[1],
        "sharded": mesh(X, W, labels, return_stats=True, **options)[1],
    }
    for way, stats in found.items():
        assert_array_equal(stats.correct, right, err_msg=way)


def test_score_is_the_target_unless_given():
    fields = jnp.arange(4.0)
    assert js.LogitStats(*fields).score == js.LogitStats(*fields).target
    stats = js.LogitStats(*fields, score=5.0)
    assert stats.correct
    assert not stats._replace(score=1.0).correct
    assert js.LogitStats._fields[:4] == ("target", "others", "runner_up", "mean")
    doubled = jax.tree.map(lambda x: 2 * x, stats)
    assert isinstance(doubled, js.LogitStats)
    assert doubled.score == 10
    every = jax.vmap(lambda stats: stats)(jax.tree.map(lambda x: jnp.full(3, x), stats))
    assert_array_equal(every.correct, [True] * 3)
    of_classes = class_stats(hard_logits(10), None)
    assert_array_equal(of_classes.score, of_classes.target)


@pytest.mark.parametrize("field", js.LogitStats._fields)
def test_derivatives_beside_a_logit_of_minus_infinity(field):
    def f(z):
        return getattr(js.logit_stats(z, 0), field)

    logits = jnp.array([1.0, 2.0, -jnp.inf, 0.0])
    reverse, forward = (jax.jit(mode(f))(logits) for mode in (jax.jacrev, jax.jacfwd))
    assert reverse[2] == 0
    assert_allclose(forward, reverse, rtol=1e-6)
