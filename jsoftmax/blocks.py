r"""How a linear head is cut into blocks, and the loop over them.

The rule, for N rows, C classes and D features, unless the caller gives the blocks:

    rows     all, if N C <= 4 Mi products; else 3/4 D, at least 256: the products that a block of
             rows keeps take 3/4 of the memory of the weight's gradient in float32
    classes  as many that a block has 1 Mi products (4 MB, which a cache holds), at least C / 16

A block of rows costs one pass over the weight and its gradient, 20 bytes or so per element, beside
6 x rows operations on it: below 256 rows that is no longer small. With `class_block` alone all rows
are one block that keeps no products: the least memory, for a fourth matrix product.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax import checks

__all__ = ["Tiles", "add_at", "cut", "in_blocks", "join", "pad", "tiles_for"]

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
    keep = row_block is not None or class_block is None
    if row_block is None:
        small = rows * classes <= 4 * _SMALL or not keep
        row_block = rows if small else max(256, 3 * features // 4)
    row_block = _even(rows, row_block)
    if class_block is None:
        small = row_block * classes <= 4 * _SMALL
        class_block = classes if small else max(_SMALL // row_block, classes // 16)
    return Tiles(row_block, _even(classes, class_block), keep)


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
    added = added.astype(total.dtype)
    if added.shape == total.shape:
        return total + added
    return _update(total, start, cut(total, start, added.shape[0]) + added)


# On a CPU, XLA turns slices of bfloat16 into slices of a float32 copy of the whole array, and moves
# that copy out of the loop. Slices of its bits it leaves alone.


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _slice(x, start, size):
    x, start = lax.optimization_barrier((x, start))  # or the bits would be copied out of the loop
    return _from_bits(lax.dynamic_slice_in_dim(_bits(x), start, size), x.dtype)


@_slice.defjvp
def _slice_jvp(size, primals, tangents):
    (x, start), (dx, _) = primals, tangents
    if dx.dtype == jax.dtypes.float0:
        return _slice(x, start, size), np.zeros((size, *x.shape[1:]), jax.dtypes.float0)
    return _slice(x, start, size), lax.dynamic_slice_in_dim(dx, start, size)


@jax.custom_jvp
def _update(total, start, part):
    updated = lax.dynamic_update_slice_in_dim(_bits(total), _bits(part), start, 0)
    return _from_bits(updated, total.dtype)


@_update.defjvp
def _update_jvp(primals, tangents):
    (total, start, part), (d_total, _, d_part) = primals, tangents
    return _update(total, start, part), lax.dynamic_update_slice_in_dim(d_total, d_part, start, 0)


def _bits(x: Array) -> Array:
    """Return 16-bit floats as integers, and other arrays as they are."""
    if x.dtype.itemsize != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return lax.bitcast_convert_type(x, jnp.uint16)


def _from_bits(x: Array, dtype: jnp.dtype) -> Array:
    """Undo `_bits`."""
    return x if x.dtype == dtype else lax.bitcast_convert_type(x, dtype)


def pad(tree: Any, block: int) -> Any:
    """Fill up the first axis of every array with zeros to whole blocks."""

    def one(x):
        missing = -x.shape[0] % block
        return jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) if missing else x

    return jax.tree.map(one, tree)


def join(outputs: list, size: int) -> Any:
    """Undo cutting and padding: return the first `size` entries of the outputs of all blocks."""
    (stacked,) = outputs
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size], stacked)
