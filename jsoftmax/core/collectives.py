"""Classes sharded over a mesh axis: the local shard, and the collectives between shards.

Inside `jax.shard_map` each device of the axis holds the same number of consecutive rows of the
class vectors, and labels are global: they count the classes of all devices. Axes of None stand for
one device with all classes.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax.core.dtypes import to_compute_dtype

MeshAxes = str | tuple[str, ...] | None

NO_CLASS = np.iinfo(np.int32).max  # out of range for any number of classes, and no `ignore_index`


def axes_of(axes: MeshAxes) -> tuple[str, ...]:
    """Return the names of one axis, several, or none."""
    return (axes,) if isinstance(axes, str) else tuple(axes or ())


def check_bound_axis(name: str, axes: MeshAxes) -> None:
    """Raise unless mesh axes are those of a surrounding `shard_map`, or the name of a `vmap`."""
    try:
        _ = axes is None or lax.axis_size(axes)
    except NameError as unbound:
        raise NameError(
            f"`{name}`: expected a mesh axis of the surrounding jax.shard_map, got {axes!r}, which "
            "is none here. For global arrays use sharded_linear_loss."
        ) from unbound


def split_shared_axes(batch_axis: MeshAxes, class_axis: MeshAxes) -> tuple[MeshAxes, MeshAxes]:
    """Return the axes over which both examples and classes are sharded, and the batch's others."""
    both = tuple(name for name in axes_of(batch_axis) if name in axes_of(class_axis))
    return both or None, tuple(name for name in axes_of(batch_axis) if name not in both) or None


def to_local_labels(labels: Array, num_local: int, axes: MeshAxes) -> Array:
    """Return global labels counted from the first of this device's `num_local` classes."""
    if axes is None:
        return labels
    return labels - (num_local * lax.axis_index(axes)).astype(labels.dtype)


def to_global_labels(labels: Array, num_local: int, axes: MeshAxes) -> Array:
    """Undo `to_local_labels`."""
    if axes is None:
        return labels
    return labels + (num_local * lax.axis_index(axes)).astype(labels.dtype)


def num_global(num_local: int, axes: MeshAxes) -> int:
    """Return how many rows all devices have, of classes or of anything else."""
    return num_local if axes is None else num_local * lax.axis_size(axes)


def psum(tree: Any, axes: MeshAxes) -> Any:
    """Return the sum over the devices of the axes."""
    return tree if axes is None else lax.psum(tree, axes)


def pmean(x: Array, axes: MeshAxes) -> Array:
    """Return the mean over the devices of the axes."""
    return x if axes is None else lax.psum(x, axes) / lax.axis_size(axes)


def packed_psum(tree: Any, axes: MeshAxes) -> Any:
    """Return the psum of arrays with the same first axis, in one exchange.

    All travel in the dtype of the first leaf; booleans come back as counts.
    """
    if axes is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    columns = [
        x.reshape(x.shape[0], math.prod(x.shape[1:])).astype(leaves[0].dtype) for x in leaves
    ]
    packed = lax.psum(jnp.concatenate(columns, -1), axes)
    ends = np.cumsum([column.shape[1] for column in columns])
    parts = jnp.split(packed, ends[:-1].tolist(), -1)
    return structure.unflatten(y.reshape(x.shape) for x, y in zip(leaves, parts, strict=True))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def all_gather_rows(x: Array, axes: MeshAxes) -> Array:
    """All-gather along axis 0; the result is typed as varying over the axes.

    So the transpose is one reduce-scatter: it sums a gradient and cuts each device's rows from it.
    """
    return lax.all_gather(x, axes, tiled=True)


@all_gather_rows.defjvp
def _all_gather_rows_jvp(axes, primals, tangents):
    # The parts of a 16-bit gradient are summed in float32.
    tangent = lax.all_gather(to_compute_dtype(tangents[0]), axes, tiled=True)
    return all_gather_rows(*primals, axes), tangent.astype(primals[0].dtype)


def all_gather_unvarying(x: Array, axes: MeshAxes) -> Array:
    """All-gather along axis 0; the result is typed as unvarying (replicated) over the axes.

    `lax.all_gather(to="invarying")` does this in newer versions of JAX. The oldest that is
    supported, 0.9, has no such form: there it is a psum of zero-padded shards.
    """
    dtype = x.dtype if x.dtype.itemsize >= 4 else jnp.int32 if x.dtype == bool else jnp.float32
    padded = jnp.zeros((x.shape[0] * lax.axis_size(axes), *x.shape[1:]), dtype)
    start = x.shape[0] * lax.axis_index(axes)
    padded = lax.dynamic_update_slice_in_dim(padded, x.astype(dtype), start, 0)
    return lax.psum(padded, axes).astype(x.dtype)


def local_rows(x: Array, axes: MeshAxes) -> Array:
    """Return this device's shard of `x` along axis 0."""
    size = x.shape[0] // lax.axis_size(axes)
    return lax.dynamic_slice_in_dim(x, size * lax.axis_index(axes), size)


def gather_per_class(values: Array, labels: Array, axes: MeshAxes) -> Array:
    """Return `values[labels]` for `values` sharded per class; labels are global.

    An out-of-range label gets the value of the nearest class.
    """
    if axes is None:
        return values.at[labels].get(mode="clip")
    num_local = values.shape[0]
    labels = jnp.clip(labels, 0, num_global(num_local, axes) - 1)
    local = to_local_labels(labels, num_local, axes)
    mine = (local >= 0) & (local < num_local)
    return lax.psum(jnp.where(mine, values.at[local].get(mode="clip"), 0), axes)
