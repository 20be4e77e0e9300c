"""Logits and labels validated and brought to one layout.

The classes come last, and ignored examples are neutralised.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.checks import check_values
from jsoftmax.core.arguments import (
    as_labels,
    as_logits,
    check_at_least,
    check_broadcasts,
    is_distribution,
    is_static,
    normalize_axis,
)
from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.masking import class_mask
from jsoftmax.core.numerics import neg_inf_to_zero
from jsoftmax.stats.dense import centred_stats
from jsoftmax.stats.labels import (
    SparseLabels,
    add_at_labels,
    check_labels,
    check_sparse_labels,
    is_label,
)
from jsoftmax.stats.logit_stats import LogitStats


class LossInputs(NamedTuple):
    """Arguments of a loss on logits, checked, with the classes as the last axis."""

    given: Array  # the logits [..., classes]
    logits: Array  # the same, 0 where the example is ignored
    labels: Array  # integers [...] or [..., K], or a distribution [..., classes]
    probs: Array | None  # those of SparseLabels
    where: Array | None  # [..., classes], with size 1 where all examples have the same mask
    ignored: Array | None  # booleans [...]; None without `ignore_index`

    def stats(
        self, fields: tuple[str, ...] = (), temperature: Array | None = None
    ) -> tuple[LogitStats, Array]:
        """Return the centred stats of the labels and their shift; 0 where the example is ignored.

        The ignored logits are not replaced before, which would be one more pass over them: they
        get no gradient, and what is reduced from them is replaced.
        """
        ignored = self.ignored
        if ignored is None:
            return centred_stats(self.logits, self.labels, self.where, fields, temperature)
        kept = self.logits
        if temperature is None:  # which would get a gradient
            kept = jnp.where(ignored[..., None], lax.stop_gradient(self.given), self.given)
        found = centred_stats(kept, self.labels, self.where, fields, temperature)
        return jax.tree.map(lambda x: jnp.where(ignored, 0, x), found)

    def without_ignored(self, losses: Array) -> Array:
        """Return losses `[...]`, 0 where the example is ignored."""
        return losses if self.ignored is None else jnp.where(self.ignored, 0, losses)

    def whole(self) -> tuple[Array, Array]:
        """Return logits and labels as a distribution `[..., classes]`, in float32 or wider.

        For losses that compare whole distributions; those of one class never make one. Examples
        with an out-of-range label become NaN, and so their loss and gradient.
        """
        z = to_compute_dtype(self.logits)
        if is_distribution(self.labels):
            return z, cast_like(self.labels, z)
        classes = z.shape[-1]
        valid = (self.labels >= 0) & (self.labels < classes)
        if self.probs is None:
            q = cast_like(is_label(z, self.labels), z)
        else:
            kept = jnp.where(valid, self.labels, 0)
            lists = [x.reshape(-1, x.shape[-1]) for x in (kept, cast_like(self.probs, z))]
            none = jnp.zeros((lists[0].shape[0], classes), z.dtype)
            q = add_at_labels(none, *lists).reshape(z.shape)
            valid = jnp.all(valid, -1)
        bad = jnp.where(valid, 0, cast_like(jnp.nan, z))[..., None]
        return z + bad, q + bad


def loss_inputs(
    logits: ArrayLike,
    labels: ArrayLike | SparseLabels,
    axis: int,
    where: ArrayLike | None,
    ignore_index: ArrayLike | None,
    name: str = "labels",
) -> LossInputs:
    """Check the arguments, move the classes last, and make ignored examples harmless.

    An ignored example gets logits and label 0 before anything is computed from it, so that NaN or
    inf in it can not reach a gradient.
    """
    logits = as_logits(logits)
    axis = normalize_axis("logits", logits, axis)
    if where is not None:
        where = class_mask(where, logits.shape)
        where = jnp.moveaxis(
            where.reshape((1,) * (logits.ndim - where.ndim) + where.shape), axis, -1
        )
        where = jnp.broadcast_to(where, (*where.shape[:-1], logits.shape[axis]))
    probs, ignored = None, None
    examples = logits.shape[:axis] + logits.shape[axis + 1 :]
    if isinstance(labels, SparseLabels):
        labels, probs = check_sparse_labels(labels, examples)
    else:
        labels = as_labels(labels)
    soft = is_distribution(labels)
    if soft and labels.ndim == logits.ndim:
        labels = jnp.moveaxis(labels, axis, -1)
    given = logits = jnp.moveaxis(logits, axis, -1)
    if probs is None:
        check_labels(logits, labels, name)
    if ignore_index is not None:
        if soft or probs is not None:
            raise ValueError(
                "`ignore_index`: expected integer labels with it, got a distribution. "
                "Leave examples out with the sample_weight of weighted_mean."
            )
        ignored = labels == ignore_index
        labels = jnp.where(ignored, 0, labels)
        logits = jnp.where(ignored[..., None], 0, logits)
        where = where if where is None else where | ignored[..., None]
    check_values(logits, labels, logits.shape[-1])
    return LossInputs(given, logits, labels, probs, where, ignored)


def per_example(name: str, value: ArrayLike, logits: Array, axis: int) -> ArrayLike:
    """Return a hyper-parameter that broadcasts against logits whose classes are last."""
    if jnp.ndim(value) == 0:
        return value
    shape = list(jnp.moveaxis(logits, -1, axis).shape)
    shape[axis] = 1
    value = jnp.asarray(value)
    check_broadcasts(name, value, tuple(shape), "one for every example")
    return jnp.moveaxis(jnp.broadcast_to(value, shape), axis, -1)


def temperature_by_example(value: ArrayLike, logits: Array, axis: int) -> Array | None:
    """Return the temperature in the shape of the examples, or None if it is statically 1."""
    if is_static(value, 1):
        return None
    check_at_least("temperature", value, 0, strict=True)
    temperature = to_compute_dtype(per_example("temperature", value, logits, axis))
    if temperature.ndim:
        temperature = temperature[..., 0]
    temperature = cast_like(temperature, to_compute_dtype(logits))
    return jnp.broadcast_to(temperature, logits.shape[:-1])


def from_top(
    z: Array, where: Array | None, fields: tuple[str, ...]
) -> tuple[LogitStats, Array, Array]:
    """Return the stats and shift of the largest logit, and how far each logit is below it.

    A distribution is measured from there, -log p_j = -log p_top + (z_top - z_j): both terms are
    positive, so nothing cancels. The distance of the largest to itself is a constant 0, without
    gradients that would cancel only after rounding.
    """
    top = jnp.argmax(z, -1)
    stats, shift = centred_stats(z, top, where, fields)
    off = z == -jnp.inf  # which has no gradient
    below = jnp.where(
        off, jnp.inf, neg_inf_to_zero(stats.target + shift)[..., None] - jnp.where(off, 0, z)
    )
    return stats, shift, jnp.where(is_label(z, top), 0, below)
