"""The dense linear head: for reading, plotting, inference, and as the oracle of the others."""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from jsoftmax.blockwise.matmul import matmul
from jsoftmax.blockwise.scores import (
    cosines,
    features_inverse_norm,
    fold,
    kept_norm,
    logits_of,
    nearest,
    of_others,
    sound_vectors,
    weight_inverse_norm,
    with_margin,
    without_length,
)
from jsoftmax.core.arguments import check_shape, integer_labels
from jsoftmax.core.collectives import axes_of, gather_per_class
from jsoftmax.core.dtypes import sum_dtype
from jsoftmax.core.masking import mask_classes
from jsoftmax.core.meshes import explicit_axes, on_any_mesh, without_classes
from jsoftmax.core.norms import norm
from jsoftmax.linear.arguments import checked_head, checked_precision
from jsoftmax.linear.examples import temperature_by_row
from jsoftmax.margins.form import (
    Margin,
    at_cosines,
    call,
    has_summary,
    reads_norm,
    scale_of,
    similarity,
)
from jsoftmax.margins.partition import combine, partition
from jsoftmax.stats.labels import at_label, is_label


def _axes(given):
    """Return those of the features for the examples, and of the weight for the classes."""
    examples = without_classes("features")(given) or (None,) * (jnp.ndim(given["features"]) - 1)
    taken = {name for axes in examples for name in axes_of(axes)}
    classes = explicit_axes(given["weight"])[:1]
    return *examples, *(None if taken & {*axes_of(axes)} else axes for axes in classes)


@on_any_mesh(_axes)
def linear_logits(
    features: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    bias: ArrayLike | None = None,
    softcap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    margin: Margin | None = None,
    where: ArrayLike | None = None,
    precision: PrecisionLike = None,
) -> Array:
    r"""The logits of a linear head, with a margin on the true class if labels are given.

    $$z_j = \mathrm{cap}(w_j^\top x + b_j), \qquad \mathrm{cap}(a) = c \tanh(a / c)$$

    and with a margin $z_j = \mathrm{cap}(s \cos\theta_j + b_j)$, in which the true class's cosine
    goes through the margin's φ; each margin says which vectors it normalises.

    Args:
      features: `[..., features]`, floats. 16-bit operands are multiplied in their own dtype and
        accumulated in float32; norms, cosines and margin are float32.
      weight: `[classes, features]`, a row per class vector (a Flax `kernel` is its transpose).
      labels: integers `[...]`, or None for inference: then the margin adds nothing, and the logits
        are what to predict with. A row with an out-of-range label is left without margin; the loss
        reports the label.
      bias: `[classes]`, added after margin and scale.
      softcap: c > 0, the bound on the size of the logits before the temperature.
      temperature: T > 0, a number or one for every example `[...]`; may be traced. The logits are
        divided by it last.
      margin: such as `arcface()`, applied to the true class, or to all. Its parameters may be
        traced and get gradients.
      where: booleans `[classes]`; False masks a class: its logits are -inf, and its vector, which
        may hold NaN, reaches no gradient.
      precision: of the matrix product, as `jax.lax.dot_general` takes it. None follows
        `jax.default_matmul_precision`, by which a GPU rounds float32 operands to TF32, and a TPU to
        bfloat16. With a margin write "highest".

    Returns:
      Logits `[..., classes]`, float32 or wider. A zero vector has cosine 0 with everything, and
      gradient 0 through its norm.

    Source: the margins' own; softcap: Gemma team, "Gemma 2", 2024, arXiv:2408.00118, section 2.

    Example:
      >>> x, w = jnp.array([[1.0, 0.0]]), jnp.array([[2.0, 0.0], [0.0, 2.0]])
      >>> js.linear_logits(x, w)
      Array([[2., 0.]], dtype=float32)
      >>> js.linear_logits(x, w, jnp.array([0]), margin=js.cosface(margin=0.25, scale=8.0))
      Array([[6., 0.]], dtype=float32)
    """
    features, head = checked_head(
        features, weight, bias=bias, softcap=softcap, margin=margin, where=where
    )
    plain, features = features, without_length(features, margin)
    weight = sound_vectors(head.weight, head.sound)
    of_weight = weight_inverse_norm(weight, margin)
    c = cosines(
        matmul(features, fold(weight, margin), checked_precision(precision)),
        features_inverse_norm(features, margin),
        None if of_weight is None else fold(of_weight, margin),
    )
    c = nearest(c, margin)
    parts = partition(margin)
    if labels is None:
        of_classes = at_cosines(combine(*parts._replace(per_class=None)), c, axes=1)
        f = similarity(of_classes, c)
    else:
        labels = integer_labels(
            labels, instead="cross_entropy on the logits without labels: a margin is for one class"
        )
        check_shape("labels", labels, features.shape[:-1], "an integer class for every example")
        of_labels = jax.tree.map(lambda x: gather_per_class(x, labels, None), parts.per_class)
        mine = combine(*parts._replace(per_class=of_labels))
        of_classes = at_cosines(mine, c, axes=1)
        length = norm(plain) if reads_norm(margin) else None
        f = _with_labels(features, weight, labels, c, (mine, of_classes), length, head.where)
    by_row = temperature_by_row(temperature, features.shape[:-1], sum_dtype(features, head.weight))
    if by_row is not None:
        by_row = by_row.reshape(*c.shape[:-1], 1)
    z = logits_of(f, scale_of(of_classes), head.bias, head.softcap, by_row)
    return mask_classes(z, head.where)


def _with_labels(features, weight, labels, c, margins, length, where):
    """Return what takes the place of cosines where there are labels."""
    margin, of_classes = margins
    if margin is None:
        return c
    of_label, at = at_label(c, labels), is_label(c, labels)
    summary, columns = None, (None if length is None else length[..., None])
    if has_summary(margin):
        others = jnp.where(at if where is None else at | ~where, -jnp.inf, c)
        given = lax.stop_gradient((others, of_label[..., None]))
        summary = call(of_classes.summary, *given, norm=columns)
    target = with_margin(
        of_label,
        kept_norm(features, weight, labels, margin),
        at_cosines(margin, c),
        length,
        summary,
    )
    summary = jax.tree.map(lambda x: jnp.expand_dims(x, c.ndim - 1), summary)
    f = of_others(of_classes, c, of_label[..., None], columns, summary)
    return jnp.where(at, target[..., None], f)
