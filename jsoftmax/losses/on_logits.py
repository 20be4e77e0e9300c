"""Single-label losses on logits and labels, one value per example.

Each brings logits and labels into the form that its formula in of_stats.py takes. A label that is a
distribution q means the expected loss, `sum_j q_j loss(class j)`, which is what mixup and
distillation want, and which is the loss of the class for a one-hot q.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.arguments import (
    check_shape,
    is_distribution,
    is_static,
)
from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.numerics import multiply_no_nan
from jsoftmax.losses.inputs import loss_inputs, temperature_by_example
from jsoftmax.losses.of_stats import focal, gce, mae, nll, poly1, sce
from jsoftmax.losses.protocol import on_centred
from jsoftmax.stats.centred import Rows
from jsoftmax.stats.dense import class_stats, soft_stats
from jsoftmax.stats.labels import SparseLabels
from jsoftmax.stats.logit_stats import LogitStats


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
      label_smoothing: ε in [0, 1]; see `nll`.
      z_loss: λ, the weight of $(\log Z)^2$; see `nll`.
      class_weight: `[classes]`, a factor on the loss of each class's examples.
      ignore_index: a label whose examples have loss 0 and gradient 0, whatever their logits.
      temperature: T > 0, a scalar or an array that broadcasts against `logits`.

    Returns:
      `[...]`, float32 or wider. +inf if the label's class is masked; NaN, with a NaN gradient for
      its own example only, if a label is outside [0, classes). Average it with `weighted_mean`.

    Source: the log-odds form of `LogitStats`; smoothing and z-loss as in `nll`.

    Example:
      >>> js.cross_entropy(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0, 0]))
      Array([1.3133, 0.1269], dtype=float32)
      >>> js.cross_entropy(jnp.array([[0.0, 1.0]]), jnp.array([[0.9, 0.1]]))
      Array([1.2133], dtype=float32)
    """
    inputs = loss_inputs(logits, labels, axis, where, ignore_index)
    by_example = temperature_by_example(temperature, inputs.logits, axis)
    fields = () if is_static(label_smoothing, 0) else ("mean",)
    loss_of = on_centred(partial(nll, label_smoothing=label_smoothing, z_loss=z_loss))
    classes = inputs.logits.shape[-1]
    weights = None
    if class_weight is not None:
        weights = to_compute_dtype(class_weight)
        check_shape("class_weight", weights, (classes,), "a weight for every class")

    if is_distribution(inputs.labels):
        q = to_compute_dtype(inputs.labels)
        q = q if weights is None else q * cast_like(weights, q)
        rows = Rows(inputs.logits, q, inputs.where, by_example)
        stats, shift, total, distance = soft_stats(rows, fields)
        of_top = loss_of(stats, shift)
        unsmoothed = 1 - cast_like(label_smoothing, of_top)
        return multiply_no_nan(total, of_top) + unsmoothed * distance

    loss = loss_of(*inputs.stats(fields, by_example))
    if weights is not None:
        of_label = cast_like(weights, loss).at[inputs.labels].get(mode="clip")
        loss = multiply_no_nan(of_label, loss)
    if inputs.probs is not None:
        return jnp.sum(multiply_no_nan(cast_like(inputs.probs, loss), loss), -1)
    return inputs.without_ignored(loss)


def focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    gamma: ArrayLike = 2.0,
) -> Array:
    r"""Multi-class focal loss of logits; see `focal`.

    $$\ell = -(1 - p_y)^\gamma \log p_y$$

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      labels: integers `[...]`, a distribution or `SparseLabels`: the expected loss over these.
      axis, where, ignore_index: as in `cross_entropy`.
      gamma: γ >= 0.

    Returns:
      `[...]`, float32 or wider; +inf and NaN as in `cross_entropy`.

    Source: Lin et al., 2017, arXiv:1708.02002, eq. 4.

    Example:
      >>> js.focal_loss(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0, 0]))
      Array([0.7019, 0.0018], dtype=float32)
    """
    loss = partial(focal, gamma=gamma)
    return _on_logits(loss, logits, labels, axis, where, ignore_index)


