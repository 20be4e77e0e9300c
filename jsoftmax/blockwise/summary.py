"""The pass before the pass: what a margin makes of the cosines of all other classes.

Some margins need it before the first score: the mean over the hard classes, or which are the k
hardest. A block of classes after another adds its part. Blocks by rows keep the products, for the
passes that follow.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.blockwise.block_loop import over_blocks
from jsoftmax.blockwise.class_block import ClassBlock, columns
from jsoftmax.blockwise.matmul import matmul
from jsoftmax.blockwise.scores import features_inverse_norm
from jsoftmax.blockwise.types import Examples, Head, Plan
from jsoftmax.core.collectives import all_gather_unvarying
from jsoftmax.core.varying import vary
from jsoftmax.margins.form import call, has_summary


def summarise(plan: Plan, shard: Examples, head: Head, zero: Array) -> tuple[Any, Array | None]:
    """Return the summary over the classes of all devices, and the products `[blocks, n, c]`.

    Both are None for a margin without, and the products where they are not kept.
    """
    if not has_summary(plan.margin):
        return None, None
    features, labels = shard.features, shard.labels
    of_features = features_inverse_norm(features, plan.margin)
    margin, numbers = columns(plan, zero, shard.numbers, head)

    def summary(c):
        found = call(margin.summary, c, numbers.cosine, norm=numbers.norm)
        return lax.stop_gradient(found)

    @partial(jax.checkpoint, prevent_cse=False)
    def body(carry, start, new, _):
        block = ClassBlock.of(plan, head, labels, start, new)
        products = matmul(features, block.head.weight, plan.precision)
        c = jnp.where(block.unmasked, block.cosines(plan, products, of_features), -jnp.inf)
        carry = margin.join(carry, summary(c))
        return carry, products if plan.blocks.save_products else None

    nothing = vary(summary(jnp.full((*labels.shape, 1), -jnp.inf, zero.dtype)), zero)
    num_local = head.weight.shape[0]
    found, products = over_blocks(body, nothing, num_local, plan.blocks.classes)
    if plan.class_axis is not None:
        found = jax.tree.map(lambda x: all_gather_unvarying(x[None], plan.class_axis), found)
        first = jax.tree.map(lambda x: x[0], found)
        rest = jax.tree.map(lambda x: x[1:], found)
        found, _ = lax.scan(lambda a, b: (margin.join(a, b), None), first, rest)
    return found, products
