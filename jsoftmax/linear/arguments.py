"""The arguments of the linear functions: checked, flattened, weighed, and made into a plan.

What a user gave becomes `Examples`, with the leading axes as one, and a `Head`; see
blockwise/types.py. What an example of sample weight 0 holds, be it NaN, must not reach a gradient:
it is neutralised here.
"""

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from jsoftmax.blockwise.block_sizes import block_sizes
from jsoftmax.blockwise.machine import Machine, machine_for
from jsoftmax.blockwise.scores import kept_norm, sound_vectors, without_length
from jsoftmax.blockwise.types import Examples, Head, Numbers, Plan
from jsoftmax.checks import check_values
from jsoftmax.core.arguments import (
    as_logits,
    check_integers,
    check_shape,
    labels_and_ignored,
    normalize_axis,
)
from jsoftmax.core.collectives import check_bound_axis, gather_per_class, num_global, psum
from jsoftmax.core.dtypes import at_least_16_bits, cast_like, sum_dtype
from jsoftmax.core.masking import as_rows, class_mask
from jsoftmax.core.numbers import at_least, is_static, like_examples, one_number
from jsoftmax.margins.angular import AngularMargin
from jsoftmax.margins.partition import combine, partition
from jsoftmax.margins.per_example import PerExample, by_example
from jsoftmax.stats.labels import SparseLabels, check_sparse_labels


class Padding(NamedTuple):
    """A `where` of rows that only fill up the weight: they hold zeros, and need not be replaced."""

    real: Array


def checked_head(features, weight, *, bias, softcap, margin, where=None) -> tuple[Array, Head]:
    """Check what all linear functions have in common; bias and softcap become float32 or wider."""
    features = at_least_16_bits(as_logits(features, "features"))
    weight = at_least_16_bits(as_logits(weight, "weight"))
    normalize_axis("features", features, -1)
    check_shape("weight", weight, weight.shape[:1] + features.shape[-1:], "classes by features")
    classes = weight.shape[:1]
    if not weight.shape[0]:
        raise AssertionError(f"`weight`: expected at least one class, got {weight.shape}.")
    wide = jnp.zeros((), sum_dtype(features, weight))
    if bias is not None:
        bias = cast_like(bias, wide)
        check_shape("bias", bias, classes, "a number for every class")
    if softcap is not None:
        softcap = at_least("softcap", one_number("softcap", softcap), 0, strict=True)
        softcap = cast_like(softcap, wide)
    sound = None
    if isinstance(where, Padding):
        where = where.real
    elif where is not None:
        where = class_mask(where, classes)
        check_shape("where", where, classes, "a boolean for every class")
        sound = where
        bias = bias if bias is None else jnp.where(where, bias, 0)  # masked, it may be NaN
    check_margin(margin, features.shape[:-1], weight.shape[0])
    head = Head(weight, bias, where, sound, softcap, margin=margin)
    return without_length(features, margin), head


def check_margin(margin: AngularMargin | None, examples: tuple[int, ...], classes: int) -> None:
    """Check the shapes of a margin's numbers: one, by example, or (not the scale) by class."""
    if margin is None:
        return
    if not dataclasses.is_dataclass(margin) or isinstance(margin, type):
        name = getattr(margin, "__name__", type(margin).__name__)
        raise TypeError(
            f"`margin`: expected a margin such as arcface(), got {name}. A function that makes "
            "margins has to be called."
        )
    for name in ("m1", "m2", "m3", "anneal", "scale"):
        number = getattr(margin, name)
        if isinstance(number, PerExample):
            values = jnp.asarray(number.values)
            check_shape(f"margin.{name}.values", values, examples, "a number for every example")
        elif name == "scale":
            meaning = "one number (by example, write PerExample(values))"
            check_shape("margin.scale", jnp.asarray(number), (), meaning)
        elif jnp.asarray(number).ndim:
            meaning = "a number for every class (by example, write PerExample(values))"
            check_shape(f"margin.{name}", jnp.asarray(number), (classes,), meaning)


