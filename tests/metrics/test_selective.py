"""Open sets, selective prediction and the bootstrap against loops in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiles
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import roc_auc_score, roc_curve

import jsoftmax as js

pytestmark = pytest.mark.one_in(5)

RNG = np.random.default_rng(0)
N = 200
CONFIDENCE = RNG.random(N).astype(np.float32)
TIED = np.round(CONFIDENCE * 8) / 8
WRONG = RNG.random(N) < 0.5 - 0.3 * CONFIDENCE
LOSSES = (RNG.normal(size=N) - CONFIDENCE).astype(np.float32)  # negative ones, too
WEIGHT = RNG.integers(0, 4, N).astype(np.float32)
KNOWN = RNG.random(N) < 0.7
over_confidences = pytest.mark.parametrize("confidence", [CONFIDENCE, TIED])
over_losses = pytest.mark.parametrize("losses", [WRONG, LOSSES], ids=["wrong", "losses"])
over_weights = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["alike", "weighted"])
allclose = partial(jax.tree.map, partial(assert_allclose, rtol=1e-5, atol=1e-6))


def at_thresholds(confidence, losses, weight):
    """Return coverage and risk where each confidence is the threshold, by a loop."""
    w = np.ones(N) if weight is None else weight.astype(float)
    rows = []
    for t in confidence:
        on = (confidence >= t) * w
        rows.append([on.sum() / w.sum(), (on * losses).sum() / max(on.sum(), 1e-30)])
    return np.array(rows), w


@over_confidences
@over_losses
@over_weights
def test_risk_coverage(confidence, losses, weight):
    rows, w = at_thresholds(confidence, losses, weight)
    curve = jax.jit(js.risk_coverage_curve)(confidence, losses, sample_weight=weight)
    order = np.argsort(-confidence[w > 0], kind="stable")
    for got, expected in zip(curve[1:], rows[w > 0][order].T, strict=True):
        assert_allclose(got[: len(order)], expected, rtol=2e-5, atol=1e-6)
    plain = js.aurc(confidence, losses, sample_weight=weight)
    allclose(plain, np.average(rows[:, 1], weights=w))


@over_weights
def test_generalised_area(weight):
    """Of 0-1 losses it follows from the accuracy and the AUROC of the confidence."""
    right = np.average(~WRONG, weights=weight)
    auroc = roc_auc_score(~WRONG, TIED, sample_weight=weight)
    expected = (1 - auroc) * right * (1 - right) + (1 - right) ** 2 / 2
    allclose(js.aurc(TIED, WRONG, generalized=True, sample_weight=weight), expected)


@over_confidences
@over_weights
def test_oscr(confidence, weight):
    curve = jax.jit(js.oscr)(confidence, ~WRONG, KNOWN, sample_weight=weight)
    w = np.ones(N) if weight is None else weight.astype(float)
    for t, fpr, ccr in zip(*map(np.asarray, curve[:3]), strict=True):
        on = (confidence >= t) * w
        if np.isfinite(t):
            allclose(fpr, (on * ~KNOWN).sum() / (w * ~KNOWN).sum())
            allclose(ccr, (on * KNOWN * ~WRONG).sum() / (w * KNOWN).sum())
    allclose(curve.area, np.trapezoid(curve.ccr, curve.fpr))
    all_right = js.oscr(confidence, np.ones(N, bool), KNOWN, sample_weight=weight)
    allclose(all_right.area, roc_auc_score(KNOWN, confidence, sample_weight=weight))


@pytest.mark.parametrize("metric", [js.aurc, js.risk_coverage_curve])
def test_what_has_no_weight_is_left_out_and_what_is_wrong_is_nan(metric):
    hidden = np.where(WEIGHT == 0, np.nan, CONFIDENCE), np.where(WEIGHT == 0, np.inf, LOSSES)
    got, expected = (
        metric(*hidden, sample_weight=WEIGHT),
        metric(CONFIDENCE, LOSSES, sample_weight=WEIGHT),
    )
    if metric is js.aurc:
        allclose(got, expected)
    assert np.isnan(jax.tree.leaves(metric(hidden[0], LOSSES))[-1]).all()
    bad = np.where(np.arange(N) == 7, np.nan, LOSSES)
    for rates in jax.tree.leaves(metric(CONFIDENCE, bad))[-2:]:  # all but the thresholds
        assert np.isnan(rates).all()
    assert not np.isnan(jax.tree.leaves(metric(CONFIDENCE[:0], LOSSES[:0]))[-1]).any()
    batch = jax.vmap(metric)(np.stack([CONFIDENCE, TIED]), np.stack([LOSSES, LOSSES]))
    allclose(jax.tree.map(lambda x: x[1], batch), metric(TIED, LOSSES))


def test_checked_says_which_kind_is_missing():
    checked = js.checks.checked(jax.jit(js.oscr))
    with pytest.raises(Exception, match="unknown examples"):
        checked(CONFIDENCE, WRONG, np.ones(N, bool))
    with pytest.raises(Exception, match="known examples"):
        checked(CONFIDENCE, WRONG, np.zeros(N, bool))


def test_oscr_without_a_kind():
    assert np.isnan(js.oscr(CONFIDENCE, WRONG, np.ones(N, bool)).area)
    assert np.isnan(js.oscr(CONFIDENCE, WRONG, np.zeros(N, bool)).area)
    assert np.isnan(js.oscr(np.where(KNOWN, np.nan, 0), WRONG, KNOWN).area)
    wrong = np.where(KNOWN, WRONG, 7)  # it does not matter of unknown ones
    allclose(js.oscr(CONFIDENCE, wrong, KNOWN), js.oscr(CONFIDENCE, WRONG, KNOWN))


def test_arguments():
    with pytest.raises(AssertionError, match="`losses`"):
        js.aurc(CONFIDENCE, LOSSES[1:])
    with pytest.raises(TypeError, match="`correct`"):
        js.oscr(CONFIDENCE, CONFIDENCE, KNOWN)
    with pytest.raises(AssertionError, match="`known`"):
        js.oscr(CONFIDENCE, WRONG, KNOWN[1:])


def test_a_loss_of_the_head_itself():
    """A confidence may come from the fused head's statistics, and the loss may be any."""
    x, w = jnp.asarray(RNG.normal(size=(N, 8))), jnp.asarray(RNG.normal(size=(10, 8)))
    labels = jnp.asarray(RNG.integers(0, 10, N))
    (first, second), classes = (jnp.moveaxis(v, -1, 0) for v in js.linear_top_k(x, w, 2))
    got = js.aurc(first - second, classes[0] != labels)
    z = np.asarray(x @ w.T)
    first, second = np.sort(z, -1)[:, :-3:-1].T
    rows, _ = at_thresholds(first - second, z.argmax(-1) != np.asarray(labels), None)
    allclose(got, rows[:, 1].mean())


