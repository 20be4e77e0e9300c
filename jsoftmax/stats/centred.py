r"""Statistics of logits that are in memory, for losses that no common shift of the logits changes.

    d_j = (z_j - max z) / T       e_j = exp(d_j + 8), 0 at the label

    others = log sum_j e_j - 8        mean = sum_j d_j / count        distance = sum_j q_j (-d_j)

Without the 8 the other classes underflow where the model is right by log-odds of 80 among a
thousand, and a loss could still tell. With it they do not among three million. A larger number
would cost digits, since d_j is rounded to those of the sum. Beyond log-odds of 87 what the losses
tell is below the smallest float32 anyway; `others` may be -inf.

A distribution q is measured from the class with the largest logit, -log p_j = -log p_top - d_j:
both terms are positive, so nothing cancels. If several attain it, each is that class in equal part.

What XLA makes of it decides the speed of the plain call on logits.
- The derivative is e_j times a number per example, the same expression as in the value. So there is
  one array of exponentials, which is summed where it stands and scaled in place to be the gradient.
- The label is masked by a product. XLA's CPU backend takes a fifth longer with a select.
- All other sums, and without derivatives this one too, go over blocks of rows (core/by_rows.py).
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.core.by_rows import by_rows
from jsoftmax.core.dtypes import to_compute_dtype
from jsoftmax.core.masking import mask_classes
from jsoftmax.core.numerics import (
    log_or_neg_inf,
    multiply_no_nan,
    neg_inf_to_zero,
)
from jsoftmax.stats.labels import at_label, is_label

_HEADROOM = 8.0


class Rows(NamedTuple):
    """Logits and what goes with them."""

    logits: Array  # [..., classes], any float
    labels: Array | None  # integers [...]; None: the class with the largest logit
    where: Array | None  # booleans in the shape of the logits; False masks a class
    temperature: Array | None  # [...]; None: 1


class Centred(NamedTuple):
    """Numbers per example `[...]`, those of the logits relative to the top and divided by T."""

    top: Array  # the largest logit itself, 0 if all are -inf; no gradient
    target: Array  # of the label, masked or not
    others: Array
    mean: Array | None  # None unless it is read


def reduce_centred(rows: Rows, *, with_mean: bool) -> Centred:
    """Reduce the logits to the numbers of which the losses are functions."""
    return _reduce(with_mean, rows)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _reduce(with_mean, rows):
    return _centred(
        rows,
        *by_rows(
            lambda *rows: _of_block(Rows(*rows), with_mean),
            lambda *rows: _at_once(Rows(*rows), with_mean)[:3],
            *rows,
        ),
    )


@_reduce.defjvp
def _reduce_jvp(with_mean, primals, tangents):
    # d target = dd_y, d others = sum_j e_j dd_j / sum_j e_j, d mean = sum_j dd_j / count
    (rows,), (d_rows,) = primals, tangents
    top, others, _, total = _at_once(rows, with_mean=False)
    out = _centred(rows, top, others, _mean_by_rows(rows, top) if with_mean else None)
    target, others, mean = _tangents(rows, top, d_rows.logits, d_rows.temperature)
    target = jnp.where(out.target == -jnp.inf, 0, target)
    others = others / jnp.where(total == 0, 1, total)
    return out, Centred(jnp.zeros_like(top), target, others, mean if with_mean else None)


def _centred(rows, top, others, mean):
    if rows.labels is None:
        target = jnp.zeros_like(top)
    else:
        target = at_label(rows.logits, rows.labels) - top
        target = target if rows.temperature is None else target / rows.temperature
    return Centred(top, target, others, mean)


def _masked(rows):
    return mask_classes(to_compute_dtype(rows.logits), rows.where)


def _top(z):
    return lax.stop_gradient(neg_inf_to_zero(jnp.max(z, -1)))


def _relative(z, top, temperature):
    d = z - top[..., None]
    return d if temperature is None else d / temperature[..., None]


def _at_once(rows, with_mean):
    """Return the top, others, the mean, and the sum of the scaled exponentials."""
    z = _masked(rows)
    top = _top(z)
    d = _relative(z, top, rows.temperature)
    total = jnp.sum(_exp(d, _off_label(d, rows.labels)), -1)
    # Scaled back before the logarithm, which keeps more digits; if that underflows, after it.
    tiny = total < 1e-30
    others = log_or_neg_inf(total * jnp.where(tiny, 1, math.exp(-_HEADROOM)).astype(z.dtype))
    others -= jnp.where(tiny, _HEADROOM, 0).astype(z.dtype)
    return top, others, _mean(d, rows.where) if with_mean else None, total


def _of_block(rows, with_mean):
    """Return the top, others and the mean, with -inf written to the label in the block.

    Relative to the largest of the others nothing underflows.
    """
    z = _masked(rows)
    share = None
    if rows.labels is None:
        top = _top(z)
        share = _off_label(_relative(z, top, None), None)
        z_others = jnp.where(share == 0, -jnp.inf, z)
        runner_up = _top(z_others)
    else:
        inside = (rows.labels >= 0) & (rows.labels < z.shape[-1])
        at = jnp.arange(len(rows.labels)), jnp.where(inside, rows.labels, z.shape[-1])
        z_others = z.at[at].set(-jnp.inf, mode="drop")
        runner_up = _top(z_others)
        z_label = lax.stop_gradient(z.at[at].get(mode="fill", fill_value=-jnp.inf))
        top = jnp.maximum(runner_up, z_label)
    e = jnp.exp(_relative(z_others, runner_up, rows.temperature))
    e = e if share is None else share * e
    others = log_or_neg_inf(e @ jnp.ones(e.shape[-1], e.dtype))
    others += _relative(runner_up[:, None], top, rows.temperature)[:, 0]
    return (
        top,
        others,
        _mean(_relative(z, top, rows.temperature), rows.where) if with_mean else None,
    )


# The exponentials are not kept from the value for the derivative, but computed again: the compiler
# finds the same expression, and shares it if both are in one program.
@partial(jax.checkpoint, prevent_cse=False)
def _tangents(rows, top, d_logits, d_temperature):
    z = _masked(rows)
    d = _relative(z, top, rows.temperature)
    dd = _relative_tangent(d, rows.temperature, d_logits, d_temperature)
    if rows.labels is None:
        target = jnp.sum((1 - _off_label(d, None)) * dd, -1)
    else:
        target = jnp.sum(jnp.where(is_label(d, rows.labels), dd, 0), -1)
    others = jnp.sum(_exp(d, _off_label(d, rows.labels)) * dd, -1)
    return target, others, _mean(jnp.where(d == -jnp.inf, 0, dd), rows.where)


def _relative_tangent(d, temperature, d_logits, d_temperature):
    """Return the tangent of `(z - top) / T` at a constant top."""
    dd = to_compute_dtype(d_logits)
    if temperature is None:
        return dd
    return (dd - neg_inf_to_zero(d) * d_temperature[..., None]) / temperature[..., None]


def _off_label(d, labels):
    """Return 0 at the label and 1 elsewhere; of n that are the top, at each 1 - 1/n."""
    if labels is None:
        at_top = _at_top(d)
        return 1 - at_top / jnp.maximum(jnp.sum(at_top, -1, keepdims=True), 1)
    if labels.dtype.itemsize < 4:
        labels = labels.astype(jnp.int32)
    classes = jnp.arange(d.shape[-1], dtype=labels.dtype)
    return jnp.minimum(jnp.abs(classes - labels[..., None]), 1).astype(d.dtype)


def _at_top(d):
    # A product and a minimum, as for a label.
    return 1 - jnp.minimum(-d * 2.0**100, 1)


@jax.custom_jvp
def _exp(d, off_label):
    # Above 0 is only what was rounded differently when the top was found, and must not overflow.
    return off_label * jnp.exp(jnp.minimum(d + _HEADROOM, _HEADROOM + 4))


@_exp.defjvp
def _exp_jvp(primals, tangents):
    e = _exp(*primals)  # masked, so that there is only one array of exponentials
    return e, e * tangents[0]


def _mean(d, where):
    if where is None:
        return jnp.sum(d, -1) / d.shape[-1]
    count = jnp.maximum(jnp.sum(where, -1), 1).astype(d.dtype)
    return jnp.sum(jnp.where(where, d, 0), -1) / count


def _mean_by_rows(rows, top):
    def mean(logits, top, where, temperature):
        z = _masked(Rows(logits, None, where, temperature))
        return _mean(_relative(z, top, temperature), where)

    return by_rows(mean, mean, rows.logits, top, rows.where, rows.temperature)


@jax.custom_jvp
def distance_from_top(rows: Rows, q: Array, top: Array) -> Array:
    """Return `sum_j q_j (-d_j)` for weights q `[..., classes]`."""

    def distance(logits, q, top, where, temperature):
        d = _relative(_masked(Rows(logits, None, where, temperature)), top, temperature)
        return jnp.sum(multiply_no_nan(q.astype(d.dtype), -d), -1)

    return by_rows(distance, distance, rows.logits, q, top, rows.where, rows.temperature)


@distance_from_top.defjvp
def _distance_from_top_jvp(primals, tangents):
    # With Q = sum_j q_j, of which the n classes at the top have P and the others R, the gradient is
    # -q_j, and Q/n - q_j at the top. Written as R/n + (P/n - q_j), in which the second term is 0
    # for one class at the top, it does not cancel.
    (rows, q, top), (d_rows, dq, _) = primals, tangents

    def sums(logits, q, top, where, temperature):
        at_top = _at_top(_relative(_masked(Rows(logits, None, where, temperature)), top, None))
        q = q.astype(at_top.dtype)
        return [jnp.sum(x, -1) for x in (at_top, at_top * q, (1 - at_top) * q)]

    n, of_top, of_rest = by_rows(sums, sums, rows.logits, q, top, rows.where, rows.temperature)
    n = jnp.maximum(n, 1)[..., None]
    at_each = of_rest[..., None] / n, of_top[..., None] / n
    tangent = _distance_tangent(rows, q, top, at_each, d_rows.logits, d_rows.temperature, dq)
    return distance_from_top(*primals), tangent


@partial(jax.checkpoint, prevent_cse=False)
def _distance_tangent(rows, q, top, at_each, d_logits, d_temperature, dq):
    d = _relative(_masked(rows), top, rows.temperature)
    dd = _relative_tangent(d, rows.temperature, d_logits, d_temperature)
    q, dq = q.astype(d.dtype), dq.astype(d.dtype)
    slope = jnp.where(d == 0, at_each[0] + (at_each[1] - q), jnp.where(d == -jnp.inf, 0, -q))
    distance = jnp.where((q == 0) & (d == -jnp.inf), 0, -d)  # as in multiply_no_nan
    return jnp.sum(slope * dd + dq * distance, -1)
