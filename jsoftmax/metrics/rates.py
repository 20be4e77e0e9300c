"""Rates that are asked for, and how many of so many examples they allow, exactly."""

import math
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core import wide


def exact_rates(far: Any) -> tuple[int, ...]:
    """Return 2^64 times each rate as integers, rounded up: how many of 2^64 pairs it allows."""
    rates = [float(x) for x in np.ravel(np.asarray(far))]
    for x in rates:
        if not 0 <= x <= 1:
            raise ValueError(f"`far`: expected rates between 0 and 1, got {x}.")
    return tuple(math.ceil(Fraction(repr(x)) * (1 << 64)) for x in rates)


def allowed(number: Array, rate: int) -> Array:
    """Return how many of so many a rate allows, both wide."""
    if rate >= 1 << 64:
        return number
    return wide.multiply(number, jnp.asarray(wide.constant(rate)))[..., wide.DIGITS :]
