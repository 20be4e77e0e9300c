"""Euclidean norms of vectors of any size.

The squares of numbers beyond 1e19 overflow in float32, and those of numbers below 1e-19 underflow.
A power of two as a factor keeps them in range, and changes no digit of the vector.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.core.dtypes import sum_dtype, to_compute_dtype
from jsoftmax.core.numerics import safe_sqrt
from jsoftmax.core.varying import vary, varying_zero


def unit_factor(x: Array) -> Array:
    """Return per row the power of two that brings the largest magnitude near 1; no gradient."""
    largest = to_compute_dtype(jnp.max(jnp.abs(lax.stop_gradient(x)), -1, initial=0))
    bound = -int(jnp.finfo(largest.dtype).minexp)
    power = jnp.clip(-jnp.frexp(largest)[1], -bound, bound)
    return jnp.ldexp(jnp.ones_like(largest), power)


def of_unit_size(x: Array) -> Array:
    """Return vectors with another length, near 1, and the same direction."""
    if float(jnp.finfo(x.dtype).max) < 1e9:  # the squares of float16 are in range
        return x
    return x * unit_factor(x)[..., None].astype(x.dtype)


def norm(x: Array) -> Array:
    """Return the norm over the last axis, with gradient 0 where it is 0."""
    factor, scaled = _scaled_norm(x)
    return scaled / lax.stop_gradient(factor)


def inverse_norm(x: Array) -> Array:
    """Return 1 / |x| over the last axis; 1, with gradient 0, where that is 0."""
    factor, scaled = _scaled_norm(x)
    return lax.stop_gradient(factor) / jnp.where(scaled > 0, scaled, 1)


def cosine(x: Array, y: Array) -> Array:
    """Return the cosine of the angle between vectors, over the last axis; 0 where one is 0."""
    dtype = sum_dtype(x, y)
    x, y = (of_unit_size(each.astype(dtype)) for each in (x, y))
    return jnp.sum(x * y, -1) * inverse_norm(x) * inverse_norm(y)


@jax.custom_jvp
def _scaled_norm(x: Array) -> tuple[Array, Array]:
    """Return a factor without gradient, and the norm times that; vectors are the last axis.

    The factor is 1 if all squares are in range. So usual vectors are read once, and only if one is
    not, a second time. The rule keeps the branches from the derivative, which is right without it.
    """
    x = to_compute_dtype(x)
    square = jnp.sum(jnp.square(x), -1)
    limits = jnp.finfo(x.dtype)
    least = float(limits.tiny) / float(limits.eps)
    usual = jnp.all((square > least) & (square <= float(limits.max)))
    factor, square = lax.cond(usual, _as_found, _once_more, x, square)
    return factor, safe_sqrt(square)


# Not inside of `_scaled_norm`: outside of jit, new functions would be compiled by every call.
def _as_found(x, square):
    return vary(jnp.ones_like(square), varying_zero(square, x.dtype)), square


def _once_more(x, square):
    factor = unit_factor(x)
    return factor, jnp.sum(jnp.square(x * factor[..., None]), -1)


@_scaled_norm.defjvp
def _scaled_norm_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    factor, scaled = _scaled_norm(x)
    x, dx = (to_compute_dtype(each) * factor[..., None] for each in (x, dx))
    along = jnp.sum(x * dx, -1) / jnp.where(scaled > 0, scaled, 1)
    return (factor, scaled), (jnp.zeros_like(factor), along)
