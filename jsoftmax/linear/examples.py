"""What goes by example in the linear functions: checked, flattened and weighed.

What a user gave becomes `Examples`, with the leading axes as one; see blockwise/types.py. What an
example of weight 0 holds, be it NaN, must not reach a gradient: it is neutralised here.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.blockwise.types import Examples, Head, Numbers
from jsoftmax.checks import check_values
from jsoftmax.core.arguments import (
    as_given_like,
    check_integers,
    check_shape,
    labels_and_ignored,
)
from jsoftmax.core.collectives import check_bound_axis, gather_per_class, num_global
from jsoftmax.core.dtypes import sum_dtype
from jsoftmax.core.masking import as_rows
from jsoftmax.core.numbers import at_least, is_static, like_examples
from jsoftmax.stats.labels import SparseLabels, check_class_numbers, check_sparse_labels


def checked_examples(
    features: Array,
    labels,
    head: Head,
    *,
    class_axis,
    ignore_index=None,
    temperature: ArrayLike = 1.0,
    loss_args: Any = (),
) -> tuple[Examples, Array | bool]:
    """Check what goes by example, make the examples one axis, and return which are ignored.

    An ignored example gets label 0 and features 0.
    """
    check_bound_axis("class_axis", class_axis)
    shape = features.shape[:-1]
    dtype = sum_dtype(features, head.weight)
    numbers = Numbers(temperature=temperature_by_row(temperature, shape, dtype))
    loss_args = flat_loss_args(loss_args, shape)
    features = as_rows(features)
    probs, ignored = None, False
    if isinstance(labels, SparseLabels):
        labels, probs = check_sparse_labels(labels, shape)
        for name, option in (("margin", head.margin), ("ignore_index", ignore_index)):
            if option is not None:
                raise ValueError(f"`{name}`: expected integer labels with it, got SparseLabels.")
        labels, probs = as_rows(labels), as_rows(probs)
    else:
        labels, ignored = labels_and_ignored(labels, ignore_index)
        check_integers(labels, "integers or SparseLabels", "cross_entropy on linear_logits")
        use = "Write labels.argmax(-1) for one-hot rows." if labels.ndim > len(shape) else ""
        if labels.ndim != len(shape) and labels.size == math.prod(shape):
            use = f"Write labels.reshape({shape})."
        if labels.shape == head.weight.shape[:1]:
            use = "The arguments are features, weight, labels."
        check_class_numbers("labels", labels, shape, use)
        labels = labels.reshape(-1)
        if ignored is None:
            ignored = False
        else:
            ignored = ignored.reshape(-1)
            labels = jnp.where(ignored, 0, labels)
            features = jnp.where(ignored[:, None], 0, features)
    check_values(None, labels, num_global(head.weight.shape[0], class_axis))
    examples = Examples(features, labels, probs, numbers=numbers, loss_args=loss_args)
    return examples, ignored


def temperature_by_row(
    temperature: ArrayLike, shape: tuple[int, ...], dtype: jnp.dtype
) -> Array | None:
    """Return a temperature for each of the flattened examples, or None if it is statically 1."""
    if is_static(temperature, 1):
        return None
    temperature = at_least("temperature", temperature, 0, strict=True)
    temperature = like_examples("temperature", temperature, jnp.zeros(shape, dtype))
    return jnp.broadcast_to(temperature, shape).reshape(-1)


def as_loss_args(loss_args: Any) -> tuple[Any, ...]:
    """Return the further arguments of a loss as a tuple of arrays and trees of arrays."""
    if not isinstance(loss_args, (tuple, list)):
        raise TypeError(
            f"`loss_args`: expected a tuple of arguments, got {type(loss_args).__name__}. One "
            "argument is written (x,)."
        )
    return jax.tree.map(jnp.asarray, tuple(loss_args))


def flat_loss_args(loss_args: Any, shape: tuple[int, ...]) -> tuple[Array, ...]:
    """Return the leaves of the further arguments of a loss as arrays `[N, ...]`."""

    def flat(path, x):
        name = f"loss_args{jax.tree_util.keystr(path)}"
        if x.shape[: len(shape)] != shape:
            check_shape(name, x, (*shape, *x.shape[len(shape) :]), "a row for every example")
        return x.reshape(math.prod(shape), *x.shape[len(shape) :])

    return tuple(flat(*leaf) for leaf in jax.tree.leaves_with_path(as_loss_args(loss_args)))


def weigh(
    examples: Examples,
    head: Head,
    ignored,
    shape,
    *,
    sample_weight,
    class_weight,
    class_axis,
    loss_takes_it: bool,
) -> tuple[Examples, Head, Array, Array]:
    """Return examples and head, the factors on the losses, and by what sum a mean divides.

    Class weights are among these factors, or in the probs; or, if the loss takes them, in examples
    and head. An example of sample weight 0 is left out even if it would be NaN; with a class weight
    of 0 it is not: that is a factor on the loss, and would hide a label that is out of range.
    """
    features, labels, probs, *_ = examples
    dtype = sum_dtype(features, head.weight)
    weights = jnp.ones(features.shape[:1], dtype)
    if sample_weight is None and class_weight is None:
        weights = jnp.where(ignored, 0, weights)
        return _neutral(examples, weights == 0), head, weights, weights
    num_local = head.weight.shape[0]
    if sample_weight is not None:
        sample_weight = as_given_like("sample_weight", sample_weight, weights)
        check_shape("sample_weight", sample_weight, shape, "a weight for every example")
        weights = sample_weight = sample_weight.reshape(-1)
    counts = weights = jnp.where(ignored, 0, weights)
    left_out = weights == 0
    of_labels = None
    if class_weight is not None:
        class_weight = as_given_like("class_weight", class_weight, weights)
        check_shape("class_weight", class_weight, (num_local,), "a weight for every class")
        of_labels = gather_per_class(class_weight, labels, class_axis)
        counts = weights * of_labels if probs is None else weights
        if loss_takes_it:
            head = head._replace(class_weight=class_weight)
        else:
            probs = probs if probs is None else probs.astype(dtype) * of_labels
            weights, of_labels = counts, None
    if sample_weight is not None:
        valid = (labels >= 0) & (labels < num_global(num_local, class_axis))
        if probs is not None:
            valid = jnp.all(valid & jnp.isfinite(probs), -1)
        bad = (sample_weight == 0) & ~valid
        labels = jnp.where(bad.reshape(-1, *[1] * (labels.ndim - 1)), 0, labels)
        probs = probs if probs is None else jnp.where(bad[:, None], 0, probs)
        bad |= (sample_weight == 0) & ~jnp.all(jnp.isfinite(features), -1)
        features = jnp.where(bad[:, None], 0, features)
    examples = examples._replace(
        features=features, labels=labels, probs=probs, class_weight=of_labels
    )
    return _neutral(examples, left_out), head, weights, counts


def _neutral(examples: Examples, left_out: Array) -> Examples:
    """Return examples in which no number that does not count is NaN."""

    def finite(x):
        return jnp.where(left_out & ~jnp.isfinite(x), 1, x)

    numbers = jax.tree.map(finite, examples.numbers)
    return examples._replace(numbers=numbers, left_out=left_out)
