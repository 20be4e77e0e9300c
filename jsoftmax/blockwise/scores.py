r"""The steps from features and class vectors to logits, each written once.

    a = x wᵀ                          matmul, the matrix product
    c = a / |x| / |w|                 cosines: a margin divides by the norms that it says it does
    max over a class's centers        nearest: where a class has several vectors
    f = of_others(c)                  the margin changes the other classes, if it does
    f = with_margin(c_y)              and the true class
    z = cap(s f + b) / T              logits_of: scale, bias, softcap and temperature come last

`linear_logits` takes these steps for all classes at once, the passes over blocks for one block of
classes after another.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import with_rank_of
from jsoftmax.core.collectives import (
    MeshAxes,
    gather_per_class,
    num_global,
    pmean,
    psum,
    to_local_labels,
)
from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.norms import cosine, inverse_norm, norm, of_unit_size
from jsoftmax.margins.form import (
    Margin,
    call,
    centers_of,
    changes_others,
    normalizes_features,
    normalizes_weight,
    similarity,
)


def sound_vectors(weight: Array, sound: Array | None) -> Array:
    """Return class vectors with 0 in place of those that may hold NaN, which are masked.

    Their gradient is 0, but 0 times NaN would reach that of the features.
    """
    return weight if sound is None else jnp.where(rows_of(sound, weight), weight, 0)


def rows_of(per_class: Array, weight: Array) -> Array:
    """Return numbers per class so that they broadcast against class vectors."""
    return per_class.reshape(-1, *[1] * (weight.ndim - 1))


def fold(per_vector: Array, margin: Margin | None) -> Array:
    """Return what is per class vector, `[c, centers, ...]`, as `[centers c, ...]`.

    So the products of a center are beside each other for all classes, and the largest over the
    centers is one of whole arrays.
    """
    if centers_of(margin) is None:
        return per_vector
    classes, centers, *more = per_vector.shape
    return jnp.swapaxes(per_vector, 0, 1).reshape(centers * classes, *more)


def unfold(per_vector: Array, margin: Margin | None) -> Array:
    """Undo `fold`."""
    if (centers := centers_of(margin)) is None:
        return per_vector
    vectors, *more = per_vector.shape
    return jnp.swapaxes(per_vector.reshape(centers, vectors // centers, *more), 0, 1)


def nearest(c: Array, margin: Margin | None) -> Array:
    """Return for cosines `[..., centers c]` those of the nearest center of each class."""
    if (centers := centers_of(margin)) is None:
        return c
    return jnp.max(c.reshape(*c.shape[:-1], centers, c.shape[-1] // centers), -2)


def features_inverse_norm(features: Array, margin: Margin | None) -> Array | None:
    """Return the inverse norms of features, if the margin normalises them.

    They multiply the products and not the vectors before: 16-bit vectors stay exact.
    """
    return inverse_norm(features) if normalizes_features(margin) else None


def weight_inverse_norm(weight: Array, margin: Margin | None) -> Array | None:
    """Return the inverse norms of class vectors, if the margin normalises them."""
    return inverse_norm(weight) if normalizes_weight(margin) else None


def without_length(features: Array, margin: Margin | None) -> Array:
    """Return features in whose products nothing overflows, if the margin normalises them."""
    return of_unit_size(features) if normalizes_features(margin) else features


def cosines(products: Array, of_features: Array | None, of_weight: Array | None) -> Array:
    """Return products `[..., classes]` times the inverse norms that are given."""
    c = products
    if of_features is not None:
        c = c * of_features[..., None]
    if of_weight is not None:
        c = c * with_rank_of(c, of_weight)
    return c


def logits_of(
    cosine: Array,
    scale: ArrayLike | None,
    bias: Array | None,
    softcap: ArrayLike | None,
    temperature: Array | None = None,
) -> Array:
    """Return `cap(s c + b) / T`, elementwise, with `cap(z) = softcap tanh(z / softcap)`.

    Scale and temperature are one number, or have the rank of the cosines.
    """
    z = cosine if scale is None else cast_like(scale, cosine) * cosine
    if bias is not None:
        z = z + with_rank_of(z, cast_like(bias, z))
    if softcap is not None:
        cap = cast_like(softcap, z)
        z = cap * jnp.tanh(z / cap)
    return z if temperature is None else z / cast_like(temperature, z)


def kept_norm(
    features: Array,
    weight: Array,
    labels: Array,
    margin: Margin | None,
    class_axis: MeshAxes = None,
) -> Array | None:
    """Return the product of the norms that the margin does not divide out: score = norm · cos θ.

    The shape is that of the integer labels. None stands for 1.
    """
    of_features, of_weight = not normalizes_features(margin), not normalizes_weight(margin)
    if margin is None or not (of_features or of_weight):
        return None
    kept = jnp.ones(labels.shape, to_compute_dtype(features).dtype)
    if of_features:
        # The same on all devices, but not for JAX if the features were gathered.
        kept = kept * pmean(norm(features), class_axis)
    if of_weight:
        kept = kept * gather_per_class(norm(weight), labels, class_axis).astype(kept.dtype)
    return kept


def label_cosines(
    features: Array, weight: Array, labels: Array, margin: Margin, class_axis: MeshAxes = None
) -> Array:
    """Return the cosines `[N]` of integer labels from their class vectors, before any product.

    Over a mesh the device that has the class makes it. Of no class it is that of the nearest.
    """
    num_local = weight.shape[0]
    labels = jnp.clip(labels, 0, num_global(num_local, class_axis) - 1)
    local = to_local_labels(labels, num_local, class_axis)
    mine = (local >= 0) & (local < num_local)
    x = features.reshape(*labels.shape, *[1] * (weight.ndim - 2), features.shape[-1])
    c = cosine(x, weight.at[local].get(mode="clip"))
    c = c if centers_of(margin) is None else jnp.max(c, -1)
    return psum(jnp.where(mine, c, 0), class_axis)


def of_others(
    margin: Margin | None, c: Array, of_label: Any, norm: Any = None, summary: Any = None
) -> Array:
    """Return what takes the place of the cosines of the other classes.

    The numbers of the margin, and what else is by example, have to broadcast against the cosines.
    """
    if not changes_others(margin):
        return similarity(margin, c)
    return call(margin.others, c, of_label, norm=norm, summary=summary)  # type: ignore


def with_margin(
    cosine: Array, kept: Array | None, margin: Margin | None, norm: Any = None, summary: Any = None
) -> Array:
    """Return what takes the place of the true class's cosine, or of its score before the scale."""
    if margin is None:
        return cosine
    if kept is None:
        return call(margin.target, cosine, norm=norm, summary=summary)
    kept = cast_like(kept, cosine)
    # Both are divided by the norm as a constant first: the derivative of a quotient has the square.
    size = lax.stop_gradient(jnp.where(kept > 0, kept, 1))
    c = (cosine / size) / jnp.where(kept > 0, kept / size, 1)
    return kept * call(margin.target, c, norm=norm)
