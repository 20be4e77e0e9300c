r"""Statistics of logits that are in memory, for losses that no common shift of the logits changes.

    d_j = z_j - max z       e_j = 2^58 exp(d_j), 0 at the label       others = log(2^-58 sum_j e_j)

Without the factor all exp(d_j) underflow where the model is right by log-odds of 87, of a thousand
classes by 80, and a loss could still tell. With it, they do beyond 127, where 1 - p is 0 in float32
anyway, and `others` is -inf; and the sum of any number of classes does not overflow.

What XLA makes of it decides the speed of the plain call on logits.
- The derivative is e_j times a number per example, the same expression as in the value. So there is
  one array of exponentials, which is summed where it stands and scaled in place to be the gradient.
- The label is masked by a product. XLA's CPU backend takes a fifth longer with a select.
- Without derivatives that backend would write the exponentials out, too. There a loop goes over
  blocks of rows that stay in the cache. Other backends sum without writing.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.core.dtypes import bits, from_bits, to_compute_dtype
from jsoftmax.core.masking import mask_classes
from jsoftmax.core.numerics import neg_inf_to_zero
from jsoftmax.stats.labels import at_label, is_label

_ROOT_SCALE = 2.0**29
_LARGE = 1 << 22  # fewer logits are not worth a loop
_BLOCK = 1 << 16  # logits in a block of rows
_FEWEST_ROWS = 8  # a product with fewer is slow


class Centred(NamedTuple):
    """Numbers per example, those of the logits relative to the top."""

    top: Array  # the largest logit, 0 if all are -inf; no gradient
    target: Array
    others: Array
    mean: Array | None  # None unless it is read


def reduce_centred(
    logits: Array, labels: Array, where: Array | None, *, with_mean: bool
) -> Centred:
    """Reduce logits `[..., classes]`, labels `[...]` and a mask in the shape of the logits.

    The target is that of a class that is not masked.
    """
    return _reduce(with_mean, logits, labels, where)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _reduce(with_mean, logits, labels, where):
    found = _over_classes
    if logits.size >= _LARGE and not _may_be_sharded():
        found = partial(lax.platform_dependent, cpu=_by_rows, default=_over_classes)
    top, total, mean = found(logits, labels, where)
    return _centred(logits, labels, top, total, mean if with_mean else None)


@_reduce.defjvp
def _reduce_jvp(with_mean, primals, tangents):
    # d target = dz_y, d others = sum_j e_j dz_j / sum_j e_j, d mean = sum_j dz_j / count
    top, total, mean = _over_classes(*primals)
    out = _centred(*primals[:2], top, total, mean if with_mean else None)
    target, others, mean = _tangents(*primals, top, tangents[0])
    others = others / jnp.where(total == 0, 1, total)
    target = jnp.where(out.target == -jnp.inf, 0, target)
    return out, Centred(jnp.zeros_like(top), target, others, mean if with_mean else None)


def _centred(logits, labels, top, total, mean):
    return Centred(top, at_label(logits, labels) - top, _log_of_scaled(total), mean)


def _log_of_scaled(total):
    # Scaled back before the logarithm, which has no digits to spare next to log(2^58) = 40.2; if
    # that underflows, after it.
    scale = _ROOT_SCALE**2
    tiny = total < 1 / _ROOT_SCALE
    log = jnp.log(jnp.where(tiny, 1, total) / scale)
    log_of_tiny = jnp.log(jnp.where(tiny & (total > 0), total, 1)) - math.log(scale)
    return jnp.where(tiny, jnp.where(total > 0, log_of_tiny, -jnp.inf), log)


def _over_classes(logits, labels, where):
    """Return the top, the sum of the exponentials, and the mean relative to the top."""
    z = mask_classes(to_compute_dtype(logits), where)
    top = lax.stop_gradient(neg_inf_to_zero(jnp.max(z, -1)))
    d = z - top[..., None]
    return top, jnp.sum(_scaled_exp(d, _off_label(d, labels)), -1), _mean(d, where)


# The exponentials are not kept from the value for the derivative, but computed again: the compiler
# finds the same expression, and shares it if both are in one program.
@partial(jax.checkpoint, prevent_cse=False)
def _tangents(logits, labels, where, top, dz):
    z, dz = mask_classes(to_compute_dtype(logits), where), to_compute_dtype(dz)
    target = jnp.sum(jnp.where(is_label(z, labels), dz, 0), -1)
    e = _scaled_exp(z - top[..., None], _off_label(z, labels))
    return target, jnp.sum(e * dz, -1), _mean(jnp.where(z == -jnp.inf, 0, dz), where)


def _off_label(z, labels):
    """Return 0 at the label and 1 elsewhere."""
    if labels.dtype.itemsize < 4:
        labels = labels.astype(jnp.int32)
    classes = jnp.arange(z.shape[-1], dtype=labels.dtype)
    return jnp.minimum(jnp.abs(classes - labels[..., None]), 1).astype(z.dtype)


@jax.custom_jvp
def _scaled_exp(d, off_label):
    """Return `2^58 exp(d)`, and 0 at the label.

    As a square, which does not underflow before it is scaled. (With exp(d + 40) the sum would round
    off two decimal digits.) Above 0 is only what was rounded differently when the top was found,
    and must not overflow.
    """
    root = _ROOT_SCALE * jnp.exp(0.5 * jnp.minimum(d, 4))
    return off_label * (root * root)


@_scaled_exp.defjvp
def _scaled_exp_jvp(primals, tangents):
    e = _scaled_exp(*primals)  # masked, so that there is only one array of exponentials
    return e, e * tangents[0]


def _mean(d, where):
    if where is None:
        return jnp.sum(d, -1) / d.shape[-1]
    count = jnp.maximum(jnp.sum(where, -1), 1).astype(d.dtype)
    return jnp.sum(jnp.where(where, d, 0), -1) / count


def _may_be_sharded():
    # A loop over blocks of rows that are spread over devices would gather them.
    return jax.device_count() > 1


def _by_rows(logits, labels, where):
    """Return what `_over_classes` does."""
    shape, classes = labels.shape, logits.shape[-1]
    z, y = bits(logits).reshape(-1, classes), labels.reshape(-1)
    kept = None if where is None else where.reshape(-1, classes)
    rows = len(y)
    size = min(rows, max(_FEWEST_ROWS, _BLOCK // classes))

    def block(start):
        z_block, y_block, kept_block = (
            None if x is None else lax.dynamic_slice_in_dim(x, start, size) for x in (z, y, kept)
        )
        z_block = to_compute_dtype(from_bits(z_block, logits.dtype))
        z_block = mask_classes(z_block, kept_block)
        top = neg_inf_to_zero(jnp.max(z_block, -1))
        inside = (y_block >= 0) & (y_block < classes)
        d = z_block - top[:, None]
        e = _scaled_exp(d, jnp.ones((), d.dtype))
        e = e.at[jnp.arange(size), jnp.where(inside, y_block, classes)].set(0, mode="drop")
        return top, e @ jnp.ones(classes, e.dtype), _mean(d, kept_block)

    # The last block overlaps with the one before.
    blocks = -(-rows // size)
    found = lax.map(block, jnp.minimum(size * jnp.arange(blocks), rows - size))
    new = rows - size * (blocks - 1)

    def join(x):
        return jnp.concatenate([x[:-1].reshape(-1), x[-1, size - new :]]).reshape(shape)

    return jax.tree.map(join, found)
