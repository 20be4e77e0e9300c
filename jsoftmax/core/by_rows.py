"""Reductions over the classes of logits that are in memory, block of rows by block of rows.

XLA's CPU backend writes much of what it sums over the classes to memory first, as large as the
logits, and is slow at sums over more than 32,768 numbers. In a loop over blocks of rows all stays
in the cache. What needs one pass only (core/one_pass.py), and other backends, need no loop. (Logits
of 16 bits that backend converts to float32 before the loop, all at once. As integers, which it does
not convert, they would have no derivative.)
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.core.arguments import is_known

Reduced = TypeVar("Reduced")
_LARGE = 1 << 22  # fewer logits are not worth a loop
_MANY = 1 << 15  # classes that XLA sums well
_BLOCK = 1 << 15  # logits in a block
_FEWEST_ROWS = 8  # a product with fewer is slow


def by_rows(
    of_block: Callable[..., Reduced],
    at_once: Callable[..., Reduced],
    logits: Array,
    *more: Any,
    one_pass: bool = False,
) -> Reduced:
    """Return a tree of arrays `[...]` that either function makes of logits `[..., classes]`.

    `more`: arrays `[...]` or `[..., classes]`, or None; what is the same for all rows may have
    size 1 there. `of_block` gets logits `[rows, classes]`, and of the others the same rows.
    `one_pass`: `at_once` writes nothing to memory, and is better unless the classes are very many.
    """
    sums_well = one_pass and logits.shape[-1] <= _MANY
    if sums_well or not is_known(logits.size) or logits.size < _LARGE or _may_be_sharded():
        return at_once(logits, *more)

    def loop(*arrays):
        return _loop(of_block, logits.ndim - 1, *arrays)

    return lax.platform_dependent(logits, *more, cpu=loop, default=at_once)


def _may_be_sharded():
    # A loop over blocks of rows that are spread over devices would gather them.
    return jax.device_count() > 1


def _loop(of_block, leading, *arrays):
    shape, classes = arrays[0].shape[:leading], arrays[0].shape[-1]
    rows = math.prod(shape)
    size = min(rows, max(_FEWEST_ROWS, _BLOCK // classes))

    def flatten(x):
        last = x.shape[leading:]
        same_for_all = math.prod(x.shape[:leading]) == 1
        return (x if same_for_all else jnp.broadcast_to(x, (*shape, *last))).reshape(-1, *last)

    flat = jax.tree.map(flatten, arrays)

    def cut_rows(x, start):
        return x if len(x) < rows else lax.dynamic_slice_in_dim(x, start, size)

    def block(start):
        return of_block(*jax.tree.map(lambda x: cut_rows(x, start), flat))

    # The last block overlaps with the one before.
    blocks = -(-rows // size)
    found = lax.map(block, jnp.minimum(size * jnp.arange(blocks), rows - size))
    new = rows - size * (blocks - 1)

    def join(x):
        return jnp.concatenate([x[:-1].reshape(-1), x[-1, size - new :]]).reshape(shape)

    return jax.tree.map(join, found)
