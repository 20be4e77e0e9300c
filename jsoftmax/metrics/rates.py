"""Rates that are asked for, and how many of so many examples they allow, exactly."""

import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core import wide
from jsoftmax.core.numbers import is_concrete


def exact_rates(far: Any) -> tuple[int, ...]:
    """Return 2^64 times each rate as integers, rounded up: how many of 2^64 pairs it allows.

    A rate is the decimal that it is written as, in its own dtype; and that may have been rounded,
    as in 1 / 3.
    """
    if not all(map(is_concrete, jax.tree.leaves(far))):
        raise TypeError(
            f"`far`: expected static numbers, got {far}. Under jit name it in static_argnames."
        )
    return tuple(_exact(x) for x in np.ravel(np.asarray(far)))


def _exact(x):
    if not 0 <= x <= 1:
        raise ValueError(f"`far`: expected rates between 0 and 1, got {x}.")
    if not np.issubdtype(x.dtype, np.inexact):
        return int(x) << 64
    x = x if isinstance(x, np.floating) else np.float32(x)  # of 16 bits, as in bfloat16
    decimal = Fraction(np.format_float_positional(x))
    rounded = Fraction(float(np.finfo(x.dtype).eps))
    return min(1 << 64, math.ceil(decimal * (1 + rounded) * (1 << 64)))


def allowed(number: Array, rate: int) -> Array:
    """Return how many of so many a rate allows, both wide."""
    if rate >= 1 << 64:
        return number
    return wide.multiply(number, jnp.asarray(wide.constant(rate)))[..., wide.DIGITS :]
