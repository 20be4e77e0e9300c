"""The threshold of entmax by Newton's method, and the derivatives of the map.

With the logits relative to their maximum, d = z - max z, the largest probability is u^(1/β), where
u = 1 - β λ, and p_i = [u + β d_i]_+^(1/β). So there is one unknown per example: u, or for general α
the logarithm of the largest probability, m = log(u) / β. Nothing is sorted.

Newton's method is applied to (Σ p)^β, which is linear in u where all logits are equal, and for
β <= 1 convex or concave such that the steps, starting from u = 1, never overshoot the solution.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jsoftmax.core.arguments import check_per_example
from jsoftmax.core.box_cox import box_cox, inverse_box_cox, phi2
from jsoftmax.core.dtypes import cast_like
from jsoftmax.core.numerics import neg_inf_to_zero, safe_sqrt
from jsoftmax.core.roots import increasing_root


def broadcast_alpha(alpha: ArrayLike, top: Array) -> Array:
    """Return α broadcast to the shape of the logits with the class axis of size 1."""
    alpha = cast_like(alpha, top)
    check_per_example("alpha", alpha, top.shape)
    return jnp.broadcast_to(alpha, top.shape)


@partial(jax.jit, static_argnums=1)
def power_root(d: Array, power: int) -> Array:
    """Return u, with the class axis kept, for which the sum of `[u + d / n]_+^n` is 1."""
    evaluate = {1: _evaluate_linear, 2: _evaluate_square}[power]
    zero = jnp.zeros_like(d[..., :1])
    return _root_from_few(evaluate, d, zero, zero + 1)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def power_map(d: Array, power: int) -> Array:
    """Return the probabilities `[u + d / n]_+^n`."""
    return jnp.maximum(power_root(d, power) + d / power, 0) ** power


@power_map.defjvp
def _power_map_jvp(power, primals, tangents):
    # dp_i = g_i (dz_i - sum_j g_j dz_j / sum_j g_j), g = p^(2 - α) on the support and 0 elsewhere.
    (d,), (dd,) = primals, tangents
    p = power_map(d, power)
    g = jnp.sign(p) if power == 1 else safe_sqrt(p)
    total = jnp.sum(g, -1, keepdims=True)
    mean = jnp.sum(g * dd, -1, keepdims=True) / jnp.where(total == 0, 1, total)
    return p, g * (dd - mean)


def _evaluate_linear(d, u):
    zero = 0 * u
    one = zero + 1
    total = jnp.sum(jnp.maximum(u + d, zero), -1, keepdims=True)
    # The number of d above -u: a difference of two floats in (-1, 1] is 0 or at least 2^-100.
    huge = one * 2.0**100
    support = jnp.sum(jnp.minimum(jnp.maximum(d, -u) * huge + u * huge, one), -1, keepdims=True)
    return total - 1, u - (total - 1) / jnp.maximum(support, 1)


def _evaluate_square(d, u):
    twice = 2 * u
    zero = 0 * u
    square = jnp.sum(jnp.square(jnp.maximum(d, -twice) + twice), -1, keepdims=True) / 4
    one = zero + 1
    roots = jnp.sum(jnp.maximum(d * one + twice * one, zero), -1, keepdims=True) / 2
    return square - 1, u - (square - jnp.sqrt(square)) / jnp.where(roots > 0, roots, 1)


@jax.jit
def largest_log_p(d: Array, alpha: Array) -> Array:
    """Return m, the logarithm of the largest probability, with the class axis kept."""
    beta = alpha - 1
    high = jnp.zeros_like(d[..., :1])
    low = high - jnp.log(float(d.shape[-1])) - 1
    return _root_from_few(partial(_evaluate, beta), d, low, high)


def _evaluate(beta, d, m):
    """Return what the two functions above do, for general α: with m in place of u."""
    scaled = jnp.exp(-beta * m)
    log_p = m + inverse_box_cox(d * scaled, beta)
    on = log_p > -jnp.inf
    total = jnp.sum(jnp.exp(log_p), -1, keepdims=True)
    slopes = jnp.where(on, jnp.exp((1 - beta) * neg_inf_to_zero(log_p)), 0)
    slope = jnp.sum(slopes, -1, keepdims=True)
    log_total = jnp.log(jnp.where(total > 0, total, 1))
    change = total * box_cox(-log_total, beta) * scaled / jnp.where(slope > 0, slope, 1)
    return total - 1, m + inverse_box_cox(change, beta)


@jax.custom_jvp
def log_entmax(d: Array, alpha: Array) -> Array:
    """Return the log-probabilities, -inf where a probability is 0."""
    beta = alpha - 1
    m = largest_log_p(d, alpha)
    return m + inverse_box_cox(d * jnp.exp(-beta * m), beta)


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


def _root_from_few(evaluate: Callable, d: Array, low: Array, high: Array) -> Array:
    """Solve for the maxima of groups of 16 classes, and start from there for all classes.

    Fewer classes have a smaller sum, so their solution is an upper bound, and usually a close one:
    for 32,000 normal logits two to four steps over all classes are left instead of eight.
    """
    tolerance = 4 * float(jnp.finfo(d.dtype).eps)
    start, groups = high, d.shape[-1] // 16
    if groups >= 8:
        few = jnp.max(d[..., : 16 * groups].reshape(*d.shape[:-1], 16, groups), -2)
        start = increasing_root(partial(evaluate, few), low, high, high, tolerance)
    return increasing_root(partial(evaluate, d), low, high, start, tolerance)
