"""Inputs and scalars for tests of derivatives: exact in every dtype, with unequal cotangents."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Member(NamedTuple):
    name: str
    function: Any  # of one array [3, 5] or, for margins, features [3, 3]
    width: int = 5


ROWS = 3
LABELS = np.array([0, 4, 2], np.int32)
SOFT = np.array([[0.25, 0.5, 0.125, 0.125, 0], [0, 0, 0, 0, 1], [0.5, 0.25, 0, 0, 0.25]])


def numbers(member):
    """Return `[3, width]` of which every number is exact in every dtype.

    They are multiples of 1/8: the seed is one for which no sparse map is at a kink.
    """
    normal = np.random.default_rng(10 + len(member.name)).normal(size=(ROWS, member.width))
    return np.round(normal * 16) / 8 + 1 / 16


def inputs(member, dtype):
    return jnp.asarray(numbers(member)).astype(dtype)


def weighted_sum(function):
    """Return a scalar whose cotangents are not 1 and not equal, summed in float32 or wider."""

    def total(z):
        out = function(z)
        out = out.astype(jnp.float32) if out.dtype.itemsize < 4 else out
        return jnp.sum(out * (0.5 + jnp.arange(out.size) / 16).reshape(out.shape).astype(out.dtype))

    return total


def direction(z):
    """Return a tangent whose numbers are exact in every dtype."""
    return ((jnp.arange(z.size) - z.size // 2) / 8).reshape(z.shape).astype(z.dtype)


def in_scan(function):
    """Return a scalar function of z, or several, as a scan of one step with z in its carry.

    What depends on a carry that changes loses its derivative rules in reverse mode.
    """

    def step(z, _):
        return jax.tree.map(lambda x: 2 * x, z), function(z)

    return lambda z: lax.scan(step, z, None, length=1)[1][0]


def total_of(value):
    """Return `weighted_sum` of a value."""
    return value.ravel() @ (0.5 + np.arange(value.size) / 16)
