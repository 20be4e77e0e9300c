"""Calibration without bins, without their noise, and apart from refinement, in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jsoftmax as js

RNG = np.random.default_rng(0)
N = 200
WEIGHT = RNG.integers(0, 4, N).astype(np.float32)
over_weights = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["alike", "weighted"])
LOGITS = (RNG.normal(size=(N, 10)) * 2).astype(np.float32)
LABELS = RNG.integers(0, 10, N)
LOGITS[np.arange(N), LABELS] += 1


def confidence_of(logits, labels):
    z = logits.astype(float)
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return p.max(-1), (p.argmax(-1) == labels).astype(float)


def kernel(t, p, width):
    """Return a Gaussian that is reflected at 0 and 1, by its images."""
    images = np.concatenate([p + 2 * k for k in range(-3, 4)] + [2 * k - p for k in range(-3, 4)])
    found = np.exp(-((t[:, None] - images) ** 2) / (2 * width**2)) / (width * np.sqrt(2 * np.pi))
    return found.reshape(len(t), 14, -1).sum(1)


@over_weights
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_smooth_calibration_error(weight, scale):
    """It is the width at which the smoothed error is the width; there is one, as it falls."""
    w = np.ones(N) if weight is None else weight.astype(float)
    p, right = confidence_of(LOGITS * scale, LABELS)
    got = js.smooth_calibration_error(LOGITS * scale, LABELS, sample_weight=weight)
    t = np.linspace(0, 1, 1001)
    size = np.abs(kernel(t, p, float(got)) @ (w * (right - p))) / w.sum()
    assert_allclose(np.trapezoid(size, t), got, rtol=1e-3)
    curve = js.smooth_reliability_curve(LOGITS * scale, LABELS, sample_weight=weight)
    assert_allclose(curve.bandwidth, got, rtol=1e-6)
    k = kernel(np.asarray(curve.confidence, float), p, float(got))
    density = k @ w / w.sum()
    assert_allclose(curve.density, density, rtol=2e-3, atol=1e-3)
    shown = density > 0.05
    assert_allclose(
        np.asarray(curve.accuracy)[shown], (k @ (w * right) / (k @ w))[shown], rtol=5e-3, atol=2e-3
    )


def equal_bins(p, right, bins):
    order = np.argsort(p)
    n, total = len(p), 0.0
    index = ((np.arange(n) + 0.5) * bins / n).astype(int)
    for b in range(bins):
        c, a = p[order][index == b], right[order][index == b].mean()
        noise = a * (1 - a) / (len(c) - 1)
        total += len(c) / n * ((a - c.mean()) ** 2 - noise)
    return np.sqrt(max(total, 0))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_debiased_calibration_error(scale):
    p, right = confidence_of(LOGITS * scale, LABELS)
    got = js.debiased_calibration_error(LOGITS * scale, LABELS, num_bins=10)
    assert_allclose(got, equal_bins(p, right, 10), rtol=1e-4, atol=1e-6)
    copies = np.repeat(np.arange(N), WEIGHT.astype(int))
    weighted = js.debiased_calibration_error(LOGITS, LABELS, sample_weight=WEIGHT)
    assert_allclose(
        weighted, js.debiased_calibration_error(LOGITS[copies], LABELS[copies]), rtol=1e-5
    )


@pytest.mark.thorough
def test_the_bins_noise_is_subtracted():
    """A calibrated model has a plain error that grows with the bins, and this one not."""
    logits = np.random.default_rng(3).normal(size=(4000, 4)).astype(np.float32) * 2
    p = np.asarray(js.softmax(logits))
    labels = (np.random.default_rng(4).random((4000, 1)) > p.cumsum(-1)).sum(-1).clip(0, 3)
    plain = js.adaptive_calibration_error(logits, labels, num_bins=100)
    assert js.debiased_calibration_error(logits, labels, num_bins=100) < 0.5 * plain


@pytest.mark.parametrize("loss", ["nll", "brier"])
def test_loss_decomposition(loss):
    parts = js.loss_decomposition(3 * LOGITS, LABELS, loss=loss, sample_weight=WEIGHT)
    temperature = js.fit_temperature(3 * LOGITS, LABELS, sample_weight=WEIGHT)
    function = js.cross_entropy if loss == "nll" else js.brier_loss
    for t, expected in ((1, parts.loss), (temperature, parts.refinement)):
        assert_allclose(
            expected, np.average(function(3 * LOGITS / t, LABELS), weights=WEIGHT), rtol=1e-5
        )
    assert_allclose(parts.calibration, parts.loss - parts.refinement, rtol=1e-5)
    assert parts.calibration > 0.01
    again = js.loss_decomposition(3 * LOGITS / temperature, LABELS, loss=loss, sample_weight=WEIGHT)
    assert_allclose(again.calibration, 0, atol=1e-6)
    with pytest.raises(ValueError, match="`loss`"):
        js.loss_decomposition(LOGITS, LABELS, loss="mae")
    whole = np.round(3 * LOGITS)
    got = js.loss_decomposition(whole + 1e6, LABELS, loss=loss)
    assert_allclose(got, js.loss_decomposition(whole, LABELS, loss=loss), rtol=1e-5)


def test_many_examples():
    """Long sums keep the gap: every example of 300,000 is 0.5 sure, and 50.1% are right."""
    labels = jnp.asarray(np.arange(300_000) % 1000 >= 501, jnp.int32)
    got = js.debiased_calibration_error(jnp.zeros((300_000, 2)), labels)
    expected = np.sqrt(0.001**2 - 0.501 * 0.499 / 299_999)
    assert_allclose(got, expected, rtol=1e-3)
    assert_allclose(js.smooth_calibration_error(jnp.zeros((300_000, 2)), labels), 0.001, rtol=1e-3)


def test_more_examples_at_one_confidence_than_float32_adds_up():
    n = 1 << 22
    logits = jnp.broadcast_to(jnp.array([4.0, 0.0]), (n, 2))
    curve = js.smooth_reliability_curve(logits, jnp.asarray(jnp.arange(n) % 4 == 0, int))
    assert_allclose(curve.bandwidth, 0.2320138, rtol=1e-4)  # of the first 60,000 in float64
    assert_allclose(curve.accuracy[jnp.argmax(curve.density)], 0.75, rtol=1e-3)
