"""The arguments of the linear functions: checked, flattened, weighed, and made into a plan.

What a user gave becomes `Examples`, with the leading axes as one, and a `Head`; see
blockwise/types.py. What an example of sample weight 0 holds, be it NaN, must not reach a gradient:
it is neutralised here.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.lax import PrecisionLike

from jsoftmax.blockwise.block_sizes import block_sizes
from jsoftmax.blockwise.machine import Machine, machine_for
from jsoftmax.blockwise.scores import kept_norm, sound_vectors, without_length
from jsoftmax.blockwise.types import Examples, Head, Plan
from jsoftmax.core.arguments import (
    as_logits,
    check_shape,
    is_known,
    normalize_axis,
)
from jsoftmax.core.collectives import gather_per_class, psum
from jsoftmax.core.dtypes import at_least_16_bits, cast_like, sum_dtype
from jsoftmax.core.masking import class_mask
from jsoftmax.core.numbers import at_least, one_number
from jsoftmax.margins.angular import AngularMargin
from jsoftmax.margins.partition import combine, partition
from jsoftmax.margins.per_example import PerExample, by_example


class Padding(NamedTuple):
    """A `where` of rows that only fill up the weight: they hold zeros, and need not be replaced."""

    real: Array


def checked_head(
    features, weight, *, bias, softcap, margin=None, where=None, whose: str = ""
) -> tuple[Array, Head]:
    """Check what all linear functions have in common; bias and softcap become float32 or wider.

    `whose` is what the names of arguments begin with.
    """
    features = at_least_16_bits(as_logits(features, f"{whose}features"))
    weight = at_least_16_bits(as_logits(weight, f"{whose}weight"))
    normalize_axis(f"{whose}features", features, -1)
    expected = weight.shape[:1] + features.shape[-1:]
    check_shape(f"{whose}weight", weight, expected, "classes by features")
    classes = weight.shape[:1]
    if not weight.shape[0]:
        raise AssertionError(f"`{whose}weight`: expected at least one class, got {weight.shape}.")
    wide = jnp.zeros((), sum_dtype(features, weight))
    if bias is not None:
        bias = cast_like(bias, wide)
        check_shape(f"{whose}bias", bias, classes, "a number for every class")
    if softcap is not None:
        name = f"{whose}softcap"
        softcap = at_least(name, one_number(name, softcap), 0, strict=True)
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
    few = is_known(blocks.rows) and blocks.rows < 128
    widen = machine == Machine("cpu") and wider.itemsize < 4 and not few
    plan = Plan(blocks, parts.whole, loss, fields, class_axis, checked_precision(precision), widen)
    return plan, examples, head._replace(margin=parts.scalars)


def unflatten(tree: Any, shape: tuple[int, ...]) -> Any:
    """Give arrays with a row per example the shape of the examples."""
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), tree)
