r"""The steps from features and class vectors to class scores, each written once.

    a = x wᵀ                          products, the matrix product
    c = cap(a / |x| / |w| + b)        scores: a margin divides by the norms that it says it does
    z_j = s c_j,   z_y = s φ(c_y)     logits: the true class goes through the margin's φ

linear_logits takes these steps for all classes at once, tiles.py for one block of classes after
another.
"""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.collectives import MeshAxes, gather_per_class, pmean
from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.numerics import norm
from jsoftmax.margins.angular import AngularMargin


def inverse_norm(x: Array, *, normalize: bool) -> Array | None:
    """Return 1 / |x|, which makes unit vectors of `x`; 1 for a zero vector; None if not asked for.

    It multiplies the products and not the vectors before them: 16-bit vectors stay exact.
    """
    if not normalize:
        return None
    length = norm(x)
    return 1 / jnp.where(length > 0, length, 1)


def scores(
    products: Array,
    feature_factor: Array | None,
    weight_factor: Array | None,
    bias: Array | None,
    softcap: ArrayLike | None,
) -> Array:
    """Return the scores `[..., classes]` of products, elementwise."""
    c = products
    if feature_factor is not None:
        c = c * feature_factor[..., None]
    if weight_factor is not None:
        c = c * weight_factor
    if bias is not None:
        c = c + cast_like(bias, c)
    if softcap is not None:
        cap = cast_like(softcap, c)
        c = cap * jnp.tanh(c / cap)
    return c


def kept_norm(
    features: Array,
    weight: Array,
    labels: Array,
    margin: AngularMargin | None,
    class_axis: MeshAxes = None,
) -> Array | None:
    """Return what makes a score out of a cosine to the true class: the norms the margin keeps.

    The shape is that of the integers `labels`. None stands for 1.
    """
    if margin is None or (margin.normalize_features and margin.normalize_weight):
        return None
    length = jnp.ones(labels.shape, to_compute_dtype(features).dtype)
    if not margin.normalize_features:
        # The same on all devices, but not for JAX if the features were gathered.
        length = length * pmean(norm(features), class_axis)
    if not margin.normalize_weight:
        length = length * gather_per_class(norm(weight), labels, class_axis).astype(length.dtype)
    return length


def at_labels_of_class(number: ArrayLike, labels: Array, class_axis: MeshAxes = None) -> ArrayLike:
    """Return a margin's number for each label; one number by class is a `[classes]` array."""
    return (
        gather_per_class(to_compute_dtype(number), labels, class_axis)
        if jnp.ndim(number)
        else number
    )


def true_score(score: Array, length: Array | None, margin: AngularMargin | None) -> Array:
    """Return the score of the true class with the margin, before the scale."""
    if margin is None:
        return score
    if length is None:
        return margin(score)
    length = cast_like(length, score)
    return length * margin(score / jnp.where(length > 0, length, 1))


def scale_of(margin: AngularMargin | None, x: Array) -> Array:
    """Return the factor from scores to logits in the dtype of `x`."""
    return cast_like(1 if margin is None else margin.scale, x)
