"""Validate the logits, labels, mask and weights of a metric."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.checks import check_logits
from jsoftmax.core.arguments import (
    as_given_like,
    as_logits,
    check_integers,
    check_shape,
    labels_and_ignored,
    normalize_axis,
)
from jsoftmax.core.dtypes import at_least_16_bits, to_compute_dtype
from jsoftmax.core.masking import mask_classes
from jsoftmax.core.numerics import unforeseen
from jsoftmax.stats.labels import check_labels


def metric_inputs(
    logits: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    sample_weight: ArrayLike | None,
    ignore_index: ArrayLike | None,
    *,
    only_ranked: bool = False,
) -> tuple[Array, Array, Array]:
    """Return masked logits, labels, and weights: NaN for an out-of-range label, 0 if ignored.

    Logits that are only ranked may also be probabilities.
    """
    logits = at_least_16_bits(as_logits(logits))
    labels, ignored = labels_and_ignored(labels, ignore_index)
    check_integers(labels)
    normalize_axis("logits", logits, -1)
    check_labels(logits, labels)
    if not only_ranked:
        check_logits(logits)
    logits = mask_classes(logits, where)
    weight = jnp.ones(labels.shape, to_compute_dtype(logits).dtype)
    if sample_weight is not None:
        weight = as_given_like("sample_weight", sample_weight, weight)
        check_shape("sample_weight", weight, labels.shape, "a weight for every example")
    if ignored is not None:
        weight = jnp.where(ignored, 0, weight)
    known = unforeseen(labels, logits[..., 0])
    valid = (known >= 0) & (known < logits.shape[-1])
    weight = jnp.where(valid | (weight == 0), weight, jnp.nan)
    return logits, labels, weight
