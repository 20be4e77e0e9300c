"""`LogitStats` of logits that are in memory: all classes in one block.

`logit_stats` gives what any loss may read. The losses on logits take `centred_stats`, which for a
label per example are those of centred.py. The others are the same statistics as by blocks, in one
reduction with a derivative rule of its own, so that the logits, which are there anyway, are the
only array of their size that the backward pass needs.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import zero_from_primal
from jax.typing import ArrayLike

from jsoftmax.checks import check_values
from jsoftmax.core.arguments import as_logits, integer_labels, normalize_axis
from jsoftmax.core.dtypes import at_least_16_bits, to_compute_dtype
from jsoftmax.core.masking import as_rows, centred, class_mask, mask_classes
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.core.numerics import multiply_no_nan, neg_inf_to_zero
from jsoftmax.core.one_pass import first_of_largest
from jsoftmax.stats.centred import Rows, is_empty, reduce_centred
from jsoftmax.stats.labels import at_label, at_labels, check_labels, is_any_label, is_label
from jsoftmax.stats.logit_stats import LogitStats
from jsoftmax.stats.others import is_class, others_of, sums_below, to_stats
from jsoftmax.stats.soft import reduce_soft
from jsoftmax.stats.statistics import OPTIONAL, names_of_sums


@on_any_mesh(without_classes("logits"))
def logit_stats(
    logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> LogitStats:
    r"""Reduce logits to the `LogitStats` of their true classes.

    $$(z, y) \mapsto \Bigl(z_y,\; \log\sum_{j \ne y} e^{z_j},\; \max_{j \ne y} z_j,\;
    \frac1C \sum_j z_j\Bigr)$$

    Args:
      logits: `[..., classes]`, any real dtype.
      labels: integers `[...]`. One outside [0, classes) makes `target` NaN, and so every loss and
        gradient of its example; it never names another class.
      where: booleans that broadcast against `logits`; False masks a class.

    Returns:
      `LogitStats` of arrays `[...]`.

    Source: the formulas of `LogitStats`.

    Example:
      >>> js.logit_stats(jnp.array([[2.0, 1.0, 0.0]]), jnp.array([0])).others
      Array([1.3133], dtype=float32)
    """
    logits = at_least_16_bits(as_logits(logits))
    labels = integer_labels(labels)
    normalize_axis("logits", logits, -1)
    check_labels(logits, labels)
    check_values(logits, labels, logits.shape[-1])
    if where is not None:
        where = jnp.broadcast_to(class_mask(where, logits.shape), logits.shape)
    fields = tuple(name for name in OPTIONAL if name != "mean")
    stats, _ = _stats(logits, labels, where, fields, to_top=False)
    # Not from the sum relative to the largest logit: that is for losses, which subtract it again.
    z = to_compute_dtype(logits)
    z = jnp.where(z == -jnp.inf, -jnp.inf, z)  # no gradient to a logit of -inf
    kept = jnp.ones_like(z) if where is None else where.astype(z.dtype)
    total = jnp.sum(multiply_no_nan(kept, z), -1)
    return stats._replace(mean=total / jnp.maximum(jnp.sum(kept, -1), 1))


def centred_stats(
    logits: Array,
    labels: Array,
    where: Array | None,
    fields: tuple[str, ...] = (),
    temperature: Array | None = None,
) -> tuple[LogitStats, Array]:
    """Return the stats of `logits / temperature - shift`, and the shift.

    The shift has no gradient to the logits. With logits around 1e6 a float32 `others` has only 0.06
    of resolution left. Most losses do not depend on the shift, so they use this form. Of the
    optional fields those are computed that a loss reads; another is None.

    Args:
      logits: `[..., classes]`.
      labels: integers `[...]`, or lists `[..., K]`, of which each class in its turn is the true
        one.
      where: booleans of the logits' rank that broadcast against them, or None.
      fields: names of the optional fields that are read.
      temperature: `[...]`, or None.
    """
    if labels.ndim == logits.ndim:
        offset = jnp.zeros((), to_compute_dtype(logits).dtype)
        if temperature is not None:
            logits, top = centred(logits, -1, where, temperature[..., None])
            offset = neg_inf_to_zero(top) / temperature[..., None]
        stats, shift = _stats(logits, labels, where, fields, to_top=True)
        return stats, shift + offset
    rows = Rows(logits, labels, where, temperature)
    found = reduce_centred(rows, with_mean="mean" in fields)
    target = jnp.where(_unmasked_label(logits, labels, where), found.target, -jnp.inf)
    return _stats_and_shift(rows, found._replace(target=target))


def soft_stats(rows: Rows, fields: tuple[str, ...] = ()) -> tuple[LogitStats, Array, Array, Array]:
    """Return centred stats of the largest logit, their shift, the sum of q, and its distance.

    q is the labels of the rows. With these, `sum_j q_j (-log p_j)` is
    `(sum_j q_j) (-log p_largest) + distance`.
    """
    found = reduce_soft(rows, with_mean="mean" in fields)
    return (*_stats_and_shift(rows, found.centred), found.total, found.distance)


def _stats_and_shift(rows, found):
    shift = jnp.where(is_empty(rows, found.top), 0, found.top)
    shift = shift if rows.temperature is None else shift / rows.temperature
    no_runner_up: Any = None
    return LogitStats(found.target, found.others, no_runner_up, found.mean), shift


def class_stats(logits: Array, where: Array | None) -> LogitStats:
    """Return the centred stats of every class as if it were the label: fields `[..., classes]`.

    Target and others only. For the largest logit they come from `centred_stats`. Any other class
    has p <= 1/2, so that its `others` is `logsumexp + log1p(-p)` without loss.
    """
    z = mask_classes(to_compute_dtype(logits), where)
    first = first_of_largest(z)
    stats, shift = centred_stats(z, first, where)
    top = jax.tree.map(lambda field: field[..., None], stats)
    d = jnp.where(z == -jnp.inf, -jnp.inf, z - shift[..., None])
    total = top.logsumexp
    p = jnp.where(is_label(z, first), 0, jnp.exp(d - neg_inf_to_zero(total)))
    others = jnp.where(is_label(z, first), top.others, total + jnp.log1p(-p))
    return top._replace(target=d, others=others, score=d)


def _stats(logits, labels, where, fields, *, to_top):
    """Return the stats in the shape of the labels, and their shift."""
    shape, classes = labels.shape, logits.shape[-1]
    if labels.ndim == logits.ndim:  # lists are gathered and scattered as [N, K]
        labels, logits = as_rows(labels), as_rows(logits)
        if where is not None:
            where = as_rows(jnp.broadcast_to(where, (*shape[:-1], classes)))
    target, runner_up, others = _reduce(fields, logits, labels, where)
    unmasked = _unmasked_label(logits, labels, where)
    made = to_stats(target, labels, unmasked, runner_up, others, fields, centred=to_top)
    return jax.tree.map(lambda x: x.reshape(shape), made)


def _unmasked_label(logits, labels, where):
    """Return in the shape of the labels whether `where` keeps them; one out of range counts."""
    if where is None:
        return jnp.ones(labels.shape, bool)
    classes = logits.shape[-1]
    if where.size == classes:  # the same for all examples
        kept = where.reshape(-1).at[labels].get(mode="clip")
    else:
        index = labels if labels.ndim == logits.ndim else labels[..., None]
        where = jnp.broadcast_to(where, logits.shape)
        kept = jnp.take_along_axis(where, jnp.clip(index, 0, classes - 1), -1)
        kept = kept.reshape(labels.shape)
    return kept | (labels < 0) | (labels >= classes)  # its target stays NaN


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _reduce(fields, logits, labels, where):
    """Return the logits of the labels, the runner-up, and the statistics of the others."""
    others = others_of(*_others(logits, labels, where), fields)
    runner_up = others.top if others.runner_up is None else others.runner_up
    return at_labels(logits, labels), runner_up, others


@_reduce.defjvp
def _reduce_jvp(fields, primals, tangents):
    out = of_labels, _, others = _reduce(fields, *primals)
    target, runner_up, sums = _reduce_tangent(fields, *primals, others, tangents[0])
    target = jnp.where(of_labels == -jnp.inf, 0, target)  # a label at -inf has no gradient
    constant = jax.tree.map(zero_from_primal, others)
    return out, (target, runner_up, constant._replace(sums=sums))


@partial(jax.checkpoint, static_argnums=(0,))
def _reduce_tangent(fields, logits, labels, where, others, d_logits):
    """Return the tangents of the sums relative to their top, which is a constant."""

    def reduce(logits):
        z, unmasked, classes = _others(logits, labels, where)
        runner_up, first = jnp.zeros_like(others.top), None
        if others.top_class is not None:
            runner_up = at_label(z, others.top_class)
            first = is_class(classes, others.top_class)
        sums = sums_below(others.top, z, unmasked, names_of_sums(fields), first=first)
        return at_labels(logits, labels), runner_up, sums

    return jax.jvp(reduce, (logits,), (d_logits,))[1]


def _others(logits, labels, where):
    """Return the logits in the dtype of their computation, -inf at labels and masked classes."""
    classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)
    lists = labels.ndim == logits.ndim
    unmasked = ~(is_any_label(classes, labels) if lists else is_label(logits, labels))
    if where is not None:
        unmasked &= where
    return jnp.where(unmasked, to_compute_dtype(logits), -jnp.inf), unmasked, classes
