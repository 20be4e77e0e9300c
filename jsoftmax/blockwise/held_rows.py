"""The logits of some rows at a time, for what is looked up or drawn from them.

A block of rows holds the logits of all classes of its device, so that a search needs one product
and no second pass; its derivatives compute it again. There are few rows to a block where there are
many classes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.lax import PrecisionLike

from jsoftmax.blockwise.block_loop import join_blocks, over_blocks
from jsoftmax.blockwise.matmul import matmul
from jsoftmax.blockwise.scores import (
    cosines,
    features_inverse_norm,
    fold,
    logits_of,
    nearest,
    sound_vectors,
    weight_inverse_norm,
)
from jsoftmax.blockwise.types import Head
from jsoftmax.core.arguments import is_known
from jsoftmax.margins.form import at_cosines, scale_of, similarity
from jsoftmax.margins.partition import combine, partition
from jsoftmax.margins.per_example import by_example

_HELD = 1 << 24  # logits of a block


def rows_held(rows: int, classes: int) -> int:
    """Return how many rows a block has."""
    return min(rows, max(1, _HELD // classes)) if is_known(rows) else rows


def over_rows(
    of_block: Callable[..., Any],
    size: int,
    precision: PrecisionLike,
    features: Array,
    head: Head,
    temperature: Array | None,
    *more: Array | None,
) -> Any:
    """Return a tree of arrays `[N, ...]` that a function makes of blocks of rows.

    Args:
      of_block: a function of logits `[n, C]`, -inf where `where` masks a class, and of `more`.
      size: how many rows a block has.
      precision: of the product.
      features: `[N, D]`.
      head: the classes of this device. A margin adds nothing: there is no true class.
      temperature: `[N]`, or None for 1.
      more: arrays `[N, ...]`, of which the function gets the same rows.
    """
    rows = features.shape[0]
    head = head._replace(weight=sound_vectors(head.weight, head.sound))
    of_weight = weight_inverse_norm(head.weight, head.margin)
    margin = head.margin
    of_weight = None if of_weight is None else fold(of_weight, margin)
    vectors = fold(head.weight, margin)
    parts = partition(margin)
    of_rows = by_example(parts.per_example)
    shared = combine(parts.whole, parts.scalars)

    def cut(x, start):  # plainly, so that reverse mode needs no rule
        return x if size == rows else lax.dynamic_slice_in_dim(x, start, size)

    @partial(jax.checkpoint, prevent_cse=False)
    def body(_, start, new, __):
        given = features, temperature, of_rows, more
        x, t, s, rest = jax.tree.map(lambda x: cut(x, start), given)
        products = matmul(x, vectors, precision)
        c = nearest(cosines(products, features_inverse_norm(x, margin), of_weight), margin)
        mine = at_cosines(combine(shared, s), c, axes=1)
        t = None if t is None else t[:, None]
        z = logits_of(similarity(mine, c), scale_of(mine), head.bias, head.softcap, t)
        z = z if head.where is None else jnp.where(head.where, z, -jnp.inf)
        return None, of_block(z, *rest)

    found = over_blocks(body, None, rows, size)[1]
    return jax.tree.map(partial(join_blocks, size=rows), found)
