"""Between cosines, sines and angles in [0, π], for all classes of a head.

What XLA has for it takes longer on a CPU than the product that made the cosines: in float32 these
are polynomials.
"""

import jax.numpy as jnp
from jax import Array, lax

# Abramowitz, Stegun, 1964, 4.4.46, from the highest power on.
_ARCCOS = (
    *(-0.0012624911, 0.0066700901, -0.0170881256, 0.0308918810),
    *(-0.0501743046, 0.0889789874, -0.2145988016, 1.5707963050),
)

# The polynomial in a² that meets cos(a) at the Chebyshev nodes of [-π/2, π/2], from the highest
# power on; it is off by 2e-10.
_COS = (
    *(-2.6051076e-07, 2.4760136e-05, -1.3888360842e-03),
    *(4.1666636209e-02, -4.9999999357e-01, 9.9999999978e-01),
)


def clipped(c):
    """Return a rounded cosine outside [-1, 1] as ±1, with the derivative of the cosine."""
    return c + lax.stop_gradient(jnp.clip(c, -1, 1) - c)


def sine_of(c):
    """Return sin θ; its derivative, infinite at c = ±1, is 0 for the floats next to these."""
    square = (1 - c) * (1 + c)  # exact near |c| = 1, where 1 - c² cancels
    inside = square >= jnp.finfo(c.dtype).eps
    at_end = jnp.sqrt(lax.stop_gradient(jnp.maximum(square, 0)))
    return jnp.where(inside, jnp.sqrt(jnp.where(inside, square, 1)), at_end)


def angle(c: Array) -> Array:
    """Return θ in radians; its derivative, infinite at c = ±1, is finite there.

    In float32 it is a polynomial times sqrt(1 - c), right to 2e-8.
    """
    c = clipped(c)
    if c.dtype.itemsize > 4:
        return jnp.arctan2(sine_of(c), c)
    size = jnp.where(c < 0, -c, c)
    inside = size <= 1 - float(jnp.finfo(c.dtype).eps)
    root = jnp.where(inside, jnp.sqrt(jnp.where(inside, 1 - size, 1)), 0)
    acute = root * _polynomial(size, _ARCCOS)
    return jnp.where(c < 0, jnp.pi - acute, acute)


def cosine_of(angle: Array) -> Array:
    """Return the cosine of any angle, as right as the angle: in float32 to 2e-7 up to π."""
    if angle.dtype.itemsize > 4:
        return jnp.cos(angle)
    half_turns = jnp.round(angle / jnp.pi)
    rest = angle - half_turns * jnp.pi
    polynomial = _polynomial(rest**2, _COS)
    odd = half_turns != 2 * jnp.round(half_turns / 2)
    return jnp.where(odd, -polynomial, polynomial)


def _polynomial(x, coefficients):
    """Return the value at x, coefficients from the highest power on."""
    value = jnp.zeros_like(x)
    for coefficient in coefficients:
        value = value * x + coefficient
    return value
