"""Logits to probabilities: the softmax family.

Every map is written on `d = (z - max z) / T`, the logits relative to their largest. `d` is at most
0, so nothing overflows, and a common offset of any size drops out before anything is rounded. A
class that is switched off, by `where` or by a logit of -inf, has `d = -inf`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax import checks
from jsoftmax.numerics import exp_nonpositive, finite, is_known, like, promote, sigmoid, softplus

__all__ = [
    "gumbel_softmax",
    "hardmax",
    "log_softmax",
    "logsumexp",
    "softmax",
    "straight_through",
]

Axis = int | tuple[int, ...]


def softmax(
    logits: ArrayLike,
    axis: Axis = -1,
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
      where: booleans that broadcast against `logits`; False switches a class off.
      temperature: T > 0, a scalar, or an array that broadcasts against `logits` with the class axis
        of size 1; may be traced.
      sink: b, an extra class that takes probability and is not returned; it broadcasts against
        `logits` with the class axis of size 1. `sink=0.` gives "softmax plus one".

    Returns:
      Probabilities in the shape and dtype of `logits`, 0 for a class that is off or at -inf. They
      sum to 1, to less with a sink, and to 0 where no class is on. A logit of +inf or NaN gives
      NaN.

    Source: Bridle, "Probabilistic interpretation of feedforward classification network outputs",
    1990. Sinks: Xiao et al., "Efficient streaming language models with attention sinks", 2023,
    arXiv:2309.17453; learned ones: OpenAI, "gpt-oss model card", 2025, arXiv:2508.10925.

    Example:
      >>> js.softmax(jnp.array([1.0, 2.0, 3.0]))
      Array([0.09  , 0.2447, 0.6652], dtype=float32)
      >>> js.softmax(jnp.array([1.0, 2.0, 3.0]), where=jnp.array([True, True, False]))
      Array([0.2689, 0.7311, 0.    ], dtype=float32)
    """
    logits = checks.as_logits(logits)
    d, top = centred(logits, axis, where, temperature)
    p = _softmax(d, axis)
    if sink is not None:
        p = p * sigmoid(_log_odds_against(sink, d, top, axis, temperature))
    return p.astype(logits.dtype)


def log_softmax(
    logits: ArrayLike,
    axis: Axis = -1,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    sink: ArrayLike | None = None,
) -> Array:
    r"""Logarithm of `softmax`, which stays finite where the probability underflows.

    $$\log p_i = z_i / T - \log\left(e^{b / T} + \sum_j e^{z_j / T}\right)$$

    Args:
      logits: `[..., classes]`; dtypes as in `softmax`.
      axis: the class axis, or several that share one distribution.
      where: booleans that broadcast against `logits`; False switches a class off.
      temperature: T > 0, a scalar, or an array that broadcasts against `logits` with the class axis
        of size 1; may be traced.
      sink: b, an extra class that is not returned, as in `softmax`.

    Returns:
      Log-probabilities in the shape and dtype of `logits`, -inf for a class that is off. For a loss
      use `cross_entropy`: taking one entry of this loses all digits once its probability is near 1.

    Source: as `softmax`.

    Example:
      >>> js.log_softmax(jnp.array([0.0, -1000.0]))
      Array([    0., -1000.], dtype=float32)
    """
    logits = checks.as_logits(logits)
    d, top = centred(logits, axis, where, temperature)
    log_p = _log_softmax(d, axis)
    if sink is not None:
        log_p = log_p - softplus(-_log_odds_against(sink, d, top, axis, temperature))
    return log_p.astype(logits.dtype)


def logsumexp(
    logits: ArrayLike,
    axis: Axis = -1,
    *,
    where: ArrayLike | None = None,
    keepdims: bool = False,
) -> Array:
    r"""Logarithm of the sum of the exponentials of the logits: the log-partition function.

    $$\log \sum_j e^{z_j}$$

    Args:
      logits: `[..., classes]`; dtypes as in `softmax`.
      axis: the class axis, or several.
      where: booleans that broadcast against `logits`; False leaves a class out.
      keepdims: keep the class axis, with size 1.

    Returns:
      `[...]` in the dtype of `logits`; -inf with a gradient of 0 where no class is on.

    Source: as `softmax`.

    Example:
      >>> js.logsumexp(jnp.array([1000.0, 1000.0]))
      Array(1000.6932, dtype=float32)
      >>> js.logsumexp(jnp.array([-jnp.inf, -jnp.inf]))
      Array(-inf, dtype=float32)
    """
    logits = checks.as_logits(logits)
    d, top = centred(logits, axis, where)
    total = top + _logsumexp(d, axis)
    return (total if keepdims else jnp.squeeze(total, axis)).astype(logits.dtype)


