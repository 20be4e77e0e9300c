r"""Statistics of logits that are in memory, for losses that no common shift of the logits changes.

    d_j = (z_j - max z) / T       e_j = 2^12 exp(d_j), 0 at the label

    others = log(2^-12 sum_j e_j)        mean = sum_j d_j / count

Without the factor the other classes underflow where the model is right by log-odds of 80 among a
thousand, and a loss could still tell. With it they do not among three million. Most of it goes into
the exponent, as 8: d_j + 8 has as many digits as d_j, and a larger number would cost some. That e_j
is a power of two where d_j is 0 keeps sums of equal logits exact. Beyond log-odds of 87 what the
losses tell is below the smallest float32 anyway; `others` may be -inf.

What XLA makes of it decides the speed of the plain call on logits.
- The derivative is e_j times a number per example, the same expression as in the value. So there is
  one array of exponentials, which is summed where it stands and scaled in place to be the gradient.
- The label is masked by arithmetic on floats (core/one_pass.py).
- Without derivatives the sums over very many classes go over blocks of rows (core/by_rows.py).
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
from jsoftmax.core.numerics import log_or_neg_inf, neg_inf_to_zero
from jsoftmax.core.one_pass import apart, largest, result
from jsoftmax.stats.labels import at_label, class_numbers, is_label

_SCALE = 2.0**12
_HEADROOM = 8.0  # its part in the exponent
_FACTOR = _SCALE * math.exp(-_HEADROOM)  # the rest
_FAR = 1e4  # the exponential of minus that is 0, in float64 too


class Rows(NamedTuple):
    """Logits and what goes with them."""

    logits: Array  # [..., classes], any float
    labels: Array  # integers [...]; or a distribution [..., classes], see soft.py
    where: Array | None  # booleans [..., classes] or [classes]; False masks a class
    temperature: Array | None  # [...]; None: 1

    def masked(self) -> Array:
        """Return the logits in the dtype of their computation, -inf where they are masked."""
        return mask_classes(to_compute_dtype(self.logits), self.where)

    def relative(self, z: Array, top: Array) -> Array:
        """Return `(z - top) / T`."""
        d = z - top[..., None]
        if self.temperature is None:
            return d
        on = d != -jnp.inf  # the derivative of -inf / T is NaN
        return jnp.where(on, jnp.where(on, d, 0) / self.temperature[..., None], -jnp.inf)

    def exponent(self, z: Array, top: Array) -> Array:
        """Return the same where its exponential is above 0, and a finite number elsewhere.

        If T is 1, -inf stays. A maximum is no obstacle to one pass, as a select is.
        """
        d = z - top[..., None]
        if self.temperature is None:
            return d
        t = self.temperature[..., None]
        return jnp.maximum(d, lax.stop_gradient(-_FAR * t)) / t

    def relative_tangent(self, d: Array, tangents: "Rows") -> Array:
        """Return the tangent of `d = (z - top) / T` at a constant top."""
        dd = to_compute_dtype(tangents.logits)
        if self.temperature is None or tangents.temperature is None:
            return dd
        dd -= neg_inf_to_zero(d) * tangents.temperature[..., None]
        return dd / self.temperature[..., None]

    def total(self, d: Array) -> Array:
        """Return the sum of numbers `[..., classes]` over the unmasked classes."""
        return jnp.sum(d if self.where is None else jnp.where(self.where, d, 0), -1)

    def num_unmasked(self) -> Array:
        """Return the number of unmasked classes, at least 1, that broadcasts against `[...]`."""
        where = jnp.ones(self.logits.shape[-1:], bool) if self.where is None else self.where
        count = jnp.maximum(jnp.sum(where, -1), 1)
        return count.astype(to_compute_dtype(self.logits).dtype)


class Centred(NamedTuple):
    """Numbers per example `[...]`, those of the logits relative to the top and divided by T."""

    top: Array  # the largest logit itself, as `largest` gives it; no gradient
    target: Array  # of the label, masked or not
    others: Array
    mean: Array | None  # None unless it is read


@partial(jax.jit, static_argnames="with_mean")  # or a loop outside of jit would compile each time
def reduce_centred(rows: Rows, *, with_mean: bool) -> Centred:
    """Reduce the logits to the numbers of which the losses are functions."""
    return _reduce(with_mean, rows)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _reduce(with_mean, rows):
    top, others = by_rows(
        lambda *rows: _of_block(Rows(*rows)),
        lambda *rows: _at_once(Rows(*rows), _exp_by_floats)[:2],
        *rows,
        one_pass=rows.where is None,
    )
    return Centred(top, _target(rows, top), others, _mean(rows, top) if with_mean else None)


@_reduce.defjvp
def _reduce_jvp(with_mean, primals, tangents):
    (rows,), (d_rows,) = primals, tangents
    out, total = reduced_with_total(rows, with_mean=with_mean)
    return out, tangent_of(out, total, _tangents(rows, out.top, d_rows))


def reduced_with_total(rows: Rows, *, with_mean: bool) -> tuple[Centred, Array]:
    """Return the same numbers as `reduce_centred`, and the sum of e, as the derivative has it."""
    top, others, total = _at_once(rows, _exp_off_label)
    mean = _mean(rows, top) if with_mean else None
    return Centred(top, _target(rows, top), others, mean), total


def tangent_of(out: Centred, total: Array, sums: tuple[Array, Array, Array]) -> Centred:
    """Return the tangents of the numbers from the `sums_of_tangents`."""
    # d target = dd_y, d others = sum_j e_j dd_j / sum_j e_j, d mean = sum_j dd_j / count
    target, others, mean = sums
    target = jnp.where(out.target == -jnp.inf, 0, target)
    others = others / jnp.where(total == 0, 1, total)
    return Centred(jnp.zeros_like(out.top), target, others, None if out.mean is None else mean)


def _target(rows, top):
    # Another order than in `_mean`: the same barrier twice would be one.
    top, logits = apart(top, rows.logits)
    return rows.relative(at_label(logits, rows.labels)[..., None], top)[..., 0]


def _at_once(rows, exp):
    """Return the top, others, and the sum of the exponentials."""
    z = rows.masked()
    top = _top(rows)
    total = jnp.sum(exp(rows.exponent(z, top), rows.labels), -1)
    return top, _log_of_scaled(total), total


def _top(rows):
    """Return the largest logit, if none is masked in the logits' own dtype.

    There it is the same, and XLA's CPU backend does not have to convert 16 bits for it, which it
    does slowly in rows of more than 32,768.
    """
    own = rows._replace(logits=apart(rows.logits)[0])
    top = largest(own.logits if rows.where is None else own.masked())
    return to_compute_dtype(top)


def is_empty(rows: Rows, top: Array) -> Array:
    """Say of each row whether all its logits are -inf, by the top that `largest` gives it."""
    dtype = rows.logits.dtype if rows.where is None else top.dtype
    return top == jnp.finfo(dtype).min.astype(top.dtype)


def _log_of_scaled(total: Array) -> Array:
    """Return the logarithm of a sum of scaled exponentials, without the scale."""
    # Scaled back before the logarithm, which keeps more digits; if that underflows, after it.
    tiny = total < 1e-34
    log = log_or_neg_inf(total * jnp.where(tiny, 1, 1 / _SCALE).astype(total.dtype))
    return log - jnp.where(tiny, math.log(_SCALE), 0).astype(total.dtype)


def _of_block(rows):
    """Return the top and others, with -inf written to the label in the block.

    Relative to the largest of the others nothing underflows.
    """
    z = rows.masked()
    inside = (rows.labels >= 0) & (rows.labels < z.shape[-1])
    at = jnp.arange(len(rows.labels)), jnp.where(inside, rows.labels, z.shape[-1])
    of_others = z.at[at].set(-jnp.inf, mode="drop")
    runner_up = largest(of_others)
    of_label = lax.stop_gradient(z.at[at].get(mode="fill", fill_value=-jnp.inf))
    top = jnp.maximum(runner_up, of_label)
    e = jnp.exp(rows.exponent(of_others, runner_up))
    others = log_or_neg_inf(e @ jnp.ones(e.shape[-1], e.dtype))
    return top, others + rows.relative(runner_up[:, None], top)[:, 0]


def _mean(rows: Rows, top: Array) -> Array:
    """Return the mean of `(z - top) / T` over the unmasked classes."""

    def mean(logits, top, where, temperature):
        logits, top = apart(logits, top)
        rows = Rows(logits, top, where, temperature)
        return result(rows.total(rows.relative(rows.masked(), top))) / rows.num_unmasked()

    given = rows.logits, top, rows.where, rows.temperature
    return by_rows(mean, mean, *given, one_pass=rows.where is None)


# The exponentials are not kept from the value for the derivative, but computed again: the compiler
# finds the same expression, and shares it if both are in one program.
@partial(jax.checkpoint, prevent_cse=False)
def _tangents(rows, top, d_rows):
    d = rows.relative(rows.masked(), top)
    return sums_of_tangents(rows, top, d, rows.relative_tangent(d, d_rows))


def sums_of_tangents(rows: Rows, top: Array, d: Array, dd: Array) -> tuple[Array, Array, Array]:
    """Return what of the tangents of `d = (z - top) / T` the numbers have."""
    target = jnp.sum(jnp.where(is_label(d, rows.labels), dd, 0), -1)
    e = _exp_off_label(rows.exponent(rows.masked(), top), rows.labels)
    others = jnp.sum(e * dd, -1)
    return target, others, rows.total(jnp.where(d == -jnp.inf, 0, dd)) / rows.num_unmasked()


def _exp_by_floats(d, labels):
    """Return e without integers (core/one_pass.py); slower where the result is written.

    One minimum takes it to 0 at the label and bounds it elsewhere, by 2^18 and more.
    """
    if d.shape[-1] > 1 << 24:  # beyond that a float32 is not exact
        return _exp_off_label(d, labels)
    classes, label = class_numbers(d, d.dtype), labels.astype(d.dtype)[..., None]
    distance = jnp.abs(2.0**18 * classes - 2.0**18 * label)
    return jnp.minimum(_FACTOR * jnp.exp(d + _HEADROOM), distance)


def _exp_off_label(d, labels):
    """Return e: 0 at the label."""
    if labels.dtype.itemsize < 4:
        labels = labels.astype(jnp.int32)
    distance = jnp.abs(class_numbers(d, labels.dtype) - labels[..., None])
    return _exp(d, jnp.minimum(distance, 1).astype(d.dtype) * _FACTOR)


@jax.custom_jvp
def _exp(d: Array, factor: Array) -> Array:
    """Return `exp(d)` times the headroom and the factor, which is constant: `_FACTOR` or 0."""
    # Above 0 is only what was rounded differently when the top was found, and must not overflow.
    return factor * jnp.exp(jnp.minimum(d + _HEADROOM, _HEADROOM + 4))


@_exp.defjvp
def _exp_jvp(primals, tangents):
    e = _exp(*primals)  # masked, so that there is only one array of exponentials
    return e, e * tangents[0]
