r"""Statistics of logits that are in memory, for cross-entropy with a distribution as the label.

With d_j = (z_j - max z) / T, and q the label, the loss measures q from the largest logit:

    -sum_j q_j log p_j = (sum_j q_j) softplus(others) + distance        distance = sum_j q_j (-d_j)

where `others` is of all classes but that one, the first if several are as large. Both terms are
positive, so nothing cancels. All sums are made in one go over blocks of rows (core/by_rows.py), and
the gradient is elementwise: with R the part of sum_j q_j that is not at the top,

    d others / dd_j = exp(d_j) / exp(others), at the top 0
    d distance / dd_j = -q_j, at the top R
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core.by_rows import by_rows
from jsoftmax.core.numerics import exp_nonpositive, log_or_neg_inf, multiply_no_nan
from jsoftmax.core.one_pass import largest
from jsoftmax.stats.centred import Rows
from jsoftmax.stats.labels import class_numbers


class Soft(NamedTuple):
    """Numbers per example `[...]`, those of the logits relative to the top and divided by T."""

    top: Array  # the largest logit itself, 0 if all are -inf; no gradient
    target: Array  # 0, with the gradient of the largest
    others: Array
    mean: Array | None  # None unless it is read
    distance: Array
    total: Array  # sum_j q_j


class _Parts(NamedTuple):
    """Numbers per example that the derivative needs."""

    index: Array  # of the class at the top
    runner_up: Array  # the largest logit of the others
    sum_exp: Array  # of the others, relative to the runner-up
    elsewhere: Array | None  # how much of q is not at the top; None for the value alone


@partial(jax.jit, static_argnames="with_mean")  # as `reduce_centred`
def reduce_soft(rows: Rows, *, with_mean: bool) -> Soft:
    """Reduce logits, with a distribution as labels, to the numbers that cross-entropy needs."""
    return _reduce(with_mean, rows)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _reduce(with_mean, rows):
    return _reduced(rows, with_mean, with_elsewhere=False)[0]


@_reduce.defjvp
def _reduce_jvp(with_mean, primals, tangents):
    (rows,), (d_rows,) = primals, tangents
    out, parts = _reduced(rows, with_mean, with_elsewhere=True)
    return out, _tangents(with_mean, rows, out.top, out.target, parts, d_rows)


def _reduced(rows, with_mean, with_elsewhere):
    def of_block(*rows):
        return _of_block(Rows(*rows), with_mean, with_elsewhere)

    return by_rows(of_block, of_block, *rows)


def _of_block(rows, with_mean, with_elsewhere):
    z = rows.masked()
    q = rows.labels.astype(z.dtype)
    top = largest(z)
    # As a minimum: XLA's argmax is slow on a CPU.
    classes = class_numbers(z)
    index = jnp.min(jnp.where(z == top[..., None], classes, z.shape[-1]), -1)
    at_top = classes == index[..., None]
    of_others = jnp.where(at_top, -jnp.inf, z)
    runner_up = largest(of_others)
    sum_exp = jnp.sum(exp_nonpositive(rows.relative(of_others, runner_up)), -1)
    others = log_or_neg_inf(sum_exp) + rows.relative(runner_up[..., None], top)[..., 0]
    # It is 0, but its derivative is that of the largest logit.
    target = rows.relative(jnp.take_along_axis(z, index[..., None], -1, mode="clip"), top)[..., 0]
    target = jnp.where(index < z.shape[-1], target, 0)
    d = rows.relative(z, top)
    distance = jnp.sum(multiply_no_nan(q, target[..., None] - d), -1)
    mean = rows.total(d) / rows.num_unmasked() if with_mean else None
    elsewhere = jnp.sum(jnp.where(at_top, 0, q), -1) if with_elsewhere else None
    found = Soft(top, target, others, mean, distance, jnp.sum(q, -1))
    return found, _Parts(index, runner_up, sum_exp, elsewhere)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=(0,))
def _tangents(with_mean, rows, top, target, parts, d_rows):
    z = rows.masked()
    d = rows.relative(z, top)
    dd = rows.relative_tangent(d, d_rows)
    q, dq = (x.astype(d.dtype) for x in (rows.labels, d_rows.labels))
    at_top, off = class_numbers(z) == parts.index[..., None], d == -jnp.inf
    p = exp_nonpositive(rows.relative(z, parts.runner_up))
    p /= jnp.where(parts.sum_exp == 0, 1, parts.sum_exp)[..., None]
    of_distance = jnp.where(at_top, parts.elsewhere[..., None], jnp.where(off, 0, -q))
    distance = jnp.where((q == 0) & off, 0, target[..., None] - d)  # as in multiply_no_nan
    return Soft(
        jnp.zeros_like(top),
        jnp.sum(jnp.where(at_top, dd, 0), -1),
        jnp.sum(jnp.where(at_top, 0, p) * dd, -1),
        rows.total(jnp.where(off, 0, dd)) / rows.num_unmasked() if with_mean else None,
        jnp.sum(of_distance * dd + dq * distance, -1),
        jnp.sum(dq, -1),
    )
