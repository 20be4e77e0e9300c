"""Elementary functions whose value and derivatives are accurate everywhere.

They handle infinities, products with zero and both tails of the logistic function. All other
modules compute through them, so that docs/edge_cases.md holds everywhere.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

_ZERO = -1e3  # a logarithm of 0


def neg_inf_to_zero(x: Array) -> Array:
    """Replace -inf by 0, so that subtracting the result from -inf does not give NaN."""
    return jnp.where(x == -jnp.inf, 0, x)


@jax.custom_jvp
def exp_nonpositive(d: Array) -> Array:
    """Return `exp(d)` for a difference to a maximum, which in exact arithmetic is at most 0.

    It can exceed 0 where XLA computes the logits in two fusions and rounds them differently in
    each; with logits beyond 2^31 that excess alone would overflow. The bound is above any excess
    that changes no digits, so that the derivative is right at the maximum itself, where d is 0.
    """
    return jnp.exp(jnp.minimum(d, 4))


@exp_nonpositive.defjvp
def _exp_nonpositive_jvp(primals, tangents):
    # That of a minimum would choose and divide, in passes over all logits.
    e = exp_nonpositive(*primals)
    return e, e * tangents[0]


@jax.custom_jvp
def times_exp(d: Array) -> Array:
    """Return `d exp(d)` for such a difference, 0 at -inf."""
    return jnp.maximum(d, _ZERO) * exp_nonpositive(d)


@times_exp.defjvp
def _times_exp_jvp(primals, tangents):
    (d,), (dd,) = primals, tangents
    slope = (1 + jnp.maximum(d, _ZERO)) * exp_nonpositive(d)
    return times_exp(d), slope * dd


def change(x: Array) -> Array:
    """Return 0 with the derivative of `x`, where that is finite.

    It puts a derivative into what is written, where it can not be seen from the value. The rule of
    a `custom_jvp` alone would not do: reverse mode over a loop drops the rules of what depends on
    the loop's inputs, and a second derivative is then that of the value as it is written.
    """
    finite = jnp.where(jnp.abs(x) < jnp.inf, x, 0)
    return finite - lax.stop_gradient(finite)


def unforeseen(labels: Array, beside: Array) -> Array:
    """Return the same integers, which a compiler does not know even if they are constants.

    XLA's CPU backend gives anything for the exponential of a NaN that it knows while it compiles,
    such as that of a constant label out of range. Here 0 is added, made of any numbers of the same
    shape that are not constants. That it is 0 must not be plain to see: it is the whole part of a
    number from 0 to 1/2.
    """
    beside = jnp.abs(lax.stop_gradient(beside))
    zero = jnp.floor(jnp.exp(-jnp.where(jnp.isnan(beside), 0, beside)) / 2)
    return labels + zero.astype(labels.dtype)


def multiply_no_nan(weight: Array, x: Array) -> Array:
    """Return `weight * x` with the convention 0 * ±inf = 0, as in 0 log 0 = 0.

    `x` is replaced before the product rather than the product after it, because the derivative of
    a discarded `0 * inf` would still be NaN.
    """
    return weight * jnp.where((weight == 0) & jnp.isinf(x), 0, x)


@jax.custom_jvp
def sigmoid(u: Array) -> Array:
    """Return `1 / (1 + exp(-u))`, with all derivatives accurate in both tails.

    d/du σ(u) = σ(u) σ(-u). The usual form σ (1 - σ) loses every digit once σ rounds to 1.
    """
    return jax.nn.sigmoid(u)


@sigmoid.defjvp
def _sigmoid_jvp(primals, tangents):
    (u,), (du,) = primals, tangents
    s = sigmoid(u)
    return s, s * sigmoid(-u) * du


@jax.custom_jvp
def softplus(u: Array) -> Array:
    """Return `log(1 + exp(u))`, with all derivatives accurate in both tails: d/du = σ(u)."""
    # Each branch is smooth, where the derivatives of a maximum and of |u| at 0 are not those of u.
    positive = u > 0
    return jnp.where(positive, u, 0) + jnp.log1p(jnp.exp(jnp.where(positive, -u, u)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    (u,), (du,) = primals, tangents
    return softplus(u), sigmoid(u) * du


@jax.custom_jvp
def expm1(x: Array) -> Array:
    """Return `exp(x) - 1` with the derivative exp(x); JAX's adds 1 to the value, which cancels."""
    return jnp.expm1(x)


@expm1.defjvp
def _expm1_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return expm1(x), jnp.exp(x) * dx


def log1p(x: Array) -> Array:
    """Return `log(1 + x)`, in half the time of XLA's on a CPU.

    What 1 + x loses by rounding is added to the logarithm. That is right to first order where the
    logarithm is small; above 1 nothing that matters is lost. The barrier keeps XLA from simplifying
    the difference to 0.
    """
    one = lax.optimization_barrier(jnp.ones((), x.dtype))
    y = one + x
    return jnp.log(y) + jnp.where(x < 1, x - (y - one), 0)


def share(part: Array, whole: Array) -> Array:
    """Return `part / whole`, which is 1 for equal ones, and NaN where there is no whole.

    XLA divides many numbers by one as a product with its inverse, which need not be exact.
    """
    some = whole > 0
    return jnp.where(some & (part == whole), 1, part / jnp.where(some, whole, jnp.nan))


def has_log(p: Array) -> Array:
    """Say of numbers that are not negative whether their logarithm is not -inf.

    Those below the normal numbers count as 0 while a program runs, but not yet in its constants.
    """
    return ~(p < float(jnp.finfo(p.dtype).tiny))


def per(total: Array, weight: Array) -> Array:
    """Return `total / weight`, 0 where there is no weight."""
    none = weight == 0
    return jnp.where(none, 0, total / jnp.where(none, 1, weight))


def log_or_neg_inf(x: Array) -> Array:
    """Return the logarithm of x >= 0, -inf with derivative 0 at 0."""
    empty = x == 0
    return jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1, x)))


def safe_sqrt(p: Array) -> Array:
    """Return the square root of p >= 0, with derivative 0 at 0."""
    return jnp.where(p <= 0, 0, jnp.sqrt(jnp.where(p <= 0, 1, p)))
