"""Cross-entropy of a linear head: `linear_loss` of `nll`, with the options of that."""

from functools import partial
from typing import Literal

from jax import Array
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from jsoftmax.core.collectives import MeshAxes
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.linear.loss import linear_loss
from jsoftmax.losses.of_stats import nll
from jsoftmax.margins.form import Margin
from jsoftmax.stats.labels import SparseLabels
from jsoftmax.stats.logit_stats import LogitStats


@on_any_mesh(without_classes("features"))
def linear_cross_entropy(
    features: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike | SparseLabels,
    *,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    bias: ArrayLike | None = None,
    softcap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    margin: Margin | None = None,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    reduction: Literal["mean", "sum"] | None = "mean",
    return_stats: bool = False,
    class_axis: MeshAxes = None,
    batch_axis: MeshAxes = None,
    row_block: int | None = None,
    class_block: int | None = None,
    precision: PrecisionLike = None,
) -> Array | tuple[Array, LogitStats]:
    r"""Cross-entropy of a linear head, without materialising the logits: `linear_loss` of `nll`.

    $$\frac{\sum_i w_i\, \ell_i}{\sum_i w_i}, \qquad \ell_i = -\sum_j q_{ij} \log p_{ij} + \lambda\,
    (\log Z_i)^2$$

    Args:
      features, weight, labels: as in `linear_loss`.
      label_smoothing: ε in [0, 1]; see `nll`.
      z_loss: λ; see `nll`.
      bias, softcap, temperature, margin, where, sample_weight, class_weight, ignore_index,
        reduction, return_stats, class_axis, batch_axis, row_block, class_block, precision: as in
        `linear_loss`.

    Returns:
      As `linear_loss`.

    Source: as `nll` and `linear_loss`.

    Example:
      >>> x, w = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.eye(3, 2)
      >>> jax.jit(js.linear_cross_entropy)(x, w, jnp.array([0, 1]), label_smoothing=0.1)
      Array(0.4955, dtype=float32)
    """
    return linear_loss(
        features,
        weight,
        labels,
        partial(nll, label_smoothing=label_smoothing, z_loss=z_loss),
        bias=bias,
        softcap=softcap,
        temperature=temperature,
        margin=margin,
        where=where,
        sample_weight=sample_weight,
        class_weight=class_weight,
        ignore_index=ignore_index,
        reduction=reduction,
        return_stats=return_stats,
        class_axis=class_axis,
        batch_axis=batch_axis,
        row_block=row_block,
        class_block=class_block,
        precision=precision,
    )
