"""Class masks, and logits relative to their maximum.

Masking a class sets its logit to -inf: probability 0, gradient 0.
"""

import math

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import (
    Axis,
    axes_of_classes,
    booleans,
    check_broadcasts,
    normalize_axis,
)
from jsoftmax.core.dtypes import at_least_16_bits, cast_like, to_compute_dtype
from jsoftmax.core.numbers import at_least, by_example, is_static

ArrayAxis = Axis


def class_mask(where: ArrayLike, target_shape: tuple[int, ...]) -> Array:
    """Return the class mask `where` as booleans, checked to broadcast against the logits."""
    where = booleans("where", where, "True for a class to keep")
    meaning = "a class mask that broadcasts against the logits (of examples: `sample_weight`)"
    check_broadcasts("where", where, target_shape, meaning)
    return where


def mask_classes(logits: Array, where: ArrayLike | None) -> Array:
    """Return `logits` with -inf where the class mask `where` is False; unchanged if it is None."""
    if where is None:
        return logits
    return jnp.where(class_mask(where, logits.shape), at_least_16_bits(logits), -jnp.inf)


def masked_logits(logits: Array, axis: ArrayAxis, where: ArrayLike | None) -> Array:
    """Return logits in their compute dtype, with -inf for masked classes."""
    return to_compute_dtype(_masked(logits, axis, where))


def _masked(logits, axis, where):
    axes = [normalize_axis("logits", logits, one) for one in axes_of_classes(axis)]
    if len({*axes}) < len(axes):
        raise ValueError(f"`axis`: expected different axes, got {axis}.")
    return mask_classes(at_least_16_bits(logits), where)


def centred(
    logits: Array, axis: ArrayAxis, where: ArrayLike | None, temperature: ArrayLike = 1.0
) -> tuple[Array, Array]:
    """Return `(z - max z) / T`, -inf for masked classes, and `max z` with the axis kept.

    Differentiation treats the maximum as a constant, which is right for every function that does
    not depend on a common offset. It is subtracted before the division: the other order gives NaN
    or a wrong zero when z / T is rounded differently in the two places that use it.
    """
    z = _masked(logits, axis, where)
    # Found before the conversion, which XLA would make twice.
    top = lax.stop_gradient(jnp.max(z, axis, keepdims=True, initial=-jnp.inf))
    z, top = to_compute_dtype(z), to_compute_dtype(top)
    return relative(z, top, temperature, axis), top


def relative(z: Array, reference: Array, temperature: ArrayLike, axis: ArrayAxis) -> Array:
    """Return `(z - reference) / T`, -inf where z is -inf; `reference` has the class axis kept."""
    # If all are masked, it is -inf. A maximum stays in one loop with what is around it on a CPU,
    # where a select would not.
    d = z - jnp.maximum(reference, jnp.finfo(z.dtype).min)
    if is_static(temperature, 1):
        return d
    temperature = at_least("temperature", temperature, 0, strict=True)
    temperature = by_example("temperature", temperature, z.shape, axis)
    on = d != -jnp.inf  # the derivative of -inf / T is NaN
    return jnp.where(on, jnp.where(on, d, 0) / cast_like(temperature, d), -jnp.inf)


def classes_last(x: Array, axis: ArrayAxis) -> Array:
    """Return `x` with the class axes moved last and merged into one."""
    axes = axes_of_classes(axis)
    last = jnp.moveaxis(x, axes, range(-len(axes), 0))
    lead = last.ndim - len(axes)
    return last.reshape(*last.shape[:lead], math.prod(last.shape[lead:]))  # -1 fails for no rows


def as_rows(x: Array) -> Array:
    """Return `[..., n]` as `[rows, n]`; for no rows, or n = 0, a -1 would fail in their place."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def classes_back(rows: Array, shape: tuple[int, ...], axis: ArrayAxis) -> Array:
    """Undo `classes_last` for an array that had the given shape."""
    axes = axes_of_classes(axis)
    sizes = [shape[one] for one in axes]
    return jnp.moveaxis(rows.reshape(*rows.shape[:-1], *sizes), range(-len(axes), 0), axes)


def count_unmasked(logits, axis, where):
    """Return centred logits, which classes are unmasked, and their number (at least 1)."""
    d, _ = centred(logits, axis, where)
    on = d != -jnp.inf
    count = jnp.maximum(jnp.sum(on, axis, keepdims=True), 1)
    return d, on, count.astype(d.dtype)