def hardmax(logits: ArrayLike, axis: int = -1, *, where: ArrayLike | None = None) -> Array:
    r"""One for the largest logit and zero for the others: softmax at temperature zero.

    $$p_i = [\, i = \arg\max_j z_j \,]$$

    Args:
      logits: `[..., classes]`, any real dtype.
      axis: the class axis.
      where: booleans that broadcast against `logits`; False switches a class off.

    Returns:
      An indicator in the shape and dtype of `logits`. The first of equal logits wins; all zeros
      where no class is on; NaN where a logit is NaN. Its gradient is zero: see `straight_through`.

    Source: the usual definition.

    Example:
      >>> js.hardmax(jnp.array([1.0, 3.0, 2.0]))
      Array([0., 1., 0.], dtype=float32)
    """
    logits = lax.stop_gradient(checks.as_logits(logits))
    z = switched_off(logits, axis, where)
    top = jnp.max(z, axis, keepdims=True, initial=-jnp.inf)
    first = jnp.argmax(z, axis, keepdims=True)
    hard = (lax.broadcasted_iota(first.dtype, z.shape, axis % z.ndim) == first) & (top > -jnp.inf)
    return jnp.where(jnp.isnan(top), jnp.nan, hard.astype(logits.dtype))


def straight_through(hard: Array, soft: Array) -> Array:
    r"""The value of `hard` with the derivative of `soft`.

    $$y = \mathrm{hard}, \qquad \partial y = \partial\,\mathrm{soft}$$

    Args:
      hard: what the forward pass uses, such as `hardmax(logits)`.
      soft: what the derivative sees, such as `softmax(logits)`; the shape and dtype of `hard`.

    Returns:
      `hard` to the last bit. Adding and subtracting `soft`, the usual way, would round it.

    Source: Bengio, Léonard, Courville, "Estimating or propagating gradients through stochastic
    neurons", 2013, arXiv:1308.3432.

    Example:
      >>> z = jnp.array([1.0, 2.0])
      >>> js.straight_through(js.hardmax(z), js.softmax(z))
      Array([0., 1.], dtype=float32)
      >>> jax.grad(lambda z: js.straight_through(js.hardmax(z), js.softmax(z))[1])(z)
      Array([-0.1966,  0.1966], dtype=float32)
    """
    checks.shape("hard", hard, jnp.shape(soft), "the same shape as `soft`")
    return _first(hard, soft)


@jax.custom_jvp
def _first(hard, soft):
    return hard


@_first.defjvp
def _first_jvp(primals, tangents):
    return _first(*primals), tangents[1]


def gumbel_softmax(
    key: Array,
    logits: ArrayLike,
    axis: int = -1,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    hard: bool = False,
) -> Array:
    r"""A random point of the simplex: the differentiable relaxation of sampling a class.

    $$y = \mathrm{softmax}\bigl((z + g) / T\bigr), \qquad g_i \sim \mathrm{Gumbel}(0, 1)$$

    Args:
      key: a key of `jax.random`.
      logits: `[..., classes]`; the noise is drawn in float32 or wider, accurate in its upper tail.
      axis: the class axis.
      where: booleans that broadcast against `logits`; False switches a class off.
      temperature: T > 0; as it falls, `y` comes close to an exact one-hot sample. May be traced.
      hard: return the sample itself, one-hot, with the gradient of the relaxation.

    Returns:
      Points of the simplex in the shape and dtype of `logits`.

    Source: Jang, Gu, Poole, 2017, arXiv:1611.01144; Maddison, Mnih, Teh, 2017, arXiv:1611.00712.

    Example:
      >>> js.gumbel_softmax(jax.random.key(0), jnp.zeros(3), hard=True).sum()
      Array(1., dtype=float32)
    """
    logits = checks.as_logits(logits)
    z = promote(logits)
    noisy = z + jax.random.gumbel(key, z.shape, z.dtype, mode="high")
    soft = softmax(noisy, axis, where=where, temperature=temperature)
    sample = straight_through(hardmax(noisy, axis, where=where), soft) if hard else soft
    return sample.astype(logits.dtype)


