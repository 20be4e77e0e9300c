"""Guards: static ones on shapes and dtypes that always run, and value checks that are asked for.

Shapes are known while JAX traces, so those guards cost nothing at run time and work under `jit`;
they raise chex's `AssertionError`. Values are not known then: a label out of range makes its own
example NaN, and `checked` turns that, and two other silent mistakes, into an error where one is
looking for it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import checkify
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jsoftmax.numerics import promote
from jsoftmax.spread import Axis, axes_of

__all__ = ["checked", "looks_like_probabilities"]

# Part of the key of every jit cache, so that a function compiled without the value checks is traced
# again inside `checked`, and the other way round.
_value_checks = jax.make_user_context(False)


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


def is_distribution(labels: Array) -> bool:
    """Say whether labels are distributions over the classes rather than class numbers."""
    return jnp.issubdtype(labels.dtype, jnp.floating)


def shape(name: str, x: Array, expected: tuple[int, ...], meaning: str) -> None:
    """Raise chex's error unless `x` has the expected shape, naming the argument and its meaning."""
    chex.assert_shape(x, expected, custom_message=_message(name, x.shape, expected, meaning))


def broadcasts(name: str, x: Array, expected: tuple[int, ...], meaning: str) -> None:
    """Raise unless `x` broadcasts to the expected shape without enlarging it."""
    chex.assert_is_broadcastable(
        x.shape, expected, custom_message=_message(name, x.shape, expected, meaning)
    )


def by_example(name: str, value: ArrayLike, expected: tuple[int, ...]) -> None:
    """Raise unless a hyper-parameter broadcasts to the logits of one class, of that shape."""
    broadcasts(name, jnp.asarray(value), expected, "what broadcasts to logits of one class")


def _message(name, got, expected, meaning):
    return f"`{name}`: {meaning}: expected shape {expected}, got {got}"


def mesh_devices(name: str, axis: Axis, mesh: Mesh) -> int:
    """Return over how many devices of a mesh an axis, or several, goes."""
    if unknown := [each for each in axes_of(axis) if each not in mesh.shape]:
        raise ValueError(f"`{name}`: expected axes of the mesh, {mesh.axis_names}, got {unknown}.")
    return math.prod(mesh.shape[each] for each in axes_of(axis))


def bound_axis(name: str, axis: Axis) -> None:
    """Raise unless mesh axes are those of a surrounding `shard_map`, or the name of a `vmap`."""
    try:
        _ = axis is None or lax.axis_size(axis)
    except NameError as unbound:
        raise NameError(
            f"`{name}`: expected a mesh axis of the surrounding jax.shard_map, got {axis!r}, which "
            "is none here. For global arrays use sharded_linear_loss."
        ) from unbound


def has_axis(name: str, x: Array, axis: int) -> int:
    """Return an axis counted from the front, or say that the array has no such axis."""
    if not -x.ndim <= axis < x.ndim:
        raise AssertionError(
            f"`{name}`: expected an axis {axis}, got shape {x.shape} with {x.ndim} axes."
        )
    return axis % x.ndim


def labels_match(logits: Array, labels: Array, name: str = "labels") -> None:
    """Check labels against logits whose last axis is the classes; neither is ever broadcast."""
    if not logits.shape[-1]:
        raise AssertionError(f"`logits`: expected at least one class, got shape {logits.shape}.")
    if is_distribution(labels):
        shape(name, labels, logits.shape, "a probability for every class of every example")
    else:
        shape(name, labels, logits.shape[:-1], "an integer class for every example")


