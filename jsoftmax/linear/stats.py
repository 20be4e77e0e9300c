"""Features and class vectors to `LogitStats`, without materialising the logits."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from jsoftmax.blockwise.forward import stats_of
from jsoftmax.blockwise.gradient import reduced
from jsoftmax.core.collectives import MeshAxes
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.linear.arguments import checked_head, make_plan, unflatten
from jsoftmax.linear.examples import checked_examples
from jsoftmax.margins.form import Margin
from jsoftmax.stats.labels import SparseLabels
from jsoftmax.stats.logit_stats import LogitStats
from jsoftmax.stats.statistics import OPTIONAL


@on_any_mesh(without_classes("features"))
def linear_stats(
    features: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike | SparseLabels,
    *,
    bias: ArrayLike | None = None,
    softcap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    margin: Margin | None = None,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    class_axis: MeshAxes = None,
    row_block: int | None = None,
    class_block: int | None = None,
    precision: PrecisionLike = None,
) -> LogitStats:
    r"""The `LogitStats` of a linear head, without materialising the logits.

    $$(x, W, y) \mapsto \mathrm{stats}(z, y), \qquad z = \mathrm{linear\_logits}(x, W, y)$$

    Derivatives recompute the logits block by block: four matrix products with the gradient, for any
    use of the statistics. A scalar loss is cheaper by `linear_loss`.

    Args:
      features: `[..., features]`, floats.
      weight: `[classes, features]`, a row per class vector (a Flax `kernel` is its transpose).
      labels: integers `[...]`, or `SparseLabels` (not with a margin).
      bias: `[classes]`, added after margin and scale.
      softcap: c > 0, the bound on the size of the logits.
      temperature: T > 0, a number or one for every example `[...]`; may be traced. The logits are
        divided by it last.
      margin: such as `arcface()`; its parameters may be traced.
      where: booleans `[classes]`; False masks a class.
      ignore_index: a label whose examples are neutral: their fields are those of features 0 and
        class 0, finite whatever their features hold, and have no gradient.
      class_axis: inside `jax.shard_map`, the mesh axis, or axes, over which classes are sharded.
        Every argument per class is then this device's shard; examples are replicated along the
        axis.
      row_block: how many examples a block has; None chooses by the shape and the machine.
      class_block: how many classes a block has; None likewise.
      precision: of all matrix products, as `jax.lax.dot_general` takes it. None follows
        `jax.default_matmul_precision`, by which a GPU rounds float32 operands to TF32, and a TPU to
        bfloat16. With a margin write "highest".

    Returns:
      `LogitStats` of `[...]`, float32 or wider; for `SparseLabels` of `[..., K]`, in which each
      listed class in turn is the true one. An out-of-range label makes `target` NaN.

    Source: the formulas of `LogitStats`, with the running maximum of Milakov, Gimelshein, "Online
    normalizer calculation for softmax", 2018, arXiv:1805.02867.

    Example:
      >>> x, w = jnp.array([[2.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> js.linear_stats(x, w, jnp.array([0])).logsumexp
      Array([2.1269], dtype=float32)
    """
    features, head = checked_head(
        features, weight, bias=bias, softcap=softcap, margin=margin, where=where
    )
    examples, ignored = checked_examples(
        features,
        labels,
        head,
        class_axis=class_axis,
        ignore_index=ignore_index,
        temperature=temperature,
    )
    plan, examples, head = make_plan(
        examples,
        head,
        loss=None,
        fields=OPTIONAL,
        class_axis=class_axis,
        row_block=row_block,
        class_block=class_block,
        precision=precision,
    )
    found = reduced(plan, examples, head)
    stats, _ = stats_of(plan, examples, head, found, centred=False)
    if ignore_index is not None:
        stats = jax.tree.map(lambda x: jnp.where(ignored, lax.stop_gradient(x), x), stats)
    return unflatten(stats, features.shape[:-1])
