"""The entropy of the softmax of logits, and the loss with an entropy bonus."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.checks import check_logits
from jsoftmax.core.arguments import as_logits, check_some_class, normalize_axis
from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.masking import centred, mask_classes
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.core.numerics import multiply_no_nan, neg_inf_to_zero
from jsoftmax.losses.cross_entropy import cross_entropies
from jsoftmax.losses.inputs import loss_inputs, per_stats
from jsoftmax.losses.reduction import Reduction, reduce_losses, weighed
from jsoftmax.maps.softmax import softmax_tangent
from jsoftmax.stats.dense import class_stats
from jsoftmax.stats.labels import SparseLabels


@on_any_mesh(without_classes("logits", "axis"))
def entropy(
    logits: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
) -> Array:
    r"""Shannon entropy of the softmax of logits, in nats.

    $$H = -\sum_j p_j \log p_j, \qquad p = \mathrm{softmax}(z)$$

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      axis: the class axis.
      where: booleans that broadcast against `logits`; False masks a class.
      sample_weight: `[...]`, a factor on each example's value; booleans are a mask. One of weight 0
        is left out whatever its logits.
      reduction: None for one value per example; "sum"; or "mean", which divides by the sum of the
        weights, and is 0 without any.

    Returns:
      `[...]`, float32 or wider, from 0 for a fully confident prediction to log C for C equal
      logits; 0 where all classes are masked.

    Source: Shannon, "A mathematical theory of communication", 1948.

    Example:
      >>> js.entropy(jnp.array([[0.0, 0.0], [0.0, 20.0]]))
      Array([0.6931, 0.    ], dtype=float32)
    """
    logits = as_logits(logits)
    axis = normalize_axis("logits", logits, axis)
    check_some_class("logits", logits, axis)
    check_logits(logits, axis=axis)
    z = jnp.moveaxis(mask_classes(logits, where), axis, -1)
    (z,), weights = weighed(sample_weight, z)
    found = jax.checkpoint(lambda z: _entropy(centred(z, -1, None)[0]))(z)
    return reduce_losses(found, weights, reduction)


@jax.custom_jvp
def _entropy(d):
    """Return the entropy of centred logits."""
    log_p = class_stats(d, None).log_prob
    return jnp.sum(multiply_no_nan(jnp.exp(log_p), -log_p), -1)


@_entropy.defjvp
def _entropy_jvp(primals, tangents):
    # dH/dp_j = -log p_j - 1, which is -d_j up to a constant common to all classes.
    (d,), (dd,) = primals, tangents
    return _entropy(d), softmax_tangent(d, -neg_inf_to_zero(d), dd)


@on_any_mesh(without_classes("logits", "axis"))
def confidence_penalty_loss(
    logits: ArrayLike,
    labels: ArrayLike | SparseLabels,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
    beta: ArrayLike = 0.1,
) -> Array:
    r"""Cross-entropy minus β times the entropy of the prediction: penalises confidence.

    $$\ell = -\log p_y - \beta H(p)$$

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      labels: integers `[...]`, a distribution or `SparseLabels`: the expected loss over these.
      axis: the class axis of `logits`, and of labels that are distributions.
      where: booleans that broadcast against `logits`; False masks a class.
      ignore_index: a label whose examples have loss 0 and gradient 0, whatever their logits.
      sample_weight: `[...]`, a factor on each example's loss; booleans are a mask. One of weight 0
        is left out whatever its logits.
      reduction: None for one value per example; "sum"; or "mean", which divides by the sum of the
        weights that count, and is 0 without any.
      beta: β; 0.1 for most tasks in the paper.

    Returns:
      `[...]`, float32 or wider; it can be negative. +inf if the label's class is masked,
      NaN if a label is out of range.

    Source: Pereyra et al., "Regularizing neural networks by penalizing confident output
    distributions", 2017, arXiv:1701.06548, section 3.

    Example:
      >>> js.confidence_penalty_loss(jnp.array([[0.0, 1.0]]), jnp.array([0]))
      Array([1.255], dtype=float32)
    """

    @jax.checkpoint
    def penalised(logits):
        z = to_compute_dtype(logits)  # the sum of two 16-bit gradients is rounded once
        inputs = loss_inputs(z, labels, axis, where, ignore_index, sample_weight)
        loss = cross_entropies(inputs)
        weight = per_stats({"beta": beta}, inputs.logits, axis, loss)["beta"]
        penalty = cast_like(weight, loss) * entropy(inputs.logits, where=inputs.where)
        return inputs.reduced(loss - penalty, reduction)

    return penalised(as_logits(logits))
