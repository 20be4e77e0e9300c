"""Powers of probabilities from their logarithms, for entmax, tempered softmax and their losses.

For a power b and l = log p,

    box_cox(l, b) = (p^b - 1) / b        which is log p at b = 0

also known as the deformed or t-logarithm, with b = 1 - t. Evaluated as written it loses all digits
around b = 0; the form below does not.
"""

import math

import jax.numpy as jnp
from jax import Array

from jsoftmax.core.numerics import expm1, log1p, neg_inf_to_zero


def expm2(y: Array, growth: Array) -> Array:
    """Return `exp(y) - 1 - y`, accurate around 0, given `growth = exp(y) - 1`."""
    near = jnp.abs(y) < 1
    small = jnp.where(near, y, 0)
    return jnp.where(near, small * small * _phi2_around_0(small), growth - y)


def phi2(y: Array) -> Array:
    """Return `(exp(y) - 1 - y) / y²`, which is 1/2 at 0."""
    near = jnp.abs(y) < 1
    small, large = jnp.where(near, y, 0), jnp.where(near, 1, y)
    return jnp.where(near, _phi2_around_0(small), (expm1(large) / large - 1) / large)


def _phi2_around_0(y):
    # 1/2! + y/3! + y²/4! + ...: for |y| < 1 the terms left out are below rounding.
    last = 10 if y.dtype == jnp.float32 else 18
    series = jnp.full_like(y, 1 / math.factorial(last))
    for k in range(last - 1, 1, -1):
        series = 1 / math.factorial(k) + y * series
    return series


def log1p_over(x: Array, y: Array, power: Array) -> Array:
    """Return `log(1 + x) / b` for x = b y > -1, also at b = 0; the inverse of `box_cox` at y."""
    near = jnp.abs(x) < 0.1
    small, large = jnp.where(near, x, 0), jnp.where(near, 1, x)
    # 1 - x/2 + x²/3 - ...: for |x| < 0.1 the terms left out are below rounding, in the derivative
    # as well.
    terms = 8 if x.dtype == jnp.float32 else 18
    series = jnp.full_like(x, 1 / (terms + 1))
    for k in range(terms, 0, -1):
        series = 1 / k - series * small
    return jnp.where(near, y * series, log1p(large) / jnp.where(near, 1, power))


def box_cox(log_p: Array, power: Array) -> Array:
    """Return `(p^b - 1) / b` of p = exp(l) and b = power; -1/b or -inf for p = 0."""
    zero = log_p == -jnp.inf  # what `neg_inf_to_zero` gives there is discarded
    y = power * neg_inf_to_zero(log_p)
    near = jnp.abs(y) < 1
    series = neg_inf_to_zero(log_p) * (1 + y * phi2(jnp.where(near, y, 0)))
    ratio = expm1(jnp.where(near, 1, y)) / jnp.where(power == 0, 1, power)
    positive = power > 0
    at_zero = jnp.where(positive, -1 / jnp.where(positive, power, 1), -jnp.inf)
    return jnp.where(zero, at_zero, jnp.where(near, series, ratio))
