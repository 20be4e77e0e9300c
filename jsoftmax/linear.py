r"""Features and class vectors to class scores.

The order inside a score is fixed: matrix product (or cosine), bias, softcap, margin, scale.
"""

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax import checks
from jsoftmax.margins import AngularMargin
from jsoftmax.numerics import like, promote
from jsoftmax.stats import at_label, is_label

__all__ = ["linear_logits"]


def linear_logits(
    features: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    bias: ArrayLike | None = None,
    softcap: ArrayLike | None = None,
    margin: AngularMargin | None = None,
) -> Array:
    r"""The logits of a linear head, with a margin on the true class if labels are given.

    $$z_j = \mathrm{cap}(w_j^\top x + b_j), \qquad \mathrm{cap}(a) = c \tanh(a / c)$$

    and with a margin $z_j = s\,\mathrm{cap}(\cos\theta_j + b_j)$, in which the true class's cosine
    goes through the margin's φ; each margin says which vectors it normalises.

    Args:
      features: `[..., features]`, floats. 16-bit operands are multiplied as they are and summed in
        float32; norms, cosines and margin are float32.
      weight: `[classes, features]`, a row per class vector (a Flax `kernel` is its transpose).
      labels: integers `[...]`, or None for inference: then the margin adds nothing, and the logits
        are what to predict with. A row whose label names no class is left without margin; the loss
        reports the label.
      bias: `[classes]`.
      softcap: c > 0, the bound on the size of the scores.
      margin: such as `arcface()`.

    Returns:
      Logits `[..., classes]`, float32 or wider. A zero vector has cosine 0 with everything, and
      gradient 0 through its norm.

    Source: the margins' own; softcap: Gemma team, "Gemma 2", 2024, arXiv:2408.00118, section 2.

    Example:
      >>> x, w = jnp.array([[1.0, 0.0]]), jnp.array([[2.0, 0.0], [0.0, 2.0]])
      >>> js.linear_logits(x, w)
      Array([[2., 0.]], dtype=float32)
      >>> js.linear_logits(x, w, jnp.array([0]), margin=js.cosface(margin=0.25, scale=8.0))
      Array([[6., 0.]], dtype=float32)
    """
    features, weight = checks.as_logits(features, "features"), checks.as_logits(weight, "weight")
    checks.has_axis("features", features, -1)
    checks.shape("weight", weight, weight.shape[:1] + features.shape[-1:], "classes by features")
    scores = lax.dot_general(
        features,
        weight,
        (((features.ndim - 1,), (1,)), ((), ())),
        preferred_element_type=jnp.promote_types(promote(features).dtype, promote(weight).dtype),
    )
    one = like(1, scores)
    feature_norm = weight_norm = one
    if margin is not None:
        # Dividing the scores, not the vectors before the product, keeps 16-bit vectors exact.
        feature_norm, weight_norm = _norm(features), _norm(weight)
        scores = _divide(scores, feature_norm[..., None] if margin.normalize_features else one)
        scores = _divide(scores, weight_norm if margin.normalize_weight else one)
    if bias is not None:
        bias = like(bias, scores)
        checks.shape("bias", bias, weight.shape[:1], "a number for every class")
        scores = scores + bias
    if softcap is not None:
        checks.at_least("softcap", softcap, 0, strict=True)
        cap = like(softcap, scores)
        scores = cap * jnp.tanh(scores / cap)
    if margin is None:
        return scores
    if labels is not None:
        labels = checks.as_labels(labels)
        checks.shape("labels", labels, features.shape[:-1], "an integer class for every example")
        # What makes a score out of a cosine: the norms that the margin keeps.
        length = one if margin.normalize_features else feature_norm
        if not margin.normalize_weight:
            length = length * weight_norm.at[labels].get(mode="clip")
        target = length * margin(_divide(at_label(scores, labels), length))
        scores = jnp.where(is_label(scores, labels), target[..., None], scores)
    return like(margin.scale, scores) * scores


def _norm(x):
    """Return the Euclidean norm over the last axis, with gradient 0 where it is 0."""
    square = jnp.sum(jnp.square(promote(x)), -1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _divide(x, norm):
    """Return `x / norm`, and x itself, which is then 0, where a norm is 0."""
    return x / jnp.where(norm > 0, norm, 1)
