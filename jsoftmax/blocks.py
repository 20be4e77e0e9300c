r"""How a linear head is cut into blocks, and the loop over them.

The rule, for N rows, C classes and D features, unless the caller gives the blocks. With r = 4/5 D,
but at least 256:

    N C <= 2 Mi    one block: its products take 8 MB
    N <= 2 r       by classes: all rows, blocks of classes, the products computed once more for the
                   gradients. The gradient of the weight is written once.
    otherwise      by rows: blocks of r rows keep the products of all classes, which take 4/5 of the
                   memory of the weight's gradient; within them, blocks of classes
    classes        as many that a block has half a Mi products, at least C / 20

A block of rows costs a pass over the weight and its gradient, some 20 bytes per element, beside
6 r operations on it; computing products again costs 2 N. Measured on two CPU cores with float32,
N x D x C: at 2048 x 512 x 32,000 by rows takes 0.84 of the time by classes, at 512 x 256 x 100,000
the same time, but four times the memory.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax import checks

__all__ = ["Tiles", "add_at", "cut", "in_blocks", "overlapping", "put_at", "tiles_for"]

_SMALL = 1 << 19


class Tiles(NamedTuple):
    """The rows and classes of a block, and whether its products are kept for the gradients."""

    rows: int
    classes: int
    keep: bool


def tiles_for(
    rows: int, classes: int, features: int, row_block: int | None, class_block: int | None
) -> Tiles:
    """Choose the blocks by shape, as far as the caller does not."""
    for name, block in (("row_block", row_block), ("class_block", class_block)):
        if block is not None:
            checks.at_least(name, block, 1)
    large = max(256, -(-4 * features // 5))
    keep = row_block is not None or (class_block is None and rows > 2 * large)
    if row_block is None:
        row_block = large if keep and rows * classes > 4 * _SMALL else rows
    row_block = _even(rows, row_block)
    if class_block is None:
        small = row_block * classes <= 4 * _SMALL
        class_block = classes if small else max(_SMALL // row_block, classes // 20)
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
    return put_at(total, start, cut(total, start, added.shape[0]) + added)


def put_at(whole: Array, start: Any, part: Array) -> Array:
    """Replace the entries from `start` on, in place."""
    if part.shape == whole.shape:
        return part
    return lax.dynamic_update_slice_in_dim(whole, part, start, 0)


def overlapping(start: Any, size: int, whole: int) -> tuple[Any, Array]:
    """Move a block that would reach beyond the end back, and say which entries are new in it."""
    moved = jnp.minimum(start, whole - size)
    return moved, moved + jnp.arange(size) >= start


# On a CPU, XLA turns slices of bfloat16 into slices of a float32 copy of the whole array, and moves
# that copy out of the loop. Slices of its bits it leaves alone.


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _slice(x, start, size):
    if x.dtype.itemsize > 2:
        return lax.dynamic_slice_in_dim(x, start, size)
    x, start = lax.optimization_barrier((x, start))  # or the bits would be copied out of the loop
    return _from_bits(lax.dynamic_slice_in_dim(_bits(x), start, size), x.dtype)


@_slice.defjvp
def _slice_jvp(size, primals, tangents):
    (x, start), (dx, _) = primals, tangents
    if dx.dtype == jax.dtypes.float0:
        return _slice(x, start, size), np.zeros((size, *x.shape[1:]), jax.dtypes.float0)
    return _slice(x, start, size), lax.dynamic_slice_in_dim(dx, start, size)


def _bits(x: Array) -> Array:
    """Return 16-bit floats as integers, and other arrays as they are."""
    if x.dtype.itemsize != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return lax.bitcast_convert_type(x, jnp.uint16)


def _from_bits(x: Array, dtype: jnp.dtype) -> Array:
    """Undo `_bits`."""
    return x if x.dtype == dtype else lax.bitcast_convert_type(x, dtype)
