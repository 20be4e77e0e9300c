"""Accuracy and perplexity against scikit-learn, and what all metrics have in common."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import log_loss, top_k_accuracy_score

import jsoftmax as js

pytestmark = pytest.mark.one_in(5)

RNG = np.random.default_rng(0)
LOGITS = (RNG.normal(size=(200, 10)) * 2).astype(np.float32)
LABELS = RNG.integers(0, 10, 200)
LOGITS[np.arange(200), LABELS] += 1
LABELS[0], LABELS[-1] = 0, 9
WEIGHT = RNG.random(200).astype(np.float32)
MASK = np.arange(10) != 3
METRICS = [
    js.top_k_accuracy,
    js.perplexity,
    js.expected_calibration_error,
    js.adaptive_calibration_error,
    js.classwise_calibration_error,
    js.smooth_calibration_error,
    js.debiased_calibration_error,
    js.fit_temperature,
]
over_metrics = pytest.mark.parametrize(
    "metric", [jax.jit(m) for m in METRICS], ids=[m.__name__ for m in METRICS]
)


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
    assert js.top_k_accuracy(one, jnp.array([0, 1]), k=3) == 0


def test_a_class_that_is_masked_is_never_right():
    z, y = jnp.array([[3.0, 1.0, 2.0]]), jnp.array([0])
    for where in (jnp.array([False, True, True]), jnp.zeros(3, bool)):
        assert js.top_k_accuracy(z, y, where=where) == 0
        assert js.top_k_accuracy(z, y, k=3, where=where) == 0
        assert js.top_k_accuracy(jnp.where(where, z, -jnp.inf), y, k=3) == 0
    assert js.expected_calibration_error(z, y, where=jnp.zeros(3, bool)) == 0


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_perplexity(weight):
    p = oracles.softmax(LOGITS)
    expected = np.exp(log_loss(LABELS, p / p.sum(-1, keepdims=True), sample_weight=weight))
    got = jax.jit(js.perplexity)(LOGITS, LABELS, sample_weight=weight)
    assert_allclose(got, expected, rtol=2e-6)


@over_metrics
def test_ignored_examples_and_weight_zero(metric):
    labels = np.where(np.arange(200) % 3 == 0, -100, LABELS)
    kept = labels != -100
    logits = np.where(kept[:, None], LOGITS, np.nan)
    expected = metric(LOGITS[kept], labels[kept])
    known = metric.__wrapped__  # with an ignore_index that is not traced
    got = jax.jit(lambda z: known(z, labels, ignore_index=-100))(logits)
    assert_allclose(got, expected, rtol=1e-5)
    assert_allclose(metric(LOGITS, LABELS, sample_weight=kept), expected, rtol=1e-5)


@over_metrics
def test_where_is_as_if_the_class_did_not_exist(metric):
    labels = np.where(LABELS == 3, 2, LABELS)
    expected = metric(LOGITS[:, MASK], labels - (labels > 3))
    assert_allclose(metric(LOGITS, labels, where=MASK), expected, rtol=1e-5)


@over_metrics
def test_nothing_left_and_bad_labels(metric):
    empty = metric(jnp.zeros((0, 3)), jnp.zeros(0, int))
    assert empty == (1 if metric.__name__ in ("perplexity", "fit_temperature") else 0)
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
    over = jax.vmap(lambda z, y: js.perplexity(z, y, axis_name="i"), axis_name="i")
    got = jax.jit(over)(LOGITS.reshape(8, 25, 10), LABELS.reshape(8, 25))
    assert_allclose(got, np.full(8, jax.jit(js.perplexity)(LOGITS, LABELS)), rtol=1e-6)