def sparse_labels(labels: Any, examples: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the indices and probs of `SparseLabels`, checked."""
    indices, probs = as_labels(labels.indices), jnp.asarray(labels.probs)
    if is_distribution(indices):
        raise TypeError(f"`labels.indices`: expected integers, got dtype {indices.dtype}.")
    if not is_distribution(probs):
        raise TypeError(f"`labels.probs`: expected floats, got dtype {probs.dtype}.")
    meaning = "a list of classes for every example"
    shape("labels.indices", indices, (*examples, *indices.shape[-1:]), meaning)
    shape("labels.probs", probs, indices.shape, "a probability for every listed class")
    return indices, probs


def class_mask(where: ArrayLike, target_shape: tuple[int, ...]) -> Array:
    """Return the class mask `where` as booleans, checked to broadcast against the logits."""
    where = jnp.asarray(where)
    if where.dtype != jnp.bool_:
        raise TypeError(
            f"`where`: expected booleans, True for a class to keep, got dtype {where.dtype}."
        )
    broadcasts("where", where, target_shape, "a class mask that broadcasts against the logits")
    return where


def switch_off(logits: Array, where: ArrayLike | None) -> Array:
    """Return `logits` at -inf where the class mask `where`, if there is one, is False."""
    return logits if where is None else jnp.where(class_mask(where, logits.shape), logits, -jnp.inf)


def at_least(name: str, value: ArrayLike, bound: float, *, strict: bool = False) -> None:
    """Raise `ValueError` if a hyper-parameter is known while tracing and lies below `bound`."""
    if not is_concrete(value):
        return
    known = np.asarray(value)
    if not np.all(known > bound if strict else known >= bound):
        raise ValueError(f"`{name}`: expected {'>' if strict else '>='} {bound:g}, got {value}.")


def within(name: str, value: ArrayLike, low: float, high: float) -> None:
    """Raise `ValueError` if a hyper-parameter known while tracing lies outside [low, high]."""
    if not is_concrete(value):
        return
    known = np.asarray(value)
    if not np.all((low <= known) & (known <= high)):
        raise ValueError(f"`{name}`: expected between {low:g} and {high:g}, got {value}.")


def is_concrete(value: Any) -> bool:
    """Say whether a value is known now, rather than a tracer of a JAX transformation."""
    return not isinstance(value, jax.core.Tracer)


def looks_like_probabilities(logits: ArrayLike) -> Array:
    """Say whether every row of `logits` is non-negative and sums to one: softmax applied already.

    Feeding probabilities to a cross-entropy, which applies softmax itself, trains slowly and
    without an error: the loss can not fall below `log(1 + (C - 1) / e)` for C classes.

    Args:
      logits: `[..., classes]`, any real dtype. Sums within 1% of one count.

    Returns:
      A boolean scalar; False for an empty array.

    Example:
      >>> logits = jnp.array([[2.0, -1.0, 0.5], [0.1, 0.2, 3.0]])
      >>> bool(js.checks.looks_like_probabilities(logits))
      False
      >>> bool(js.checks.looks_like_probabilities(js.softmax(logits)))
      True
    """
    logits = as_logits(logits)
    if not logits.size:
        return jnp.asarray(False)
    total = jnp.sum(promote(logits), -1)
    # Probabilities rounded to bfloat16 sum to 1 within 2^-8.
    return jnp.all(logits >= 0) & jnp.all(jnp.abs(total - 1) <= 1e-2)


def checked(function: Callable) -> Callable:
    """Return `function` with value checks: it raises instead of giving NaN or a quiet mistake.

    Raised are: a NaN made anywhere inside; a label outside [0, classes) that is not the
    `ignore_index`; logits that are already probabilities (`looks_like_probabilities`). All of the
    library's losses inside `function` take part, also under `jit`, `grad`, `vmap` and `scan`, which
    are traced anew for it. Only of a `scan` that is differentiated does JAX drop the checks on
    labels and logits; NaN is still found there. A gradient through `shard_map` JAX can not check:
    check the loss over a mesh, or the gradient of `linear_loss` on one device.

    Args:
      function: any function that calls the library: a loss, or a whole training step. Wrap it as
        `checked(jax.jit(step))`; `checked` itself can not be jitted, because it must raise.

    Returns:
      A function of the same arguments. Its checks cost time and wait for the device: for debugging.

    Source: built on `jax.experimental.checkify`.

    Example:
      >>> loss = js.checks.checked(js.cross_entropy)
      >>> logits = jnp.array([[2.0, -1.0, 0.5]])
      >>> loss(logits, jnp.array([0]))
      Array([0.2413], dtype=float32)
      >>> loss(js.softmax(logits), jnp.array([0]))  # doctest: +IGNORE_EXCEPTION_DETAIL
      Traceback (most recent call last):
        ...
      JaxRuntimeError: `logits` look like probabilities: every row is non-negative and sums to 1.
    """
    function_checked = checkify.checkify(
        function, errors=checkify.user_checks | checkify.nan_checks
    )

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        with _value_checks(True):
            error, result = function_checked(*args, **kwargs)
        jax.device_get(error).throw()  # it may lie on a mesh
        return result

    return wrapper


def values(logits: Array | None, labels: Array, classes: int) -> None:
    """Inside `checked`: raise on labels that name no class and on logits that are probabilities."""
    if not _value_checks.value:
        return
    if not is_distribution(labels):
        lowest, highest = jnp.min(labels, initial=0), jnp.max(labels, initial=0)
        checkify.check(
            (lowest >= 0) & (highest < classes),
            f"`labels`: expected integers in [0, {classes}), got {{lowest}} to {{highest}}.",
            lowest=lowest,
            highest=highest,
        )
    if logits is not None:
        checkify.check(
            ~looks_like_probabilities(logits),
            "`logits` look like probabilities: every row is non-negative and sums to 1. "
            "The loss applies softmax itself; pass the values from before the softmax.",
        )
