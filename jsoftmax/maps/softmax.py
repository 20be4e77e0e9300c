"""Softmax, its logarithm, and the log-partition function.

All are computed from `d = (z - max z) / T`, the logits relative to their maximum. `d` is at most 0,
so nothing overflows, and a common offset of any size cancels before anything is rounded.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import as_logits
from jsoftmax.core.dtypes import cast_like
from jsoftmax.core.masking import ArrayAxis, centred
from jsoftmax.core.meshes import like, on_any_mesh, without_classes
from jsoftmax.core.numbers import at_least, by_example
from jsoftmax.core.numerics import (
    exp_nonpositive,
    neg_inf_to_zero,
    sigmoid,
    softplus,
)


@on_any_mesh(like("logits"))
def softmax(
    logits: ArrayLike,
    axis: ArrayAxis = -1,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    sink: ArrayLike | None = None,
) -> Array:
    r"""Probabilities proportional to the exponentials of the logits.

    $$p_i = \frac{e^{z_i / T}}{e^{b / T} + \sum_j e^{z_j / T}}$$

    where the sink's term $e^{b/T}$ is left out unless `sink` is given.

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis, or several that share one distribution.
      where: booleans that broadcast against `logits`; False masks a class.
      temperature: T > 0, a scalar or by example: in the shape of the examples `[...]`, or in the
        rank of `logits` with size 1 on the class axis. May be traced.
      sink: b, the logit of an extra class that takes probability but is not returned; broadcasts
        against `logits` with the class axis of size 1. `sink=0.` gives "softmax plus one".

    Returns:
      Probabilities in the shape and dtype of `logits`, 0 for a class masked or at -inf. They
      sum to 1, to less than 1 with a sink, and to 0 where all classes are masked. A logit of +inf
      or NaN gives NaN.

    Source: Bridle, "Probabilistic interpretation of feedforward classification network outputs",
    1990. Sinks: Xiao et al., "Efficient streaming language models with attention sinks", 2023,
    arXiv:2309.17453; learned ones: OpenAI, "gpt-oss model card", 2025, arXiv:2508.10925.

    Example:
      >>> js.softmax(jnp.array([1.0, 2.0, 3.0]))
      Array([0.09  , 0.2447, 0.6652], dtype=float32)
      >>> js.softmax(jnp.array([1.0, 2.0, 3.0]), where=jnp.array([True, True, False]))
      Array([0.2689, 0.7311, 0.    ], dtype=float32)
    """
    logits = as_logits(logits)
    d, top = centred(logits, axis, where, temperature)
    p = _softmax(d, axis)
    if sink is not None:
        p = p * sigmoid(_log_odds_against(sink, d, top, axis, temperature))
    return p.astype(logits.dtype)


@on_any_mesh(like("logits"))
def log_softmax(
    logits: ArrayLike,
    axis: ArrayAxis = -1,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    sink: ArrayLike | None = None,
) -> Array:
    r"""Logarithm of `softmax`; finite even where the probability underflows.

    $$\log p_i = z_i / T - \log\left(e^{b / T} + \sum_j e^{z_j / T}\right)$$

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis, or several that share one distribution.
      where: booleans that broadcast against `logits`; False masks a class.
      temperature: T > 0, a scalar or by example: in the shape of the examples `[...]`, or in the
        rank of `logits` with size 1 on the class axis. May be traced.
      sink: b, the logit of an extra class that takes probability but is not returned; broadcasts
        against `logits` with the class axis of size 1.

    Returns:
      Log-probabilities in the shape and dtype of `logits`, -inf for a masked class. For a loss use
      `cross_entropy`: one entry of this loses all precision once its probability is near 1.

    Source: as `softmax`.

    Example:
      >>> js.log_softmax(jnp.array([0.0, -1000.0]))
      Array([    0., -1000.], dtype=float32)
    """
    logits = as_logits(logits)
    d, top = centred(logits, axis, where, temperature)
    log_p = _log_softmax(d, axis)
    if sink is not None:
        log_p = log_p - softplus(-_log_odds_against(sink, d, top, axis, temperature))
    return cast_like(log_p, logits)


@on_any_mesh(without_classes("logits", "axis"))
def logsumexp(
    logits: ArrayLike,
    axis: ArrayAxis = -1,
    *,
    where: ArrayLike | None = None,
    keepdims: bool = False,
) -> Array:
    r"""Logarithm of the sum of the exponentials of the logits: the log-partition function.

    $$\log \sum_j e^{z_j}$$

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis, or several.
      where: booleans that broadcast against `logits`; False masks a class.
      keepdims: keep the class axis, with size 1.

    Returns:
      `[...]` in the dtype of `logits`; -inf with a gradient of 0 where all classes are masked.

    Source: as `softmax`.

    Example:
      >>> js.logsumexp(jnp.array([1000.0, 1000.0]))
      Array(1000.6932, dtype=float32)
      >>> js.logsumexp(jnp.array([-jnp.inf, -jnp.inf]))
      Array(-inf, dtype=float32)
    """
    logits = as_logits(logits)
    d, top = centred(logits, axis, where)
    total = jnp.where(top == jnp.inf, jnp.inf, top + _logsumexp(d, axis))
    return cast_like(total if keepdims else jnp.squeeze(total, axis), logits)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _softmax(d, axis):
    e = exp_nonpositive(d)
    return e / _sum(e, axis)


@_softmax.defjvp
def _softmax_jvp(axis, primals, tangents):
    # dp_i = p_i (dz_i - sum_j p_j dz_j)
    (d,), (dd,) = primals, tangents
    p = _softmax(d, axis)
    return p, p * (dd - jnp.sum(p * dd, axis, keepdims=True))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_softmax(d, axis):
    return d - jnp.log(_sum(exp_nonpositive(d), axis))


@_log_softmax.defjvp
def _log_softmax_jvp(axis, primals, tangents):
    (d,), (dd,) = primals, tangents
    return _log_softmax(d, axis), _log_softmax_tangent(d, dd, axis)


# d log p_i = dz_i - sum_j p_j dz_j, without a gradient to a class at -inf. The checkpoint saves
# only d for the backward pass, and not exponentials and a mask as well.
@partial(jax.checkpoint, prevent_cse=False, static_argnums=(2,))
def _log_softmax_tangent(d, dd, axis):
    mean = _logsumexp_jvp(axis, (d,), (dd,))[1]
    return _on(d) * dd - mean


def _on(d):
    """Return 0 where d is -inf and 1 elsewhere, by arithmetic: see core/one_pass.py."""
    by_most = lax.stop_gradient(d) * (8 / float(jnp.finfo(d.dtype).max))  # not a subnormal number
    above_0 = jnp.maximum(9 + by_most, 0)  # at least 1 where d is finite
    return jnp.minimum(2 * above_0, 1)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _logsumexp(d, axis):
    total = jnp.sum(exp_nonpositive(d), axis, keepdims=True)
    return jnp.log(jnp.where(total < 0.5, 0.5, total))  # not `_sum`: see core/one_pass.py


@_logsumexp.defjvp
def _logsumexp_jvp(axis, primals, tangents):
    # d log sum_j exp z_j = sum_j p_j dz_j
    (d,), (dd,) = primals, tangents
    e = exp_nonpositive(d)
    total = _sum(e, axis)
    return _logsumexp(d, axis), jnp.sum(e * dd, axis, keepdims=True) / total


def _sum(e, axis):
    """Return the sum, which is at least 1, and 1/2 where all classes are masked.

    Not 1: at a tie the maximum would have half the derivative.
    """
    return jnp.maximum(jnp.sum(e, axis, keepdims=True), 0.5)


def _log_odds_against(sink, d, top, axis, temperature):
    """Return `log(sum_j exp(z_j / T)) - b / T`: the log-odds of the classes against the sink."""
    total = jnp.where(top == -jnp.inf, -jnp.inf, _logsumexp(d, axis))
    sink = by_example("sink", sink, d.shape, axis)
    temperature = by_example(
        "temperature", at_least("temperature", temperature, 0, strict=True), d.shape, axis
    )
    b = (cast_like(sink, d) - neg_inf_to_zero(top)) / cast_like(temperature, d)
    return total - jnp.where(total == -jnp.inf, 0, b)  # -inf - -inf would be NaN


def softmax_tangent(d, slope, dd):
    """Return the tangent of a function of p = softmax(d) with derivative `slope` in p_j.

    Only differences of slopes matter. Taken relative to the slope of the largest probability, that
    class contributes nothing, and a confident model's result is as accurate as its small
    probabilities.
    """
    p = softmax(d)
    slope -= jnp.take_along_axis(slope, jnp.argmax(d, -1, keepdims=True), -1)
    return jnp.sum(p * (slope - jnp.sum(p * slope, -1, keepdims=True)) * dd, -1)
