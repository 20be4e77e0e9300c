"""Checks of values at run time, for debugging: `checked`.

Values are not known while JAX traces, so an out-of-range label makes the loss of its example NaN.
`checked` turns that, and two other silent mistakes, into an error.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import checkify
from jax.typing import ArrayLike

from jsoftmax.core.arguments import as_logits, is_distribution
from jsoftmax.core.dtypes import to_compute_dtype

# Part of the key of every jit cache, so that a function compiled without the value checks is
# retraced inside `checked`, and vice versa.
_value_checks = jax.make_user_context(False)

Args = ParamSpec("Args")
Result = TypeVar("Result")


def looks_like_probabilities(logits: ArrayLike) -> Array:
    """Whether every row of `logits` is non-negative and sums to one: softmax was already applied.

    A cross-entropy applies softmax itself. Given probabilities it trains slowly and raises no
    error: the loss cannot fall below `log(1 + (C - 1) / e)` for C classes.

    Args:
      logits: `[..., classes]`, any real dtype. A sum within 1% of one counts as one.

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
    total = jnp.sum(to_compute_dtype(logits), -1)
    # Probabilities rounded to bfloat16 sum to 1 within 2^-8.
    return jnp.all(logits >= 0) & jnp.all(jnp.abs(total - 1) <= 1e-2)


def checked(function: Callable[Args, Result]) -> Callable[Args, Result]:
    """Return `function` with value checks: it raises an error where it would silently go wrong.

    An error is raised for a NaN made anywhere inside; a label outside [0, classes) that is not the
    `ignore_index`; logits that are already probabilities (`looks_like_probabilities`); and a metric
    that lacks a kind of example, such as pairs of different classes. All of the library's
    losses inside `function` are checked, also under `jit`, `grad`, `vmap` and `scan`, which are
    retraced for it. In a `scan` that is differentiated JAX drops the checks on labels and logits,
    but still finds NaN. JAX cannot check a gradient through `shard_map`: check the loss over a
    mesh, or the gradient of `linear_loss` on one device.

    Args:
      function: any function that calls the library: a loss, or a whole training step. Write
        `checked(jax.jit(step))`: `checked` itself cannot be jitted, because it must raise.

    Returns:
      A function of the same arguments. Its checks take time and wait for the device, so use it for
      debugging only.

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
    if not callable(function):
        raise TypeError(
            f"`function`: expected a function, got {type(function).__name__}. Write "
            "checked(f)(x), not checked(f(x))."
        )
    function_checked = checkify.checkify(
        function, errors=checkify.user_checks | checkify.nan_checks
    )

    @functools.wraps(function)
    def wrapper(*args: Args.args, **kwargs: Args.kwargs) -> Result:
        with _value_checks(True):
            error, result = function_checked(*args, **kwargs)
        jax.device_get(error).throw()  # it may be sharded over a mesh
        return result

    return wrapper


def check_values(logits: Array | None, labels: Array, classes: int, name: str = "labels") -> None:
    """Inside `checked`, raise on out-of-range labels and on logits that are probabilities."""
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
    else:
        checkify.check(
            jnp.all(labels >= 0),
            f"`{name}`: expected probabilities, got {{lowest}}. Apply softmax to logits.",
            lowest=jnp.min(labels, initial=0),
        )
    if logits is not None:
        check_logits(logits)


def check_logits(logits: Array, name: str = "logits", axis: int = -1) -> None:
    """Inside `checked`, raise on logits that are probabilities."""
    if _value_checks.value:
        checkify.check(
            ~looks_like_probabilities(jnp.moveaxis(logits, axis, -1)),
            f"`{name}` look like probabilities: every row is non-negative and sums to 1. Softmax "
            "is applied to them here; pass the values from before it.",
        )


def check_some(some: Array, what: str) -> None:
    """Inside `checked`, raise if there are none of what a rate is a share of."""
    if _value_checks.value:
        checkify.check(some, f"expected {what}, there are none.")


def check_kinds(name: str, wrong: Array) -> None:
    """Inside `checked`, raise if what says yes or no is another number than 0 and 1."""
    if _value_checks.value:
        message = f"`{name}`: expected booleans, or integers 0 and 1, got other integers."
        checkify.check(~jnp.any(wrong), message)


def check_both_kinds(some_same: Array, some_different: Array) -> None:
    """Inside `checked`, raise if no pair is of the same class, or none of different ones."""
    check_some(some_same, "pairs of the same class")
    check_some(some_different, "pairs of different classes")
