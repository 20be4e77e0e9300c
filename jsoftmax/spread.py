"""Classes spread over a mesh axis: what a device has of them, and what the devices tell each other.

Inside `jax.shard_map` each device of the axis holds as many consecutive rows of the class vectors,
and labels count over all devices. An axis of None is one device with all classes.

JAX's types say over which mesh axes a value varies. The result of a sum over devices does not vary
over them; the carry of a loop has one type from its start on; and where a value that does not vary
meets one that does, reverse mode sums its gradient over the devices. `zero_like` and `vary` give
loops that type, and see to it that such sums come before the loops over blocks and not in them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

__all__ = [
    "NO_CLASS",
    "Axis",
    "all_classes",
    "at_owner",
    "axes_of",
    "from_first",
    "over_devices",
    "sharers",
    "vary",
    "zero_like",
]

Axis = str | tuple[str, ...] | None
NO_CLASS = np.iinfo(np.int32).max  # a label that no class has, and no `ignore_index` either


def axes_of(axis: Axis) -> tuple[str, ...]:
    """Return the names of one axis, several, or none."""
    return (axis,) if isinstance(axis, str) else tuple(axis or ())


def from_first(labels: Array, here: int, axis: Axis) -> Array:
    """Return labels counted from the first of the `here` classes of this device."""
    return labels if axis is None else labels - (here * lax.axis_index(axis)).astype(labels.dtype)


def all_classes(here: int, axis: Axis) -> int:
    """Return how many classes all devices have."""
    return here if axis is None else here * lax.axis_size(axis)


def over_devices(tree: Any, axis: Axis) -> Any:
    """Return the sum over the devices of an axis."""
    return tree if axis is None else lax.psum(tree, axis)


def at_owner(values: Array, labels: Array, axis: Axis) -> Array:
    """Return the value `[classes]` of each label's class, from the device that has it.

    A label that names no class gets that of the nearest.
    """
    if axis is None:
        return values.at[labels].get(mode="clip")
    here = values.shape[0]
    labels = from_first(jnp.clip(labels, 0, all_classes(here, axis) - 1), here, axis)
    own = values.at[labels].get(mode="clip")
    return lax.psum(jnp.where((labels >= 0) & (labels < here), own, 0), axis)


def zero_like(tree: Any, dtype: jnp.dtype, axis: Axis = None) -> Array:
    """Return a 0 that varies over the axes of all arrays of a tree, and over `axis`."""
    zero = jnp.zeros((), dtype)
    if not _in_shard_map():
        return zero
    for x in map(jnp.ravel, jax.tree.leaves(tree)):
        zero += jnp.sum(lax.stop_gradient(x)[:0].astype(dtype))
    return zero if axis is None else zero + (0 * lax.axis_index(axis)).astype(dtype)


def vary(tree: Any, zero: Array) -> Any:
    """Let all arrays of a tree vary over the axes of `zero`."""
    if not _in_shard_map():
        return tree
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)


def sharers(x: Array, zero: Array) -> Array:
    """Return how many devices share one `x` where each has its own `zero`."""
    own = zero_like(x, zero.dtype)
    return jax.vjp(lambda x: vary(x, zero), own)[1](jnp.ones_like(zero))[0]


def _in_shard_map():
    return bool(jax.sharding.get_abstract_mesh().manual_axes)
