"""Compute dtypes, and 16-bit floats as bit patterns."""

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike


def to_compute_dtype(x: ArrayLike) -> Array:
    """Return `x` in its compute dtype: float32 or wider, the default float for integers."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.integer):
        return x.astype(float)
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def cast_like(value: ArrayLike, x: Array) -> Array:
    """Return a hyper-parameter cast to the dtype of `x`, as strict dtype promotion requires."""
    return jnp.asarray(value).astype(x.dtype)


def bits(x: Array) -> Array:
    """Return 16-bit floats bitcast to integers, and other arrays unchanged.

    XLA's CPU backend runs many operations on 16-bit floats through float32, but not on integers.
    """
    if x.dtype.itemsize != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return lax.bitcast_convert_type(x, jnp.uint16)


def from_bits(x: Array, dtype: jnp.dtype) -> Array:
    """Undo `bits`."""
    return x if x.dtype == dtype else lax.bitcast_convert_type(x, dtype)


def sum_dtype(features: Array, weight: Array) -> jnp.dtype:
    """Return the dtype in which products are accumulated, and all that follows is computed."""
    return jnp.promote_types(to_compute_dtype(features).dtype, to_compute_dtype(weight).dtype)


def product_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Return the dtype in which gradients enter a matrix product with operands of `dtype`.

    Gradients of a mean over thousands of examples underflow in float16, not in bfloat16.
    """
    return jnp.dtype(jnp.float32) if dtype == jnp.float16 else dtype
