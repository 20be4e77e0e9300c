r"""A linear head by blocks of rows: the stats of all examples, or their loss with its gradients.

What a block of rows does is in row_block.py. Here the blocks are taken one after the other: what
they add to the gradient of the weight is summed, what they find per row is put together.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.blockwise.block_loop import add_at, in_blocks, join_blocks, overlapping, slice_rows
from jsoftmax.blockwise.row_block import Device, Head, Labels, Plan, RowBlock, Rows, only
from jsoftmax.core.collectives import psum
from jsoftmax.stats.logit_stats import LogitStats


def stats_of_rows(plan: Plan, labels: Labels, rows: Rows, head: Head) -> tuple[LogitStats, Array]:
    """Return the stats of all rows and their shift, for JAX to differentiate by recomputation."""

    def body(_, block, part):
        found, _ = block.first(keep=False)
        margin = plan.margin_of(head.numbers, part.rows.margins)
        return None, (), block.complete(found, part.labels, margin, part.rows.length)

    device = Device.of(plan, labels, rows, head)
    return _over_rows(plan, device, labels, rows, body, None)[2]


def sum_and_gradients(
    plan: Plan, labels: Labels, rows: Rows, head: Head, wanted: tuple[Any, Any] | None
) -> tuple[Array, tuple[Array, LogitStats], tuple[Rows, Head] | None]:
    """Return the weighted sum of the losses, (losses, stats) of all rows, and gradients.

    `wanted` is a `Rows` and a `Head` of booleans; gradients that are not wanted are None. Those of
    features, weight and bias are this device's part: the whole is their sum over the devices.
    """
    device = Device.of(plan, labels, rows, head)

    def body(gradients, block, part):
        weighted = part.rows._replace(weight=jnp.where(part.new, part.rows.weight, 0))
        found, kept = block.first(keep=plan.tiles.keep and wanted is not None)
        (added, evaluation), pull = block.losses(found, weighted, part.labels, head)
        if wanted is None:
            return None, (added, None), (evaluation, None)
        *slopes, d_rows, d_numbers, d_closed = pull(jnp.ones_like(added))
        d_features, d_head = gradients
        d_block, d_head = block.second(found, kept, slopes, wanted, d_head)
        if d_block is not None:
            d_features = add_at(d_features, part.start, d_block)
        d_rows = only(wanted[0]._replace(features=None), d_rows)
        return (d_features, d_head), (added, (d_numbers, d_closed)), (evaluation, d_rows)

    gradients = None
    if wanted is not None:  # sums are float32 or wider, whatever the parameters' dtype
        own = Head(device.weight, device.bias, device.softcap, device.numbers, [])
        zeros = jax.tree.map(lambda x: jnp.zeros_like(x, device.zero.dtype), (device.features, own))
        gradients = only((wanted[0].features, wanted[1]._replace(closed=[])), zeros)
    gradients, sums, by_row = _over_rows(plan, device, labels, rows, body, gradients)
    (total, d_shared), (evaluation, d_rows) = sums, by_row
    if wanted is None:
        return total, evaluation, None
    d_features, d_head = gradients
    # Between a scale and its gradient stand all classes, between the other numbers and theirs only
    # the true one, which all devices know.
    d_numbers, d_closed = only((wanted[1].numbers, wanted[1].closed), d_shared)
    softcap, numbers = psum((d_head.softcap, d_head.numbers), plan.axis)
    numbers = jax.tree.map(jnp.add, numbers, d_numbers)
    d_head = d_head._replace(softcap=softcap, numbers=numbers, closed=d_closed)
    return total, evaluation, (d_rows._replace(features=d_features), d_head)


class _Part(NamedTuple):
    """What a block of rows has beside what is in its `RowBlock`."""

    rows: Rows
    labels: Array
    start: Array
    new: Array  # False for rows that the block before had too


def _over_rows(plan, device, labels, rows, body, carry):
    """Run `carry, added, by_row = body(carry, RowBlock, _Part)` over all blocks of rows.

    Returns the carry, the sum of `added`, and `by_row` of all rows.
    """
    n, size = rows.features.shape[0], plan.tiles.rows
    by_example = rows._replace(features=None), labels.labels, device.features, device.listed

    def step(carry, start, size, _):
        start, new = overlapping(start, size, n)
        rows, labels, features, listed = slice_rows(by_example, start, size)
        block = RowBlock(plan, device._replace(features=features, listed=listed))
        carry, added, by_row = body(carry, block, _Part(rows, labels, start, new))
        return carry, (added, by_row)

    carry, (outputs,) = in_blocks(step, carry, -(-n // size) * size, size)
    added, by_row = outputs
    added = jax.tree.map(lambda x: jnp.sum(x, 0), added)
    return carry, added, jax.tree.map(lambda x: join_blocks(x, n), by_row)
