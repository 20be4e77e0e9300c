"""Cross-entropy of a linear head: `linear_loss` of `nll`, with the options of that."""

from functools import partial
from typing import Literal, Unpack, overload

import jax.numpy as jnp
from jax import Array
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from jsoftmax.core.arguments import as_given, check_shape
from jsoftmax.core.collectives import MeshAxes
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.core.numbers import at_least, is_static, within
from jsoftmax.linear.loss import linear_loss
from jsoftmax.linear.options import CrossEntropyOptions, WithStats
from jsoftmax.losses.of_stats import nll
from jsoftmax.losses.protocol import by_class_weight, centred_by, on_centred, with_class_weight
from jsoftmax.margins.form import Margin
from jsoftmax.stats.labels import SparseLabels


@overload
def linear_cross_entropy(
    features: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike | SparseLabels,
    *,
    return_stats: Literal[False] = False,
    **options: Unpack[CrossEntropyOptions],
) -> Array: ...
@overload
def linear_cross_entropy(
    features: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike | SparseLabels,
    *,
    return_stats: Literal[True],
    **options: Unpack[CrossEntropyOptions],
) -> WithStats: ...
@overload
def linear_cross_entropy(
    features: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike | SparseLabels,
    *,
    return_stats: bool,
    **options: Unpack[CrossEntropyOptions],
) -> Array | WithStats: ...
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
) -> Array | WithStats:
    r"""Cross-entropy of a linear head, without materialising the logits: `linear_loss` of `nll`.

    $$\frac{\sum_i w_i\, \ell_i}{\sum_i w_i}, \qquad \ell_i = -\sum_j q_{ij} \log p_{ij} + \lambda\,
    (\log Z_i)^2$$

    Args:
      features: `[..., features]`, floats. bfloat16 is multiplied in its own dtype and accumulated
        in float32. A CPU that is slower at that makes blocks of it float32.
      weight: `[classes, features]`, a row per class vector (a Flax `kernel` is its transpose).
      labels: integers `[...]`; or `SparseLabels`, the expected loss over them (not with a margin).
      label_smoothing: ε in [0, 1], spread evenly over all unmasked classes, the true one included:
        a number or one for every example `[...]`.
      z_loss: λ >= 0, a penalty on the log-partition function, which keeps logits from drifting: a
        number or one for every example `[...]`.
      bias: `[classes]`, added after margin and scale.
      softcap: c > 0, the bound on the size of the logits before the temperature.
      temperature: T > 0, a number or one for every example `[...]`; may be traced, with a gradient.
        The logits are divided by it last.
      margin: such as `arcface()`; its parameters may be traced and get gradients. An array has a
        number for every class, `PerExample` one for every example.
      where: booleans `[classes]`; False masks a class.
      sample_weight: `[...]`, a factor on each example's loss; booleans are a mask.
      class_weight: `[classes]`, a factor on each class's term of the label, of the smoothed one
        where it is smoothed. The mean divides by those of the labels; with `SparseLabels`, as in
        torch, it is over examples. Of an example whose class has weight 0 NaN stays NaN, unlike
        with a `sample_weight` of 0.
      ignore_index: a label whose examples are left out, whatever their features. The labels of
        `sample_classes` are other numbers: give it there, and here -1.
      reduction: "mean", "sum", or None for one value per example, at four matrix products.
      return_stats: also return the `LogitStats` of the examples, to be logged. Those of examples
        that are left out mean nothing: average by `weighted_mean`. They have no gradient: a term of
        log Z is trained by `z_loss`.
      class_axis: inside `jax.shard_map`, the mesh axis, or axes, over which classes are sharded.
        Every argument per class is then this device's shard, consecutive rows, as many on each
        device, with `where` False for padding. Features, and labels, which are global, are
        replicated along the axis, and so is the result. Differentiate outside the shard_map if its
        `check_vma` is False.
      batch_axis: inside `jax.shard_map`, the mesh axis, or axes, over which the examples are
        sharded: mean and sum are then over the examples of all devices. It may share axes with
        `class_axis`: then each device has its own examples, and features are gathered.
      row_block: how many examples a block has. By default it follows from the shape and the
        machine, for speed (see blockwise/block_sizes.py).
      class_block: how many classes a block has, by default likewise. Given alone it takes the least
        memory, for a fourth product.
      precision: of all matrix products, those of the gradients too, as `jax.lax.dot_general` takes
        it; None follows `jax.default_matmul_precision`. Unless asked for more, a GPU rounds float32
        operands to TF32 and a TPU to bfloat16, by up to 2^-11 and 2^-8 of each. That moves a cosine
        by up to 2^-10 and 2^-7, and its logit at scale 64 by 0.06 and 0.5: with a margin, write
        `precision="highest"`.

    Returns:
      A scalar, 0 if no weight is left; with reduction None `[...]`; float32 or wider. With
      `return_stats` (that, stats). NaN if an example with weight has an out-of-range label, +inf if
      its class is masked.

    Source: Szegedy et al., 2016, arXiv:1512.00567, section 7; z-loss: Chowdhery et al., "PaLM",
    2022, arXiv:2204.02311; gradients in the forward pass: Hsu et al., 2024, arXiv:2410.10989.

    Example:
      >>> x, w = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.eye(3, 2)
      >>> jax.jit(js.linear_cross_entropy)(x, w, jnp.array([0, 1]), label_smoothing=0.1)
      Array(0.4955, dtype=float32)
    """
    given = {
        "label_smoothing": within("label_smoothing", label_smoothing, 0, 1),
        "z_loss": at_least("z_loss", z_loss, 0),
    }
    numbers = {name: jnp.asarray(x) for name, x in given.items() if not is_static(x, 0)}
    by_row = {name: x for name, x in numbers.items() if x.ndim}
    examples = as_given("features", features).shape[:-1]
    for name, x in by_row.items():
        check_shape(name, x, examples, "one number, or one for every example")
    # As arrays: another number is not another program.
    of_all = {name: x for name, x in numbers.items() if not x.ndim}
    return linear_loss(
        features,
        weight,
        labels,
        partial(_nll_by_row if by_row else nll, **of_all),
        loss_args=(by_row,) if by_row else (),
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


@by_class_weight(
    lambda stats, shift, of_label, by_row, *, average, **of_all: with_class_weight(nll, average)(
        stats, shift, of_label, **of_all, **by_row
    )
)
@centred_by(
    lambda stats, shift, by_row, **of_all: on_centred(nll)(stats, shift, **of_all, **by_row)
)
def _nll_by_row(stats, by_row, **of_all):
    return nll(stats, **of_all, **by_row)
