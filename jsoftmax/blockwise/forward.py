"""The forward pass of a block of rows: over all blocks of classes, and over the devices.

    a = x wᵀ,  c = cosines(a),  z = logits(c);  merge the statistics of z         (a may be saved)

With the classes sharded, each device goes over its shard. Then they exchange the cosines of the
labels and the statistics, a few numbers per example, and go on with the same on all of them.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.blockwise.block_loop import over_blocks
from jsoftmax.blockwise.class_block import ClassBlock
from jsoftmax.blockwise.matmul import matmul
from jsoftmax.blockwise.scores import features_inverse_norm, logits_of, with_margin
from jsoftmax.blockwise.summary import summarise
from jsoftmax.blockwise.types import Examples, Forward, Head, Plan
from jsoftmax.core.collectives import to_global_labels
from jsoftmax.core.dtypes import sum_dtype
from jsoftmax.core.numerics import multiply_no_nan
from jsoftmax.core.varying import vary, varying_zero
from jsoftmax.margins.form import at_cosines, changes_others, scale_of, similarity
from jsoftmax.margins.partition import combine
from jsoftmax.stats.labels import at_labels
from jsoftmax.stats.logit_stats import LogitStats
from jsoftmax.stats.others import all_reduce, merge, no_others, others_of, to_stats


def forward(
    plan: Plan, shard: Examples, head: Head, *, save_products: bool
) -> tuple[Forward, Array | None]:
    """Return what the pass over the classes of all devices finds, and the products or None.

    Args:
      plan: the plan.
      shard, head: what `local_shard` makes, of a block of rows.
      save_products: whether to return the products of all blocks `[blocks, n, c]`.
    """
    features, labels = shard.features, shard.labels
    (rows, _), num_local, size = features.shape, head.weight.shape[0], plan.blocks.classes
    dtype = sum_dtype(features, head.weight)
    zero = varying_zero(features, dtype)
    of_features = features_inverse_norm(features, plan.margin)
    summary, saved = summarise(plan, shard, head, zero)
    save = save_products and saved is None

    # The checkpoint costs nothing here. Where a caller differentiates this loop once more, it keeps
    # what is inside the blocks from being stored for all of them.
    @partial(jax.checkpoint, prevent_cse=False)
    def body(carry, start, new, products):
        of_labels, others, rival = carry
        block = ClassBlock.of(plan, head, labels, start, new)
        if products is None:
            products = matmul(features, block.head.weight, plan.precision)
        c = block.cosines(plan, products, of_features)
        z = block.logits(plan, c, shard.numbers, summary, block.head)
        of_labels = jnp.where(jnp.isnan(of_labels), at_labels(c, block.place), of_labels)
        if rival is not None:
            unchanged = block.unchanged(plan, c, shard.numbers, block.head)
            rival = jnp.maximum(rival, jnp.max(lax.stop_gradient(unchanged), -1))
        weights = block.head.class_weight
        found = others_of(z, block.unmasked, block.classes, plan.fields, weights)
        carry = of_labels, merge(others, found), rival
        return carry, products if save else None

    # Of another block's label `at_labels` gives NaN, which no compiler knows beforehand.
    nothing = no_others((rows,), dtype, labels.dtype, plan.fields)
    of_labels, nothing = vary((jnp.zeros(labels.shape, dtype), nothing), zero)
    rival = nothing.top if changes_others(plan.margin) else None
    carry = jnp.full_like(of_labels, jnp.nan), nothing, rival
    (of_labels, others, rival), products = over_blocks(body, carry, num_local, size, saved)
    inside = (labels >= 0) & (labels < num_local)
    unmasked = inside
    if head.where is not None:
        unmasked &= head.where.at[labels].get(mode="clip")
    if others.top_class is not None:
        others = others._replace(
            top_class=to_global_labels(others.top_class, num_local, plan.class_axis)
        )
    of_labels, unmasked, others = all_reduce(of_labels, inside, unmasked, others, plan.class_axis)
    runner_up = others.top if others.runner_up is None else others.runner_up
    if rival is not None and plan.class_axis is not None:
        rival = lax.pmax(rival, plan.class_axis)
    found = Forward(of_labels, unmasked, runner_up, others, rival, summary)
    return found, products if saved is None else saved


def stats_of(
    plan: Plan, examples: Examples, head: Head, found: Forward, *, centred: bool
) -> tuple[LogitStats, Array]:
    """Return the stats that a forward pass has found the parts of, and their shift.

    With class weights of the labels the mean is by class weights, too.
    """
    temperature, by_row, _, norm = examples.numbers
    margin = at_cosines(combine(plan.margin, head.margin, by_row), found.cosines)
    score = with_margin(found.cosines, examples.kept_norm, margin, norm, found.summary)
    if temperature is not None and score.ndim > temperature.ndim:
        temperature = temperature[:, None]

    def finished(f):
        return logits_of(f, scale_of(margin), examples.bias, head.softcap, temperature)

    plain = None if margin is None else finished(similarity(margin, found.cosines))
    return to_stats(
        finished(score),
        examples.labels,
        found.unmasked,
        found.runner_up,
        found.others,
        plan.fields,
        centred=centred,
        score=plain,
        rival=found.rival,
        of_label=examples.class_weight,
    )


def evaluate(
    plan: Plan, examples: Examples, head: Head, found: Forward
) -> tuple[Array, LogitStats, Array]:
    """Return the losses `[N]`, which are expected ones for lists, and stats with their shift.

    A loss that is not finite and is left out is 0 instead, and has no gradient.
    """
    given, shift = stats_of(plan, examples, head, found, centred=True)
    loss = plan.loss
    if examples.probs is not None:  # for each listed class the arguments of the example
        loss = jax.vmap(loss, (0, 0, None, None, 0))
    loss = jax.vmap(loss, (0, 0, 0, None, 0))

    def losses_of(given, shift, args):
        losses = loss(given, shift, args, head.loss, examples.class_weight)
        if examples.probs is None:
            return losses
        return jnp.sum(multiply_no_nan(examples.probs, losses), -1)

    read = given, shift, examples.loss_args
    bad = examples.left_out & ~jnp.isfinite(losses_of(*read))
    losses = jnp.where(bad, 0, losses_of(*jax.tree.map(partial(_constant_where, bad), read)))
    if examples.class_weight is None:
        return losses, given, shift
    plain = examples._replace(class_weight=None)
    return losses, *stats_of(plan, plain, head, found, centred=True)


def _constant_where(rows, x):
    return jnp.where(rows.reshape(-1, *[1] * (x.ndim - 1)), jax.lax.stop_gradient(x), x)
