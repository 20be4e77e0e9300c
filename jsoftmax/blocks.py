r"""How a linear head is cut into blocks, and the loop over them.

The rule, for N rows, C classes and D features, unless the caller gives the blocks:

    N C <= 2 Mi   one block: its products take 8 MB
    by rows       blocks of r = max(256, 4/5 D) rows keep the products of all classes, which take
                  4/5 of the memory of the weight's gradient; within them, blocks of classes. Over
                  a mesh each is an exchange: then r is at least what gives 2 Mi products
    by classes    all rows, blocks of classes; the products are computed again for the gradients,
                  and the gradient of the weight is written once
    classes       C / 20 in a block, unless it then has less than half a Mi products, or takes more
                  memory than the weight's gradient

A block of rows costs a pass over the weight and its gradient, some 20 bytes per element, beside
6 r operations on it; computing the products again costs a third more operations. So rows are
better if r is above ten times the operations that a device does in the time of moving a byte. That
is 11 for 220 GFLOP/s, a float32 product on two CPU cores as measured, and 60 for 1,200 in bfloat16
with matrix instructions, if memory gives 20 GB/s; 330 for an H100 by its data sheet. Hence 16-bit
operands go by rows from r = 3072 on only; and none do with N <= 2 r, where there is little to lose.
Measured on two CPU cores, time by rows / by classes, N x D x C: 2048 x 512 x 32,000 float32 0.93,
bfloat16 1.7; 512 x 256 x 100,000 float32 1.0.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax import checks
from jsoftmax.numerics import bits, from_bits

__all__ = ["Tiles", "add_at", "cut", "in_blocks", "overlapping", "tiles_for", "whole"]

_SMALL = 1 << 19


class Tiles(NamedTuple):
    """The rows and classes of a block, and whether its products are kept for the gradients."""

    rows: int
    classes: int
    keep: bool


def tiles_for(
    rows: int,
    classes: int,
    features: int,
    row_block: int | None = None,
    class_block: int | None = None,
    *,
    narrow: bool = False,
    spread: bool = False,
) -> Tiles:
    """Choose the blocks as far as the caller does not.

    `narrow` says that operands have 16 bits, `spread` that `classes` are those of one of several
    devices.
    """
    for name, block in (("row_block", row_block), ("class_block", class_block)):
        if block is not None:
            checks.at_least(name, block, 1)
    large = max(256, -(-4 * features // 5))
    by_rows = rows > 2 * large and (not narrow or large >= 3072)
    keep = row_block is not None or (class_block is None and by_rows)
    if row_block is None:
        large = max(large, 4 * _SMALL // classes) if spread else large
        row_block = large if keep and rows * classes > 4 * _SMALL else rows
    row_block = _even(rows, row_block)
    if class_block is None:
        most = max(_SMALL, classes * features) // row_block
        class_block = min(max(_SMALL // row_block, classes // 20), max(1, most))
        if row_block * classes <= 4 * _SMALL:
            class_block = classes
    class_block = _even(classes, class_block)
    return Tiles(row_block, class_block, keep or class_block == classes)


def _even(size: int, block: int) -> int:
    """Return a block of at most the wanted size that leaves the last one full, or nearly so."""
    fewest = -(-size // max(1, min(block, size))) if size else 1
    for count in range(fewest, fewest + max(1, fewest // 4)):
        if size % count == 0:
            return max(1, size // count)
    return -(-size // fewest)


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


def cut(tree: Any, start: Any, size: int) -> Any:
    """Return entries `start` to `start + size` of the first axis of every array."""
    return jax.tree.map(lambda x: x if x.shape[0] == size else _slice(x, start, size), tree)


def add_at(total: Array, start: Any, added: Array) -> Array:
    """Add to the entries from `start` on, in place."""
    if added.shape == total.shape:
        return total + added
    added = cut(total, start, added.shape[0]) + added
    return lax.dynamic_update_slice_in_dim(total, added, start, 0)


def overlapping(start: Any, size: int, whole: int) -> tuple[Any, Array]:
    """Move a block that would reach beyond the end back, and say which entries are new in it."""
    moved = jnp.minimum(start, whole - size)
    return moved, moved + jnp.arange(size) >= start


def whole(stack: Array, size: int) -> Array:
    """Join blocks `[blocks, block, ...]` of which the last one was moved back to end at `size`."""
    blocks, block = stack.shape[:2]
    joined = stack.reshape(blocks * block, *stack.shape[2:])
    if blocks * block == size:
        return joined
    before = (blocks - 1) * block
    return jnp.concatenate([joined[:before], joined[before + blocks * block - size :]])


# On a CPU, XLA turns slices of bfloat16 into slices of a float32 copy of the whole array, and moves
# that copy out of the loop. Slices of its bits it leaves alone.


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
