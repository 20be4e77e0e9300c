"""One threshold of the verification curve, and the error rates there."""

from typing import Literal, overload

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numbers import at_least, one_number, within
from jsoftmax.metrics.trials import checked_trials, num_at_most, shares, slack
from jsoftmax.metrics.verification import VerificationCurve, verification_curve


@overload
def tar_at_far(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    far: ArrayLike = ...,
    interpolate: bool = ...,
    sample_weight: ArrayLike | None = ...,
    return_threshold: Literal[False] = False,
) -> Array: ...
@overload
def tar_at_far(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    far: ArrayLike = ...,
    interpolate: bool = ...,
    sample_weight: ArrayLike | None = ...,
    return_threshold: Literal[True],
) -> tuple[Array, Array]: ...
@overload
def tar_at_far(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    far: ArrayLike = ...,
    interpolate: bool = ...,
    sample_weight: ArrayLike | None = ...,
    return_threshold: bool,
) -> Array | tuple[Array, Array]: ...
@on_any_mesh(same_everywhere)
def tar_at_far(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    far: ArrayLike = 1e-3,
    interpolate: bool = False,
    sample_weight: ArrayLike | None = None,
    return_threshold: bool = False,
) -> Array | tuple[Array, Array]:
    r"""True accept rate at a false accept rate: 1 - FNMR at FMR.

    $$\max_t\;\{\mathrm{tar}(t) : \mathrm{far}(t) \le \mathrm{far}\}$$

    Args:
      scores: `[n]`, larger for pairs that are more likely of the same class.
      same: `[n]`, booleans, or integers 1 and 0.
      far: how many of the different pairs may be accepted, a number or several `[k]`. For less than
        one of them, it is the rate at which none is.
      interpolate: whether to interpolate linearly between the thresholds with the next lower and
        the next higher far, as `numpy.interp` on scikit-learn's curve does; static.
      sample_weight: `[n]`, a weight or a mask.
      return_threshold: whether to return the threshold, too; static.

    Returns:
      A number for each far, of its shape; and the threshold, the lowest score that is accepted
      there, inf if none is. NaN if there is no same pair, no different pair, or a score is NaN.

    Source: Maze et al., "IARPA Janus benchmark - C: face dataset and protocol", 2018.

    Example:
      >>> scores, same = jnp.array([0.9, 0.8, 0.7, 0.3]), jnp.array([True, False, True, False])
      >>> js.tar_at_far(scores, same, far=jnp.array([0.1, 0.5]))
      Array([0.5, 1. ], dtype=float32)
    """
    trials = checked_trials(scores, same, sample_weight)
    curve = VerificationCurve(*shares(trials))
    far = to_compute_dtype(within("far", far, 0, 1)).astype(curve.far.dtype)
    most = far + slack(far, jnp.where(trials.same, 0, trials.weight))
    index = num_at_most(most, curve.far) - 1
    valid = curve.far[-1] + curve.tar[-1] + far  # NaN or not
    rate = curve.tar[index]
    if interpolate:
        following = jnp.minimum(index + 1, curve.far.shape[0] - 1)
        step = curve.far[following] - curve.far[index]
        part = jnp.maximum(far - curve.far[index], 0) / jnp.where(step > 0, step, 1)
        rate = rate + part * (curve.tar[following] - rate)
    rate = jnp.where(jnp.isnan(valid), jnp.nan, rate)
    if not return_threshold:
        return rate
    return rate, jnp.where(jnp.isnan(valid), jnp.nan, curve.threshold[index])


@overload
def equal_error_rate(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    interpolate: bool = ...,
    sample_weight: ArrayLike | None = ...,
    return_threshold: Literal[False] = False,
) -> Array: ...
@overload
def equal_error_rate(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    interpolate: bool = ...,
    sample_weight: ArrayLike | None = ...,
    return_threshold: Literal[True],
) -> tuple[Array, Array]: ...
@overload
def equal_error_rate(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    interpolate: bool = ...,
    sample_weight: ArrayLike | None = ...,
    return_threshold: bool,
) -> Array | tuple[Array, Array]: ...
@on_any_mesh(same_everywhere)
def equal_error_rate(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    interpolate: bool = True,
    sample_weight: ArrayLike | None = None,
    return_threshold: bool = False,
) -> Array | tuple[Array, Array]:
    r"""The error rate at the threshold where false accepts and false rejects are equally frequent.

    $$\mathrm{far}(t) = 1 - \mathrm{tar}(t)$$

    Args:
      scores: `[n]`, larger for pairs that are more likely of the same class.
      same: `[n]`, booleans, or integers 1 and 0.
      interpolate: True for the point where the curve, drawn with straight lines, has equal rates.
        False for the mean of the two rates at the threshold where they differ least; static.
      sample_weight: `[n]`, a weight or a mask.
      return_threshold: whether to return the threshold, too; static.

    Returns:
      A scalar; and the highest score as a threshold at which false accepts are at least as frequent
      as false rejects, or without `interpolate` at which they differ least. NaN if there is no same
      pair, no different pair, or a score is NaN.

    Source: interpolated, what `brentq` finds on scikit-learn's `roc_curve`; otherwise `EER` of
    speechbrain, which also tries thresholds between the scores, and torchmetrics.

    Example:
      >>> scores, same = jnp.array([0.9, 0.8, 0.7, 0.3]), jnp.array([True, False, True, False])
      >>> js.equal_error_rate(scores, same)
      Array(0.5, dtype=float32)
    """
    threshold, far, tar = verification_curve(scores, same, sample_weight=sample_weight)
    excess = far - (1 - tar)  # from -1 to 1
    if interpolate:
        index = jnp.argmax(excess >= 0)  # 0 only if it is NaN
        before, after = -excess[index - 1], excess[index]
        rate = far[index - 1] + (far[index] - far[index - 1]) * (before / (before + after))
    else:
        index = jnp.argmin(jnp.abs(excess))
        rate = (far[index] + 1 - tar[index]) / 2
    if not return_threshold:
        return rate
    return rate, jnp.where(jnp.isnan(rate), jnp.nan, threshold[index])


