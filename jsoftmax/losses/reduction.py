"""Reduce one loss per example to a scalar."""

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import check_shape
from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.numerics import multiply_no_nan


def weighted_mean(
    losses: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    axis_name: str | tuple[str, ...] | None = None,
) -> Array:
    r"""Weighted mean of per-example losses, over all devices if an axis name is given.

    $$\frac{\sum_i w_i \ell_i}{\sum_i w_i}, \qquad 0 \text{ if } \sum_i w_i = 0$$

    Args:
      losses: `[...]`, any shape.
      sample_weight: `[...]`, floats, integers or booleans (a mask) of the same shape; None means
        all 1. An example of weight 0 is left out even if its loss is NaN or inf.
      axis_name: mesh axes of the surrounding `shard_map`, or the axis of a `vmap`: both sums are
        taken over them before dividing, so the mean is right for unequal weights per device.

    Returns:
      A scalar in the dtype of `losses` (float32 at least).

    Source: the definition.

    Example:
      >>> js.weighted_mean(jnp.array([1.0, 2.0, 6.0]), jnp.array([1, 1, 0]))
      Array(1.5, dtype=float32)
      >>> js.weighted_mean(jnp.zeros(0))
      Array(0., dtype=float32)
    """
    losses = to_compute_dtype(losses)
    if sample_weight is None:
        weight = jnp.ones_like(losses)
    else:
        weight = cast_like(sample_weight, losses)
        check_shape("sample_weight", weight, losses.shape, "a weight for every loss")
    losses = jnp.where((weight == 0) & jnp.isnan(losses), 0, losses)
    total, count = jnp.sum(multiply_no_nan(weight, losses)), jnp.sum(weight)
    if axis_name is not None:
        total, count = lax.psum((total, count), axis_name)
    return jnp.where(count == 0, 0, total / jnp.where(count == 0, 1, count))
