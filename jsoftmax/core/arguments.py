"""Checks of arguments: dtypes, shapes, axes, and labels.

Shapes and dtypes are known while JAX traces, so checking them costs nothing at run time and works
under `jit`; the errors on shapes are chex's `AssertionError`. Numbers are in numbers.py.
"""

import operator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.collectives import NO_CLASS
from jsoftmax.core.dtypes import cast_like, unnarrowed

Axis = int | tuple[int, ...]

BY_NAME = "Other options are given by name, as in temperature=2.0."


def check_no_tuple(name: str, x: Any) -> None:
    """Raise if arrays in a tuple, as in `SparseLabels`, would be stacked to one."""
    if isinstance(x, tuple) and any(getattr(each, "ndim", 0) for each in x):
        raise TypeError(
            f"`{name}`: expected an array, got a {type(x).__name__} of arrays. A distribution "
            "as a short list is SparseLabels, in the losses that say so; as an array it has a "
            "probability for every class."
        )


def as_given(name: str, x: Any) -> Any:
    """Return an array with `ndim` and `dtype`, see `unnarrowed`; or say what came in its place."""
    check_no_tuple(name, x)
    try:
        given = unnarrowed(x)
    except (TypeError, ValueError) as wrong:
        what = f"{type(x).__name__} of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        use = " Of a layer in Flax write layer.kernel[...].T." if name.endswith("weight") else ""
        use = "" if name == "class_weight" else use
        raise TypeError(f"`{name}`: expected an array of numbers, got {what}.{use}") from wrong
    if _is_key(given):
        raise TypeError(f"`{name}`: expected numbers, got a key. It is the first argument.")
    return given


def as_given_like(name: str, x: Any, like: Array) -> Array:
    """Return an array of real numbers in the dtype of another."""
    given = as_given(name, x)
    if jnp.issubdtype(given.dtype, jnp.complexfloating):
        raise TypeError(f"`{name}`: expected real numbers, got dtype {given.dtype}.")
    return cast_like(given, like)


def check_key(key: Any) -> None:
    """Raise unless this is a key of `jax.random`, or several, of the new kind or the old."""
    if not _is_key(key) and getattr(key, "dtype", None) != jnp.uint32:
        got = f"an array of {key.dtype}" if hasattr(key, "dtype") else type(key).__name__
        raise TypeError(
            f"`key`: expected a key such as jax.random.key(0), as the first argument, got {got}."
        )


def _is_key(x):
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def as_logits(logits: ArrayLike, name: str = "logits") -> Array:
    """Return `logits` as a real array; integers become the default float."""
    given = as_given(name, logits)
    if jnp.issubdtype(given.dtype, jnp.integer):
        return jnp.asarray(given, float)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        raise TypeError(f"`{name}`: expected real numbers, got dtype {given.dtype}.")
    return given


def booleans(name: str, x: ArrayLike, meaning: str) -> Array:
    """Return an array of booleans; `meaning` says what they mean."""
    x = jnp.asarray(as_given(name, x))
    if x.dtype != jnp.bool_:
        raise TypeError(f"`{name}`: expected booleans, {meaning}, got dtype {x.dtype}.")
    return x


def as_labels(labels: ArrayLike, name: str = "labels") -> Array:
    """Return integer labels in a signed dtype that holds any class, or a distribution as it is.

    An integer that this dtype does not hold becomes one that is no class.
    """
    return _as_indices(_checked_labels(labels, name))


def labels_and_ignored(
    labels: ArrayLike, ignore_index: ArrayLike | None, name: str = "labels"
) -> tuple[Array, Array | None]:
    """Return labels, and booleans: which are `ignore_index`; None if that is None."""
    given = _checked_labels(labels, name)
    labels = _as_indices(given)
    if ignore_index is None or is_distribution(labels):
        return labels, None
    index = as_given("ignore_index", ignore_index)
    if not jnp.issubdtype(index.dtype, jnp.integer) or index.ndim:
        raise TypeError(
            f"`ignore_index`: expected one integer, got shape {index.shape} of dtype "
            f"{index.dtype}. Leave out other examples with weights of 0."
        )
    if isinstance(given, np.ndarray) and isinstance(index, np.ndarray):
        return labels, jnp.asarray(given == index)
    return labels, labels == _held_by(labels.dtype, index)


def marked_labels(labels: ArrayLike, ignore_index: ArrayLike | None) -> Array:
    """Return labels of which, if there is an `ignore_index`, those to ignore are -1, and only they.

    Others that are negative are no class either way.
    """
    labels, ignored = labels_and_ignored(labels, ignore_index)
    if ignored is None:
        return labels
    return jnp.where(ignored, -1, jnp.where(labels < 0, NO_CLASS, labels))


