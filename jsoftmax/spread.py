"""Classes spread over a mesh axis: what a device has of them, and what the devices tell each other.

Inside `jax.shard_map` each device of the axis holds as many consecutive rows of the class vectors,
and labels count over all devices. An axis of None is one device with all classes.

JAX's types say over which mesh axes a value varies. The result of a sum over devices does not vary
over them; the carry of a loop has one type from its start on; and where a value that does not vary
meets one that does, reverse mode sums its gradient over the devices. `zero_like` and `vary` give
loops that type, and see to it that such sums come before the loops over blocks and not in them.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax.numerics import bits, from_bits, promote

__all__ = [
    "NO_CLASS",
    "Axis",
    "all_classes",
    "at_owner",
    "axes_in_both",
    "axes_of",
    "from_first",
    "gathered",
    "known_to_all",
    "mean_over_devices",
    "over_devices",
    "own",
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


def mean_over_devices(x: Array, axis: Axis) -> Array:
    """Return the mean over the devices of an axis."""
    return x if axis is None else lax.psum(x, axis) / lax.axis_size(axis)


def axes_in_both(batch_axis: Axis, class_axis: Axis) -> tuple[Axis, Axis]:
    """Return the axes over which examples and classes are both spread, and the batch's others."""
    both = tuple(name for name in axes_of(batch_axis) if name in axes_of(class_axis))
    return both or None, tuple(name for name in axes_of(batch_axis) if name not in both) or None


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def gathered(x: Array, axis: Axis) -> Array:
    """Return the rows of all devices. For JAX the result varies over them.

    So the transpose sums a gradient and cuts each device's own rows from it in one exchange.
    """
    return from_bits(lax.all_gather(bits(x), axis, tiled=True), x.dtype)


@gathered.defjvp
def _gathered_jvp(axis, primals, tangents):
    # The parts of a 16-bit gradient are summed in float32.
    whole = lax.all_gather(promote(tangents[0]), axis, tiled=True)
    return gathered(*primals, axis), whole.astype(primals[0].dtype)


def known_to_all(x: Array, axis: Axis) -> Array:
    """Return the rows of all devices, as a sum: the same on all of them for JAX too."""
    dtype = x.dtype if x.dtype.itemsize >= 4 else jnp.int32 if x.dtype == bool else jnp.float32
    whole = jnp.zeros((x.shape[0] * lax.axis_size(axis), *x.shape[1:]), dtype)
    start = x.shape[0] * lax.axis_index(axis)
    whole = lax.dynamic_update_slice_in_dim(whole, x.astype(dtype), start, 0)
    return lax.psum(whole, axis).astype(x.dtype)


def own(x: Array, axis: Axis) -> Array:
    """Return this device's rows of those of all devices."""
    size = x.shape[0] // lax.axis_size(axis)
    return lax.dynamic_slice_in_dim(x, size * lax.axis_index(axis), size)


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
