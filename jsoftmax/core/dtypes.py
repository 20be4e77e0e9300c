"""Compute dtypes, and integers before JAX narrows them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


def unnarrowed(x: ArrayLike) -> Any:
    """Return an array with `ndim` and `dtype`: of numpy, if JAX would narrow its integers."""
    if not isinstance(x, Array) and not hasattr(x, "__jax_array__"):
        try:
            known = np.asarray(x)
        except jax.errors.TracerArrayConversionError:  # a list with tracers in it
            return jnp.asarray(x)
        if np.issubdtype(known.dtype, np.integer):
            return known
    return jnp.asarray(x)


def to_compute_dtype(x: ArrayLike) -> Array:
    """Return `x` in its compute dtype: float32 or wider, the default float for integers."""
    given = unnarrowed(x)
    if jnp.issubdtype(given.dtype, jnp.integer):
        return jnp.asarray(given, float)
    return given.astype(jnp.float32) if given.dtype.itemsize < 4 else given


def at_least_16_bits(x: Array) -> Array:
    """Return `x`, in bfloat16, which holds all numbers of 8 bits, if it has these.

    Some of their dtypes have no infinity, and none is one to compute in.
    """
    return x if x.dtype.itemsize > 1 else x.astype(jnp.bfloat16)


def cast_like(value: ArrayLike, x: Array) -> Array:
    """Return a hyper-parameter or a result cast to the dtype of `x`; strict promotion wants that.

    What a dtype without infinity can not hold becomes the largest that it can.
    """
    if x.dtype.itemsize == 1 and np.isnan(np.asarray(np.inf, x.dtype).astype(np.float32)):
        largest = float(jnp.finfo(x.dtype).max)
        value = jnp.clip(jnp.asarray(value), -largest, largest)
    return jnp.asarray(value, x.dtype)


def sum_dtype(features: Array, weight: Array) -> jnp.dtype:
    """Return the dtype in which products are accumulated, and all that follows is computed."""
    return jnp.promote_types(to_compute_dtype(features).dtype, to_compute_dtype(weight).dtype)


def product_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Return the dtype in which gradients enter a matrix product with operands of `dtype`.

    Gradients of a mean over thousands of examples underflow in float16, not in bfloat16.
    """
    return jnp.dtype(jnp.float32) if dtype == jnp.float16 else dtype
