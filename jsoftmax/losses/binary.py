"""Binary cross-entropy of independent labels, one logit each."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.arguments import (
    as_given_like,
    as_logits,
    check_broadcasts,
    check_no_tuple,
    check_shape,
)
from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.meshes import like, on_any_mesh
from jsoftmax.core.numerics import multiply_no_nan, softplus, unforeseen
from jsoftmax.losses.reduction import Reduction, reduce_losses, weighed


@on_any_mesh(like("logits"))
def binary_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
) -> Array:
    r"""Cross-entropy of independent binary labels (a sigmoid each), one value per logit.

    $$\ell = w\,y\,\mathrm{softplus}(-z) + (1 - y)\,\mathrm{softplus}(z)$$

    Args:
      logits: `[...]`, the log-odds of label 1, any real dtype; computed in float32 or wider.
      labels: `[...]`, integers or booleans 0 or 1, or floats in [0, 1]. Another integer gives NaN.
      pos_weight: w, a factor on the term of label 1 that broadcasts against `logits`.
      sample_weight: `[...]`, a factor on the loss of each logit.
      reduction: None for one value per logit; "sum"; or "mean", which divides by the sum of the
        weights, and is 0 without any.

    Returns:
      `[...]`, float32 or wider; +inf where an infinite logit has the wrong sign.

    Source: logistic regression; `pos_weight` as in torch's `BCEWithLogitsLoss`.

    Example:
      >>> js.binary_cross_entropy(jnp.array([2.0, -1.0]), jnp.array([1, 1]))
      Array([0.1269, 1.3133], dtype=float32)
    """
    z = to_compute_dtype(as_logits(logits))
    check_no_tuple("labels", labels)
    labels = jnp.asarray(labels)
    check_shape("labels", labels, z.shape, "one label for every logit")
    if jnp.issubdtype(labels.dtype, jnp.floating):
        y = cast_like(labels, z)
    else:
        labels = labels if labels.dtype == bool else unforeseen(labels, z)
        y = cast_like(labels, z)
        y = jnp.where((y == 0) | (y == 1), y, jnp.nan)
    (z, y), weights = weighed(sample_weight, z, y, axis=())
    w = jnp.ones((), z.dtype) if pos_weight is None else as_given_like("pos_weight", pos_weight, z)
    check_broadcasts("pos_weight", w, z.shape, "a weight that broadcasts against the logits")
    losses = multiply_no_nan(w * y, softplus(-z)) + multiply_no_nan(1 - y, softplus(z))
    return reduce_losses(losses, weights, reduction)
