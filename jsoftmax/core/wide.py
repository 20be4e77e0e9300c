"""Whole numbers up to 2^64 without 64-bit types, which JAX lacks by default.

A wide number is its four digits in base 2^16, lowest first: uint32 `[..., 4]`. A digit has 16 bits
to spare. So digits are added, over an axis or over devices, up to 65,536 times before `carried`
puts them in order; and a product of two digits fits.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax.core.collectives import MeshAxes
from jsoftmax.core.collectives import psum as sum_over

DIGITS = 4
_BITS = 16
_MASK = np.uint32((1 << _BITS) - 1)


def wide(x: Array) -> Array:
    """Return non-negative int32 or uint32 numbers as wide ones."""
    x = x.astype(jnp.uint32)
    none = jnp.zeros_like(x)
    return jnp.stack([x & _MASK, x >> _BITS, none, none], -1)


def constant(x: int) -> np.ndarray:
    """Return a Python integer as a wide number."""
    return np.array([x >> (_BITS * i) & int(_MASK) for i in range(DIGITS)], np.uint32)


def carried(digits: Array) -> Array:
    """Return digits below 2^16 for digits below 2^32; what exceeds the highest is dropped."""
    carry, out = jnp.zeros_like(digits[..., 0]), []
    for i in range(digits.shape[-1]):
        # The sum may pass 2^32, so the low and the high half are added apart.
        low = (digits[..., i] & _MASK) + (carry & _MASK)
        out.append(low & _MASK)
        carry = (digits[..., i] >> _BITS) + (carry >> _BITS) + (low >> _BITS)
    return jnp.stack(out, -1)


def add(a: Array, b: Array) -> Array:
    """Return a + b."""
    return carried(a + b)


def subtract(a: Array, b: Array) -> Array:
    """Return a - b, for b <= a: the complement of b, and 1, are added."""
    one = jnp.asarray(constant(1))
    return carried(a + (_MASK - b) + jnp.broadcast_to(one, a.shape))


def total(x: Array, axes: MeshAxes = None) -> Array:
    """Return the sum of int32 numbers over the first axis, and over devices, as wide numbers."""
    digits = wide(x if len(x) else jnp.zeros((1, *x.shape[1:]), x.dtype))
    while len(digits) > 1:
        block = min(len(digits), 1 << 15)
        missing = -len(digits) % block
        digits = jnp.pad(digits, [(0, missing)] + [(0, 0)] * (digits.ndim - 1))
        digits = digits.reshape(-1, block, *digits.shape[1:])
        digits = carried(jnp.sum(digits, 1, dtype=jnp.uint32))
    return carried(sum_over(digits[0], axes))


def multiply(a: Array, b: Array) -> Array:
    """Return the product in twice as many digits."""
    n = DIGITS
    columns = [jnp.zeros_like(a[..., 0] * b[..., 0])] * (2 * n)
    for i in range(n):
        for j in range(n):  # at most 8 halves of a product are in a column
            product = a[..., i] * b[..., j]
            columns[i + j] = columns[i + j] + (product & _MASK)
            columns[i + j + 1] = columns[i + j + 1] + (product >> _BITS)
    return carried(jnp.stack(columns, -1))


def at_most(a: Array, b: Array) -> Array:
    """Say whether a <= b, for any number of digits."""
    out = jnp.ones(jnp.broadcast_shapes(a.shape, b.shape)[:-1], bool)
    for i in range(a.shape[-1]):
        x, y = a[..., i], b[..., i]
        out = jnp.where(x == y, out, x < y)
    return out


def as_float(x: Array) -> Array:
    """Return the nearest float, or its neighbour."""
    dtype = jnp.zeros(0).dtype  # float64 if that is enabled
    out = jnp.zeros(x.shape[:-1], dtype)
    for i in reversed(range(x.shape[-1])):
        out = out * dtype.type(1 << _BITS) + x[..., i].astype(dtype)
    return out


def halves(x: Array) -> Array:
    """Return the higher and the lower 32 bits: uint32 `[..., 2]`."""
    low, high = (x[..., i] + (x[..., i + 1] << _BITS) for i in (0, 2))
    return jnp.stack([high, low], -1)


def order_key(x: Array) -> Array:
    """Return int32 in the order of float32 numbers, with -0.0 as 0.0."""
    bits = lax.bitcast_convert_type(x + 0.0, jnp.int32)
    return jnp.where(bits < 0, jnp.iinfo(jnp.int32).min - bits, bits)


def from_order_key(key: Array) -> Array:
    """Undo `order_key`."""
    bits = jnp.where(key < 0, jnp.iinfo(jnp.int32).min - key, key)
    return lax.bitcast_convert_type(bits, jnp.float32)


def from_float(x: Array) -> Array:
    """Return the wide number next to a float from 0 to below 2^64."""
    digits = []
    for i in reversed(range(DIGITS)):
        unit = x.dtype.type(2.0 ** (_BITS * i))
        digit = jnp.floor(x / unit)
        x = x - digit * unit
        digits.append(digit.astype(jnp.uint32))
    return jnp.stack(digits[::-1], -1)
