"""Metrics against scikit-learn and plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import log_loss, top_k_accuracy_score

import jsoftmax as js

RNG = np.random.default_rng(0)
LOGITS = (RNG.normal(size=(200, 10)) * 2).astype(np.float32)
LABELS = RNG.integers(0, 10, 200)
LOGITS[np.arange(200), LABELS] += 1
LABELS[0], LABELS[-1] = 0, 9
WEIGHT = RNG.random(200).astype(np.float32)
MASK = np.arange(10) != 3
METRICS = [js.top_k_accuracy, js.perplexity, js.expected_calibration_error]
over_metrics = pytest.mark.parametrize("metric", METRICS, ids=[m.__name__ for m in METRICS])


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_top_k_accuracy(k, weight):
    got = jax.jit(js.top_k_accuracy, static_argnames="k")(LOGITS, LABELS, k=k, sample_weight=weight)
    # With k = 10 scikit-learn warns that the answer is always 1.
    expected = k == 10 or top_k_accuracy_score(LABELS, LOGITS, k=k, sample_weight=weight)
    assert_allclose(got, float(expected), rtol=1e-6)


def test_ties_go_to_the_lower_class_as_in_lax_top_k():
    logits = np.zeros((4, 4), np.float32)
    labels = np.arange(4)
    for k in (1, 2, 3):
        hits = [y in np.asarray(jax.lax.top_k(logits[0], k)[1]) for y in labels]
        assert_allclose(js.top_k_accuracy(logits, labels, k=k), np.mean(hits))


def test_a_nan_is_never_right():
    nan = jnp.full((2, 3), jnp.nan)
    assert js.top_k_accuracy(nan, jnp.array([0, 2])) == 0
    one = jnp.array([[jnp.nan, 5.0, 0.0], [1.0, jnp.nan, 3.0]])
    assert js.top_k_accuracy(one, jnp.array([1, 1])) == 0


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_perplexity(weight):
    p = oracles.softmax(LOGITS)
    expected = np.exp(log_loss(LABELS, p / p.sum(-1, keepdims=True), sample_weight=weight))
    got = jax.jit(js.perplexity)(LOGITS, LABELS, sample_weight=weight)
    assert_allclose(got, expected, rtol=2e-6)


def reliability(p, labels, weight, bins):
    """Return confidence, accuracy and weight of the bins (lo, hi], by a loop."""
    rows = []
    confidence, right = p.max(-1), p.argmax(-1) == labels
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        total = weight[inside].sum()
        mean = [
            np.average(x[inside], weights=weight[inside]) if total else 0
            for x in (confidence, right)
        ]
        rows.append([*mean, total])
    return np.array(rows).T


@pytest.mark.parametrize("bins", [1, 15, 40])
@pytest.mark.parametrize("masked", [False, True])
def test_reliability_curve_and_calibration_error(bins, masked):
    where = MASK if masked else None
    labels = np.where(LABELS == 3, 2, LABELS)
    options = {"num_bins": bins, "where": where, "sample_weight": WEIGHT}
    curve = js.reliability_curve(LOGITS, labels, **options)
    expected = reliability(oracles.softmax(LOGITS, where=where), labels, WEIGHT, bins)
    for got, want in zip(curve, expected, strict=True):
        assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    gap = (np.abs(expected[0] - expected[1]) * expected[2]).sum() / WEIGHT.sum()
    assert_allclose(js.expected_calibration_error(LOGITS, labels, **options), gap, rtol=1e-5)


def test_fifteen_bins_by_default():
    curve = js.reliability_curve(LOGITS, LABELS)
    assert curve.weight.shape == (15,)
    expected = reliability(oracles.softmax(LOGITS), LABELS, np.ones(200), 15)
    gap = (np.abs(expected[0] - expected[1]) * expected[2]).sum() / 200
    assert_allclose(js.expected_calibration_error(LOGITS, LABELS), gap, rtol=1e-5)


def test_bins_are_closed_above():
    # Confidences of exactly 1/2 and 1: the upper ends of two of four bins.
    logits = jnp.array([[0.0, 0.0], [200.0, 0.0]])
    weight = js.reliability_curve(logits, jnp.array([0, 0]), num_bins=4).weight
    assert_array_equal(weight, [0, 1, 0, 1])


@over_metrics
def test_ignored_examples_and_weight_zero(metric):
    labels = np.where(np.arange(200) % 3 == 0, -100, LABELS)
    kept = labels != -100
    logits = np.where(kept[:, None], LOGITS, np.nan)
    expected = metric(LOGITS[kept], labels[kept])
    got = jax.jit(lambda z: metric(z, labels, ignore_index=-100))(logits)
    assert_allclose(got, expected, rtol=1e-5)
    assert_allclose(metric(LOGITS, LABELS, sample_weight=kept), expected, rtol=1e-5)


@over_metrics
def test_where_is_as_if_the_class_did_not_exist(metric):
    labels = np.where(LABELS == 3, 2, LABELS)
    expected = metric(LOGITS[:, MASK], labels - (labels > 3))
    assert_allclose(metric(LOGITS, labels, where=MASK), expected, rtol=1e-5)


@over_metrics
def test_nothing_left_and_bad_labels(metric):
    empty = jax.jit(metric)(jnp.zeros((0, 3)), jnp.zeros(0, int))
    assert empty == (1 if metric is js.perplexity else 0)
    assert np.isnan(metric(jnp.zeros((2, 3)), jnp.array([0, 3])))
    assert np.isnan(metric(jnp.zeros((2, 3)), jnp.array([0, -1])))
    assert np.isfinite(
        metric(jnp.zeros((2, 3)), jnp.array([0, 3]), sample_weight=jnp.array([1, 0]))
    )


@over_metrics
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32"])
def test_any_dtype_and_leading_shape(metric, dtype):
    logits = jnp.asarray(np.round(LOGITS)).astype(dtype)
    got = metric(logits.reshape(20, 10, 10), jnp.asarray(LABELS, jnp.uint8).reshape(20, 10))
    assert got.dtype == jnp.float32
    assert_allclose(got, metric(logits.astype(jnp.float32), LABELS), rtol=1e-6)


def test_perplexity_over_an_axis():
    got = jax.vmap(lambda z, y: js.perplexity(z, y, axis_name="i"), axis_name="i")(
        LOGITS.reshape(8, 25, 10), LABELS.reshape(8, 25)
    )
    assert_allclose(got, np.full(8, js.perplexity(LOGITS, LABELS)), rtol=1e-6)
