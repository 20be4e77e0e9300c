"""The dtype in which a value is computed, and the bits of 16-bit floats."""

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike


def to_compute_dtype(x: ArrayLike) -> Array:
    """Return `x` in the dtype of its computation: float32 or wider, integers the default float."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.integer):
        return x.astype(float)
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def cast_like(value: ArrayLike, x: Array) -> Array:
    """Return a hyper-parameter in the dtype of `x`, so that strict dtype promotion accepts it."""
    return jnp.asarray(value).astype(x.dtype)


def bits(x: Array) -> Array:
    """Return 16-bit floats as integers, and other arrays as they are.

    XLA's CPU backend does many things with 16-bit floats by way of float32. Bits it leaves alone.
    """
    if x.dtype.itemsize != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return lax.bitcast_convert_type(x, jnp.uint16)


def from_bits(x: Array, dtype: jnp.dtype) -> Array:
    """Undo `bits`."""
    return x if x.dtype == dtype else lax.bitcast_convert_type(x, dtype)


def sum_dtype(features: Array, weight: Array) -> jnp.dtype:
    """Return the dtype of the products, and of all that is computed from them."""
    return jnp.promote_types(to_compute_dtype(features).dtype, to_compute_dtype(weight).dtype)


def product_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Return the dtype in which gradients enter a matrix product with operands of `dtype`.

    Gradients of a mean over thousands of examples underflow in float16, not in bfloat16.
    """
    return jnp.dtype(jnp.float32) if dtype == jnp.float16 else dtype
