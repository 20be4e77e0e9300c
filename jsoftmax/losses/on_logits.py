"""Single-label losses on logits and labels; cross-entropy, which has more options, is elsewhere.

Each brings logits and labels into the form that its formula in of_stats.py takes. A label that is a
distribution q means the expected loss, `sum_j q_j loss(class j)`, which is what mixup and
distillation want, and which is the loss of the class for a one-hot q.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.arguments import is_distribution
from jsoftmax.core.calls import explaining_calls
from jsoftmax.core.dtypes import cast_like
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.core.numerics import multiply_no_nan
from jsoftmax.losses.inputs import loss_inputs, per_stats
from jsoftmax.losses.of_stats import focal, gce, mae, poly1, sce
from jsoftmax.losses.reduction import Reduction
from jsoftmax.stats.dense import class_stats


@explaining_calls
def focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
    gamma: ArrayLike = 2.0,
) -> Array:
    r"""Multi-class focal loss of logits; see `focal`.

    $$\ell = -(1 - p_y)^\gamma \log p_y$$

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
      gamma: γ >= 0; the larger, the less easy examples count. 0 is cross-entropy. The α of the
        paper, a factor by class, is `sample_weight=alpha[labels]`.

    Returns:
      `[...]`, float32 or wider; +inf if the label's class is masked, NaN if
      a label is out of range.

    Source: Lin et al., 2017, arXiv:1708.02002, eq. 4.

    Example:
      >>> js.focal_loss(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0, 0]))
      Array([0.7019, 0.0018], dtype=float32)
    """
    given = logits, labels, axis, where, ignore_index, sample_weight
    return _on_logits(focal, {"gamma": gamma}, reduction, *given)


@explaining_calls
def poly_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
    epsilon: ArrayLike = 2.0,
) -> Array:
    r"""Poly-1 loss of logits; see `poly1`.

    $$\ell = -\log p_y + \epsilon\,(1 - p_y)$$

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
      epsilon: ε, the weight of 1 - p_y, 2 for ImageNet in the paper.

    Returns:
      `[...]`, float32 or wider; +inf if the label's class is masked, NaN if
      a label is out of range.

    Source: Leng et al., 2022, arXiv:2204.12511, eq. 3.

    Example:
      >>> js.poly_loss(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0, 0]))
      Array([2.7754, 0.3653], dtype=float32)
    """
    given = logits, labels, axis, where, ignore_index, sample_weight
    return _on_logits(poly1, {"epsilon": epsilon}, reduction, *given)


@explaining_calls
def generalized_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
    q: ArrayLike = 0.7,
) -> Array:
    r"""Generalised cross-entropy of logits, for noisy labels; see `gce`.

    $$\ell = (1 - p_y^q) / q$$

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
      q: q >= 0; the closer to 1, the more label noise it tolerates and the slower it learns.

    Returns:
      `[...]`, float32 or wider, at most 1/q; NaN if a label is out of range.

    Source: Zhang, Sabuncu, 2018, arXiv:1805.07836, eq. 6.

    Example:
      >>> js.generalized_cross_entropy(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0, 0]))
      Array([0.8589, 0.1215], dtype=float32)
    """
    given = logits, labels, axis, where, ignore_index, sample_weight
    return _on_logits(gce, {"q": q}, reduction, *given)


@explaining_calls
def mae_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
) -> Array:
    r"""Mean absolute error of the softmax of logits, for very noisy labels; see `mae`.

    $$\ell = 2\,(1 - p_y)$$

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

    Returns:
      `[...]`, float32 or wider, in [0, 2]; NaN if a label is out of range.

    Source: Ghosh, Kumar, Sastry, 2017, arXiv:1712.09482.

    Example:
      >>> js.mae_loss(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0, 0]))
      Array([1.4621, 0.2384], dtype=float32)
    """
    given = logits, labels, axis, where, ignore_index, sample_weight
    return _on_logits(mae, {}, reduction, *given)


@explaining_calls
def symmetric_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
    alpha: ArrayLike = 0.1,
    beta: ArrayLike = 1.0,
    log_zero: ArrayLike = -4.0,
) -> Array:
    r"""Symmetric cross-entropy of logits, for noisy labels; see `sce`.

    $$\ell = -\alpha \log p_y - \beta A\,(1 - p_y)$$

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
      alpha: α, the weight of cross-entropy.
      beta: β, the weight of reverse cross-entropy.
      log_zero: A, what stands for log 0.

    Returns:
      `[...]`, float32 or wider; +inf if the label's class is masked, NaN if
      a label is out of range.

    Source: Wang et al., 2019, arXiv:1908.06112, eq. 5 to 7.

    Example:
      >>> js.symmetric_cross_entropy(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0, 0]))
      Array([3.0556, 0.4895], dtype=float32)
    """
    numbers = {"alpha": alpha, "beta": beta, "log_zero": log_zero}
    given = logits, labels, axis, where, ignore_index, sample_weight
    return _on_logits(sce, numbers, reduction, *given)


@on_any_mesh(without_classes("logits", "axis"))
@on_any_mesh(without_classes("logits", "axis"))
def _on_logits(
    loss: Callable[..., Array], numbers, reduction: Reduction, logits, labels, axis, *options
) -> Array:
    """Evaluate a loss of `LogitStats` at the label, or its expectation over a distribution."""
    inputs = loss_inputs(logits, labels, axis, *options)
    if is_distribution(inputs.labels):
        stats, probs = class_stats(inputs.logits, inputs.where), inputs.labels
    else:
        stats, probs = inputs.stats()[0], inputs.probs
    losses = loss(stats, **per_stats(numbers, inputs.logits, axis, stats.target))
    if probs is not None:
        losses = jnp.sum(multiply_no_nan(cast_like(probs, losses), losses), -1)
    return inputs.reduced(losses, reduction)
