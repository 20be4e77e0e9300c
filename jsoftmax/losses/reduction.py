"""Weigh one loss per example, and reduce them to a scalar."""

from functools import reduce
from typing import Literal

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import as_given_like, check_shape
from jsoftmax.core.dtypes import to_compute_dtype
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numerics import multiply_no_nan, per

Reduction = Literal["mean", "sum"] | None


@on_any_mesh(same_everywhere)
def weighted_mean(
    losses: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    axis_name: str | tuple[str, ...] | None = None,
) -> Array:
    r"""Weighted mean of per-example losses, over all devices if an axis name is given.

    $$\frac{\sum_i w_i \ell_i}{\sum_i w_i}, \qquad 0 \text{ if } \sum_i w_i = 0$$

    It knows nothing of the loss: an ignored example, whose loss is 0, counts as one of the examples
    unless its weight is 0. `weighted_mean(cross_entropy(z, y, ignore_index=-1))` divides by all of
    them. Write `cross_entropy(z, y, ignore_index=-1, reduction="mean")`, or over devices
    `weighted_mean(losses, y != -1, axis_name=...)`.

    Args:
      losses: `[...]`, any shape.
      sample_weight: `[...]`, floats, integers or booleans (a mask) of the same shape; None means
        all 1. An example of weight 0 is left out of the value even if its loss is NaN or inf, as
        after a label of -1. A NaN still reaches the gradient of what made it: against that, give
        the loss itself `ignore_index` or `sample_weight`.
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
        weight = as_given_like("sample_weight", sample_weight, losses)
        check_shape("sample_weight", weight, losses.shape, "a weight for every loss")
    losses = jnp.where((weight == 0) & jnp.isnan(losses), 0, losses)
    total, count = jnp.sum(multiply_no_nan(weight, losses)), jnp.sum(weight)
    if axis_name is not None:
        total, count = lax.psum((total, count), axis_name)
    return per(total, count)


def check_reduction(reduction: Reduction) -> None:
    """Raise unless it is one of those that there are."""
    if reduction not in ("mean", "sum", None):
        raise ValueError(f'`reduction`: expected "mean", "sum" or None, got {reduction!r}.')


def example_weights(
    sample_weight: ArrayLike | None, examples: tuple[int, ...], like: Array
) -> Array | None:
    """Return a weight for each example in the dtype of the losses, checked; None if not given."""
    if sample_weight is None:
        return None
    weights = as_given_like("sample_weight", sample_weight, like)
    check_shape("sample_weight", weights, examples, "a weight for every example")
    return weights


def are_finite(*values: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """Return of which examples no value is NaN or +inf; -inf is that of a masked class.

    Of the examples of weight 0 only the others are replaced, which would reach a gradient: so the
    derivative with respect to a weight of 0 is the loss.
    """
    return reduce(jnp.logical_and, [jnp.all(to_compute_dtype(x) < jnp.inf, axis) for x in values])


def weighed(
    sample_weight: ArrayLike | None, *values: Array, axis: int | tuple[int, ...] = -1
) -> tuple[list[Array], Array | None]:
    """Return values with 0 for the NaN and inf of examples of weight 0, and the weights.

    Args:
      sample_weight: `[...]`, or None.
      values: `[..., classes]`, logits and what has their shape.
      axis: the class axis; () where every number is an example.
    """
    if sample_weight is None:
        return list(values), None
    finite = are_finite(*values, axis=axis)
    weights = example_weights(sample_weight, finite.shape, to_compute_dtype(values[0]))
    kept = jnp.expand_dims(finite | (weights != 0), axis)
    return [jnp.where(kept, x, 0) for x in values], weights


def reduce_losses(
    losses: Array, weights: Array | None, reduction: Reduction, counts: Array | None = None
) -> Array:
    """Return the weighted losses `[...]`, their sum, or their mean; 0 if there is no weight.

    The mean divides by the sum of the weights; `counts` are further factors on these in it.
    """
    check_reduction(reduction)
    if weights is not None:
        losses = multiply_no_nan(weights, losses)
    if reduction is None:
        return losses
    total = jnp.sum(losses)
    if reduction == "sum":
        return total
    factors = [x for x in (weights, counts) if x is not None]
    if not factors:
        return total / max(losses.size, 1)
    count = jnp.sum(reduce(jnp.multiply, factors))
    return per(total, count)
