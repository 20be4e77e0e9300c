"""Arrays filled up to sizes that a mesh divides, and placed on it."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jsoftmax.core.arguments import check_known, is_known
from jsoftmax.core.collectives import MeshAxes, axes_of


def filled_up(examples: int, devices: int) -> int:
    """Return how many examples there are once each device has as many."""
    if is_known(examples):
        return devices * max(-(-examples // devices), 1)  # none has no block
    if examples % devices != 0:
        use = f"For jax.export write a multiple of the devices, as in '{devices}*n'."
        check_known("features", examples, use)
    return examples


def mesh_devices(name: str, axis: MeshAxes, mesh: Mesh) -> int:
    """Return over how many devices of a mesh an axis, or several, goes."""
    if unknown := [each for each in axes_of(axis) if each not in mesh.shape]:
        raise ValueError(f"`{name}`: expected axes of the mesh, {mesh.axis_names}, got {unknown}.")
    return math.prod(mesh.shape[each] for each in axes_of(axis))


def mesh_for(mesh: Mesh, arrays: Any) -> Mesh:
    """Return the mesh, with Auto axes if no array lies on an Explicit one.

    Without jit and outside `jax.set_mesh`, JAX does not differentiate what comes from the latter.
    """
    arrays = map(jnp.asarray, jax.tree.leaves(arrays))
    given = [jax.sharding.get_abstract_mesh(), *(jax.typeof(x).sharding.mesh for x in arrays)]
    if any(AxisType.Explicit in each.axis_types for each in given):
        return mesh
    types = (AxisType.Auto,) * len(mesh.axis_names)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=types)


def filled(x: ArrayLike, size: int, mode: str = "constant") -> Array:
    """Fill up the first axis with zeros."""
    x = jnp.asarray(x)
    missing = size - x.shape[0]
    return jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1), mode) if missing else x


def filled_with_last(x: ArrayLike, size: int) -> Array:
    """Fill up the first axis with its last entry, of which a loss is not NaN as it may be of 0."""
    return filled(x, size, "edge" if jnp.shape(x)[0] != 0 else "constant")


def placed(x: Array, mesh: Mesh, spec: PartitionSpec) -> Array:
    """Place an array on the mesh, where JAX does not do so by itself."""
    explicit = AxisType.Explicit in mesh.axis_types
    return jax.reshard(x, NamedSharding(mesh, spec)) if explicit else x
