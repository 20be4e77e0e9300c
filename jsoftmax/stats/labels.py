"""Labels: integers or short lists of classes; what stands at them, and what is put there.

One label per example is compared with all classes, which fuses with the passes around it. A list
would cost more comparisons than these passes: it is gathered and scattered.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import (
    as_labels,
    check_shape,
    check_some_class,
    is_distribution,
    with_rank_of,
)
from jsoftmax.core.dtypes import to_compute_dtype
from jsoftmax.core.numerics import unforeseen


class SparseLabels(NamedTuple):
    r"""A distribution over the classes as a short list: for mixup, or a teacher's top K classes.

    $$q_j = \sum_{k:\, \mathrm{indices}_k = j} \mathrm{probs}_k$$

    Args:
      indices: integers `[..., K]`. A class may be listed twice; one outside [0, classes) makes the
        loss and gradient of its example NaN. Pad a shorter list with any class of prob 0.
      probs: floats `[..., K]`, used as they are: a list that does not sum to 1 weighs its example.

    In place of integer labels `[...]` in the losses on logits and the `linear_*` functions. Memory
    grows with the square of K.

    Source: mixup: Zhang et al., 2018, arXiv:1710.09412; top-K distillation: Hinton et al., 2015,
    arXiv:1503.02531, of a truncated teacher.

    Example:
      >>> labels = js.SparseLabels(jnp.array([[0, 2]]), jnp.array([[0.75, 0.25]]))
      >>> js.cross_entropy(jnp.array([[2.0, 1.0, 0.0]]), labels)
      Array([0.9076], dtype=float32)
    """

    indices: ArrayLike
    probs: ArrayLike


def with_indices(labels: Any) -> Any:
    """Return labels, or `SparseLabels` with indices, in a dtype that holds any class."""
    if isinstance(labels, SparseLabels):
        return labels._replace(indices=as_labels(labels.indices, "labels.indices"))
    return as_labels(labels)


def check_labels(logits: Array, labels: Array, name: str = "labels") -> None:
    """Check labels against logits whose last axis is the classes; neither is ever broadcast."""
    check_some_class("logits", logits)
    examples = logits.shape[:-1]
    if is_distribution(labels):
        meaning = "a probability for every class of every example"
        use = f"Write {name}.astype(int) for class numbers." if labels.shape == examples else ""
        use = "Logits come before labels." if labels.ndim > logits.ndim else use
        check_shape(name, labels, logits.shape, meaning, use)
    else:
        one_hot = labels.ndim == logits.ndim
        use = f"Write {name}.astype(float) for one-hot rows." if one_hot else ""
        for axis in range(logits.ndim - 1):
            if labels.shape == logits.shape[:axis] + logits.shape[axis + 1 :]:
                use = f"If the classes are along axis {axis}, write axis={axis}."
        check_class_numbers(name, labels, examples, use)


def check_class_numbers(name: str, labels: Array, examples: tuple[int, ...], use: str) -> None:
    """Check the shape of integer labels; `use` says what to write if it is not as it should be."""
    use = f"Write {name}[..., 0]." if labels.shape == (*examples, 1) else use
    check_shape(name, labels, examples, "an integer class for every example", use)


def check_sparse_labels(labels: Any, examples: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the indices and probs of `SparseLabels`, checked."""
    indices = as_labels(labels.indices, "labels.indices")
    probs = jnp.asarray(labels.probs)
    if is_distribution(indices):
        raise TypeError(f"`labels.indices`: expected integers, got dtype {indices.dtype}.")
    if not is_distribution(probs):
        raise TypeError(f"`labels.probs`: expected floats, got dtype {probs.dtype}.")
    meaning = "a list of classes for every example"
    listed = indices.shape[-1] if indices.ndim == len(examples) + 1 else None
    check_shape("labels.indices", indices, (*examples, listed), meaning)
    check_shape("labels.probs", probs, indices.shape, "a probability for every listed class")
    return indices, probs


def class_numbers(logits: Array, dtype: Any = int) -> Array:
    """Return the numbers of the classes, along the last of as many axes as `logits` has."""
    return with_rank_of(logits, jnp.arange(logits.shape[-1], dtype=dtype))


def is_label(logits: Array, labels: Array) -> Array:
    """Return booleans in the shape of `logits`: the class is the label, if that is in range."""
    return lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1) == labels[..., None]


@jax.custom_jvp
def at_label(values: Array, labels: Array) -> Array:
    """Return each example's value at its label, in float32 or wider; NaN for one out of range.

    Its derivative compares instead of scattering: that fuses with the passes around it.
    """
    valid = (labels >= 0) & (labels < values.shape[-1])
    index = jnp.where(valid, labels, 0)[..., None]
    picked = to_compute_dtype(jnp.take_along_axis(values, index, -1)[..., 0])
    return _nan_out_of_range(picked, labels, values.shape[-1])


@at_label.defjvp
def _at_label_jvp(primals, tangents):
    moved = jnp.where(is_label(*primals), to_compute_dtype(tangents[0]), 0)
    return at_label(*primals), jnp.sum(moved, -1)


def at_labels(values: Array, labels: Array) -> Array:
    """Return the values at labels `[...]` or lists `[..., K]`; NaN for one out of range."""
    if labels.ndim < values.ndim:
        return at_label(values, labels)
    valid = (labels >= 0) & (labels < values.shape[-1])
    picked = to_compute_dtype(jnp.take_along_axis(values, jnp.where(valid, labels, 0), -1))
    return _nan_out_of_range(picked, labels, values.shape[-1])


def _nan_out_of_range(picked, labels, classes):
    labels = unforeseen(labels, picked)
    return jnp.where((labels >= 0) & (labels < classes), picked, jnp.nan)


def is_any_label(classes: Array, labels: Array) -> Array:
    """Return `[N, c]`: which of c consecutive classes is a label, `[N]` or one of `[N, K]`."""
    if labels.ndim == 1:
        return classes[None] == labels[:, None]
    none = jnp.zeros((labels.shape[0], classes.shape[0]), bool)
    return none.at[_positions(classes, labels)].set(True, mode="drop")


def add_at_labels(dense: Array, labels: Array, values: Array) -> Array:
    """Return `dense` `[N, classes]` with values `[N, K]` added at lists of labels."""
    classes = jnp.arange(dense.shape[1], dtype=labels.dtype)
    return dense.at[_positions(classes, labels)].add(values, mode="drop")


def first_of_equals(labels: Array) -> Array:
    """Return which entries of lists `[..., K]` do not repeat an earlier one."""
    same = labels[..., None, :] == labels[..., None]
    return ~jnp.any(jnp.tril(same, -1), -1)


def _positions(classes, labels):
    size = classes.shape[0]
    columns = labels - classes[0]  # a negative one would count from the end
    return jnp.arange(labels.shape[0])[:, None], jnp.where(columns < 0, size, columns)
