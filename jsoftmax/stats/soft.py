r"""Statistics of logits that are in memory, for cross-entropy with a distribution as the label.

With d_j = (z_j - max z) / T, and q the label, the loss measures q from the largest logit:

    -sum_j q_j log p_j = (sum_j q_j) softplus(others) + distance        distance = sum_j q_j (-d_j)

where `others` is of all classes but that one, the first if several are as large: what centred.py
makes of it as the label. Both terms are positive, so nothing cancels. The gradient is elementwise:
with R the part of sum_j q_j that is not at the top,

    d distance / dd_j = -q_j, at the top R
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.core.by_rows import by_rows
from jsoftmax.core.numerics import multiply_no_nan
from jsoftmax.core.one_pass import apart, first_of_largest, result
from jsoftmax.stats.centred import (
    Centred,
    Rows,
    is_empty,
    reduce_centred,
    reduced_with_total,
    sums_of_tangents,
    tangent_of,
)
from jsoftmax.stats.labels import class_numbers, is_label


class Soft(NamedTuple):
    """Numbers per example `[...]`."""

    centred: Centred  # of the largest logit as the label
    distance: Array
    total: Array  # sum_j q_j


@partial(jax.jit, static_argnames="with_mean")  # as `reduce_centred`
def reduce_soft(rows: Rows, *, with_mean: bool) -> Soft:
    """Reduce logits, with a distribution as labels, to the numbers that cross-entropy needs."""
    return _reduce(with_mean, rows, first_of_largest(rows.logits, rows.where))


# One rule for all that goes through the logits: two would be added in the logits' own 16 bits.
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _reduce(with_mean, rows, first):
    found = reduce_centred(rows._replace(labels=first), with_mean=with_mean)
    return _soft(rows, found)


def _soft(rows, found):
    found = found._replace(target=jnp.where(is_empty(rows, found.top), 0, found.target))
    (q,) = apart(rows.labels)
    total = jnp.sum(q.astype(found.top.dtype), -1)
    # The target is 0, but its derivative is that of the largest logit.
    return Soft(found, _distance(rows, found.top) + total * found.target, total)


def _distance(rows, top):
    """Return the sum of q times the distance to the top, where 0 times infinity is 0."""
    given = rows.logits, rows.labels, top, rows.where, rows.temperature
    if rows.where is not None:
        return by_rows(_exactly, _exactly, *given)
    return lax.platform_dependent(*given, cpu=_in_one_pass, default=_exactly)


def _in_one_pass(*given):
    """Return the same in one pass, or in two if that meets 0 times infinity."""
    found = by_rows(_as_written, _as_written, *given, one_pass=True)

    def in_two():
        return by_rows(_with_infinity, _with_infinity, *given, one_pass=True)

    return lax.cond(jnp.any(jnp.isnan(found)), in_two, lambda: found)


def _label_and_distance(logits, labels, top, where, temperature):
    rows = Rows(logits, labels, where, temperature)
    d = rows.relative(rows.masked(), top)
    return labels.astype(d.dtype), -d


def _exactly(*given):
    return jnp.sum(multiply_no_nan(*_label_and_distance(*given)), -1)


def _as_written(logits, labels, top, *more):
    q, distance = _label_and_distance(*apart(logits, labels, top), *more)
    return result(jnp.sum(q * distance, -1))


def _with_infinity(logits, labels, top, *more):
    top, logits, labels = apart(top, logits, labels)
    q, distance = _label_and_distance(logits, labels, top, *more)
    most = jnp.finfo(distance.dtype).max
    finite = result(jnp.sum(q * jnp.minimum(distance, most), -1))
    labels, top, logits = apart(labels, top, logits)
    q, distance = _label_and_distance(logits, labels, top, *more)
    # 3 for an infinite one, 0 for any other; not as a clamp, which would be written to memory.
    is_infinite = jnp.maximum(jnp.minimum(distance * (4 / most), 8) - 5, 0)
    return jnp.where(jnp.sum(q * is_infinite, -1) > 0, jnp.inf, finite)


@_reduce.defjvp
def _reduce_jvp(with_mean, primals, tangents):
    (rows, first), (d_rows, _) = primals, tangents
    found, total = reduced_with_total(rows._replace(labels=first), with_mean=with_mean)
    out = _soft(rows, found)
    sums, of_labels = _tangents(rows, out.centred.top, first, out.centred.target, d_rows)
    return out, Soft(tangent_of(out.centred, total, sums), *of_labels)


@partial(jax.checkpoint, prevent_cse=False)
def _tangents(rows, top, first, target, d_rows):
    d = rows.relative(rows.masked(), top)
    dd = rows.relative_tangent(d, d_rows)
    sums = sums_of_tangents(rows._replace(labels=first), top, d, dd)
    q, dq = (x.astype(d.dtype) for x in (rows.labels, d_rows.labels))
    off = d == -jnp.inf
    elsewhere = _elsewhere(rows.labels, first, d.dtype)[..., None]
    slope = jnp.where(off, 0, jnp.where(is_label(d, first), elsewhere, -q))
    far = jnp.finfo(d.dtype).max  # finite, so that it can be multiplied by a dq of 0
    distance = jnp.where(off, far, target[..., None] - d)
    # What is no part of the label costs nothing where it is infinitely far away.
    dq = jnp.where(off & (q == 0), 0, dq)
    return sums, (jnp.sum(slope * dd + dq * distance, -1), jnp.sum(dq, -1))


def _elsewhere(q, first, dtype):
    """Return how much of q is not at the top."""
    if q.shape[-1] > 1 << 24:  # beyond that a float32 is not exact
        return jnp.sum(jnp.where(is_label(q, first), 0, q.astype(dtype)), -1)
    q, first, classes = apart(q, first, class_numbers(q, dtype))
    # Not to 1: that is in another reduction, and as a constant would not be kept apart from it.
    others = jnp.minimum(4 * jnp.abs(classes - first.astype(dtype)[..., None]), 4)
    return result(jnp.sum(others * q.astype(dtype), -1)) / 4
