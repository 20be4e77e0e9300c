r"""Features and class vectors to a loss, without materialising the logits.

The function is the wiring: check the arguments, weigh the examples, plan, run, reduce. The order
inside a score is that of blockwise/scores.py: matrix product or cosine, margin and scale, bias,
softcap, temperature, then `where`.
"""

from collections.abc import Callable
from typing import Any, Literal, Unpack, overload

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from jsoftmax.blockwise.forward import evaluate
from jsoftmax.blockwise.gradient import reduced, weighted_sum
from jsoftmax.core.arguments import normalize_axis
from jsoftmax.core.collectives import (
    MeshAxes,
    all_gather_rows,
    all_gather_unvarying,
    check_bound_axis,
    local_rows,
    psum,
    split_shared_axes,
)
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.core.numbers import number
from jsoftmax.core.numerics import multiply_no_nan, per
from jsoftmax.linear.arguments import average_class_weight, checked_head, make_plan, unflatten
from jsoftmax.linear.examples import checked_examples, weigh
from jsoftmax.linear.options import LinearLossOptions, WithStats
from jsoftmax.linear.traced_loss import trace_loss
from jsoftmax.losses.of_stats import nll
from jsoftmax.losses.protocol import takes_class_weight
from jsoftmax.margins.form import Margin
from jsoftmax.margins.partition import combine, partition
from jsoftmax.stats.labels import SparseLabels, with_indices
from jsoftmax.stats.logit_stats import absolute


