"""The linear head by blocks of rows: what a block finds is stacked, what it adds is summed.

`reduce_rows` is the forward pass of all rows; `sum_and_gradients` goes forward and back, block by
block, so that the products of one block of rows can be saved between the two.

All three functions are compiled here, with the plan as their key: called outside of `jit`, their
loops would be compiled again by every call.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.blockwise.backward import add_wanted, backward, keep
from jsoftmax.blockwise.block_loop import add_rows, join_blocks, over_blocks, slice_rows
from jsoftmax.blockwise.class_block import ClassBlock, local_shard
from jsoftmax.blockwise.forward import evaluate, forward
from jsoftmax.blockwise.matmul import matmul
from jsoftmax.blockwise.scores import features_inverse_norm
from jsoftmax.blockwise.types import Examples, Forward, Head, Plan
from jsoftmax.core.collectives import packed_psum, psum, to_local_labels
from jsoftmax.core.dtypes import sum_dtype
from jsoftmax.core.numerics import multiply_no_nan
from jsoftmax.core.varying import num_replicas, vary, varying_zero
from jsoftmax.stats.logit_stats import LogitStats, absolute
from jsoftmax.stats.statistics import Sums, names_of_sums


@partial(jax.jit, static_argnums=0)
def reduce_rows(plan: Plan, examples: Examples, head: Head) -> Forward:
    """Return what the forward pass finds of all rows."""
    shard, shared = local_shard(plan, examples, head)
    rows = examples.labels.shape[0]
    size = min(plan.blocks.rows, rows)

    def body(carry, start, new, _):
        found, _ = forward(plan, slice_rows(shard, start, size), shared, save_products=False)
        return carry, found

    found = over_blocks(body, None, rows, size)[1]
    return jax.tree.map(partial(join_blocks, size=rows), found)


def reduce_again(
    plan: Plan, examples: Examples, head: Head, found: Forward
) -> tuple[Array, Array, Sums]:
    """Return cosines, runner-up and sums once more, as plain functions of features and head.

    With the top as a constant nothing is merged but added, so JAX differentiates this block by
    block. The checkpoint recomputes a block's products instead of storing them.
    """
    shard, shared = local_shard(plan, examples, head)
    (rows, _), num_local = examples.features.shape, head.weight.shape[0]
    size = min(plan.blocks.rows, rows)
    zero = varying_zero(shard.features, sum_dtype(examples.features, head.weight))
    top_class = found.others.top_class
    if top_class is not None:
        top_class = to_local_labels(top_class, num_local, plan.class_axis)
    constants = vary((found.others.top, top_class, found.summary), zero)

    def block_of_rows(_, start, new, __):
        given = shard.features, shard.labels, shard.numbers, constants
        features, labels, numbers, constants_ = slice_rows(given, start, size)
        top = constants_[0]
        of_features = features_inverse_norm(features, plan.margin)

        @partial(jax.checkpoint, prevent_cse=False)
        def body(carry, start, new, _):
            block = ClassBlock.of(plan, shared, labels, start, new)
            products = matmul(features, block.head.weight, plan.precision)
            given = products, of_features, numbers, block.head
            reduced = block.reduce(plan, *given, constants_)
            return jax.tree.map(jnp.add, carry, reduced), None

        sums = {name: jnp.zeros_like(top) for name in names_of_sums(plan.fields)}
        carry = jnp.zeros_like(vary(jnp.zeros(labels.shape, top.dtype), zero)), jnp.zeros_like(top)
        return None, over_blocks(body, (*carry, sums), num_local, plan.blocks.classes)[0]

    reduced = over_blocks(block_of_rows, None, rows, size)[1]
    reduced = jax.tree.map(partial(join_blocks, size=rows), reduced)
    return packed_psum(reduced, plan.class_axis)


@partial(jax.jit, static_argnums=(0, 1))
def sum_and_gradients(
    plan: Plan, wanted: Any, examples: Examples, head: Head
) -> tuple[Array, tuple[Array, LogitStats], Any]:
    """Return the weighted sum of the losses, (losses, stats) of all rows, and gradients.

    `wanted` is `Examples` and `Head` of booleans, or None for no gradients at all; the gradients
    are such a pair, None where not wanted. Those of features, weight and bias are this device's
    part: the whole is their sum over the devices.
    """
    shard, shared = local_shard(plan, examples, head)
    rows = examples.labels.shape[0]
    size = min(plan.blocks.rows, rows)
    dtype = sum_dtype(examples.features, head.weight)
    of_loss: Any = examples  # what the loss reads of the examples is not their features
    of_loss = of_loss._replace(features=None)

    @partial(jax.checkpoint, prevent_cse=False)
    def body(gradients, start, new, _):
        mine, part = slice_rows((of_loss, shard), start, size)
        is_new = start + jnp.arange(size) >= new
        mine = mine._replace(weights=jnp.where(is_new, mine.weights, 0))
        save = plan.blocks.save_products and wanted is not None
        found, products = forward(plan, part, shared, save_products=save)
        (added, evaluation), pull = _loss(plan, mine, head, found, dtype)
        if wanted is None:
            return None, (added, evaluation, None, None, None)
        cotangents, d_mine, d_shared = pull(jnp.ones_like(added))
        d_mine = keep(wanted[0]._replace(features=False), d_mine)
        d_shared = keep((wanted[1].softcap, wanted[1].margin, wanted[1].loss), d_shared)
        d_features, d_head = gradients
        given = plan, part, shared, found, products, cotangents, d_head
        of_rows = wanted[0].features, wanted[0].numbers
        d_block, d_numbers, d_head = backward(*given, of_rows=of_rows)
        if d_block is not None:
            d_features = add_rows(d_features, start, d_block)
        return (d_features, d_head), (added, evaluation, d_mine, d_numbers, d_shared)

    gradients = None
    if wanted is not None:  # sums are float32 or wider, whatever the parameters' dtype
        of_head = wanted[1]._replace(where=False, sound=False, inverse_norm=False, loss=())
        parts = (shard.features, shared._replace(loss=()))
        zeros = jax.tree.map(lambda x: jnp.zeros_like(x, dtype), parts)
        gradients = keep((wanted[0].features, of_head), zeros)
    gradients, outputs = over_blocks(body, gradients, rows, size)
    added, evaluation, d_rows, d_numbers, d_shared = outputs
    total, d_shared = jax.tree.map(lambda x: jnp.sum(x, 0), (added, d_shared))
    by_row = evaluation, d_rows, d_numbers
    evaluation, d_rows, d_numbers = jax.tree.map(partial(join_blocks, size=rows), by_row)
    if wanted is None:
        return total, evaluation, None
    d_features, d_head = gradients
    # Of scale, temperature and softcap, `backward` has what goes through this device's classes.
    # What goes through the true class, and all of the other parameters, every device knows.
    d_softcap, d_margin, d_loss = d_shared
    parts = psum((d_head.softcap, d_head.margin, d_numbers), plan.class_axis)
    softcap, margin, numbers = add_wanted(parts, (d_softcap, d_margin, d_rows.numbers))
    # The loss was traced with the values it closes over as they are, so their gradients are sums
    # over the devices already.
    zero = varying_zero(total, dtype)
    loss = tuple(
        None if d is None else d / num_replicas(x, zero).astype(d.dtype)
        for d, x in zip(d_loss, head.loss, strict=True)
    )
    d_head = d_head._replace(softcap=softcap, margin=margin, loss=loss)
    return total, evaluation, (d_rows._replace(features=d_features, numbers=numbers), d_head)


def _loss(plan, examples, head, found, dtype):
    """Return (weighted sum, (losses, stats)) of a block of rows, and the pullback of the sum.

    The pullback returns the derivatives with respect to what the backward pass needs, (cosines,
    runner-up, sums), to what has a row per example, and to (softcap, margin, loss).
    """
    labels = examples.labels

    def function(reduced, examples, shared):
        cosines, runner_up, sums = reduced
        others = found.others._replace(sums=sums)
        merged = found._replace(cosines=cosines, runner_up=runner_up, others=others)
        softcap, margin, values = shared
        examples = examples._replace(labels=labels)
        whole = head._replace(softcap=softcap, margin=margin, loss=values)
        losses, stats, shift = evaluate(plan, examples, whole, merged)
        total = jnp.sum(multiply_no_nan(examples.weights, losses))
        return total, (losses, absolute(stats, shift))

    zero = varying_zero(found.others.top, dtype)
    reduced = found.cosines, found.runner_up, found.others.sums
    examples, softcap, margin = vary(
        (examples._replace(labels=None), head.softcap, head.margin), zero
    )
    shared = softcap, margin, head.loss
    total, pull, evaluation = jax.vjp(function, reduced, examples, shared, has_aux=True)
    return (total, evaluation), pull