def switched_off(logits: Array, axis: Axis, where: ArrayLike | None) -> Array:
    """Return logits in the dtype they are computed in, at -inf where a class is off."""
    for one in (axis,) if isinstance(axis, int) else axis:
        checks.has_axis("logits", logits, one)
    return checks.switch_off(promote(logits), where)


def centred(
    logits: Array, axis: Axis, where: ArrayLike | None, temperature: ArrayLike = 1.0
) -> tuple[Array, Array]:
    """Return `(z - max z) / T`, -inf where a class is off, and `max z` with the axis kept.

    The maximum is a constant to differentiation, which is right for whatever does not depend on a
    common offset. It is subtracted before the division: the other order gives NaN or a wrong zero
    when z / T is rounded differently in the two places that need it.
    """
    z = switched_off(logits, axis, where)
    top = lax.stop_gradient(jnp.max(z, axis, keepdims=True, initial=-jnp.inf))
    return relative(z, top, temperature), top


def relative(z: Array, reference: Array, temperature: ArrayLike) -> Array:
    """Return `(z - reference) / T`, -inf where z is, for a reference with the class axis kept."""
    d = z - finite(reference)
    if is_known(temperature, 1):
        return d
    checks.at_least("temperature", temperature, 0, strict=True)
    checks.by_example("temperature", temperature, reference.shape)
    on = d != -jnp.inf  # the derivative of -inf / T is NaN
    return jnp.where(on, jnp.where(on, d, 0) / like(temperature, d), -jnp.inf)


def classes_last(x: Array, axis: Axis) -> Array:
    """Return `x` with the classes as one last axis, for maps that need them so."""
    axes = (axis,) if isinstance(axis, int) else axis
    last = jnp.moveaxis(x, axes, range(-len(axes), 0))
    return last.reshape(*last.shape[: last.ndim - len(axes)], -1)


def classes_back(rows: Array, shape: tuple[int, ...], axis: Axis) -> Array:
    """Undo `classes_last` of an array of the given shape."""
    axes = (axis,) if isinstance(axis, int) else axis
    sizes = [shape[one] for one in axes]
    return jnp.moveaxis(rows.reshape(*rows.shape[:-1], *sizes), range(-len(axes), 0), axes)


# The three below take centred logits and carry the derivative rules. Their sums are at least 1
# where any class is on, since the largest has d = 0; so max(sum, 1) is the sum, and 1 where none is
# on.


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _softmax(d, axis):
    e = exp_nonpositive(d)
    return e / jnp.maximum(jnp.sum(e, axis, keepdims=True), 1)


@_softmax.defjvp
def _softmax_jvp(axis, primals, tangents):
    # dp_i = p_i (dz_i - sum_j p_j dz_j)
    (d,), (dd,) = primals, tangents
    p = _softmax(d, axis)
    return p, p * (dd - jnp.sum(p * dd, axis, keepdims=True))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_softmax(d, axis):
    return d - _logsumexp(d, axis)


@_log_softmax.defjvp
def _log_softmax_jvp(axis, primals, tangents):
    (d,), (dd,) = primals, tangents
    log_p = _log_softmax(d, axis)
    return log_p, _log_softmax_tangent(log_p, dd, axis)


# d log p_i = dz_i - sum_j p_j dz_j, and nothing for a class at -inf. The checkpoint keeps log p
# alone for the backward pass, not also p and a mask.
@partial(jax.checkpoint, static_argnums=(2,))
def _log_softmax_tangent(log_p, dd, axis):
    mean = jnp.sum(jnp.exp(log_p) * dd, axis, keepdims=True)
    return jnp.where(log_p == -jnp.inf, 0, dd - mean)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _logsumexp(d, axis):
    return jnp.log(jnp.maximum(jnp.sum(exp_nonpositive(d), axis, keepdims=True), 1))


@_logsumexp.defjvp
def _logsumexp_jvp(axis, primals, tangents):
    # d log sum_j exp z_j = sum_j p_j dz_j
    (d,), (dd,) = primals, tangents
    return _logsumexp(d, axis), jnp.sum(_softmax(d, axis) * dd, axis, keepdims=True)


def _log_odds_against(sink, d, top, axis, temperature):
    """Return `log(sum_j exp(z_j / T)) - b / T`: the classes against the sink."""
    total = jnp.where(top == -jnp.inf, -jnp.inf, _logsumexp(d, axis))
    checks.by_example("sink", sink, total.shape)
    b = (like(sink, d) - finite(top)) / like(temperature, d)
    return total - jnp.where(total == -jnp.inf, 0, b)  # -inf - -inf would be NaN
