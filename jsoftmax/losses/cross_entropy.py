"""Cross-entropy on logits and labels: a class, a distribution, or a short list of classes."""

from functools import partial

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.arguments import (
    as_given,
    as_given_like,
    check_shape,
    is_distribution,
    with_rank_of,
)
from jsoftmax.core.collectives import gather_per_class
from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.core.numbers import is_static, within
from jsoftmax.core.numerics import multiply_no_nan
from jsoftmax.losses.inputs import (
    LossInputs,
    loss_inputs,
    per_example,
    per_stats,
    temperature_by_example,
)
from jsoftmax.losses.of_stats import nll
from jsoftmax.losses.protocol import on_centred
from jsoftmax.losses.reduction import Reduction
from jsoftmax.stats.centred import Rows
from jsoftmax.stats.dense import soft_stats
from jsoftmax.stats.labels import SparseLabels


@on_any_mesh(without_classes("logits", "axis"))
def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike | SparseLabels,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    class_weight: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
    temperature: ArrayLike = 1.0,
) -> Array:
    r"""Cross-entropy between labels and the softmax of logits, one value per example.

    $$\ell = -\sum_j q_j \log p_j, \qquad p = \mathrm{softmax}(z / T)$$

    where q is the label, a class or a distribution, smoothed to $(1 - \varepsilon) q +
    \varepsilon/C$. Value and gradient keep their relative precision however
    confident the model is.

    Args:
      logits: `[..., classes]`, before any softmax, any real dtype; computed in float32 or wider.
      labels: integers `[...]`, or a distribution: floats of the shape of `logits`, or a short list,
        `SparseLabels`.
      axis: the class axis of `logits` (and of distributions).
      where: booleans that broadcast against `logits`; False masks a class.
      label_smoothing: ε in [0, 1], spread evenly over all unmasked classes, the true one included.
      z_loss: λ >= 0, adds $\lambda (\log Z)^2$ of the log-partition function, which keeps logits
        from drifting.
      class_weight: `[classes]`, a factor on each class's term of the label, with smoothing of the
        smoothed one: $-\sum_j w_j q_j \log p_j$. A weight of 0 does not hide NaN.
      ignore_index: a label whose examples have loss 0 and gradient 0, whatever their logits.
      sample_weight: `[...]`, a factor on each example's loss; booleans are a mask. One of weight 0
        is left out whatever its logits, NaN included.
      reduction: None for one value per example; "sum"; or "mean", which divides by the sum of the
        weights that count: `sample_weight`, times `class_weight[label]` if labels are integers, and
        0 where ignored. It is 0 if they sum to 0.
      temperature: T > 0, a scalar or by example.

    A number that goes by example, here and in the other losses, is an array in the shape of the
    examples, `[...]`, or in the rank of `logits` with size 1 on the class axis.

    Returns:
      `[...]`, or a scalar; float32 or wider. +inf if the label's class is masked; NaN, with a NaN
      gradient for its own example only, if a label is outside [0, classes). `jnp.mean` of it, and
      `weighted_mean` without weights, count ignored examples, as 0: with `ignore_index` write
      `reduction="mean"`, or over devices `weighted_mean(losses, labels != ignore_index,
      axis_name=...)`.

    Source: the log-odds form of `LogitStats`; smoothing and z-loss as in `nll`.

    Example:
      >>> js.cross_entropy(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0, 0]))
      Array([1.3133, 0.1269], dtype=float32)
      >>> js.cross_entropy(jnp.array([[0.0, 1.0]]), jnp.array([[0.9, 0.1]]))
      Array([1.2133], dtype=float32)
    """
    smoothed = not is_static(label_smoothing, 0)
    one_class = not isinstance(labels, SparseLabels) and not is_distribution(
        as_given("labels", labels)
    )
    at_label = class_weight if one_class and not smoothed else None
    inputs = loss_inputs(
        logits, labels, axis, where, ignore_index, sample_weight, class_weight=at_label
    )
    by_example = temperature_by_example(temperature, inputs.logits, axis)
    options = {"label_smoothing": label_smoothing, "z_loss": z_loss, "axis": axis}
    if class_weight is None or at_label is not None:
        return inputs.reduced(cross_entropies(inputs, by_example, **options), reduction)
    wide = to_compute_dtype(inputs.logits)
    weights = as_given_like("class_weight", class_weight, wide)
    check_shape("class_weight", weights, inputs.logits.shape[-1:], "a weight for every class")
    losses = cross_entropies(inputs, by_example, class_weight=weights, **options)
    counts = gather_per_class(weights, inputs.labels, None) if one_class else None
    return inputs.reduced(losses, reduction, counts)


def cross_entropies(
    inputs: LossInputs,
    temperature: Array | None = None,
    *,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    class_weight: Array | None = None,
    axis: int = -1,
) -> Array:
    """Return the loss of each example `[...]`, with class weights on the terms of its label."""
    smoothed = not is_static(label_smoothing, 0)
    if smoothed and class_weight is not None:
        q = _smoothed(inputs, label_smoothing, axis)
        inputs, label_smoothing, smoothed = inputs._replace(labels=q, probs=None), 0.0, False
    fields = ("mean",) if smoothed else ()

    def loss_of(stats, shift):
        given = {"label_smoothing": label_smoothing, "z_loss": z_loss}
        numbers = per_stats(given, inputs.logits, axis, stats.target)
        return on_centred(partial(nll, **numbers))(stats, shift), numbers

    if is_distribution(inputs.labels):
        q = inputs.labels
        if class_weight is not None:
            q = to_compute_dtype(q)
            q = q * with_rank_of(q, cast_like(class_weight, q))
        rows = Rows(inputs.logits, q, inputs.where, temperature)
        stats, shift, total, distance = soft_stats(rows, fields)
        of_top, numbers = loss_of(stats, shift)
        unsmoothed = 1 - cast_like(numbers["label_smoothing"], of_top)
        return multiply_no_nan(total, of_top) + multiply_no_nan(unsmoothed, distance)
    losses, _ = loss_of(*inputs.stats(fields, temperature))
    if class_weight is not None:
        losses = multiply_no_nan(gather_per_class(class_weight, inputs.labels, None), losses)
    if inputs.probs is None:
        return losses
    return jnp.sum(multiply_no_nan(cast_like(inputs.probs, losses), losses), -1)


def _smoothed(inputs, label_smoothing, axis):
    """Return the labels as a distribution, of which every unmasked class has an equal part."""
    part = within("label_smoothing", label_smoothing, 0, 1)
    part = per_example("label_smoothing", part, inputs.logits, axis)
    _, q = inputs.whole()
    on = jnp.ones_like(q) if inputs.where is None else inputs.where.astype(q.dtype)
    share = on / jnp.maximum(jnp.sum(on, -1, keepdims=True), 1)
    part = cast_like(part, q)
    return (1 - part) * q + part * share * jnp.sum(q, -1, keepdims=True)
