"""Entmax for any α, which may be traced: the solution, and the derivatives of the map.

With the logits relative to their maximum, d = z - max z, the largest probability is u^(1/β), where
u = 1 - β λ, and p_i = [u + β d_i]_+^(1/β). The unknown is the logarithm of the largest probability,
m = log(u) / β, so that α = 1 needs no case of its own. Nothing is sorted.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jsoftmax.core.box_cox import log1p_over, phi2
from jsoftmax.core.dtypes import cast_like
from jsoftmax.core.numerics import change, log1p, neg_inf_to_zero
from jsoftmax.core.row_sums import row_sums
from jsoftmax.maps.threshold import threshold

_ZERO = float(np.float32(1e-20))  # stands for a β of 0


def broadcast_alpha(alpha: ArrayLike, like: Array) -> Array:
    """Return α broadcast to the shape of the logits of one class, in their dtype."""
    return jnp.broadcast_to(cast_like(alpha, like), like.shape)


@jax.custom_jvp
def log_entmax(z: Array, alpha: Array) -> Array:
    """Return the log-probabilities, -inf where a probability is 0."""
    return _solved(z, alpha)


@partial(log_entmax.defjvp, symbolic_zeros=True)
def _log_entmax_jvp(primals, tangents):
    # With l = log p on the support, p^β = 1 + β (z - λ) gives at constant λ
    #   dl/dz = p^-β        dl/dβ = -l² φ₂(-β l)        φ₂(y) = (e^y - 1 - y) / y²
    # and dλ keeps the sum of p constant: with g = p^(1-β), and r = dl/dβ dβ,
    #   dλ = sum_j (g_j dz_j + p_j r_j) / sum_j g_j        dl_i = p_i^-β (dz_i - dλ) + r_i
    (d, alpha), (dd, d_alpha) = primals, tangents
    dd = jnp.zeros_like(d) if isinstance(dd, SymbolicZero) else dd
    log_p = log_entmax(d, alpha)
    on, known = log_p != -jnp.inf, neg_inf_to_zero(log_p)
    slope = jnp.where(on, jnp.exp((1 - alpha) * known), 0)
    p = jnp.where(on, jnp.exp(known), 0)
    r = jnp.zeros_like(d)
    if not isinstance(d_alpha, SymbolicZero):
        r = -known * known * phi2((1 - alpha) * known) * d_alpha
    g = p * slope
    total = jnp.sum(g, -1, keepdims=True)
    d_lambda = jnp.sum(g * dd + p * r, -1, keepdims=True) / jnp.where(total == 0, 1, total)
    return log_p, jnp.where(on, slope * (dd - d_lambda) + r, 0)


@jax.jit
def _solved(z, alpha):
    # With a β below rounding for β = 0, all below gives the limit without a case of its own.
    beta = alpha - 1
    beta += lax.stop_gradient(jnp.where(jnp.abs(beta) < _ZERO, _ZERO - beta, 0))
    evaluate = partial(_evaluate, lax.stop_gradient(beta))
    top, m = threshold(evaluate, z, -math.log(max(z.shape[-1], 1)) - 1, 0)
    return _stepped(beta, z - top, m)


def _stepped(beta, d, m):
    """Return log p after a last step of Newton's method, with the derivatives that it gives.

    The step is linear in p, which then sum to 1 whatever the rounding of m. Above β = 1 that
    matters: p_j is the steeper the smaller it is, and the class nearest to the threshold may change
    by a percent (β = 3) or by 17 (β = 9) between one float m and the next. So there the step is
    from above, where such a class is in the support; its slope exceeds all others, and the step
    gives it what the others leave.
    """
    above = 4 * float(jnp.finfo(m.dtype).eps) * lax.stop_gradient(jnp.abs(m) + 2 / jnp.abs(beta))
    m += jnp.where(beta > 1, above, 0)
    scale, m = lax.optimization_barrier((_inverse_u(beta, m), m))
    y = d * scale
    x = beta * y
    # Below what stands for a β of 0 no class is off the support, however far.
    x = jnp.where((jnp.abs(beta) <= _ZERO) & (x < -0.5), 0, x)
    on = ~((x <= -1) | jnp.isinf(y))
    x, y = jnp.where(on, x, 0), jnp.where(on, y, 0)
    log_p = m + log1p_over(x, y, beta)
    r = 1 / (1 + x)
    p = jnp.where(on, jnp.exp(log_p), 0)
    total, first, second = row_sums(p, p * r, p * r * r)
    first = jnp.where(first > 0, first, 1)
    k = (1 - total) / first
    # The second order has no value, but a second derivative: see `_evaluate`.
    squared = jnp.square(change(k)) * (1 - beta) / 2
    change_of_p = r * (k - squared * second / first + squared * r)
    on &= ~(change_of_p <= -1)
    log_p += log1p(jnp.where(on, change_of_p, 0))
    # Above β = 1 every other class on the support would add at least as much to `first`.
    alone = (beta > 1) & (first == p * r)
    return jnp.where(on, jnp.where(alone, 0, log_p), -jnp.inf)


def _log_p(beta, d, m):
    """Return log p, and x = β d / u; p is proportional to (1 + x)^(1/β)."""
    # The barrier keeps what is one number per example from being computed once per class.
    scale, inverse, m = lax.optimization_barrier((beta * _inverse_u(beta, m), 1 / beta, m))
    x = jnp.maximum(d * scale, -1)
    return m + log1p(x) * inverse, x


def _inverse_u(beta, m):
    # Where u underflows, ties of the largest logit are left: a finite β / u leaves their d at 0.
    largest = float(jnp.finfo(m.dtype).max) / 2
    return jnp.minimum(jnp.exp(-beta * m), largest / jnp.maximum(beta, 1))


def _evaluate(beta, d, m):
    """Return the sum of p minus 1, the m that Halley's method proposes, and an error bound there.

    Where u changes to u (1 + β k), with T_j the sum of p / (1 + x)^j,

        Σ p = T_0 + T_1 k + (1 - β) T_2 k² / 2 + ...

    Newton's method is applied to ((Σ p)^β - 1) / β, which is linear in k where all logits are
    equal. Its slope grows with the variance of 1 / (1 + x) under p: Halley's method divides the
    step by 1 + c, where |c| is the part of the present error that Newton's step leaves. With
    logarithms as costly as they are, the third sum costs less than the steps that it saves.
    """
    log_p, x = _log_p(beta, d, m)
    p = jnp.exp(log_p)
    r = jnp.where(x > -1, 1 / (1 + x), 0)
    total, first, second = row_sums(p, p * r, p * r * r)
    log_total = jnp.log(jnp.where(total > 0, total, 1))
    slope = jnp.where(first > 0, first, 1)
    step = total * jnp.expm1(-beta * log_total) / (beta * slope)
    c = step * (1 - beta) * (total * second - first * first) / (2 * total * slope)
    # Above β = 1/2 the slope is unbounded where a class enters the support.
    smooth = (beta <= 0.5) & (first > 0)
    c = jnp.where(smooth, jnp.clip(c, -0.5, 0.5), 0)
    # Left of the solution, classes that enter the support add to the error: little after a tiny
    # step. The factor 4 is for all that is of higher order.
    known = smooth & (total > 1 - jnp.finfo(m.dtype).eps ** 0.75)
    bound = jnp.where(known, 4 * jnp.abs(c * (total - 1)), jnp.inf)
    change = log1p(jnp.maximum(beta * step / (1 + c), -1)) / beta
    return total - 1, m + change, bound
