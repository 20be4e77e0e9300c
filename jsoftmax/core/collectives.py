"""Classes sharded over a mesh axis: the local shard, and the collectives between shards.

Inside `jax.shard_map` each device of the axis holds the same number of consecutive rows of the
class vectors, and labels are global: they count the classes of all devices. Axes of None stand for
one device with all classes.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax.core.dtypes import bits, from_bits, to_compute_dtype

MeshAxes = str | tuple[str, ...] | None


NO_CLASS = np.iinfo(np.int32).max  # a label that no class has, and no `ignore_index` either


def axes_of(axis: MeshAxes) -> tuple[str, ...]:
    """Return the names of one axis, several, or none."""
    return (axis,) if isinstance(axis, str) else tuple(axis or ())


def check_bound_axis(name: str, axis: MeshAxes) -> None:
    """Raise unless mesh axes are those of a surrounding `shard_map`, or the name of a `vmap`."""
    try:
        _ = axis is None or lax.axis_size(axis)
    except NameError as unbound:
        raise NameError(
            f"`{name}`: expected a mesh axis of the surrounding jax.shard_map, got {axis!r}, which "
            "is none here. For global arrays use sharded_linear_loss."
        ) from unbound


def to_local_labels(labels: Array, here: int, axis: MeshAxes) -> Array:
    """Return labels counted from the first of the `here` classes of this device."""
    return labels if axis is None else labels - (here * lax.axis_index(axis)).astype(labels.dtype)


def num_global(here: int, axis: MeshAxes) -> int:
    """Return how many classes all devices have."""
    return here if axis is None else here * lax.axis_size(axis)


def psum(tree: Any, axis: MeshAxes) -> Any:
    """Return the sum over the devices of an axis."""
    return tree if axis is None else lax.psum(tree, axis)


def pmean(x: Array, axis: MeshAxes) -> Array:
    """Return the mean over the devices of an axis."""
    return x if axis is None else lax.psum(x, axis) / lax.axis_size(axis)


def split_shared_axes(batch_axis: MeshAxes, class_axis: MeshAxes) -> tuple[MeshAxes, MeshAxes]:
    """Return the axes over which examples and classes are both spread, and the batch's others."""
    both = tuple(name for name in axes_of(batch_axis) if name in axes_of(class_axis))
    return both or None, tuple(name for name in axes_of(batch_axis) if name not in both) or None


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def all_gather_rows(x: Array, axis: MeshAxes) -> Array:
    """Return the rows of all devices. For JAX the result varies over them.

    So the transpose sums a gradient and cuts each device's own rows from it in one exchange.
    """
    return from_bits(lax.all_gather(bits(x), axis, tiled=True), x.dtype)


@all_gather_rows.defjvp
def _all_gather_rows_jvp(axis, primals, tangents):
    # The parts of a 16-bit gradient are summed in float32.
    whole = lax.all_gather(to_compute_dtype(tangents[0]), axis, tiled=True)
    return all_gather_rows(*primals, axis), whole.astype(primals[0].dtype)


def all_gather_unvarying(x: Array, axis: MeshAxes) -> Array:
    """Return the rows of all devices, as a sum: the same on all of them for JAX too."""
    dtype = x.dtype if x.dtype.itemsize >= 4 else jnp.int32 if x.dtype == bool else jnp.float32
    whole = jnp.zeros((x.shape[0] * lax.axis_size(axis), *x.shape[1:]), dtype)
    start = x.shape[0] * lax.axis_index(axis)
    whole = lax.dynamic_update_slice_in_dim(whole, x.astype(dtype), start, 0)
    return lax.psum(whole, axis).astype(x.dtype)


def local_rows(x: Array, axis: MeshAxes) -> Array:
    """Return this device's rows of those of all devices."""
    size = x.shape[0] // lax.axis_size(axis)
    return lax.dynamic_slice_in_dim(x, size * lax.axis_index(axis), size)


def gather_per_class(values: Array, labels: Array, axis: MeshAxes) -> Array:
    """Return the value `[classes]` of each label's class, from the device that has it.

    A label that names no class gets that of the nearest.
    """
    if axis is None:
        return values.at[labels].get(mode="clip")
    here = values.shape[0]
    labels = to_local_labels(jnp.clip(labels, 0, num_global(here, axis) - 1), here, axis)
    local_rows = values.at[labels].get(mode="clip")
    return lax.psum(jnp.where((labels >= 0) & (labels < here), local_rows, 0), axis)
