"""Calibration errors against loops in float64.

What they have in common with the other metrics is in test_accuracy.py.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(5)

RNG = np.random.default_rng(0)
LOGITS = (RNG.normal(size=(200, 10)) * 2).astype(np.float32)
LABELS = RNG.integers(0, 10, 200)
LOGITS[np.arange(200), LABELS] += 1
WEIGHT = RNG.integers(0, 4, 200).astype(np.float32)
MASK = np.arange(10) != 3
LABELS[LABELS == 3] = 2  # so that the mask never takes a label
ERRORS = [
    js.expected_calibration_error,
    js.adaptive_calibration_error,
    js.classwise_calibration_error,
]
over_errors = pytest.mark.parametrize("error", ERRORS, ids=[e.__name__ for e in ERRORS])


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
    options = {"num_bins": bins, "where": where, "sample_weight": WEIGHT}
    curve = js.reliability_curve(LOGITS, LABELS, **options)
    expected = reliability(oracles.softmax(LOGITS, where=where), LABELS, WEIGHT, bins)
    for got, want in zip(curve, expected, strict=True):
        assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    gap = (np.abs(expected[0] - expected[1]) * expected[2]).sum() / WEIGHT.sum()
    assert_allclose(js.expected_calibration_error(LOGITS, LABELS, **options), gap, rtol=1e-5)


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


@pytest.mark.parametrize("error", [*ERRORS, js.fit_temperature])
def test_a_weight_is_a_number_of_copies(error):
    copies = np.repeat(np.arange(200), WEIGHT.astype(int))
    compiled = jax.jit(error)
    weighted = compiled(LOGITS, LABELS, sample_weight=WEIGHT)
    assert_allclose(weighted, compiled(LOGITS[copies], LABELS[copies]), rtol=1e-5)
    assert_allclose(weighted, error(LOGITS, LABELS, sample_weight=WEIGHT), rtol=1e-6)  # eager


@pytest.mark.parametrize("error", [ERRORS[0], ERRORS[2]], ids=["expected", "classwise"])
def test_many_confidences_near_1_do_not_lose_their_digits(error):
    logits = np.tile(np.float32([6.6, 0]), (60000, 1))
    labels = np.arange(60000) % 100 == 0
    expected = 1 / (1 + np.exp(-np.float64(np.float32(6.6)))) - 0.99
    assert_allclose(jax.jit(error)(logits, labels.astype(int)), expected, rtol=1e-3)


@over_errors
def test_nan_logits_that_count_are_not_hidden(error):
    logits = np.where(np.arange(200)[:, None] == 7, np.nan, LOGITS)
    assert np.isnan(jax.jit(error)(logits, LABELS))


def adaptive(p, labels, weight, bins):
    """Return the gap of equal shares of the examples, by repeating them until they divide."""
    confidence = p.max(-1)
    order = np.argsort(confidence)
    gap = ((p.argmax(-1) == labels) - confidence)[order]
    gap = np.repeat(gap, weight[order].astype(int) * bins)
    return np.abs(gap.reshape(bins, -1).mean(1)).mean()


@pytest.mark.parametrize(("bins", "masked"), [(1, False), (15, True), (300, False)])
def test_adaptive_calibration_error(bins, masked):
    where = MASK if masked else None
    expected = adaptive(oracles.softmax(LOGITS, where=where), LABELS, WEIGHT, bins)
    error = jax.jit(partial(js.adaptive_calibration_error, num_bins=bins))
    got = error(LOGITS, LABELS, where=where, sample_weight=WEIGHT)
    assert_allclose(got, expected, rtol=1e-5)


def test_adaptive_bins_by_hand():
    p = np.array([0.9, 0.6, 0.8, 0.7])
    logits = np.log(np.stack([p, 1 - p], -1))
    labels = np.array([0, 0, 0, 1])
    # Bins {0.6, 0.7} and {0.8, 0.9}: 0.65 for an accuracy of 1/2, 0.85 for one of 1.
    error = jax.jit(partial(js.adaptive_calibration_error, num_bins=2))
    assert_allclose(error(logits, labels), 0.15, rtol=1e-5)
    # Equal confidences: half of them are wrong, and each bin gets half of these.
    assert_allclose(error(logits[[3, 3, 3, 3]], np.array([0, 0, 1, 1])), 0.2, rtol=1e-5)


def test_adaptive_bins_do_not_depend_on_the_order_of_equal_confidences():
    logits, order = np.round(LOGITS), RNG.permutation(200)
    error = jax.jit(js.adaptive_calibration_error)
    assert_allclose(error(logits, LABELS), error(logits[order], LABELS[order]), rtol=1e-5)


def classwise(p, labels, weight, bins):
    """Return the mean over the classes of the gaps in equal widths, by loops."""
    gaps = []
    for j in range(p.shape[1]):
        index = np.clip(np.ceil(p[:, j] * bins) - 1, 0, None)
        for b in range(bins):
            inside = index == b
            gaps.append(abs((weight * ((labels == j) - p[:, j]))[inside].sum()) / weight.sum())
    return np.sum(gaps) / p.shape[1]


@pytest.mark.parametrize("bins", [1, 15])
@pytest.mark.parametrize("masked", [False, True])
def test_classwise_calibration_error(bins, masked):
    kept = MASK if masked else np.ones(10, bool)
    labels = (np.cumsum(kept) - 1)[LABELS]
    expected = classwise(oracles.softmax(LOGITS[:, kept]), labels, WEIGHT, bins)
    got = js.classwise_calibration_error(
        LOGITS, LABELS, num_bins=bins, where=kept, sample_weight=WEIGHT
    )
    assert_allclose(got, expected, rtol=1e-5)


def test_classwise_with_classes_off_in_some_examples():
    # Only the examples that have a class say anything of it: 3 of (0), 3 of (1), 1 of (2).
    where = jnp.array([[True, True, False], [True, True, False], [True, True, True]])
    logits, labels = jnp.log(jnp.array([[1, 1, 1], [1, 1, 1], [1, 1, 2]])), jnp.array([0, 1, 2])
    error = jax.jit(partial(js.classwise_calibration_error, num_bins=1))
    got = error(logits, labels, where=where)
    assert_allclose(got, (0.25 + 0.25 + 0.5) / 7, rtol=1e-6)
