"""The relaxed choice of k classes."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import as_logits, axes_of_classes
from jsoftmax.core.masking import ArrayAxis, classes_back, classes_last, masked_logits, relative
from jsoftmax.core.meshes import like, on_any_mesh
from jsoftmax.core.numbers import at_least, by_example, static_count
from jsoftmax.core.numerics import change, sigmoid
from jsoftmax.core.roots import increasing_root


@on_any_mesh(like("logits"))
def soft_top_k(
    logits: ArrayLike,
    k: int,
    axis: ArrayAxis = -1,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
) -> Array:
    r"""Relaxed top-k: each class's membership in the k largest, from 0 to 1, with a sum of k.

    $$p_i = \sigma\bigl((z_i - \tau) / T\bigr), \qquad \sum_i p_i = k$$

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      k: how many classes to choose, an integer of at least 1; static.
      axis: the class axis, or several that share one choice.
      where: booleans that broadcast against `logits`; False masks a class.
      temperature: T > 0; as it falls, `p` approaches the indicator of the k largest. A scalar, or
        an array that broadcasts against `logits` with the class axis of size 1; may be traced.

    Returns:
      Memberships in the shape and dtype of `logits`. Where no more than k classes are unmasked,
      these get 1 and the others 0. A logit of NaN gives NaN.

    Source: Amos, Koltun, Kolter, "The limited multi-label projection layer", 2019,
    arXiv:1906.08707, eq. 2 and 6, with a temperature.

    Example:
      >>> js.soft_top_k(jnp.array([3.0, 1.0, 0.9, -2.0]), 2, temperature=0.5)
      Array([0.9841, 0.5315, 0.4816, 0.0028], dtype=float32)
    """
    k = static_count("k", k, 1)
    logits = as_logits(logits)
    z = masked_logits(logits, axis, where)
    on = (z > -jnp.inf).astype(z.dtype)
    all_of_them = jnp.where(jnp.any(jnp.isnan(z), axis, keepdims=True), jnp.nan, on)
    rows = classes_last(lax.stop_gradient(z), axis)
    temperature = at_least("temperature", temperature, 0, strict=True)
    temperature = by_example("temperature", temperature, z.shape, axis)
    if k >= rows.shape[-1]:
        return all_of_them.astype(logits.dtype)
    one_class = jax.eval_shape(lambda: jnp.max(z, axis, keepdims=True)).shape
    # The barrier keeps XLA from merging the slices below into top_k, which it then fully sorts.
    largest = lax.optimization_barrier(lax.top_k(rows, k + 1)[0])
    last, following = (classes_back(largest[..., i : i + 1], one_class, axis) for i in (k - 1, k))
    # Logits relative to the threshold, where precision is needed, and not to the maximum.
    d = relative(z, last, temperature, axis)
    # Where it is infinite, as for a mask of the lowest number, half of it shall not be.
    gap = -relative(following, last, lax.stop_gradient(temperature), axis)
    gap = jnp.minimum(gap, float(jnp.finfo(gap.dtype).max))
    p = sigmoid(d + _shift(d, gap, k, axis))
    return jnp.where(following == -jnp.inf, all_of_them, p).astype(logits.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
@partial(jax.jit, static_argnums=(2, 3))
def _shift(d, gap, k, axis):
    """Return x, with the class axis kept, for which the sum of σ(d + x) is k.

    The k-th largest of d is 0 and the next one is -gap. So the sum is at least k for
    x = gap + log k, and at most k for x = -log(C - k).
    """
    x = _root(lax.stop_gradient(d), lax.stop_gradient(gap), k, axis)
    # Its derivatives are those of steps of Newton's method, to second order.
    p, rest = sigmoid(d + x), sigmoid(-d - x)
    total, slope, curvature = (
        jnp.sum(term, axis, keepdims=True) for term in (p, p * rest, p * rest * (rest - p))
    )
    slope = jnp.where(slope > 0, slope, 1)
    dx = change((k - total) / slope)
    return x + dx - curvature / slope * jnp.square(dx) / 2


def _root(d, gap, k, axis):
    """Return the solution as a constant."""
    ahead = d > 0
    short = k - jnp.sum(ahead, axis, keepdims=True).astype(d.dtype)  # 1 unless logits are equal

    def evaluate(x):
        # Summed as distances from 0 or 1, so that a k in the thousands costs no precision.
        u = d + x
        distance = jax.nn.sigmoid(jnp.where(ahead, -u, u))
        excess = jnp.sum(jnp.where(ahead, -distance, distance), axis, keepdims=True) - short
        slope = jnp.sum(distance * (1 - distance), axis, keepdims=True)
        return excess, x - excess / jnp.where(slope > 0, slope, 1)

    classes = math.prod(d.shape[one] for one in axes_of_classes(axis))
    low, high = jnp.full_like(gap, -math.log(classes - k)), gap + math.log(k)
    tolerance = 4 * float(jnp.finfo(d.dtype).eps) * short
    return increasing_root(evaluate, low, high, gap / 2, tolerance)


@_shift.defjvp
def _shift_jvp(k, axis, primals, tangents):
    # The sum of p stays k:  dx = -sum_j v_j dd_j / sum_j v_j  with v = p (1 - p)
    (d, gap), (dd, _) = primals, tangents
    x = _shift(d, gap, k, axis)
    v = sigmoid(d + x) * sigmoid(-d - x)
    total = jnp.sum(v, axis, keepdims=True)
    moved = jnp.sum(v * dd, axis, keepdims=True)
    return x, -moved / jnp.where(total > 0, total, 1)
