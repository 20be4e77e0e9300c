"""Logits, labels and weights validated and brought to one layout.

The classes come last, and examples that are left out are neutralised.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.checks import check_values
from jsoftmax.core.arguments import (
    as_given_like,
    as_logits,
    check_shape,
    is_distribution,
    labels_and_ignored,
    normalize_axis,
)
from jsoftmax.core.collectives import gather_per_class
from jsoftmax.core.dtypes import at_least_16_bits, cast_like, to_compute_dtype
from jsoftmax.core.masking import as_rows, class_mask, mask_classes
from jsoftmax.core.numbers import at_least, by_example, is_static
from jsoftmax.core.numerics import neg_inf_to_zero, unforeseen
from jsoftmax.core.one_pass import first_of_largest
from jsoftmax.losses.reduction import Reduction, are_finite, example_weights, reduce_losses
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
    logits: Array  # the same, 0 where the example is left out
    labels: Array  # integers [...] or [..., K], or a distribution [..., classes]
    probs: Array | None  # those of SparseLabels
    where: Array | None  # [..., classes], with size 1 where all examples have the same mask
    left_out: Array | None  # booleans [...]: ignored, or of weight 0 with NaN or inf; None: none
    weights: Array | None  # [...], factors on the losses, 0 where ignored; None: 1

    def stats(
        self, fields: tuple[str, ...] = (), temperature: Array | None = None
    ) -> tuple[LogitStats, Array]:
        """Return the centred stats of the labels and their shift; 0 where the example is left out.

        The logits are not replaced before, which would be one more pass over them: they get no
        gradient, and what is reduced from them is replaced.
        """
        out = self.left_out
        if out is None:
            return centred_stats(self.logits, self.labels, self.where, fields, temperature)
        kept = self.logits
        if temperature is None:  # which would get a gradient
            kept = _without_gradient(self.given, out)
        found = centred_stats(kept, self.labels, self.where, fields, temperature)
        out = out if self.probs is None else out[..., None]
        return jax.tree.map(lambda x: jnp.where(out, 0, x), found)

    def reduced(self, losses: Array, reduction: Reduction, counts: Array | None = None) -> Array:
        """Return `reduce_losses` of one loss per example, in which what is left out counts 0."""
        weights = self.weights
        if self.left_out is not None:
            losses = jnp.where(self.left_out, 0, losses)
            weights = cast_like(~self.left_out, losses) if weights is None else weights
        return reduce_losses(losses, weights, reduction, counts)

    def whole(self) -> tuple[Array, Array]:
        """Return logits and labels as a distribution `[..., classes]`, in float32 or wider.

        For losses that compare whole distributions; those of one class never make one. Examples
        with an out-of-range label become NaN, and so their loss and gradient.
        """
        z = to_compute_dtype(self.logits)
        if is_distribution(self.labels):
            return z, cast_like(self.labels, z)
        classes = z.shape[-1]
        labels = unforeseen(self.labels, z[..., 0] if self.probs is None else z[..., :1])
        valid = (labels >= 0) & (labels < classes)
        if self.probs is None:
            q = cast_like(is_label(z, self.labels), z)
        else:
            kept = jnp.where(valid, self.labels, 0)
            none = jnp.zeros_like(as_rows(z))
            q = add_at_labels(none, as_rows(kept), as_rows(cast_like(self.probs, z)))
            q = q.reshape(z.shape)
            valid = jnp.all(valid, -1)
        bad = jnp.where(valid, 0.0, jnp.nan)[..., None]
        return z + bad, q + bad


@partial(jax.checkpoint, prevent_cse=False)  # or the mask would be kept, as large as the logits
def _without_gradient(logits, examples):
    """Return logits without a gradient where it says so of the example."""
    return jnp.where(examples[..., None], lax.stop_gradient(logits), logits)


def loss_inputs(
    logits: ArrayLike,
    labels: ArrayLike | SparseLabels,
    axis: int,
    where: ArrayLike | None,
    ignore_index: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    *,
    class_weight: ArrayLike | None = None,
    name: str = "labels",
) -> LossInputs:
    """Check the arguments, move the classes last, and make examples harmless that are left out.

    These get logits and label 0 before anything is computed from them, so that NaN or inf in them
    can not reach a gradient. `class_weight` is taken at labels that are integers.
    """
    logits = at_least_16_bits(as_logits(logits))
    axis = normalize_axis("logits", logits, axis)
    if where is not None:
        where = class_mask(where, logits.shape)
        where = jnp.moveaxis(
            where.reshape((1,) * (logits.ndim - where.ndim) + where.shape), axis, -1
        )
        where = jnp.broadcast_to(where, (*where.shape[:-1], logits.shape[axis]))
    probs, left_out, sparse = None, None, False
    examples = logits.shape[:axis] + logits.shape[axis + 1 :]
    if isinstance(labels, SparseLabels):
        sparse = True
        labels, probs = check_sparse_labels(labels, examples)
        if not labels.shape[-1]:  # no class at all, and so no loss
            labels, probs = jnp.zeros(examples, labels.dtype), None
            left_out = jnp.ones(examples, bool)
    else:
        labels, left_out = labels_and_ignored(labels, ignore_index, name)
    soft = is_distribution(labels)
    if soft and labels.ndim == logits.ndim:
        labels = jnp.moveaxis(labels, axis, -1)
    given = logits = jnp.moveaxis(logits, axis, -1)
    if probs is None:
        check_labels(logits, labels, name)
    wide = to_compute_dtype(logits)
    weights = given_weights = example_weights(sample_weight, examples, wide)
    if class_weight is not None:
        of_label = as_given_like("class_weight", class_weight, wide)
        check_shape("class_weight", of_label, logits.shape[-1:], "a weight for every class")
        of_label = gather_per_class(of_label, labels, None)
        weights = of_label if weights is None else weights * of_label
    if ignore_index is not None and (soft or sparse):
        raise ValueError(
            "`ignore_index`: expected integer labels with it, got a distribution. "
            "Leave examples out with `sample_weight`."
        )
    if left_out is not None:
        weights = weights if weights is None else jnp.where(left_out, 0, weights)
    if given_weights is not None:
        valid = _are_valid(labels, probs, logits.shape[-1])
        spoilt = (given_weights == 0) & ~(are_finite(mask_classes(wide, where)) & valid)
        left_out = spoilt if left_out is None else left_out | spoilt
    if left_out is not None:
        of_row = left_out[..., None]
        labels = jnp.where(left_out if labels.ndim == left_out.ndim else of_row, 0, labels)
        probs = probs if probs is None else jnp.where(of_row, 0, probs)
        logits = jnp.where(of_row, 0, logits)
        where = where if where is None else where | of_row
    check_values(logits, labels, logits.shape[-1], name)
    return LossInputs(given, logits, labels, probs, where, left_out, weights)


def _are_valid(labels, probs, classes):
    """Return of which examples the label is in range, and finite if it is a distribution."""
    if is_distribution(labels):
        return jnp.all(jnp.isfinite(labels), -1)
    valid = (labels >= 0) & (labels < classes)
    return valid if probs is None else jnp.all(valid & jnp.isfinite(probs), -1)


def per_example(name: str, value: Any, logits: Array, axis: int) -> Any:
    """Return a number that broadcasts against logits whose classes were moved last."""
    given = list(logits.shape)
    given.insert(axis % logits.ndim, given.pop())
    value = by_example(name, value, tuple(given), axis)
    return jnp.moveaxis(value, axis, -1) if jnp.ndim(value) else value


def per_stats(
    numbers: dict[str, Any], logits: Array, axis: int, field: Array
) -> dict[str, ArrayLike]:
    """Return numbers as a loss of stats takes them: one for all, or in the shape of a field.

    The fields are `[...]`; or, where every class or listed class in turn is the label, `[..., K]`.
    """

    def shaped(name, value):
        value = per_example(name, value, logits, axis)
        if not jnp.ndim(value):
            return value
        return jnp.broadcast_to(value if field.ndim == logits.ndim else value[..., 0], field.shape)

    return {name: shaped(name, value) for name, value in numbers.items()}


def temperature_by_example(value: Any, logits: Array, axis: int) -> Array | None:
    """Return the temperature in the shape of the examples, or None if it is statically 1."""
    if is_static(value, 1):
        return None
    temperature = at_least("temperature", value, 0, strict=True)
    temperature = per_example("temperature", temperature, logits, axis)
    temperature = cast_like(temperature, to_compute_dtype(logits))
    if temperature.ndim:
        temperature = temperature[..., 0]
    return jnp.broadcast_to(temperature, logits.shape[:-1])


def from_top(
    z: Array, where: Array | None, fields: tuple[str, ...]
) -> tuple[LogitStats, Array, Array]:
    """Return the stats and shift of the largest logit, and how far each logit is below it.

    A distribution is measured from there, -log p_j = -log p_top + (z_top - z_j): both terms are
    positive, so nothing cancels. The distance of the largest to itself is a constant 0, without
    gradients that would cancel only after rounding.
    """
    top = first_of_largest(z)
    stats, shift = centred_stats(z, top, where, fields)
    off = z == -jnp.inf  # which has no gradient
    below = jnp.where(
        off, jnp.inf, neg_inf_to_zero(stats.target + shift)[..., None] - jnp.where(off, 0, z)
    )
    return stats, shift, jnp.where(is_label(z, top), 0, below)
