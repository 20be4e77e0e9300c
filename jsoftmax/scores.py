r"""The steps from features and class vectors to class scores, each written once.

    a = x wᵀ                          products, the matrix product
    c = cap(a / |x| / |w| + b)        scores: a margin divides by the norms that it says it does
    z_j = s c_j,   z_y = s φ(c_y)     logits: the true class goes through the margin's φ

linear_logits takes these steps for all classes at once, tiles.py for one block of classes after
another.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.margins import AngularMargin
from jsoftmax.numerics import like, promote

__all__ = [
    "direction_factor",
    "kept_length",
    "norm",
    "product_dtype",
    "products",
    "scale_of",
    "scores",
    "true_score",
]


@jax.custom_jvp
def products(features: Array, weight: Array) -> Array:
    """Return `features @ weight.T`, `[..., classes]`; 16-bit operands are summed in float32."""
    dtype = jnp.promote_types(promote(features).dtype, promote(weight).dtype)
    return _contract(features, weight, dtype)


@products.defjvp
def _products_jvp(primals, tangents):
    # The tangent of bfloat16 operands is rounded to bfloat16, so that in the transpose the
    # cotangent is too: a product of a float32 cotangent with 16-bit operands would widen them.
    (features, weight), (d_features, d_weight) = primals, tangents
    out = products(features, weight)
    same = features.dtype == weight.dtype
    dtype = product_dtype(features.dtype) if same else out.dtype
    d_out = _contract(d_features, weight, dtype) + _contract(features, d_weight, dtype)
    return out, d_out.astype(out.dtype)


def product_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Return the dtype in which gradients enter a matrix product with operands of `dtype`.

    Gradients of a mean over thousands of examples underflow in float16, not in bfloat16.
    """
    return jnp.dtype(jnp.float32) if dtype == jnp.float16 else dtype


def _contract(x, y, dtype):
    """Sum over the last axis of both; `dtype` is that of the result."""
    dimensions = (((x.ndim - 1,), (y.ndim - 1,)), ((), ()))
    return lax.dot_general(x, y, dimensions, preferred_element_type=dtype)


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
    features: Array, weight: Array, labels: Array, margin: AngularMargin | None
) -> Array | None:
    """Return what makes a score out of a cosine to the true class: the norms the margin keeps.

    The shape is that of the integers `labels`. None stands for 1.
    """
    if margin is None or (margin.normalize_features and margin.normalize_weight):
        return None
    length = jnp.ones(labels.shape, promote(features).dtype)
    if not margin.normalize_features:
        length = length * norm(features)
    if not margin.normalize_weight:
        length = length * norm(weight).at[labels].get(mode="clip").astype(length.dtype)
    return length


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