@overload
def linear_loss(
    features: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike | SparseLabels,
    loss: Callable[..., Array] = ...,
    *,
    return_stats: Literal[False] = False,
    **options: Unpack[LinearLossOptions],
) -> Array: ...
@overload
def linear_loss(
    features: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike | SparseLabels,
    loss: Callable[..., Array] = ...,
    *,
    return_stats: Literal[True],
    **options: Unpack[LinearLossOptions],
) -> WithStats: ...
@overload
def linear_loss(
    features: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike | SparseLabels,
    loss: Callable[..., Array] = ...,
    *,
    return_stats: bool,
    **options: Unpack[LinearLossOptions],
) -> Array | WithStats: ...
@on_any_mesh(without_classes("features"))
def linear_loss(
    features: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike | SparseLabels,
    loss: Callable[..., Array] = nll,
    *,
    loss_args: tuple[Any, ...] = (),
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
    r"""Any loss of `LogitStats` on a linear head, without materialising the logits.

    $$\frac{\sum_i w_i\, \ell(\mathrm{stats}_i, a_i)}{\sum_i w_i}, \qquad w_i =
    \mathrm{sample\_weight}_i \cdot \mathrm{class\_weight}_{y_i} \cdot [y_i \ne
    \mathrm{ignore\_index}]$$

    A scalar's gradients are computed together with its value: three matrix products by rows, as
    many as with materialised logits; four by classes; one without differentiation. They are stored
    until the backward pass: inside a `scan` whose sum is differentiated, take the gradient in the
    body.

    Args:
      features: `[..., features]`, floats. bfloat16 is multiplied in its own dtype and accumulated
        in float32. A CPU that is slower at that makes blocks of it float32.
      weight: `[classes, features]`, a row per class vector (a Flax `kernel` is its transpose).
      labels: integers `[...]`; or `SparseLabels`, the expected loss over them (not with a margin).
      loss: a function of one example's `LogitStats`, such as `js.focal`, `partial(js.gce, q=0.5)`,
        your own; `shift_invariant` is for those whose offsets cancel. Values it closes over may be
        traced and get gradients (those on an Explicit mesh in a `partial`). Statistics that it does
        not read are not computed.
      loss_args: the loss's further arguments a_i, as a tuple: arrays, or trees of arrays, `[...,
        any shape]`, with a row per example. The loss gets the rows of its example; floats have
        gradients. For `SparseLabels` each listed class gets them.
      bias: `[classes]`, added after margin and scale.
      softcap: c > 0, the bound on the size of the logits before the temperature.
      temperature: T > 0, a number or one for every example `[...]`; may be traced, with a gradient.
        The logits are divided by it last.
      margin: such as `arcface()`; its parameters may be traced and get gradients. An array has a
        number for every class, `PerExample` one for every example.
      where: booleans `[classes]`; False masks a class.
      sample_weight: `[...]`, a factor on each example's loss; booleans are a mask.
      class_weight: `[classes]`, a factor on each class's term of the label: on the loss of a class,
        on the probs of `SparseLabels`, and where `nll` smooths the label, on all terms of that. The
        mean divides by those of the labels; with `SparseLabels`, as in torch, it is over examples.
        Of an example whose class has weight 0 NaN stays NaN, unlike with a `sample_weight` of 0.
      ignore_index: a label whose examples are left out, whatever their features. The labels of
        `sample_classes` are other numbers: give it there, and here -1.
      reduction: "mean", "sum", or None for one value per example, at four matrix products.
      return_stats: also return the `LogitStats` of the examples, to be logged, with an
        entropy if the loss reads it. Those of examples that are left out mean nothing: average by
        `weighted_mean`. They have no gradient: what is to be trained, such as a term of log Z,
        belongs in the loss, as `lambda stats: js.nll(stats) + 1e-4 * stats.logsumexp**2`; or use
        `linear_stats`.
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

    Source: gradients in the forward pass: Hsu et al., "Liger kernel", 2024, arXiv:2410.10989,
    section 3.2; here as a `custom_jvp`, so that forward mode and Hessians work.

    Example:
      >>> x, w, y = jnp.ones((4, 2)), jnp.eye(3, 2), jnp.array([0, 1, 2, -1])
      >>> margin = js.cosface(scale=8.0)
      >>> @jax.jit
      ... def face_loss(x, w):
      ...     return js.linear_loss(x, w, y, js.focal, margin=margin, ignore_index=-1)
      >>> face_loss(x, w)
      Array(4.7458, dtype=float32)

      A training step that logs accuracy and log Z, which come from the same pass:

      >>> @jax.jit
      ... def loss_fn(w):
      ...     return js.linear_loss(x, w, y, ignore_index=-1, return_stats=True)
      >>> (loss, stats), dw = jax.value_and_grad(loss_fn, has_aux=True)(w)
      >>> js.weighted_mean(stats.correct, y != -1), js.weighted_mean(stats.logsumexp, y != -1)
      (Array(0., dtype=float32), Array(1.862, dtype=float32))

      A policy gradient with an entropy bonus, from the same three products:

      >>> def policy(stats, advantage):
      ...     return -advantage * stats.log_prob - 0.01 * stats.entropy
      >>> advantages = jnp.array([1.0, -1.0, 0.5, 0.0])
      >>> js.linear_loss(x, w, y, policy, loss_args=(advantages,), ignore_index=-1)
      Array(0.3002, dtype=float32)
    """
    if reduction not in ("mean", "sum", None):
        raise ValueError(f'`reduction`: expected "mean", "sum" or None, got {reduction!r}.')
    check_bound_axis("batch_axis", batch_axis)
    both, batch_axis = split_shared_axes(batch_axis, class_axis)
    if both is not None:
        labels = with_indices(labels)
        by_row = temperature if jnp.ndim(temperature := number(temperature)) else None
        of_examples = labels, sample_weight, loss_args, by_row
        features, of_examples, margin = _gather(features, of_examples, margin, axes=both)
        labels, sample_weight, loss_args, by_row = of_examples
        temperature = temperature if by_row is None else by_row

    features, head = checked_head(
        features, weight, bias=bias, softcap=softcap, margin=margin, where=where
    )
    shape = features.shape[:-1]
    examples, ignored = checked_examples(
        features,
        labels,
        head,
        class_axis=class_axis,
        ignore_index=ignore_index,
        temperature=temperature,
        loss_args=loss_args,
    )
    loss_takes_it = class_weight is not None and takes_class_weight(loss, loss_args)
    examples, head, weights, counts = weigh(
        examples,
        head,
        ignored,
        shape,
        sample_weight=sample_weight,
        class_weight=class_weight,
        class_axis=class_axis,
        loss_takes_it=loss_takes_it,
    )
    average = None
    if head.class_weight is not None:
        average = average_class_weight(head.class_weight, head.where, class_axis)
    traced, values, fields = trace_loss(
        loss, (examples, head), weights.dtype, class_axis, average, loss_args
    )
    if return_stats and "mean" not in fields:
        fields = (*fields, "mean")
    plan, examples, head = make_plan(
        examples,
        head._replace(loss=values),
        loss=traced,
        fields=fields,
        class_axis=class_axis,
        row_block=row_block,
        class_block=class_block,
        precision=precision,
    )
    if reduction is None:
        found = reduced(plan, examples, head)
        losses, stats, shift = evaluate(plan, examples, head, found)
        result = jnp.where(ignored, 0, multiply_no_nan(weights, losses)).reshape(shape)
        stats = absolute(stats, shift)
    else:
        if reduction == "mean":
            count = psum(jnp.sum(counts), batch_axis)
            weights = per(weights, count)
        result, (_, stats) = weighted_sum(plan, examples._replace(weights=weights), head)
        result = psum(result, batch_axis)
    if not return_stats:
        return result if both is None or not result.ndim else local_rows(result, both)
    stats = jax.lax.stop_gradient(unflatten(stats, shape))
    if both is not None:
        result, stats = jax.tree.map(
            lambda x: local_rows(x, both) if x.ndim else x, (result, stats)
        )
    return result, stats


def _gather(features, of_examples, margin, *, axes):
    """Return the examples of all devices of the axes over which classes are sharded, too."""
    features = jnp.asarray(features)
    normalize_axis("features", features, -2)
    parts = partition(margin)
    of_examples, of_margin = jax.tree.map(
        lambda x: all_gather_unvarying(jnp.asarray(x), axes), (of_examples, parts.per_example)
    )
    margin = combine(*parts._replace(per_example=of_margin))
    return all_gather_rows(features, axes), of_examples, margin
