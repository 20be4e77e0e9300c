"""What of a loss calibration could mend, and what it could not."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.dtypes import cast_like
from jsoftmax.core.masking import centred
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.losses.brier import brier_loss
from jsoftmax.losses.cross_entropy import cross_entropy
from jsoftmax.losses.reduction import weighted_mean
from jsoftmax.metrics.inputs import metric_inputs
from jsoftmax.metrics.temperature import fit_temperature


class LossDecomposition(NamedTuple):
    r"""A mean loss in two parts; returned by `loss_decomposition`.

    $$\mathrm{loss} = \mathrm{calibration} + \mathrm{refinement}$$

    Args:
      loss: the mean loss.
      calibration: what a temperature takes away.
      refinement: what is left.
      temperature: the temperature.

    Source: Bröcker, "Reliability, sufficiency, and the decomposition of proper scores", 2009.

    Example:
      >>> js.loss_decomposition(jnp.array([[1.0, 0.0]] * 4), jnp.array([0, 0, 0, 1])).temperature
      Array(0.9102, dtype=float32)
    """

    loss: Array
    calibration: Array
    refinement: Array
    temperature: Array


@on_any_mesh(same_everywhere)
def loss_decomposition(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    loss: Literal["nll", "brier"] = "nll",
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
) -> LossDecomposition:
    r"""Cross-entropy or Brier score, in what calibration could mend and what it could not.

    $$\underbrace{E\,\ell(z) - E\,\ell(z / T)}_{\mathrm{calibration}} +
    \underbrace{E\,\ell(z / T)}_{\mathrm{refinement}}$$

    where T is the `fit_temperature` of the same examples. The decomposition of a proper loss takes
    the best of all recalibrations, which cannot be known from few examples; a temperature has one
    parameter to fit. So the calibration part is a lower estimate, and the refinement an upper one.

    Args:
      logits: `[..., classes]`, any real dtype.
      labels: integers `[...]`.
      loss: "nll" or "brier"; static.
      where: booleans that broadcast against `logits`; False masks a class.
      sample_weight: `[...]`, a weight or a mask.
      ignore_index: a label whose examples are left out.

    Returns:
      A `LossDecomposition` of scalars; losses are 0 if no example is left. NaN if a label is out of
      range and not ignored. T minimises the cross-entropy: the calibration part of the Brier score
      may come out slightly negative.

    Source: Bröcker, 2009; with a temperature: Berta et al., "Rethinking early stopping: refine,
    then calibrate", 2025, arXiv:2501.19195.

    Example:
      >>> logits, labels = jnp.array([[4.0, 0.0]] * 4), jnp.array([0, 0, 0, 1])
      >>> parts = js.loss_decomposition(logits, labels)
      >>> parts.calibration, parts.refinement
      (Array(0.4558, dtype=float32), Array(0.5623, dtype=float32))
    """
    if loss not in ("nll", "brier"):
        raise ValueError(f'`loss`: expected "nll" or "brier", got {loss!r}.')
    z, labels, weight = metric_inputs(logits, labels, where, sample_weight, ignore_index)
    z, _ = centred(z, -1, None)
    temperature = fit_temperature(z, labels, sample_weight=weight)

    def mean(temperature):
        scaled = z / cast_like(temperature, z)
        losses = (cross_entropy if loss == "nll" else brier_loss)(scaled, labels)
        return weighted_mean(losses, weight)

    total, refinement = mean(jnp.ones_like(temperature)), mean(temperature)
    return LossDecomposition(total, total - refinement, refinement, temperature)