def _checked_labels(labels, name):
    """Return an array of integers, of numpy if JAX would narrow them, or of floats."""
    labels = as_given(name, labels)
    dtype = labels.dtype
    if not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)):
        raise TypeError(
            f"`{name}`: expected integers (one class per example) or floats (a distribution over "
            f"the classes), got dtype {dtype}. Write {name}.astype(int) for class numbers, "
            f"{name}.astype(float) for one-hot rows."
        )
    return labels


def _as_indices(labels):
    if is_distribution(labels):
        return labels
    wide = jax.dtypes.canonicalize_dtype(jnp.int64)
    return _held_by(wide if labels.dtype.itemsize > 4 else jnp.dtype(jnp.int32), labels)


def _held_by(dtype, x):
    """Return integers in another dtype; what it does not hold is clipped, not wrapped."""
    given, wanted = jnp.iinfo(x.dtype), jnp.iinfo(dtype)
    if given.min < wanted.min or given.max > wanted.max:
        x = x.clip(max(given.min, wanted.min), min(given.max, wanted.max))
    return jnp.asarray(x, dtype)


def integer_labels(
    labels: ArrayLike, expected: str = "integers", instead: str = "", name: str = "labels"
) -> Array:
    """Return integer labels in a signed dtype, or say what to use for a distribution."""
    labels = as_labels(labels, name)
    check_integers(labels, expected, instead, name)
    return labels


def check_integers(
    labels: Array, expected: str = "integers", instead: str = "", name: str = "labels"
) -> None:
    """Raise `TypeError` if labels are distributions, and say what to use for these."""
    if is_distribution(labels):
        hint = f" For a distribution over all classes use {instead}." if instead else ""
        raise TypeError(
            f"`{name}`: expected {expected}, got dtype {labels.dtype}. Write {name}.astype(int) "
            f"for class numbers, {name}.argmax(-1) for one-hot rows.{hint}"
        )


def is_distribution(labels: Array) -> bool:
    """Say whether labels are distributions over the classes rather than class numbers."""
    return jnp.issubdtype(labels.dtype, jnp.floating)


def check_shape(
    name: str, x: Array, expected: tuple[int | None, ...], meaning: str, instead: str = ""
) -> None:
    """Raise chex's error unless `x` has the expected shape, naming the argument and its meaning.

    A size of None may be any; `instead` says what to write, if that can be known.
    """
    if x.shape != expected:  # chex does not compare symbolic sizes
        message = _message(name, x.shape, expected, meaning) + (f". {instead}" if instead else "")
        chex.assert_shape(x, expected, custom_message=message)


def is_known(size: Any) -> bool:
    """Say whether a size is a number, and not one that `jax.export` leaves open."""
    return isinstance(size, int)


def check_known(name: str, size: Any, use: str) -> None:
    """Raise if a size is one that `jax.export` leaves open."""
    if not is_known(size):
        raise ValueError(f"`{name}`: expected a size that is known, got {size}. {use}")


def check_some_class(name: str, x: Array, axis: int = -1) -> None:
    """Raise unless there is a class."""
    if not x.shape[axis]:
        raise AssertionError(f"`{name}`: expected at least one class, got shape {x.shape}.")


def check_broadcasts(name: str, x: Array, expected: tuple[int, ...], meaning: str) -> None:
    """Raise unless `x` broadcasts to the expected shape without enlarging it."""
    chex.assert_is_broadcastable(
        x.shape, expected, custom_message=_message(name, x.shape, expected, meaning)
    )


def _message(name, got, expected, meaning):
    return f"`{name}`: {meaning}: expected shape {expected}, got {got}"


def axes_of_classes(axis: Axis) -> tuple[int, ...]:
    """Return one axis, or several, as a tuple of Python integers."""
    try:
        axes = tuple(map(operator.index, axis if isinstance(axis, tuple) else (axis,)))
    except TypeError as wrong:
        raise TypeError(
            f"`axis`: expected an integer, or a tuple of integers where several are allowed, got "
            f"{axis!r}. {BY_NAME}"
        ) from wrong
    if not axes:
        raise ValueError("`axis`: expected at least one axis, got ().")
    return axes


def normalize_axis(name: str, x: Array, axis: int) -> int:
    """Return an axis counted from the front, or say that the array has no such axis."""
    try:
        axis = operator.index(axis)
    except TypeError as wrong:
        raise TypeError(f"`axis`: expected one integer, got {axis!r}. {BY_NAME}") from wrong
    if not -x.ndim <= axis < x.ndim:
        use = f" {BY_NAME}" if axis > 0 else ""
        raise AssertionError(
            f"`{name}`: expected an axis {axis}, got shape {x.shape} with {x.ndim} axes.{use}"
        )
    return axis % x.ndim


def with_rank_of(like: Array, x: Array) -> Array:
    """Return `x` with axes of size 1 in front, until it has as many as `like`.

    JAX would add them itself, but not with `jax_numpy_rank_promotion="raise"`.
    """
    return jnp.expand_dims(x, range(like.ndim - x.ndim))
