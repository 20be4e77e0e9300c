r"""Two linear heads, a student's and a teacher's, to the divergence of their softmaxes.

As in loss.py: check the arguments, weigh the examples, plan, run, reduce.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from jsoftmax.blockwise.block_sizes import pair_blocks
from jsoftmax.blockwise.machine import machine_for
from jsoftmax.blockwise.two_heads import Comparison, Pairs, compare_rows, compared_sum
from jsoftmax.core.arguments import check_shape, normalize_axis
from jsoftmax.core.collectives import (
    MeshAxes,
    all_gather_rows,
    all_gather_unvarying,
    check_bound_axis,
    local_rows,
    psum,
    split_shared_axes,
)
from jsoftmax.core.dtypes import sum_dtype
from jsoftmax.core.masking import as_rows
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.core.numbers import like_examples, within
from jsoftmax.core.numerics import multiply_no_nan, per
from jsoftmax.linear.arguments import checked_head, checked_precision
from jsoftmax.linear.examples import temperature_by_row
from jsoftmax.losses.of_two_logits import DIVERGENCES, Divergence
from jsoftmax.losses.reduction import Reduction, check_reduction, example_weights


@on_any_mesh(without_classes("student_features"))
def linear_distillation_loss(
    student_features: ArrayLike,
    student_weight: ArrayLike,
    teacher_features: ArrayLike,
    teacher_weight: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    divergence: Literal["forward", "reverse", "js"] = "forward",
    beta: ArrayLike = 0.5,
    student_bias: ArrayLike | None = None,
    student_softcap: ArrayLike | None = None,
    teacher_bias: ArrayLike | None = None,
    teacher_softcap: ArrayLike | None = None,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    class_axis: MeshAxes = None,
    batch_axis: MeshAxes = None,
    row_block: int | None = None,
    class_block: int | None = None,
    precision: PrecisionLike = None,
) -> Array:
    r"""Distillation of one linear head into another, without materialising the logits of either.

    $$\frac{\sum_i w_i\, T_i^2\, D(q_i, p_i)}{\sum_i w_i}, \qquad p = \mathrm{softmax}(z / T),\; q
    = \mathrm{softmax}(t / T)$$

    for logits z of the student and t of the teacher, whose features may differ in width. D is one
    of

    - "forward": $\mathrm{KL}(q \,\|\, p)$, as in `distillation_loss`: the student covers all that
      the teacher does;
    - "reverse": $\mathrm{KL}(p \,\|\, q)$: the student avoids what the teacher does;
    - "js": $\beta\, \mathrm{KL}(q \,\|\, m) + (1 - \beta)\, \mathrm{KL}(p \,\|\, m)$ with
      $m = \beta q + (1 - \beta) p$, the generalised Jensen-Shannon divergence.

    A scalar's gradients are computed together with its value: three matrix products of the student
    and one of the teacher; two more if the teacher's gradients are asked for. What is not to be
    trained needs no `stop_gradient`, if it is not differentiated.

    Args:
      student_features: `[..., features]`, floats; products are accumulated in float32.
      student_weight: `[classes, features]`, a row per class vector (a Flax `kernel` is its
        transpose).
      teacher_features: `[..., teacher's features]`, of the same examples.
      teacher_weight: `[classes, teacher's features]`, of the same classes.
      temperature: T > 0, a number or one for every example `[...]`; may be traced, and gets a
        gradient. The factor T² keeps the gradients at about the same size.
      divergence: "forward", "reverse" or "js".
      beta: β in [0, 1], likewise, of "js". As in trl and Liger it is the teacher's share of m. At 0
        and at 1 the divergence is 0, where these two switch to "forward" and to "reverse": its
        limits, divided by β and by 1 - β.
      student_bias: `[classes]`, added to the student's products.
      student_softcap: c > 0, the bound on the size of the student's logits.
      teacher_bias: `[classes]`, added to the teacher's.
      teacher_softcap: c > 0, that of the teacher's.
      where: booleans `[classes]`; False masks a class in both.
      sample_weight: `[...]`, a factor on each example's loss; booleans are a mask. An example of
        weight 0 is left out whatever its features.
      reduction: "mean", "sum", or None for one value per example, which computes the logits of
        both heads once more if it is differentiated.
      class_axis: inside `jax.shard_map`, the mesh axis, or axes, over which classes are sharded.
        Every argument per class is then this device's shard; that goes for both heads, and examples
        are replicated along the axis.
      batch_axis: inside `jax.shard_map`, the mesh axis, or axes, over which the examples are
        sharded: mean and sum are then over the examples of all devices. It may share axes with
        `class_axis`: then each device has its own examples, and features are gathered.
      row_block: how many examples a block has. It holds their products with all (of this device's)
        classes of both heads, and the gradient of each that is asked for; on an accelerator about
        six more arrays of that size. By default it follows from the shape and the machine.
      class_block: there are no blocks of classes, since the two heads are compared class by class
        when both normalisers are known. If `row_block` is None, this one bounds the memory: a
        block has as many logits as all examples with this many classes.
      precision: of all matrix products, as `jax.lax.dot_general` takes it. None follows
        `jax.default_matmul_precision`, by which a GPU rounds float32 operands to TF32, and a TPU to
        bfloat16.

    Returns:
      A scalar, 0 if no weight is left; with reduction None `[...]`; float32 or wider. Never below
      0, and accurate where the two agree. A KL is +inf where a class is at -inf for its second
      argument only.

    Source: Hinton, Vinyals, Dean, 2015, arXiv:1503.02531; the divergences as in Agarwal et al.,
    "On-policy distillation of language models", 2023, arXiv:2306.13649, eq. 1.

    Example:
      >>> x, w = jnp.eye(3, 2), jnp.eye(5, 2)
      >>> teacher_x, teacher_w = jnp.eye(3, 4), 2 * jnp.eye(5, 4)
      >>> @jax.jit
      ... def loss_fn(w):
      ...     return js.linear_distillation_loss(x, w, teacher_x, teacher_w, temperature=2.0)
      >>> loss_fn(w)
      Array(0.2227, dtype=float32)

      Of a teacher of which the k largest probabilities q are stored, with the rest as one class
      more; the student's rest is right to about 1e-7:

      >>> @jax.jit
      ... def top_k_loss(w, classes, q):
      ...     stats = js.linear_stats(x, w, js.SparseLabels(classes, q))
      ...     rest, q_rest = 1 - jnp.exp(stats.log_prob).sum(-1), 1 - q.sum(-1)
      ...     listed = jnp.sum(q * (jnp.log(q) - stats.log_prob), -1)
      ...     return jnp.mean(listed + q_rest * jnp.log(q_rest / jnp.maximum(rest, 1e-7)))
      >>> log_q, classes = js.linear_top_k(teacher_x, teacher_w, 2)
      >>> q = jnp.exp(log_q - js.logsumexp(js.linear_logits(teacher_x, teacher_w))[:, None])
      >>> top_k_loss(w, classes, q)
      Array(0.2388, dtype=float32)
    """
    check_reduction(reduction)
    if divergence not in DIVERGENCES:
        names = ", ".join(f'"{name}"' for name in DIVERGENCES)
        raise ValueError(f"`divergence`: expected one of {names}, got {divergence!r}.")
    check_bound_axis("class_axis", class_axis)
    check_bound_axis("batch_axis", batch_axis)
    both, batch_axis = split_shared_axes(batch_axis, class_axis)
    if both is not None:
        student_features, teacher_features = (
            all_gather_rows(_rows(name, x), both)
            for name, x in (
                ("student_features", student_features),
                ("teacher_features", teacher_features),
            )
        )
        temperature, beta = (_of_all(x, both) for x in (temperature, beta))
        sample_weight = sample_weight if sample_weight is None else _of_all(sample_weight, both)

    x, student = checked_head(
        student_features,
        student_weight,
        bias=student_bias,
        softcap=student_softcap,
        where=where,
        whose="student_",
    )
    y, teacher = checked_head(
        teacher_features,
        teacher_weight,
        bias=teacher_bias,
        softcap=teacher_softcap,
        where=where,
        whose="teacher_",
    )
    shape, classes = x.shape[:-1], student.weight.shape[0]
    expected = (*shape, *y.shape[-1:])
    check_shape("teacher_features", y, expected, "as many examples as the student's")
    expected = (classes, *y.shape[-1:])
    check_shape("teacher_weight", teacher.weight, expected, "as many classes as the student's")
    wide = jnp.zeros(
        shape, jnp.promote_types(sum_dtype(x, student.weight), sum_dtype(y, teacher.weight))
    )
    pairs = _pairs(x, y, temperature, beta if divergence == "js" else None, sample_weight, wide)

    larger = max(x.dtype, y.dtype, key=lambda dtype: dtype.itemsize)
    blocks = pair_blocks(
        *(wide.size, classes, max(x.shape[-1], y.shape[-1])),
        row_block,
        class_block,
        machine=machine_for(larger),
        sharded=class_axis is not None,
    )
    compare = Divergence(DIVERGENCES[divergence], mesh_axes=class_axis)
    plan = Comparison(compare, blocks, class_axis, checked_precision(precision))
    heads = student, teacher
    if reduction is None:
        losses = multiply_no_nan(pairs.weights, compare_rows(plan, pairs, heads)).reshape(shape)
        return losses if both is None else local_rows(losses, both)
    if reduction == "mean":
        count = psum(jnp.sum(pairs.weights), batch_axis)
        pairs = pairs._replace(weights=per(pairs.weights, count))
    return psum(compared_sum(plan, pairs, heads), batch_axis)


def _of_all(numbers, axes):
    """Return those of the examples of all devices; one number is the same for all."""
    return all_gather_unvarying(jnp.asarray(numbers), axes) if jnp.ndim(numbers) else numbers


def _rows(name, features):
    features = jnp.asarray(features)
    normalize_axis(name, features, -2)
    return features


def _pairs(x, y, temperature, beta, sample_weight, wide) -> Pairs:
    """Return what has a row per example, harmless where an example of weight 0 is not finite."""
    if beta is not None:
        beta = like_examples("beta", within("beta", beta, 0, 1), wide)
        beta = jnp.broadcast_to(beta, wide.shape).reshape(-1)
    numbers = temperature_by_row(temperature, wide.shape, wide.dtype), beta
    weights = example_weights(sample_weight, wide.shape, wide)
    features = as_rows(x), as_rows(y)
    if weights is None:
        return Pairs(features, numbers, jnp.ones_like(wide).reshape(-1))
    weights = weights.reshape(-1)

    def harmless(given, filler):
        finite = jnp.all(jnp.isfinite(given), range(1, given.ndim), keepdims=True)
        counts = (weights != 0).reshape(-1, *[1] * (given.ndim - 1))
        return jnp.where(finite | counts, given, filler)

    features, numbers = (
        jax.tree.map(lambda x, filler=filler: harmless(x, filler), given)
        for given, filler in ((features, 0), (numbers, 1))
    )
    return Pairs(features, numbers, weights)
