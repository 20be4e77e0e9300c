"""The head of the linear functions, checked, and the plan by which the engine evaluates it.

What goes by example is in examples.py; `Head` and `Plan` are in blockwise/types.py.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.lax import PrecisionLike

from jsoftmax.blockwise.block_sizes import BlockSizes, block_sizes
from jsoftmax.blockwise.machine import Machine, machine_for
from jsoftmax.blockwise.scores import (
    kept_norm,
    label_cosines,
    sound_vectors,
    without_length,
)
from jsoftmax.blockwise.types import Examples, Head, Plan
from jsoftmax.core.arguments import (
    as_given_like,
    as_logits,
    check_shape,
    is_known,
    normalize_axis,
)
from jsoftmax.core.collectives import gather_per_class, pmean, psum
from jsoftmax.core.dtypes import at_least_16_bits, cast_like, sum_dtype
from jsoftmax.core.masking import class_mask
from jsoftmax.core.norms import norm
from jsoftmax.core.numbers import at_least, one_number, static_count
from jsoftmax.margins.form import (
    Margin,
    centers_of,
    changes_others,
    check_is_margin,
    follows_target,
    has_summary,
    normalizes_features,
    normalizes_weight,
    reads_norm,
)
from jsoftmax.margins.partition import combine, numbers_of, partition
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
    meaning, centers = "classes by features", ()
    if (count := centers_of(margin)) is not None:
        meaning, centers = "classes by centers by features", (count,)
    expected = weight.shape[:1] + centers + features.shape[-1:]
    check_shape(
        f"{whose}weight", weight, expected, meaning, weight_instead(features, weight, centers)
    )
    classes = weight.shape[:1]
    if not weight.shape[0]:
        raise AssertionError(f"`{whose}weight`: expected at least one class, got {weight.shape}.")
    wide = jnp.zeros((), sum_dtype(features, weight))
    if bias is not None:
        bias = as_given_like(f"{whose}bias", bias, wide)
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
    return features, Head(weight, bias, where, sound, softcap, margin=margin)


def weight_instead(features: Array, weight: Array, centers: tuple[int, ...] = ()) -> str:
    """Say what to write for a weight of the wrong shape."""
    if centers and weight.ndim == 2:
        return "Of one vector a class write weight[:, None], and sub_center(margin, 1)."
    if weight.ndim == 2 and weight.shape[0] == features.shape[-1]:
        return "Of a kernel, features by classes as in Flax, write kernel.T."
    return "The arguments are features, weight, labels."


def check_margin(margin: Margin | None, examples: tuple[int, ...], classes: int) -> None:
    """Check what a margin is, and the shapes of its numbers.

    A number is one for all, by example, or (not the scale) by class.
    """
    if margin is None:
        return
    check_is_margin(margin)
    unit = normalizes_features(margin) and normalizes_weight(margin)
    for name in ("others", "similarity", "centers"):
        if hasattr(margin, name) and not unit:
            raise ValueError(
                f"`margin`: expected unit features and class vectors with `{name}`, got "
                f"{margin!r}, which does not normalise both."
            )
    for name, value, _ in numbers_of(margin):
        if isinstance(value, PerExample):
            values = jnp.asarray(value.values)
            check_shape(f"margin{name}.values", values, examples, "a number for every example")
        elif name.endswith(".scale"):
            meaning = "one number (by example, write PerExample(values))"
            check_shape(f"margin{name}", jnp.asarray(value), (), meaning)
        elif jnp.asarray(value).ndim:
            meaning = "a number for every class (by example, write PerExample(values))"
            check_shape(f"margin{name}", jnp.asarray(value), (classes,), meaning)


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
    weight, margin = sound_vectors(head.weight, head.sound), head.margin
    parts = partition(margin)

    def at_labels(values):
        return gather_per_class(values, labels, class_axis)

    of_rows = combine(jax.tree.map(at_labels, parts.per_class), by_example(parts.per_example))
    length = pmean(norm(features), class_axis) if reads_norm(margin) else None
    features = without_length(features, margin)
    cosine = None
    if changes_others(margin):
        cosine = label_cosines(features, weight, labels, margin, class_axis)
        known = combine(parts.whole, parts.scalars, of_rows)
        cosine = cosine if follows_target(known, cosine) else lax.stop_gradient(cosine)
    examples = examples._replace(
        features=features,
        kept_norm=kept_norm(features, weight, labels, margin, class_axis),
        bias=None if head.bias is None else at_labels(head.bias),
        numbers=examples.numbers._replace(margin=of_rows, cosine=cosine, norm=length),
    )
    wider = max(features.dtype, head.weight.dtype, key=lambda dtype: dtype.itemsize)
    machine, sharded = machine_for(wider), class_axis is not None
    blocks = blocks_of(
        margin, rows, num_local, width, row_block, class_block, machine=machine, sharded=sharded
    )
    # With fewer rows, to convert the weight takes as long as the products do.
    few = is_known(blocks.rows) and blocks.rows < 128
    widen = machine == Machine("cpu") and wider.itemsize < 4 and not few
    plan = Plan(blocks, parts.whole, loss, fields, class_axis, checked_precision(precision), widen)
    return plan, examples, head._replace(margin=parts.scalars)


def blocks_of(
    margin: Margin | None, rows: int, classes: int, width: int, row_block, class_block, **given: Any
) -> BlockSizes:
    """Return the blocks, of classes that may have several vectors."""
    centers = centers_of(margin) or 1
    if class_block is not None:
        class_block = centers * static_count("class_block", class_block, 1)
    given |= {"keep": has_summary(margin)}
    blocks = block_sizes(rows, centers * classes, width, row_block, class_block, **given)
    return blocks._replace(classes=-(-blocks.classes // centers))


def unflatten(tree: Any, shape: tuple[int, ...]) -> Any:
    """Give arrays with a row per example the shape of the examples."""
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), tree)