def poly_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    epsilon: ArrayLike = 2.0,
) -> Array:
    r"""Poly-1 loss of logits; see `poly1`.

    $$\ell = -\log p_y + \epsilon\,(1 - p_y)$$

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      labels: integers `[...]`, a distribution or `SparseLabels`: the expected loss over these.
      axis, where, ignore_index: as in `cross_entropy`.
      epsilon: ε.

    Returns:
      `[...]`, float32 or wider; +inf and NaN as in `cross_entropy`.

    Source: Leng et al., 2022, arXiv:2204.12511, eq. 3.

    Example:
      >>> js.poly_loss(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0, 0]))
      Array([2.7754, 0.3653], dtype=float32)
    """
    loss = partial(poly1, epsilon=epsilon)
    return _on_logits(loss, logits, labels, axis, where, ignore_index)


def generalized_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    q: ArrayLike = 0.7,
) -> Array:
    r"""Generalised cross-entropy of logits, for noisy labels; see `gce`.

    $$\ell = (1 - p_y^q) / q$$

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      labels: integers `[...]`, a distribution or `SparseLabels`: the expected loss over these.
      axis, where, ignore_index: as in `cross_entropy`.
      q: q >= 0.

    Returns:
      `[...]`, float32 or wider, at most 1/q; NaN as in `cross_entropy`.

    Source: Zhang, Sabuncu, 2018, arXiv:1805.07836, eq. 6.

    Example:
      >>> js.generalized_cross_entropy(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0, 0]))
      Array([0.8589, 0.1215], dtype=float32)
    """
    return _on_logits(partial(gce, q=q), logits, labels, axis, where, ignore_index)


def mae_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
) -> Array:
    r"""Mean absolute error of the softmax of logits, for very noisy labels; see `mae`.

    $$\ell = 2\,(1 - p_y)$$

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      labels: integers `[...]`, a distribution or `SparseLabels`: the expected loss over these.
      axis, where, ignore_index: as in `cross_entropy`.

    Returns:
      `[...]`, float32 or wider, in [0, 2]; NaN as in `cross_entropy`.

    Source: Ghosh, Kumar, Sastry, 2017, arXiv:1712.09482.

    Example:
      >>> js.mae_loss(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0, 0]))
      Array([1.4621, 0.2384], dtype=float32)
    """
    return _on_logits(mae, logits, labels, axis, where, ignore_index)


def symmetric_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    alpha: ArrayLike = 0.1,
    beta: ArrayLike = 1.0,
    log_zero: ArrayLike = -4.0,
) -> Array:
    r"""Symmetric cross-entropy of logits, for noisy labels; see `sce`.

    $$\ell = -\alpha \log p_y - \beta A\,(1 - p_y)$$

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      labels: integers `[...]`, a distribution or `SparseLabels`: the expected loss over these.
      axis, where, ignore_index: as in `cross_entropy`.
      alpha: α, the weight of cross-entropy.
      beta: β, the weight of reverse cross-entropy.
      log_zero: A, what stands for log 0.

    Returns:
      `[...]`, float32 or wider; +inf and NaN as in `cross_entropy`.

    Source: Wang et al., 2019, arXiv:1908.06112, eq. 5 to 7.

    Example:
      >>> js.symmetric_cross_entropy(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0, 0]))
      Array([3.0556, 0.4895], dtype=float32)
    """
    loss = partial(sce, alpha=alpha, beta=beta, log_zero=log_zero)
    return _on_logits(loss, logits, labels, axis, where, ignore_index)


def _on_logits(
    loss: Callable[[LogitStats], Array], logits, labels, axis, where, ignore_index
) -> Array:
    """Evaluate a loss of `LogitStats` at the label, or its expectation over a distribution."""
    inputs = loss_inputs(logits, labels, axis, where, ignore_index)
    if is_distribution(inputs.labels):
        losses, probs = loss(class_stats(inputs.logits, inputs.where)), inputs.labels
    else:
        losses, probs = loss(inputs.stats()[0]), inputs.probs
    if probs is not None:
        return jnp.sum(multiply_no_nan(cast_like(probs, losses), losses), -1)
    return inputs.without_ignored(losses)
