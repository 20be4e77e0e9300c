"""Embeddings and their labels, for the metrics that compare them by their cosines."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.blockwise.machine import machine_for
from jsoftmax.core.arguments import (
    as_logits,
    check_integers,
    check_known,
    check_shape,
    labels_and_ignored,
)
from jsoftmax.core.collectives import NO_CLASS
from jsoftmax.core.dtypes import at_least_16_bits
from jsoftmax.core.norms import inverse_norm, of_unit_size


class Embeddings(NamedTuple):
    """Vectors, and what makes their products cosines."""

    x: Array  # [n, D], float32 unit vectors, or 16-bit ones with factors
    factors: Array | None
    labels: Array  # int32, NO_CLASS for those left out
    bad: Array  # booleans [n], True for what makes everything NaN


def checked_embeddings(
    name: str,
    features: ArrayLike,
    labels: ArrayLike,
    ignore_index: ArrayLike | None,
    labels_name: str = "labels",
) -> Embeddings:
    """Return embeddings `[n, D]` with labels `[n]`; without gradient."""
    x = lax.stop_gradient(at_least_16_bits(as_logits(features, name)))
    labels, ignored = labels_and_ignored(labels, ignore_index, labels_name)
    check_integers(labels, name=labels_name)
    check_known(name, x.shape[0], "Blocks are cut to that number.")
    check_shape(name, x, (len(x), *x.shape[-1:]), "embeddings by features")
    check_shape(labels_name, labels, x.shape[:1], "a label for every embedding")
    ignored = jnp.zeros(labels.shape, bool) if ignored is None else ignored
    fits = (labels >= -NO_CLASS) & (labels < NO_CLASS)
    bad = ~jnp.all(jnp.isfinite(x), -1) | ~fits
    x = jnp.where((bad | ignored)[:, None], 0, of_unit_size(x))
    factors = inverse_norm(x).astype(jnp.float32)
    machine = machine_for(x.dtype)
    if x.dtype.itemsize > 2 or not (machine.is_accelerator or machine.gain > 1):
        x, factors = x.astype(jnp.float32) * factors[:, None], None
    labels = jnp.where(fits & ~ignored, labels, NO_CLASS).astype(jnp.int32)
    return Embeddings(x, factors, labels, bad & ~ignored)


def by_label(given: Embeddings) -> Embeddings:
    """Return embeddings in the order of their labels."""
    order = jnp.argsort(given.labels)
    return jax.tree.map(lambda x: x[order], given)


def unit_vectors(given: Embeddings) -> Array:
    """Return float32 vectors of length 1, or 0."""
    x = given.x.astype(jnp.float32)
    return x if given.factors is None else x * given.factors[:, None]
