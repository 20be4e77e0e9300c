"""loop"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax.core.dtypes import bits, from_bits


def in_blocks(
    body: Callable, carry: Any, size: int, block: int, inputs: list | None = None
) -> tuple[Any, list]:
    """Run `carry, output = body(carry, start, length, input)` over all blocks of `size`.

    The outputs come as a list of the stacked ones of the full blocks and the one of a smaller
    last block, as far as there are such; a later loop over the same blocks takes it as `inputs`.
    """
    full, last = divmod(size, block)
    stacks = iter(inputs or [None, None])
    outputs = []
    if full == 1:
        carry, out = body(carry, 0, block, jax.tree.map(lambda x: x[0], next(stacks)))
        outputs.append(jax.tree.map(lambda x: x[None], out))
    elif full:
        # The checkpoint costs nothing here. Where a caller differentiates this loop once more, it
        # keeps the values inside all blocks from being stored at once.
        def step(carry, start_and_input):
            start, given = start_and_input
            return body(carry, start, block, given)

        step = jax.checkpoint(step, prevent_cse=False)
        carry, out = lax.scan(step, carry, (block * jnp.arange(full), next(stacks)))
        outputs.append(out)
    if last or not size:
        given = jax.tree.map(lambda x: x[0], next(stacks))
        carry, out = body(carry, full * block, last, given)
        outputs.append(jax.tree.map(lambda x: x[None], out))
    return carry, outputs


def slice_rows(tree: Any, start: Any, size: int) -> Any:
    """Return entries `start` to `start + size` of the first axis of every array."""
    return jax.tree.map(lambda x: x if x.shape[0] == size else _slice(x, start, size), tree)


def add_at(total: Array, start: Any, added: Array) -> Array:
    """Add to the entries from `start` on, in place."""
    if added.shape == total.shape:
        return total + added
    added = slice_rows(total, start, added.shape[0]) + added
    return lax.dynamic_update_slice_in_dim(total, added, start, 0)


def overlapping(start: Any, size: int, whole: int) -> tuple[Any, Array]:
    """Move a block that would reach beyond the end back, and say which entries are new in it."""
    moved = jnp.minimum(start, whole - size)
    return moved, moved + jnp.arange(size) >= start


def join_blocks(stack: Array, size: int) -> Array:
    """Join blocks `[blocks, block, ...]` of which the last one was moved back to end at `size`."""
    blocks, block = stack.shape[:2]
    joined = stack.reshape(blocks * block, *stack.shape[2:])
    if blocks * block == size:
        return joined
    before = (blocks - 1) * block
    return jnp.concatenate([joined[:before], joined[before + blocks * block - size :]])


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _slice(x, start, size):
    if x.dtype.itemsize > 2:
        return lax.dynamic_slice_in_dim(x, start, size)
    x, start = lax.optimization_barrier((x, start))  # or the bits would be copied out of the loop
    return from_bits(lax.dynamic_slice_in_dim(bits(x), start, size), x.dtype)


@_slice.defjvp
def _slice_jvp(size, primals, tangents):
    (x, start), (dx, _) = primals, tangents
    if dx.dtype == jax.dtypes.float0:
        return _slice(x, start, size), np.zeros((size, *x.shape[1:]), jax.dtypes.float0)
    return _slice(x, start, size), lax.dynamic_slice_in_dim(dx, start, size)
