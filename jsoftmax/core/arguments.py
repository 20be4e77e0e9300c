"""Checks of arguments: dtypes, shapes, ranges.

Shapes and dtypes are known while JAX traces, so checking them costs nothing at run time and works
under `jit`; the errors on shapes are chex's `AssertionError`. Ranges are checked where a value is
known while tracing.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.dtypes import cast_like


def as_logits(logits: ArrayLike, name: str = "logits") -> Array:
    """Return `logits` as a real array; integers become the default float."""
    logits = jnp.asarray(logits)
    if jnp.issubdtype(logits.dtype, jnp.integer):
        return logits.astype(float)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"`{name}`: expected real numbers, got dtype {logits.dtype}.")
    return logits


def as_labels(labels: ArrayLike) -> Array:
    """Return integer labels in a signed dtype that holds any class, or a distribution as it is."""
    labels = jnp.asarray(labels)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return labels
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"`labels`: expected integers (one class per example) or floats (a distribution over "
            f"the classes), got dtype {labels.dtype}. Use labels.astype(int) for class numbers."
        )
    return labels.astype(jnp.int64 if labels.dtype.itemsize > 4 else jnp.int32)


def integer_labels(labels: ArrayLike, expected: str = "integers", instead: str = "") -> Array:
    """Return integer labels in a signed dtype, or say what to use for a distribution."""
    labels = as_labels(labels)
    if is_distribution(labels):
        hint = f" For a distribution over all classes use {instead}." if instead else ""
        raise TypeError(f"`labels`: expected {expected}, got dtype {labels.dtype}.{hint}")
    return labels


def is_distribution(labels: Array) -> bool:
    """Say whether labels are distributions over the classes rather than class numbers."""
    return jnp.issubdtype(labels.dtype, jnp.floating)


def check_shape(name: str, x: Array, expected: tuple[int, ...], meaning: str) -> None:
    """Raise chex's error unless `x` has the expected shape, naming the argument and its meaning."""
    chex.assert_shape(x, expected, custom_message=_message(name, x.shape, expected, meaning))


def check_broadcasts(name: str, x: Array, expected: tuple[int, ...], meaning: str) -> None:
    """Raise unless `x` broadcasts to the expected shape without enlarging it."""
    chex.assert_is_broadcastable(
        x.shape, expected, custom_message=_message(name, x.shape, expected, meaning)
    )


def check_per_example(name: str, value: ArrayLike, expected: tuple[int, ...]) -> None:
    """Raise unless a hyper-parameter broadcasts to the logits of one class, of that shape."""
    check_broadcasts(name, jnp.asarray(value), expected, "what broadcasts to logits of one class")


def _message(name, got, expected, meaning):
    return f"`{name}`: {meaning}: expected shape {expected}, got {got}"


def normalize_axis(name: str, x: Array, axis: int) -> int:
    """Return an axis counted from the front, or say that the array has no such axis."""
    if not -x.ndim <= axis < x.ndim:
        raise AssertionError(
            f"`{name}`: expected an axis {axis}, got shape {x.shape} with {x.ndim} axes."
        )
    return axis % x.ndim


def check_at_least(name: str, value: ArrayLike, bound: float, *, strict: bool = False) -> None:
    """Raise `ValueError` if a hyper-parameter is known while tracing and lies below `bound`."""
    if not is_concrete(value):
        return
    known = np.asarray(value)
    if not np.all(known > bound if strict else known >= bound):
        raise ValueError(f"`{name}`: expected {'>' if strict else '>='} {bound:g}, got {value}.")


def check_within(name: str, value: ArrayLike, low: float, high: float) -> None:
    """Raise `ValueError` if a hyper-parameter known while tracing lies outside [low, high]."""
    if not is_concrete(value):
        return
    known = np.asarray(value)
    if not np.all((low <= known) & (known <= high)):
        raise ValueError(f"`{name}`: expected between {low:g} and {high:g}, got {value}.")


def is_concrete(value: Any) -> bool:
    """Say whether a value is known now, rather than a tracer of a JAX transformation."""
    return not isinstance(value, jax.core.Tracer)


def is_static(value: ArrayLike, default: float) -> bool:
    """Say whether an option is the Python number `default`, so that its term can be left out."""
    return isinstance(value, (int, float)) and value == default


def class_counts_like(class_counts: ArrayLike, z: Array, classes: int) -> Array:
    """Return class counts in the dtype of `z`: NaN for a negative one, an error if it is known."""
    counts = cast_like(class_counts, z)
    check_shape("class_counts", counts, (classes,), "a count for every class")
    check_at_least("class_counts", class_counts, 0)
    return jnp.where(counts >= 0, counts, jnp.nan)
