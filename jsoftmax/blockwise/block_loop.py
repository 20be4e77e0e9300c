"""The loop over blocks, and slices of arrays that are cut into them.

All blocks have one size. Where it does not divide the whole, the last block is moved back to end
with it, and overlaps the one before: `new` is where its new entries begin.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def over_blocks(
    body: Callable, carry: Any, size: int, block: int, inputs: Any = None
) -> tuple[Any, Any]:
    """Scan `carry, output = body(carry, start, new, input)` over the blocks of `size` entries.

    Outputs are stacked; a later loop over the same blocks may take the stack as its inputs.
    """
    count = 1 if size == block or not size else -(-size // block)

    def step(carry, each):
        i, given = each
        return body(carry, jnp.minimum(i * block, size - block), i * block, given)

    if count > 1:
        return lax.scan(step, carry, (jnp.arange(count), inputs))
    carry, output = body(carry, 0, 0, jax.tree.map(lambda x: x[0], inputs))
    return carry, jax.tree.map(lambda x: x[None], output)


def join_blocks(stack: Array, size: int) -> Array:
    """Join stacked blocks `[blocks, block, ...]` of which the last ends at `size`."""
    blocks, block = stack.shape[:2]
    joined = stack.reshape(blocks * block, *stack.shape[2:])
    if blocks * block == size:
        return joined
    before = (blocks - 1) * block
    return jnp.concatenate([joined[:before], joined[before + blocks * block - size :]])


def slice_rows(tree: Any, start: Any, size: int) -> Any:
    """Return entries `start` to `start + size` of the first axis of every array."""
    return jax.tree.map(lambda x: x if x.shape[0] == size else _slice(x, start, size), tree)


def add_rows(total: Array, start: Any, added: Array) -> Array:
    """Add to the entries from `start` on, in place."""
    if added.shape == total.shape:
        return total + added
    added = slice_rows(total, start, added.shape[0]) + added
    return lax.dynamic_update_slice_in_dim(total, added, start, 0)


# On a CPU, XLA turns slices of bfloat16 into slices of a float32 copy of the whole array, and moves
# that copy out of the loop. Where it can not be moved, only what is sliced is copied.


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _slice(x, start, size):
    if x.dtype.itemsize > 2:
        return lax.dynamic_slice_in_dim(x, start, size)
    x, start = lax.optimization_barrier((x, start))
    return lax.dynamic_slice_in_dim(x, start, size)


@_slice.defjvp
def _slice_jvp(size, primals, tangents):
    (x, start), (dx, _) = primals, tangents
    if dx.dtype == jax.dtypes.float0:
        return _slice(x, start, size), np.zeros((size, *x.shape[1:]), jax.dtypes.float0)
    return _slice(x, start, size), lax.dynamic_slice_in_dim(dx, start, size)