# --- bootstrap ---


def mean(x, sample_weight):
    return {"mean": jnp.sum(x * sample_weight) / jnp.sum(sample_weight)}


def test_interval_of_a_mean():
    """It is about that of a normal distribution."""
    x = jnp.asarray(LOSSES)
    interval = jax.jit(partial(js.bootstrap_interval, num_samples=2000), static_argnums=1)
    low, high = interval(jax.random.key(0), mean, x)
    error = LOSSES.std() / np.sqrt(N)
    assert_allclose(low["mean"], LOSSES.mean() - 1.96 * error, atol=0.1 * error)
    assert_allclose(high["mean"], LOSSES.mean() + 1.96 * error, atol=0.1 * error)
    low, high = interval(jax.random.key(0), mean, x, level=0.5)
    assert_allclose(high["mean"] - low["mean"], 2 * 0.674 * error, rtol=0.1)


def test_groups_are_drawn_as_wholes():
    """Copies of an example add nothing, if they are drawn together."""
    groups = np.arange(4 * N) // 4
    x = jnp.asarray(np.repeat(LOSSES, 4))
    options = {"num_samples": 500, "groups": groups, "num_groups": N}
    got = js.bootstrap_interval(jax.random.key(0), mean, x, **options)
    alone = js.bootstrap_interval(jax.random.key(0), mean, jnp.asarray(LOSSES), num_samples=500)
    allclose(got, alone)


def test_what_is_in_no_group_counts_nowhere():
    groups = np.append(np.arange(N), [-1, N])
    x = jnp.append(jnp.asarray(LOSSES), jnp.array([1e6, 1e6]))
    options = {"num_samples": 100, "groups": groups, "num_groups": N}
    got = js.bootstrap_interval(jax.random.key(0), mean, x, **options)
    allclose(got, js.bootstrap_interval(jax.random.key(0), mean, x[:N], num_samples=100))


def test_metrics_that_are_counts_or_written_anew():
    def total(x, sample_weight, least):
        return jnp.sum((x > least).astype(int) * sample_weight.astype(int))

    def interval(least):
        metric = partial(total, least=least)
        return js.bootstrap_interval(jax.random.key(0), metric, jnp.arange(9.0), num_samples=9)

    assert_array_equal(interval(-1), [9, 9])
    assert compiles(lambda: interval(-1)) == 0
    for arrays in ((), (1.0,)):
        with pytest.raises(TypeError, match="`arrays`"):
            js.bootstrap_interval(jax.random.key(0), js.auroc, *arrays)
    with pytest.raises(TypeError, match=r"`groups`.*groups\.astype"):
        js.bootstrap_interval(jax.random.key(0), mean, LOSSES, groups=LOSSES, num_groups=N)


def test_samples_without_a_kind_are_left_out():
    scores, same = jnp.arange(6.0), jnp.array([1, 0, 0, 0, 0, 0])
    low, high = js.bootstrap_interval(jax.random.key(0), js.auroc, scores, same, num_samples=50)
    assert_array_equal([low, high], [0, 0])
    none = js.bootstrap_interval(
        jax.random.key(0), js.auroc, scores, np.int64([1, *[2**32] * 5]), num_samples=3
    )
    assert np.isnan(none).all()  # what JAX would narrow to 0 is no kind
    with pytest.raises(ValueError, match="`groups`"):
        js.bootstrap_interval(jax.random.key(0), mean, scores, groups=same)


def test_fpr_of_the_curve_is_that_of_scikit_learn():
    fpr, _, _ = roc_curve(KNOWN, CONFIDENCE, drop_intermediate=False)
    allclose(js.oscr(CONFIDENCE, WRONG, KNOWN).fpr, fpr)
