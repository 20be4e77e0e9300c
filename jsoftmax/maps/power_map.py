"""Entmax for α = 1 + 1/n with a static integer n: powers by multiplication, and no logarithm.

    p_i = [u + d_i / n]_+^n        d = z - max z

n = 1 is sparsemax, n = 2 is 1.5-entmax. Newton's method is applied to (Σ p)^(1/n), which is convex
in u, and linear where all logits are equal: from u = 1 the steps never overshoot the solution.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.numerics import change, safe_sqrt
from jsoftmax.core.row_sums import row_sums
from jsoftmax.maps.threshold import threshold

_LARGEST = 10  # of n; a power multiplies the rounding error of its base by n


def static_power(alpha: ArrayLike) -> int | None:
    """Return n if α is a Python number 1 + 1/n with an n from 1 to 10, and otherwise None."""
    if not isinstance(alpha, (int, float)) or not 1 < alpha <= 2:
        return None
    power = round(1 / (alpha - 1))
    return power if power <= _LARGEST and abs(power * (alpha - 1) - 1) < 1e-12 else None


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def power_map(z: Array, power: int) -> Array:
    """Return the probabilities `[u + (z - max z) / n]_+^n`; all 0 where all classes are at -inf."""
    return _solved(z, power)


@power_map.defjvp
def _power_map_jvp(power, primals, tangents):
    # dp_i = g_i (dz_i - sum_j g_j dz_j / sum_j g_j), g = p^(2 - α) on the support and 0 elsewhere.
    (z,), (dz,) = primals, tangents
    p = power_map(z, power)
    g = _slope(p, power)
    total = jnp.sum(g, -1, keepdims=True)
    mean = jnp.sum(g * dz, -1, keepdims=True) / jnp.where(total == 0, 1, total)
    return p, g * (dz - mean)


@partial(jax.jit, static_argnums=1)
def _solved(z, power):
    top, u = threshold(partial(_evaluate, power), z, 0, 1)
    e = (z - top) / power + u
    e += _moved(power, e)
    return jnp.where(e <= 0, 0, e) ** power  # NaN stays


def _moved(power, e):
    """Return 0 with the first and second derivative of u, for which the sum of p is constant.

    With S_k the sum of e^k over the support, Σ p = S_n + n S_(n-1) du + n (n-1) S_(n-2) du² / 2.
    """
    on = e > 0
    e = jnp.where(on, e, 0)
    sums = row_sums(*(e**k for k in range(power, max(power - 3, 0), -1)))
    if power <= 2:
        sums += row_sums(on.astype(e.dtype))
    total, slope, *curvature = sums
    slope = power * jnp.where(slope > 0, slope, 1)
    du = change((1 - total) / slope)
    if curvature:
        du -= power * (power - 1) / 2 * curvature[0] / slope * jnp.square(du)
    return du


def _evaluate(power, d, u):
    """Return the sum of p minus 1, and the u that Newton's method proposes."""
    e = jnp.maximum(d / power + u, 0)
    # Counting with integers is slow. A positive e, a difference of two floats in (-1, 1], is at
    # least 2^-100.
    slopes = jnp.minimum(e * 2.0**100, 1) if power == 1 else e ** (power - 1)
    total, slope = row_sums(e**power, slopes)
    return total - 1, u - (total - _slope(total, power)) / jnp.where(slope > 0, slope, 1)


def _slope(p, power):
    """Return `p^(1 - 1/n)`, which is 0 with derivative 0 at p = 0."""
    if power == 1:
        return jnp.sign(p)
    if power == 2:
        return safe_sqrt(p)
    zero = p <= 0
    return jnp.where(zero, 0, jnp.exp((1 - 1 / power) * jnp.log(jnp.where(zero, 1, p))))