@overload
def min_dcf(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    p_target: ArrayLike = ...,
    c_miss: ArrayLike = ...,
    c_fa: ArrayLike = ...,
    normalize: bool = ...,
    sample_weight: ArrayLike | None = ...,
    return_threshold: Literal[False] = False,
) -> Array: ...
@overload
def min_dcf(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    p_target: ArrayLike = ...,
    c_miss: ArrayLike = ...,
    c_fa: ArrayLike = ...,
    normalize: bool = ...,
    sample_weight: ArrayLike | None = ...,
    return_threshold: Literal[True],
) -> tuple[Array, Array]: ...
@overload
def min_dcf(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    p_target: ArrayLike = ...,
    c_miss: ArrayLike = ...,
    c_fa: ArrayLike = ...,
    normalize: bool = ...,
    sample_weight: ArrayLike | None = ...,
    return_threshold: bool,
) -> Array | tuple[Array, Array]: ...
@on_any_mesh(same_everywhere)
def min_dcf(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    p_target: ArrayLike = 0.01,
    c_miss: ArrayLike = 1.0,
    c_fa: ArrayLike = 1.0,
    normalize: bool = True,
    sample_weight: ArrayLike | None = None,
    return_threshold: bool = False,
) -> Array | tuple[Array, Array]:
    r"""Minimum detection cost over all thresholds.

    $$\min_t\; \frac{c_{\mathrm{miss}}\, p\, (1 - \mathrm{tar}(t)) +
    c_{\mathrm{fa}}\, (1 - p)\, \mathrm{far}(t)}{\min(c_{\mathrm{miss}}\, p,\;
    c_{\mathrm{fa}} (1 - p))}$$

    Args:
      scores: `[n]`, larger for pairs that are more likely of the same class.
      same: `[n]`, booleans, or integers 1 and 0.
      p_target: p, how probable a same pair is where the system is used.
      c_miss: what it costs to reject a same pair.
      c_fa: what it costs to accept a different pair.
      normalize: whether to divide by the cost of the better of accepting and rejecting everything,
        as NIST, Kaldi and WeSpeaker do; speechbrain does not. Static.
      sample_weight: `[n]`, a weight or a mask.
      return_threshold: whether to return the threshold, too; static.

    Returns:
      A scalar, at most 1 if it is normalised; and the highest score as a threshold that attains it,
      inf if that rejects everything. NaN if there is no same pair, no different pair, or a score is
      NaN; and normalised, if accepting or rejecting everything costs nothing.

    Source: NIST 2016 speaker recognition evaluation plan, section 3.1, with the first of
    its two values of p_target.

    Example:
      >>> scores, same = jnp.array([0.9, 0.8, 0.7, 0.3]), jnp.array([True, False, True, False])
      >>> js.min_dcf(scores, same, p_target=0.5)
      Array(0.5, dtype=float32)
    """
    threshold, far, tar = verification_curve(scores, same, sample_weight=sample_weight)
    p = cast_like(within("p_target", one_number("p_target", p_target), 0, 1), far)
    miss = cast_like(at_least("c_miss", one_number("c_miss", c_miss), 0), far) * p
    accept = cast_like(at_least("c_fa", one_number("c_fa", c_fa), 0), far) * (1 - p)
    costs = miss * (1 - tar) + accept * far
    index = jnp.argmin(costs)
    cost = costs[index] / jnp.minimum(miss, accept) if normalize else costs[index]
    if not return_threshold:
        return cost
    return cost, jnp.where(jnp.isnan(cost), jnp.nan, threshold[index])
