"""The squared distance between the softmax of logits and the label."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.masking import mask_classes
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.core.numerics import neg_inf_to_zero, sigmoid
from jsoftmax.core.one_pass import first_of_largest
from jsoftmax.losses.inputs import loss_inputs
from jsoftmax.losses.reduction import Reduction
from jsoftmax.stats.dense import centred_stats
from jsoftmax.stats.labels import SparseLabels, is_label


@on_any_mesh(without_classes("logits", "axis"))
def brier_loss(
    logits: ArrayLike,
    labels: ArrayLike | SparseLabels,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
) -> Array:
    r"""Brier score of the softmax of logits: the squared distance to the label.

    $$\ell = \sum_j (p_j - q_j)^2, \qquad p = \mathrm{softmax}(z)$$

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      labels: integers `[...]`, or a distribution q: floats of the shape of `logits`, or
        `SparseLabels`. The loss is 0 where p = q.
      axis: the class axis of `logits`, and of labels that are distributions.
      where: booleans that broadcast against `logits`; False masks a class.
      ignore_index: a label whose examples have loss 0 and gradient 0, whatever their logits.
      sample_weight: `[...]`, a factor on each example's loss; booleans are a mask. One of weight 0
        is left out whatever its logits.
      reduction: None for one value per example; "sum"; or "mean", which divides by the sum of the
        weights that count, and is 0 without any.

    Returns:
      `[...]`, float32 or wider, in [0, 2]; NaN if a label is out of range.

    Source: Brier, "Verification of forecasts expressed in terms of probability", 1950, eq. 2,
    without its factor 1/N for the mean over examples.

    Example:
      >>> js.brier_loss(jnp.array([[0.0, 1.0], [9.0, 0.0]]), jnp.array([0, 0]))
      Array([1.0689, 0.    ], dtype=float32)
    """
    inputs = loss_inputs(logits, labels, axis, where, ignore_index, sample_weight)
    return inputs.reduced(_squared_distance(inputs), reduction)


@jax.checkpoint
def _squared_distance(aligned):
    z, q = aligned.whole()
    z = mask_classes(z, aligned.where)
    # The largest probability is 1 - rest, and each other one a share of rest. So the difference to
    # a label of 1, and all gradients, are computed without cancellation.
    top = first_of_largest(z)
    stats, shift = centred_stats(z, top, None)
    u = stats.log_odds[..., None]
    rest = sigmoid(-u)
    is_top = is_label(z, top)
    relative = (
        jnp.where(is_top, -jnp.inf, z - shift[..., None]) - neg_inf_to_zero(stats.others)[..., None]
    )
    of_top = jnp.where(u > 0, (1 - q) - rest, sigmoid(u) - q)
    residual = jnp.where(is_top, of_top, rest * jnp.exp(relative) - q)
    return jnp.sum(jnp.square(residual), -1)
