r"""Statistics of logits that are in memory, for cross-entropy with a distribution as the label.

With d_j = (z_j - max z) / T, and q the label, the loss measures q from the largest logit:

    -sum_j q_j log p_j = (sum_j q_j) softplus(others) + distance        distance = sum_j q_j (-d_j)

Both terms are positive, so nothing cancels. `others` is of all classes but the largest; if n attain
it, the n - 1 remaining ones are among the others, and the gradient of the largest is shared evenly.

All sums are made in one go over blocks of rows (core/by_rows.py), and the gradient is elementwise:
with P and R the parts of sum_j q_j that are at the top and elsewhere,

    d others / dd_j = exp(d_j - others), at the top (n - 1)/n exp(-others)
    d distance / dd_j = -q_j, at the top R/n + (P/n - q_j), of which the second term is 0 if n = 1
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core.by_rows import by_rows
from jsoftmax.core.numerics import log_or_neg_inf, multiply_no_nan, neg_inf_to_zero
from jsoftmax.stats.centred import Rows, largest


class Soft(NamedTuple):
    """Numbers per example `[...]`, those of the logits relative to the top and divided by T."""

    top: Array  # the largest logit itself, 0 if all are -inf; no gradient
    target: Array  # 0, with the gradient of the largest
    others: Array
    mean: Array | None  # None unless it is read
    distance: Array
    total: Array  # sum_j q_j


def reduce_soft(rows: Rows, *, with_mean: bool) -> Soft:
    """Reduce logits, with a distribution as labels, to the numbers that cross-entropy needs."""
    return _reduce(with_mean, rows)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _reduce(with_mean, rows):
    return _reduced(rows, with_mean, with_elsewhere=False)[0]


@_reduce.defjvp
def _reduce_jvp(with_mean, primals, tangents):
    (rows,), (d_rows,) = primals, tangents
    out, count, elsewhere = _reduced(rows, with_mean, with_elsewhere=True)
    return out, _tangents(with_mean, rows, out, count, elsewhere, d_rows)


def _reduced(rows, with_mean, with_elsewhere):
    def of_block(*rows):
        return _of_block(Rows(*rows), with_mean, with_elsewhere)

    return by_rows(of_block, of_block, *rows)


def _of_block(rows, with_mean, with_elsewhere):
    """Return the numbers, how many classes are at the top, and how much of q is elsewhere."""
    z = rows.masked()
    q = rows.labels.astype(z.dtype)
    top = largest(z)
    at_top = z == top[..., None]
    count = jnp.sum(at_top, -1).astype(z.dtype)
    of_others = jnp.where(at_top & (count == 1)[..., None], -jnp.inf, z)
    runner_up = largest(of_others)
    total = jnp.sum(jnp.exp(rows.relative(of_others, runner_up)), -1)
    others = log_or_neg_inf(total - (count > 1).astype(z.dtype))
    others += rows.relative(runner_up[..., None], top)[..., 0]
    elsewhere = jnp.sum(jnp.where(at_top, 0, q), -1) if with_elsewhere else None
    d = rows.relative(z, top)
    mean = rows.mean(d) if with_mean else None
    distance = jnp.sum(multiply_no_nan(q, -d), -1)
    found = Soft(top, jnp.zeros_like(top), others, mean, distance, jnp.sum(q, -1))
    return found, count, elsewhere


@partial(jax.checkpoint, prevent_cse=False, static_argnums=(0,))
def _tangents(with_mean, rows, out, count, elsewhere, d_rows):
    d = rows.relative(rows.masked(), out.top)
    dd = rows.relative_tangent(d, d_rows)
    q, dq = (x.astype(d.dtype) for x in (rows.labels, d_rows.labels))
    share = 1 / jnp.maximum(count, 1)
    at_each = (out.total - elsewhere) * share
    at_top, off, alone = d == 0, d == -jnp.inf, (count == 1)[..., None]
    p = jnp.exp(d - neg_inf_to_zero(out.others)[..., None])
    of_others = jnp.where(at_top, (1 - share)[..., None] * p, p)
    of_top = (elsewhere * share)[..., None] + jnp.where(alone, 0, at_each[..., None] - q)
    of_distance = jnp.where(at_top, of_top, jnp.where(off, 0, -q))
    distance = jnp.where((q == 0) & off, 0, -d)  # as in multiply_no_nan
    return Soft(
        jnp.zeros_like(out.top),
        share * jnp.sum(jnp.where(at_top, dd, 0), -1),
        jnp.sum(of_others * dd, -1),
        rows.mean(jnp.where(off, 0, dd)) if with_mean else None,
        jnp.sum(of_distance * dd + dq * distance, -1),
        jnp.sum(dq, -1),
    )
