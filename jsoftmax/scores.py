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

from jsoftmax import checks
from jsoftmax.margins import AngularMargin
from jsoftmax.numerics import like, promote
from jsoftmax.spread import Axis, at_owner, mean_over_devices

__all__ = [
    "checked_margin",
    "direction_factor",
    "kept_length",
    "norm",
    "number_at",
    "scale_of",
    "scores",
    "true_score",
]


def norm(x: Array) -> Array:
    """Return the Euclidean norm over the last axis, with gradient 0 where it is 0."""
    square = jnp.sum(jnp.square(promote(x)), -1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def direction_factor(x: Array, *, normalize: bool) -> Array | None:
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
        c = c + like(bias, c)
    if softcap is not None:
        cap = like(softcap, c)
        c = cap * jnp.tanh(c / cap)
    return c


def kept_length(
    features: Array,
    weight: Array,
    labels: Array,
    margin: AngularMargin | None,
    class_axis: Axis = None,
) -> Array | None:
    """Return what makes a score out of a cosine to the true class: the norms the margin keeps.

    The shape is that of the integers `labels`. None stands for 1.
    """
    if margin is None or (margin.normalize_features and margin.normalize_weight):
        return None
    length = jnp.ones(labels.shape, promote(features).dtype)
    if not margin.normalize_features:
        # The same on all devices, but not for JAX if the features were gathered.
        length = length * mean_over_devices(norm(features), class_axis)
    if not margin.normalize_weight:
        length = length * at_owner(norm(weight), labels, class_axis).astype(length.dtype)
    return length


def number_at(number: ArrayLike, labels: Array, class_axis: Axis = None) -> ArrayLike:
    """Return a margin's number for each label; one number by class is a `[classes]` array."""
    return at_owner(promote(number), labels, class_axis) if jnp.ndim(number) else number


def checked_margin(margin: AngularMargin | None, classes: int) -> AngularMargin | None:
    """Check the shapes of a margin's numbers: scalars, but for the scale also one by class."""
    if margin is not None:
        for name in ("m1", "m2", "m3", "anneal"):
            if jnp.ndim(getattr(margin, name)):
                number = jnp.asarray(getattr(margin, name))
                checks.shape(f"margin.{name}", number, (classes,), "a number for every class")
        checks.shape("margin.scale", jnp.asarray(margin.scale), (), "one number for all classes")
    return margin


def true_score(score: Array, length: Array | None, margin: AngularMargin | None) -> Array:
    """Return the score of the true class with the margin, before the scale."""
    if margin is None:
        return score
    if length is None:
        return margin(score)
    length = like(length, score)
    return length * margin(score / jnp.where(length > 0, length, 1))


def scale_of(margin: AngularMargin | None, x: Array) -> Array:
    """Return the factor from scores to logits in the dtype of `x`."""
    return like(1 if margin is None else margin.scale, x)