def checked_precision(precision: PrecisionLike) -> Any:
    """Return a precision that JAX multiplies with; it can be hashed."""
    if precision is None:
        return None
    given: Any = precision
    precision = tuple(given) if isinstance(given, list) else given
    vector = jax.ShapeDtypeStruct((1,), jnp.float32)
    try:
        jax.eval_shape(partial(lax.dot, precision=precision), vector, vector)
    except (TypeError, ValueError) as refused:
        raise ValueError(
            f"`precision`: expected what jax.lax.dot_general takes, got {given!r}. Use None, "
            'for what jax.default_matmul_precision says, or a name such as "highest".'
        ) from refused
    return precision


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
    numbers = Numbers(temperature=temperature_by_row(temperature, features, head))
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
        check_shape("labels", labels, shape, "an integer class for every example")
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


def temperature_by_row(temperature: ArrayLike, features: Array, head: Head) -> Array | None:
    """Return a temperature for each of the flattened examples, or None if it is statically 1."""
    if is_static(temperature, 1):
        return None
    temperature = at_least("temperature", temperature, 0, strict=True)
    examples = jnp.zeros(features.shape[:-1], sum_dtype(features, head.weight))
    temperature = like_examples("temperature", temperature, examples)
    return jnp.broadcast_to(temperature, examples.shape).reshape(-1)


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
        sample_weight = jnp.asarray(sample_weight)
        check_shape("sample_weight", sample_weight, shape, "a weight for every example")
        weights = sample_weight = sample_weight.reshape(-1).astype(dtype)
    counts = weights = jnp.where(ignored, 0, weights)
    of_labels = None
    if class_weight is not None:
        class_weight = jnp.asarray(class_weight).astype(dtype)
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
    return _neutral(examples, weights == 0), head, weights, counts


def _neutral(examples: Examples, left_out: Array) -> Examples:
    """Return examples in which no number that does not count is NaN."""

    def finite(x):
        return jnp.where(left_out & ~jnp.isfinite(x), 1, x)

    return examples._replace(numbers=jax.tree.map(finite, examples.numbers))


def average_class_weight(class_weight: Array, where: Array | None, class_axis) -> Array:
    """Return the mean of the weights of all unmasked classes."""
    on = jnp.ones_like(class_weight) if where is None else where.astype(class_weight.dtype)
    weight, count = psum((jnp.sum(on * class_weight), jnp.sum(on)), class_axis)
    return weight / jnp.maximum(count, 1)


def make_plan(
    examples: Examples,
    head: Head,
    *,
    loss: Any,
    fields: tuple[str, ...],
    class_axis,
    row_block: int | None,
    class_block: int | None,
    precision: PrecisionLike,
) -> tuple[Plan, Examples, Head]:
    """Return the plan, examples with what their labels' classes have, and the head without that."""
    features, labels, *_ = examples
    (rows, width), num_local = features.shape, head.weight.shape[0]
    weight = sound_vectors(head.weight, head.sound)
    of_label = kept_norm(features, weight, labels, head.margin, class_axis)
    parts = partition(head.margin)

    def at_labels(values):
        return gather_per_class(values, labels, class_axis)

    margin, scale = jax.tree.map(at_labels, parts.per_class), None
    if margin is not None:
        of_rows = by_example(parts.per_example)
        margin, scale = combine(margin, dataclasses.replace(of_rows, scale=None)), of_rows.scale
    examples = examples._replace(
        kept_norm=of_label,
        bias=None if head.bias is None else at_labels(head.bias),
        numbers=examples.numbers._replace(scale=scale),
        margin=margin,
    )
    wider = max(features.dtype, head.weight.dtype, key=lambda dtype: dtype.itemsize)
    machine, sharded = machine_for(wider), class_axis is not None
    blocks = block_sizes(
        rows, num_local, width, row_block, class_block, machine=machine, sharded=sharded
    )
    # With fewer rows, to convert the weight takes as long as the products do.
    widen = machine == Machine("cpu") and wider.itemsize < 4 and blocks.rows >= 128
    plan = Plan(blocks, parts.whole, loss, fields, class_axis, checked_precision(precision), widen)
    return plan, examples, head._replace(margin=parts.scalars)


def unflatten(tree: Any, shape: tuple[int, ...]) -> Any:
    """Give arrays with a row per example the shape of the examples."""
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), tree)
