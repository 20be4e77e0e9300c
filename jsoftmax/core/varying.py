"""JAX's varying types: over which mesh axes a value differs between devices.

Inside `jax.shard_map` the type of an array says over which mesh axes it varies. The result of a
psum does not vary over its axes; the carry of a loop has one type from its start on; and where an
unvarying value meets a varying one, reverse mode sums its gradient over the devices. These
functions give a loop's inputs the type of its body, so that such sums come before a loop and not
inside it. `lax.pcast` changes a type, but no public function reads it; adding a zero does both.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.core.collectives import MeshAxes


def varying_zero(tree: Any, dtype: jnp.dtype, axes: MeshAxes = None) -> Array:
    """Return a scalar 0 whose varying axes are the union of those of `tree`, and `axes`."""
    zero = jnp.zeros((), dtype)
    if not _in_shard_map():
        return zero
    for x in map(jnp.ravel, jax.tree.leaves(tree)):
        zero += jnp.sum(lax.stop_gradient(x)[:0].astype(dtype))
    return zero if axes is None else zero + (0 * lax.axis_index(axes)).astype(dtype)


def vary(tree: Any, zero: Array) -> Any:
    """Return a tree whose arrays vary over the axes of `zero`, too."""
    if not _in_shard_map():
        return tree
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)


def num_replicas(x: Array, zero: Array) -> Array:
    """Return the number of devices on which `x` is a replica while `zero` differs.

    It is what reverse mode makes of a 1: the transpose of letting `x` vary is a psum.
    """
    like_x = varying_zero(x, zero.dtype)
    return jax.vjp(lambda x: vary(x, zero), like_x)[1](jnp.ones_like(zero))[0]


def _in_shard_map():
    return bool(jax.sharding.get_abstract_mesh().manual_axes)
