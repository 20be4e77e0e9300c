"""Calibration without bins: a Gaussian smooths residuals, whose width follows from them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numerics import per
from jsoftmax.metrics.calibration import bin_sums, top_confidence
from jsoftmax.metrics.inputs import metric_inputs

_GRID = 2048  # intervals of [0, 1]
_SHOWN = 256
_HALVINGS = 30
_BLOCK = 4096  # examples that are summed together; a sum for each point of the grid


class SmoothReliabilityCurve(NamedTuple):
    r"""Accuracy against confidence, smoothed; returned by `smooth_reliability_curve`.

    $$\mathrm{accuracy}(t) = \frac{\sum_i w_i K_\sigma(t, p_i)\,[\,\mathrm{correct}_i\,]}
    {\sum_i w_i K_\sigma(t, p_i)}$$

    Args:
      confidence: `[257]`, t from 0 to 1.
      accuracy: `[257]`, 0 where there are no examples near.
      density: `[257]`, of the confidences.
      bandwidth: σ, the smooth calibration error.

    Source: Błasiok, Nakkiran, 2023, arXiv:2309.12236, section 4.

    Example:
      >>> js.smooth_reliability_curve(jnp.zeros((4, 2)), jnp.array([0, 0, 0, 1])).accuracy[128]
      Array(0.75, dtype=float32)
    """

    confidence: Array
    accuracy: Array
    density: Array
    bandwidth: Array


@on_any_mesh(same_everywhere)
def smooth_calibration_error(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
) -> Array:
    r"""Smooth calibration error (smECE): no bins, and no width to choose.

    $$\sigma = \int_0^1 \Bigl|\frac{\sum_i w_i K_\sigma(t, p_i)\,(\,[\hat y_i = y_i] - p_i)}
    {\sum_i w_i}\Bigr| \,dt$$

    where K is a Gaussian of width σ, reflected at 0 and 1, and p the probability of the predicted
    class: residuals are averaged over what lies as near as the error itself is large. Unlike binned
    errors it is continuous in the probabilities, and a consistent measure of calibration.

    Args:
      logits: `[..., classes]`, any real dtype.
      labels: integers `[...]`.
      where: booleans that broadcast against `logits`; False masks a class.
      sample_weight: `[...]`, a weight or a mask.
      ignore_index: a label whose examples are left out.

    Returns:
      A scalar in [0, 1]; 0 if no example is left. NaN if a label is out of range and not ignored.
      The integral is a sum over 2,048 intervals. For reporting, not for training.

    Source: Błasiok, Nakkiran, "Smooth ECE: principled reliability diagrams via kernel smoothing",
    2023, arXiv:2309.12236.

    Example:
      >>> js.smooth_calibration_error(jnp.zeros((4, 2)), jnp.array([0, 0, 0, 1]))
      Array(0.25, dtype=float32)
    """
    p, right, weight = _inputs(logits, labels, where, sample_weight, ignore_index)
    return _bandwidth(_on_grid(p, weight * (right - p)), weight)


@on_any_mesh(same_everywhere)
def smooth_reliability_curve(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
) -> SmoothReliabilityCurve:
    r"""Accuracy against confidence as a smooth curve: a reliability diagram without bins.

    $$\mathrm{accuracy}(t) = E_\sigma[\,\hat y = y \mid p = t\,]$$

    Args:
      logits: `[..., classes]`, any real dtype.
      labels: integers `[...]`.
      where: booleans that broadcast against `logits`; False masks a class.
      sample_weight: `[...]`, a weight or a mask.
      ignore_index: a label whose examples are left out.

    Returns:
      A `SmoothReliabilityCurve`: draw `accuracy` over `confidence`, as wide as `density`. Its width
      is the `smooth_calibration_error`, at least one of 2,048 intervals.

    Source: Błasiok, Nakkiran, 2023, arXiv:2309.12236, section 4.

    Example:
      >>> js.smooth_reliability_curve(jnp.zeros((4, 2)), jnp.array([0, 0, 0, 1])).bandwidth
      Array(0.25, dtype=float32)
    """
    p, right, weight = _inputs(logits, labels, where, sample_weight, ignore_index)
    bandwidth = _bandwidth(_on_grid(p, weight * (right - p)), weight)
    width = jnp.maximum(bandwidth, 1 / _GRID)
    total = jnp.sum(weight)
    rights, density = (
        _smoothed(_spectrum(_on_grid(p, x)), width) for x in (weight * right, weight)
    )
    some = density > 1e-6 * total
    accuracy = jnp.where(some, rights / jnp.where(some, density, 1), 0)
    density = per(density, total)
    shown = slice(None, None, _GRID // _SHOWN)
    confidence = jnp.linspace(0, 1, _SHOWN + 1, dtype=p.dtype)
    return SmoothReliabilityCurve(confidence, accuracy[shown], density[shown], bandwidth)


def _inputs(logits, labels, where, sample_weight, ignore_index):
    logits, labels, weight = metric_inputs(logits, labels, where, sample_weight, ignore_index)
    p, right = top_confidence(logits, labels, weight)
    return p.ravel(), right.ravel(), weight.ravel()


def _on_grid(p, values):
    """Return values at p, divided between the two next points of the grid `[grid + 1]`."""
    place = jnp.clip(p * _GRID, 0, _GRID)
    low = jnp.minimum(place.astype(jnp.int32), _GRID - 1)
    part = place - low.astype(p.dtype)
    values = jnp.stack([values * (1 - part), values * part], -1)
    return bin_sums(values, jnp.stack([low, low + 1], -1), _GRID + 1, _BLOCK)


def _spectrum(grid):
    """Return the Fourier coefficients of what lies on the grid, reflected at both ends.

    The reflections make it an even function of period 2.
    """
    ends = jnp.zeros_like(grid).at[jnp.array([0, _GRID])].set(1)
    return jnp.fft.rfft(jnp.concatenate([grid + ends * grid, grid[-2:0:-1]]))


def _smoothed(spectrum, width):
    """Return the density on the grid under a Gaussian of this width."""
    frequency = jnp.pi * jnp.arange(_GRID + 1, dtype=width.dtype)
    damped = spectrum * jnp.exp(-jnp.square(width * frequency) / 2).astype(spectrum.dtype)
    return jnp.fft.irfft(damped, 2 * _GRID)[: _GRID + 1] * _GRID


@jax.jit
def _bandwidth(residuals, weight):
    """Return σ for which the smoothed error is σ, by bisection: the error falls with σ."""
    residuals = per(residuals, jnp.sum(weight))
    spectrum = _spectrum(residuals)

    def error(width):
        size = jnp.abs(_smoothed(spectrum, width))
        return (jnp.sum(size) - (size[0] + size[-1]) / 2) / _GRID

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        larger = error(middle) > middle
        return jnp.where(larger, middle, low), jnp.where(larger, high, middle)

    zero = 0 * jnp.sum(residuals)  # or NaN
    found = lax.fori_loop(0, _HALVINGS, halve, (zero, zero + 1))[1]
    return jnp.where(found < 2.0 ** (1 - _HALVINGS), 0, found)
