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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jsoftmax import checks

__all__ = ["Tiles", "cut", "in_blocks", "join", "tiles_for"]

_SMALL = 1 << 20


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
    for count in range(fewest, 2 * fewest):
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

    def one(x):
        return x if x.shape[0] == size else lax.dynamic_slice_in_dim(x, start, size)

    return jax.tree.map(one, tree)


def join(outputs: list) -> Any:
    """Concatenate the outputs of blocks along the axis that was cut, their first."""
    flat = [jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out) for out in outputs]
    return flat[0] if len(flat) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *flat)
