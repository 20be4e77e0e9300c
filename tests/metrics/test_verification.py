"""Verification of given trials against scikit-learn, and against definitions in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import roc_auc_score, roc_curve

import jsoftmax as js
from jsoftmax.metrics.trials import accepted, checked_trials

pytestmark = pytest.mark.one_in(13)

RNG = np.random.default_rng(0)
N = 300
SAME = RNG.random(N) < 0.3
SCORES = (RNG.normal(size=N) + SAME).astype(np.float32)
TIED = np.round(SCORES * 2) / 2
WEIGHT = RNG.integers(0, 4, N).astype(np.float32)
METRICS = [
    js.verification_curve,
    js.tar_at_far,
    js.equal_error_rate,
    js.min_dcf,
    js.auroc,
    js.fpr_at_tpr,
    partial(js.verification_accuracy, folds=jnp.arange(N) % 10),
]
over_metrics = pytest.mark.parametrize(
    "metric", METRICS, ids=[getattr(m, "func", m).__name__ for m in METRICS]
)
over_trials = pytest.mark.parametrize("scores", [SCORES, TIED], ids=["distinct", "tied"])
over_weights = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["alike", "weighted"])


def roc(scores, same, weight=None):
    return roc_curve(same, scores, sample_weight=weight, drop_intermediate=False)


def allclose(got, expected, rtol=1e-5):
    jax.tree.map(partial(assert_allclose, rtol=rtol, atol=1e-6), got, expected)


@over_trials
@over_weights
def test_verification_curve(scores, weight):
    curve = jax.jit(js.verification_curve)(scores, SAME, sample_weight=weight)
    assert_array_equal(np.sort(curve.threshold[1:])[::-1], curve.threshold[1:])
    counted = np.ones(N, bool) if weight is None else weight > 0
    expected = roc(scores[counted], SAME[counted], None if weight is None else weight[counted])
    assert curve.threshold[0] == np.inf
    points = np.unique(np.stack(curve, 1)[np.isfinite(curve.threshold)], axis=0)[::-1]
    assert_allclose(points[:, 0], expected[2][1:])
    assert_allclose(points[:, 1], expected[0][1:], rtol=1e-5, atol=1e-7)
    assert_allclose(points[:, 2], expected[1][1:], rtol=1e-5, atol=1e-7)


@over_trials
@over_weights
def test_auroc(scores, weight):
    expected = roc_auc_score(SAME, scores, sample_weight=weight)
    assert_allclose(js.auroc(scores, SAME, sample_weight=weight), expected, rtol=1e-5)


@over_trials
@over_weights
def test_tar_at_far(scores, weight):
    levels = np.array([0, 1e-3, 0.05, 0.2, 0.5, 1])
    fpr, tpr, _ = roc(scores, SAME, weight)
    at = partial(js.tar_at_far, scores, SAME, far=levels, sample_weight=weight)
    got, threshold = at(return_threshold=True)
    allclose(got, [tpr[fpr <= far + 1e-7].max() for far in levels])
    w = np.ones(N) if weight is None else weight
    for t, tar, far in zip(*map(np.asarray, (threshold, got, levels)), strict=True):
        assert_allclose(((scores >= t) * w)[SAME].sum() / w[SAME].sum(), tar, rtol=1e-5)
        assert ((scores >= t) * w)[~SAME].sum() / w[~SAME].sum() <= far + 1e-7
    allclose(at(interpolate=True), np.interp(levels, fpr, tpr))
    assert at(far=0.2).shape == ()


def test_a_rate_that_is_met_exactly_is_met():
    scores, same = np.arange(11.0), np.arange(11) == 10
    for k in range(11):
        far = np.float32(k / 10)
        _, threshold = js.tar_at_far(scores, same, far=far, return_threshold=True)
        assert (scores[~same] >= threshold).sum() == k


@pytest.mark.thorough
def test_of_millions_of_pairs_none_too_many_is_accepted():
    """There a rounding of the rate is worth a pair."""
    n = 1 << 22
    scores, same = jnp.append(jnp.arange(n, dtype=jnp.float32), -1), jnp.arange(n + 1) == n
    _, threshold = js.tar_at_far(scores, same, far=0.5, return_threshold=True)
    assert threshold == n / 2
    other = jnp.append(scores[:n], n / 2 + 0.5)  # above the last of the pairs that are needed
    assert js.fpr_at_tpr(other, ~same, tpr=0.5) == 1


@pytest.mark.parametrize(
    "metric", [partial(js.tar_at_far, far=1.0), js.equal_error_rate, js.min_dcf]
)
def test_what_has_no_weight_is_no_threshold(metric):
    scores, same = jnp.array([0.3, 0.8, 0.7, 0.1]), jnp.array([1, 0, 1, 0])
    given = {"sample_weight": jnp.array([1.0, 1.0, 1.0, 0.0]), "return_threshold": True}
    assert np.isin(metric(scores, same, **given)[1], np.float32([np.inf, 0.8, 0.7, 0.3]))
    curve = js.verification_curve(SCORES, SAME, sample_weight=WEIGHT)
    assert np.isin(curve.threshold[1:], SCORES[WEIGHT > 0]).all()


@over_trials
@over_weights
def test_equal_error_rate(scores, weight):
    fpr, tpr, thresholds = roc(scores, SAME, weight)
    eer = partial(js.equal_error_rate, scores, SAME, sample_weight=weight)
    rate, threshold = eer(return_threshold=True)
    low, high = 0.0, 1.0  # bisection: where the curve of straight lines meets 1 - fpr
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - middle > np.interp(middle, fpr, tpr) else (low, middle)
    allclose(rate, low)
    assert_allclose(threshold, thresholds[np.argmax(fpr >= 1 - tpr)])
    rate, threshold = eer(interpolate=False, return_threshold=True)
    nearest = np.argmin(np.abs(fpr - (1 - tpr)))
    allclose(rate, (fpr[nearest] + 1 - tpr[nearest]) / 2)
    assert_allclose(threshold, thresholds[nearest])


@over_trials
@pytest.mark.parametrize("costs", [{}, {"p_target": 0.3, "c_miss": 10.0, "c_fa": 2.0}])
def test_min_dcf(scores, costs):
    fpr, tpr, _ = roc(scores, SAME)
    p, miss, accept = (costs.get(k, d) for k, d in (("p_target", 0.01), ("c_miss", 1), ("c_fa", 1)))
    expected = miss * p * (1 - tpr) + accept * (1 - p) * fpr
    plain, threshold = js.min_dcf(scores, SAME, normalize=False, return_threshold=True, **costs)
    allclose(plain, expected.min())
    at = ((scores[SAME] < threshold).mean(), (scores[~SAME] >= threshold).mean())
    allclose(miss * p * at[0] + accept * (1 - p) * at[1], expected.min())
    default = min(miss * p, accept * (1 - p))
    allclose(js.min_dcf(scores, SAME, **costs), expected.min() / default)


@over_trials
@over_weights
def test_fpr_at_tpr(scores, weight):
    fpr, tpr, _ = roc(scores, SAME, weight)
    levels = np.array([0, 0.5, 0.95, 1])
    expected = [fpr[np.argmax(tpr >= level - 1e-7)] for level in levels]
    got = js.fpr_at_tpr(scores, SAME, tpr=levels, sample_weight=weight)
    allclose(got, expected)


def best_threshold(scores, same, weight):
    """Return the highest of the best thresholds, by trying all."""
    values = np.unique(scores[weight > 0])[::-1]
    tried = [np.inf, *((values[:-1] + values[1:]) / 2), values[-1]]
    right = [(((scores >= t) == same) * weight).sum() for t in tried]
    return tried[int(np.argmax(right))]


@over_trials
@over_weights
def test_verification_accuracy(scores, weight):
    folds = RNG.integers(-1, 6, N)  # -1 and 5 are in no fold
    got = js.verification_accuracy(scores, SAME, folds, num_folds=5, sample_weight=weight)
    w = np.where((folds >= 0) & (folds < 5), 1.0 if weight is None else weight, 0.0)
    for fold in range(5):
        threshold = best_threshold(scores.astype(float), SAME, w * (folds != fold))
        mine = w * (folds == fold)
        right = (((scores >= threshold) == SAME) * mine).sum() / mine.sum()
        assert_allclose(got[fold], right, rtol=1e-5)


# --- all of them ---


@over_metrics
def test_a_weight_is_a_number_of_copies(metric):
    if isinstance(metric, partial):
        pytest.skip("folds go by trial")
    copies = np.repeat(np.arange(N), WEIGHT.astype(int))
    copied, weighted = metric(TIED[copies], SAME[copies]), metric(TIED, SAME, sample_weight=WEIGHT)
    if metric is js.verification_curve:
        copied, weighted = (np.unique(np.stack(c[1:], 1), axis=0) for c in (copied, weighted))
    allclose(weighted, copied)


@over_metrics
def test_vmap_and_jit(metric):
    scores, same = np.stack([SCORES, TIED, -SCORES]), np.stack([SAME, ~SAME, SAME])
    got = jax.jit(jax.vmap(metric))(scores, same)
    for i in range(3):
        allclose(jax.tree.map(lambda x, i=i: x[i], got), metric(scores[i], same[i]))


@over_metrics
def test_any_shape_is_that_many_trials(metric):
    shape = (3, N // 3)
    folds = {k: x.reshape(shape) for k, x in getattr(metric, "keywords", {}).items()}
    found = metric(SCORES.reshape(shape), SAME.reshape(shape), **folds)
    jax.tree.map(assert_array_equal, found, metric(SCORES, SAME))


@over_metrics
def test_what_has_no_weight_is_left_out(metric):
    hidden = np.where(WEIGHT == 0, np.nan, SCORES)
    same = np.where(WEIGHT == 0, 7, SAME)
    got = metric(hidden, same, sample_weight=WEIGHT)
    expected = metric(SCORES, SAME, sample_weight=WEIGHT)
    if metric is js.verification_curve:
        got, expected = got[1:], expected[1:]
        got, expected = (np.unique(np.stack(c, 1), axis=0) for c in (got, expected))
    allclose(got, expected)


def last(result):
    return np.asarray(jax.tree.leaves(result)[-1])


@over_metrics
def test_what_is_wrong_gives_nan(metric):
    assert np.isnan(last(metric(np.where(np.arange(N) == 7, np.nan, SCORES), SAME))).all()
    assert np.isnan(last(metric(SCORES, np.where(np.arange(N) == 7, 2, SAME)))).all()
    if not isinstance(metric, partial):
        for kind in (np.zeros(N, bool), np.ones(N, bool)):
            rates = jax.tree.leaves(metric(SCORES, kind))
            assert any(np.isnan(x).all() for x in rates)
        assert np.isnan(last(metric(SCORES[:0], SAME[:0]))).all()


@over_metrics
def test_checked_says_which_kind_is_missing(metric):
    checked = js.checks.checked(jax.jit(metric))
    allclose(checked(SCORES, SAME), metric(SCORES, SAME))
    with pytest.raises(Exception, match="same class"):
        checked(SCORES, np.zeros(N, bool))
    with pytest.raises(Exception, match="different classes"):
        checked(SCORES, np.ones(N, bool))


@pytest.mark.parametrize(
    "metric", [*METRICS[:-1], partial(js.tar_at_far, far=(0.1, 0.2), interpolate=True)]
)
def test_a_number_of_trials_that_is_left_open(metric):
    (n,) = export.symbolic_shape("n")
    trials = jax.ShapeDtypeStruct((n,), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.bool)
    exported = export.export(jax.jit(metric))(*trials)
    allclose(exported.call(SCORES, SAME), metric(SCORES, SAME))


@over_metrics
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes(metric, dtype):
    narrow = jnp.asarray(SCORES).astype(dtype)
    got, expected = metric(narrow, SAME), metric(narrow.astype(jnp.float32), SAME)
    jax.tree.map(assert_array_equal, got, expected)
    assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(jnp.float32)}


@over_metrics
def test_arguments(metric):
    with pytest.raises(AssertionError, match="`same`"):
        metric(SCORES, SAME[:-1])
    with pytest.raises(TypeError, match="`same`"):
        metric(SCORES, SAME.astype(float))
    with pytest.raises(AssertionError, match="`sample_weight`"):
        metric(SCORES, SAME, sample_weight=WEIGHT[:-1])
    numbers = SAME * 2**32 + 1  # that JAX would narrow to 1
    assert np.isnan(last(metric(SCORES, numbers))).all()


def test_all_scores_are_equal():
    scores = np.ones(N)
    assert_allclose(js.auroc(scores, SAME), 0.5)
    assert_allclose(js.equal_error_rate(scores, SAME), 0.5, rtol=1e-6)
    assert_allclose(js.tar_at_far(scores, SAME, far=0.5), 0)
    assert_allclose(js.fpr_at_tpr(scores, SAME), 1)
    assert_allclose(js.min_dcf(scores, SAME), 1)


def test_perfect_scores():
    scores = SAME.astype(np.float32)
    assert js.auroc(scores, SAME) == 1
    assert js.equal_error_rate(scores, SAME) == 0
    assert js.tar_at_far(scores, SAME, far=0.0) == 1
    assert js.min_dcf(scores, SAME) == 0
    assert_array_equal(js.verification_accuracy(scores, SAME, np.arange(N) % 10), 1)


def test_infinite_scores_are_scores():
    scores = np.where(SAME, np.inf, -np.inf)
    assert js.auroc(scores, SAME) == 1
    assert_array_equal(js.verification_accuracy(scores, SAME, np.arange(N) % 10), 1)


def test_the_middle_between_two_neighbours_is_one_of_them():
    low = np.float32(1)
    scores = np.array([np.nextafter(low, np.float32(2)), low] * 2)
    found = js.verification_accuracy(scores, [1, 0, 1, 0], np.array([0, 0, 1, 1]), num_folds=2)
    assert_array_equal(found, 1)


def test_counts_beyond_what_float32_counts_in_ones():
    """A sum of ones in float32 ends at 2^24."""
    trials = checked_trials(SCORES, SAME, None)
    weight = jnp.array([2**24, 1, 1, 1], trials.weight.dtype)
    sums = accepted(-jnp.arange(4.0), weight).sums[0]
    assert_array_equal(sums, 2**24 + np.arange(4))


def test_memory_does_not_grow_with_the_square():
    scores = jax.ShapeDtypeStruct((1 << 16,), jnp.float32)
    same = jax.ShapeDtypeStruct((1 << 16,), jnp.bool)
    program = jax.jit(js.equal_error_rate).lower(scores, same).compile()
    assert program.memory_analysis().temp_size_in_bytes < 64 * 4 * (1 << 16)
