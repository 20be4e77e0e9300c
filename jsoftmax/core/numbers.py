"""Numbers that are options: how they may be given, their shapes and their ranges.

A number is one for all, or goes by example. It may be a Python number, an array of numpy or JAX,
traced or not, or an object that JAX makes an array of (`__jax_array__`), as a parameter of Flax.
Ranges are checked where the value is known while JAX traces; elsewhere what is out of range
becomes NaN.
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.arguments import Axis, axes_of_classes, check_shape
from jsoftmax.core.dtypes import cast_like, to_compute_dtype


def number(value: Any, name: str = "") -> Any:
    """Return a Python number as it is, and anything else as an array of numpy or JAX."""
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(x, (int, float)) for x in value):
        return np.asarray(value)  # which JAX would narrow
    what = f"`{name}`: expected a number" if name else "expected a number"
    if not isinstance(value, (np.generic, np.ndarray, Array)):
        try:
            value = jnp.asarray(value)
        except (TypeError, ValueError) as wrong:
            raise TypeError(f"{what}, got {type(value).__name__}.") from wrong
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise TypeError(f"{what}, got dtype {value.dtype}.")
    return value


def by_example(name: str, value: Any, shape: tuple[int, ...], axis: Axis = -1) -> Any:
    """Return a number so that it broadcasts against logits of the given shape.

    It may have the shape of the examples, that of the logits without the class axes; or the rank of
    the logits with size 1 on these axes, and elsewhere the size of the examples or 1. The first
    goes before the second, and anything else is an error: nothing else broadcasts.
    """
    value = number(value, name)
    if not jnp.ndim(value):
        return value
    axes = {one % len(shape) for one in axes_of_classes(axis)}
    examples = tuple(size for i, size in enumerate(shape) if i not in axes)
    one_class = tuple(1 if i in axes else size for i, size in enumerate(shape))
    got = jnp.shape(value)
    if got == examples:
        return jnp.reshape(value, one_class)
    if len(got) == len(shape) and all(a in (1, b) for a, b in zip(got, one_class, strict=True)):
        return value
    raise AssertionError(
        f"`{name}`: one number, or one for every example: expected shape (), {examples} or "
        f"{one_class}, got {got}"
    )


def like_examples(name: str, value: Any, x: Array) -> Array:
    """Return a number in the dtype of `x`, whose shape is that of the examples."""
    value = number(value, name)
    if jnp.ndim(value):
        use = "" if x.shape else "In a linear head what goes by example goes through `loss_args`."
        check_shape(name, jnp.asarray(value), x.shape, "one number, or one for every example", use)
    return cast_like(value, x)


def one_number(name: str, value: Any) -> ArrayLike:
    """Return a number that is one for all."""
    value = number(value, name)
    if jnp.ndim(value):
        check_shape(name, jnp.asarray(value), (), "one number for all examples")
    return value


def at_least(name: str, value: Any, bound: float, *, strict: bool = False) -> ArrayLike:
    """Return a number: `ValueError` if it is known to lie below `bound`, NaN if it is traced."""
    value = number(value, name)

    def fits(x):
        return x > bound if strict else x >= bound

    return _fitting(name, value, fits, f"{'>' if strict else '>='} {bound:g}")


def at_most(name: str, value: Any, bound: float) -> ArrayLike:
    """Return a number: `ValueError` if it is known to lie above `bound`, NaN if it is traced."""
    return _fitting(name, number(value, name), lambda x: x <= bound, f"<= {bound:g}")


def within(name: str, value: Any, low: float, high: float) -> ArrayLike:
    """Return a number: `ValueError` if it is known to lie outside [low, high], NaN if traced."""

    def fits(x):
        return (low <= x) & (x <= high)

    return _fitting(name, number(value, name), fits, f"between {low:g} and {high:g}")


def _fitting(name, value, fits, expected):
    if is_concrete(value):
        if not np.all(fits(np.asarray(value))):
            raise ValueError(f"`{name}`: expected {expected}, got {value}.")
        return value
    x = to_compute_dtype(value)
    return jnp.where(fits(x), x, jnp.nan)


def static_count(name: str, value: Any, least: int) -> int:
    """Return a static option that counts something as a Python integer."""
    try:
        count = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = None
    if count is None or count < least:
        traced = isinstance(value, jax.core.Tracer)
        use = " Under jit it is static: name it in static_argnames." if traced else ""
        raise ValueError(f"`{name}`: expected an integer of at least {least}, got {value!r}.{use}")
    return count


def is_concrete(value: Any) -> bool:
    """Say whether a value is known now, rather than a tracer of a JAX transformation."""
    return not isinstance(number(value), jax.core.Tracer)


def is_static(value: Any, default: float) -> bool:
    """Say whether an option is the Python number `default`, so that its term can be left out."""
    return isinstance(value, (int, float)) and value == default


def class_counts_like(class_counts: ArrayLike, z: Array, classes: int) -> Array:
    """Return class counts in the dtype of `z`: NaN for a negative one, an error if it is known."""
    counts = cast_like(at_least("class_counts", class_counts, 0), z)
    check_shape("class_counts", counts, (classes,), "a count for every class")
    return counts
