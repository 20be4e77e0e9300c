r"""The steps from features and class vectors to logits, each written once.

    a = x wᵀ                          matmul, the matrix product
    c = a / |x| / |w|                 cosines: a margin divides by the norms that it says it does
    s c_j,  s φ(c_y)                  the true class goes through the margin; then the scale
    z = cap(s c + b) / T              logits_of: bias, softcap and temperature come last

`linear_logits` takes these steps for all classes at once, the passes over blocks for one block of
classes after another.
"""

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import with_rank_of
from jsoftmax.core.collectives import MeshAxes, gather_per_class, pmean
from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.norms import inverse_norm, norm, of_unit_size
from jsoftmax.margins.angular import AngularMargin


def sound_vectors(weight: Array, sound: Array | None) -> Array:
    """Return class vectors with 0 in place of those that may hold NaN, which are masked.

    Their gradient is 0, but 0 times NaN would reach that of the features.
    """
    return weight if sound is None else jnp.where(sound[:, None], weight, 0)


def features_inverse_norm(features: Array, margin: AngularMargin | None) -> Array | None:
    """Return the inverse norms of features, if the margin normalises them.

    They multiply the products and not the vectors before: 16-bit vectors stay exact.
    """
    return inverse_norm(features) if margin is not None and margin.normalize_features else None


def weight_inverse_norm(weight: Array, margin: AngularMargin | None) -> Array | None:
    """Return the inverse norms of class vectors, if the margin normalises them."""
    return inverse_norm(weight) if margin is not None and margin.normalize_weight else None


def without_length(features: Array, margin: AngularMargin | None) -> Array:
    """Return features in whose products nothing overflows, if the margin normalises them."""
    return of_unit_size(features) if margin is not None and margin.normalize_features else features


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
    margin: AngularMargin | None,
    class_axis: MeshAxes = None,
) -> Array | None:
    """Return the product of the norms that the margin does not divide out: score = norm · cos θ.

    The shape is that of the integer labels. None stands for 1.
    """
    if margin is None or (margin.normalize_features and margin.normalize_weight):
        return None
    kept = jnp.ones(labels.shape, to_compute_dtype(features).dtype)
    if not margin.normalize_features:
        # The same on all devices, but not for JAX if the features were gathered.
        kept = kept * pmean(norm(features), class_axis)
    if not margin.normalize_weight:
        kept = kept * gather_per_class(norm(weight), labels, class_axis).astype(kept.dtype)
    return kept


def with_margin(cosine: Array, kept: Array | None, margin: AngularMargin | None) -> Array:
    """Return what takes the place of the true class's cosine, or of its score before the scale."""
    if margin is None:
        return cosine
    if kept is None:
        return margin(cosine)
    kept = cast_like(kept, cosine)
    # Both are divided by the norm as a constant first: the derivative of a quotient has the square.
    size = lax.stop_gradient(jnp.where(kept > 0, kept, 1))
    return kept * margin((cosine / size) / jnp.where(kept > 0, kept / size, 1))
