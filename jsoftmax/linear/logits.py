"""The dense linear head: for reading, plotting, inference, and as the oracle of the others."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.blockwise.matmul import matmul
from jsoftmax.blockwise.scores import (
    at_labels_of_class,
    inverse_norm,
    kept_norm,
    scale_of,
    scores,
    true_score,
)
from jsoftmax.core.arguments import as_labels, check_shape
from jsoftmax.linear.evaluate import checked_head, checked_margin
from jsoftmax.margins.angular import AngularMargin
from jsoftmax.stats.labels import at_label, is_label


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
    features, weight, bias, softcap = checked_head(features, weight, bias, softcap)
    feature_factor = weight_factor = None
    margin = checked_margin(margin, weight.shape[0])
    if margin is not None:
        feature_factor = inverse_norm(features, normalize=margin.normalize_features)
        weight_factor = inverse_norm(weight, normalize=margin.normalize_weight)
    z = scores(matmul(features, weight), feature_factor, weight_factor, bias, softcap)
    if labels is not None:
        labels = as_labels(labels)
        check_shape("labels", labels, features.shape[:-1], "an integer class for every example")
        if margin is not None:
            length = kept_norm(features, weight, labels, margin)
            own = jax.tree.map(lambda number: at_labels_of_class(number, labels), margin)
            target = true_score(at_label(z, labels), length, own)
            z = jnp.where(is_label(z, labels), target[..., None], z)
    return z if margin is None else scale_of(margin, z) * z
