r"""Logits to sparse probabilities: sparsemax, 1.5-entmax and the family that they belong to.

    p_i = [1 + β (z_i - λ)]_+^(1/β)        β = α - 1, and λ such that they sum to 1

It is softmax at α = 1 and sparsemax at α = 2; below 1 its tails are heavier than those of softmax.
On logits relative to their largest, d = z - max z, the largest probability is u^(1/β) with
u = 1 - β λ, and p_i = [u + β d_i]_+^(1/β). So one number per example is to be found: u, or for any
α the logarithm of the largest probability, m = log(u) / β. Nothing is sorted.

Newton's method runs on (Σ p)^β, which is linear in u where all logits are equal, and for β <= 1
convex or concave such that the steps, from u = 1, never pass the solution.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jsoftmax import checks, maps
from jsoftmax.numerics import finite, is_known, like
from jsoftmax.roots import increasing_root
from jsoftmax.tsallis import box_cox, inverse_box_cox, phi2

__all__ = ["entmax", "entmax15", "sparsemax", "tempered_softmax"]


def sparsemax(logits: ArrayLike, axis: maps.Axis = -1, *, where: ArrayLike | None = None) -> Array:
    r"""Sparse probabilities: the point of the simplex that is nearest to the logits.

    $$p_i = [z_i - \tau]_+, \qquad \sum_i p_i = 1$$

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis, or several that share one distribution.
      where: booleans that broadcast against `logits`; False switches a class off.

    Returns:
      Probabilities in the shape and dtype of `logits`, exactly 0 for logits more than 1 below the
      largest, and often for others; all 0 where no class is on. A logit of +inf or NaN gives NaN.
      The gradient is 0 for a class that gets 0.

    Source: Martins, Astudillo, "From softmax to sparsemax", 2016, arXiv:1602.02068, eq. 2; Newton's
    method in place of its algorithm 1, which sorts.

    Example:
      >>> js.sparsemax(jnp.array([1.0, 0.8, -2.0]))
      Array([0.6, 0.4, 0. ], dtype=float32)
    """
    return entmax(logits, axis, alpha=2.0, where=where)


def entmax15(logits: ArrayLike, axis: maps.Axis = -1, *, where: ArrayLike | None = None) -> Array:
    r"""Sparse probabilities between softmax and sparsemax: entmax with α = 3/2.

    $$p_i = \left[\tfrac12 z_i - \tau\right]_+^2, \qquad \sum_i p_i = 1$$

    Args:
      logits: `[..., classes]`; dtypes as in `sparsemax`.
      axis: the class axis, or several that share one distribution.
      where: booleans that broadcast against `logits`; False switches a class off.

    Returns:
      Probabilities in the shape and dtype of `logits`, exactly 0 for logits more than 2 below the
      largest, and often for others; otherwise as `sparsemax`.

    Source: Peters, Niculae, Martins, "Sparse sequence-to-sequence models", 2019, arXiv:1905.05702,
    section 3; Newton's method in place of its algorithm 2, which sorts.

    Example:
      >>> js.entmax15(jnp.array([1.0, 0.8, -2.0]))
      Array([0.5705, 0.4295, 0.    ], dtype=float32)
    """
    return entmax(logits, axis, alpha=1.5, where=where)


def entmax(
    logits: ArrayLike,
    axis: maps.Axis = -1,
    *,
    alpha: ArrayLike = 1.5,
    where: ArrayLike | None = None,
) -> Array:
    r"""The family from softmax (α = 1) through 1.5-entmax to sparsemax (α = 2).

    $$p_i = \bigl[(\alpha - 1) z_i - \tau\bigr]_+^{1 / (\alpha - 1)}, \qquad \sum_i p_i = 1$$

    Args:
      logits: `[..., classes]`; dtypes as in `sparsemax`.
      axis: the class axis, or several that share one distribution.
      alpha: α, any number, a scalar, or an array that broadcasts against `logits` with the class
        axis of size 1. May be traced and has a gradient, also at 1. Above 1 classes far below the
        largest get exactly 0; below 1 all get more than from softmax.
      where: booleans that broadcast against `logits`; False switches a class off.

    Returns:
      Probabilities in the shape and dtype of `logits`; otherwise as `sparsemax`. Above α = 2 the
      derivative is unbounded where a probability comes to 0.

    Source: Peters, Niculae, Martins, 2019, arXiv:1905.05702, eq. 8 and 9. The derivative to α:
    Correia, Niculae, Martins, "Adaptively sparse transformers", 2019, arXiv:1909.00015, section
    3.2.

    Example:
      >>> z = jnp.array([1.0, 0.8, -2.0])
      >>> js.entmax(z, alpha=1.2)
      Array([0.5561, 0.4418, 0.002 ], dtype=float32)
      >>> jax.grad(lambda alpha: js.entmax(z, alpha=alpha)[0])(jnp.ones(()))
      Array(0.1249, dtype=float32)
    """
    if is_known(alpha, 1):
        return maps.softmax(logits, axis, where=where)
    logits = checks.as_logits(logits)
    d, top = maps.centred(logits, axis, where)
    rows = maps.classes_last(d, axis)
    if is_known(alpha, 2) or is_known(alpha, 1.5):
        p = power_map(rows, 1 if is_known(alpha, 2) else 2)
    else:
        p = jnp.exp(log_entmax(rows, maps.classes_last(broadcast_alpha(alpha, top), axis)))
    return maps.classes_back(p, d.shape, axis).astype(logits.dtype)


def tempered_softmax(
    logits: ArrayLike,
    axis: maps.Axis = -1,
    *,
    t: ArrayLike,
    where: ArrayLike | None = None,
) -> Array:
    r"""Softmax with the deformed exponential of temperature t: heavy tails above 1, none below.

    $$p_i = \exp_t(z_i - \lambda), \qquad \exp_t(x) = [1 + (1 - t)\,x]_+^{1 / (1 - t)}, \qquad
    \sum_i p_i = 1$$

    It is `entmax` with $\alpha = 2 - t$: softmax at t = 1, sparsemax at t = 0.

    Args:
      logits: `[..., classes]`; dtypes as in `sparsemax`.
      axis: the class axis, or several that share one distribution.
      t: any number, a scalar or an array that broadcasts against `logits` with the class axis of
        size 1; may be traced and has a gradient, also at 1.
      where: booleans that broadcast against `logits`; False switches a class off.

    Returns:
      Probabilities in the shape and dtype of `logits`, as `entmax`.

    Source: Amid et al., "Robust bi-tempered logistic loss", 2019, arXiv:1906.03361, eq. 2 to 4.

    Example:
      >>> z = jnp.array([3.0, 0.0, -3.0])
      >>> js.tempered_softmax(z, t=2.0)
      Array([0.6474, 0.22  , 0.1325], dtype=float32)
      >>> js.softmax(z)
      Array([0.9503, 0.0473, 0.0024], dtype=float32)
    """
    return entmax(logits, axis, alpha=2 - t, where=where)


def broadcast_alpha(alpha: ArrayLike, top: Array) -> Array:
    """Return α in the shape of logits of one class."""
    alpha = like(alpha, top)
    checks.by_example("alpha", alpha, top.shape)
    return jnp.broadcast_to(alpha, top.shape)


# --- α = 2 and 3/2: a power n = 1/β of 1 and 2, on centred logits [..., classes] ---


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
    # dp_i = g_i (dz_i - sum_j g_j dz_j / sum_j g_j) with g = p^(2 - α) on the support, 0 elsewhere.
    (d,), (dd,) = primals, tangents
    p = power_map(d, power)
    g = jnp.sign(p) if power == 1 else safe_sqrt(p)
    total = jnp.sum(g, -1, keepdims=True)
    mean = jnp.sum(g * dd, -1, keepdims=True) / jnp.where(total == 0, 1, total)
    return p, g * (dd - mean)


def safe_sqrt(p: Array) -> Array:
    """Return the square root of p >= 0, with derivative 0 at 0."""
    return jnp.where(p <= 0, 0, jnp.sqrt(jnp.where(p <= 0, 1, p)))


# Each below returns the sum of p less 1, and u after a step of Newton's method on (sum of p)^β,
#   u - (S - S^(1-β)) / G,   S = sum of p,   G = sum of p^(1-β).
# The odd spelling is for XLA's CPU backend. It vectorises a sum of minima and maxima, but not of
# comparisons, and writes an array out that two sums share: so they share none, nor a constant.


def _evaluate_linear(d, u):
    zero = 0 * u
    one = zero + 1
    total = jnp.sum(jnp.maximum(u + d, zero), -1, keepdims=True)
    # The number of d above -u: a difference of two floats in (-1, 1] is not below 2^-100.
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


# --- any α, on centred logits [..., classes] and α [..., 1] ---


def largest_log_p(d: Array, alpha: Array) -> Array:
    """Return m, the logarithm of the largest probability, with the class axis kept."""
    beta = alpha - 1
    high = jnp.zeros_like(d[..., :1])
    low = high - jnp.log(float(d.shape[-1])) - 1
    return _root_from_few(partial(_evaluate, beta), d, low, high)


def _evaluate(beta, d, m):
    """Return the same as those above for m in place of u."""
    scaled = jnp.exp(-beta * m)
    log_p = m + inverse_box_cox(d * scaled, beta)
    on = log_p > -jnp.inf
    total = jnp.sum(jnp.exp(log_p), -1, keepdims=True)
    slopes = jnp.where(on, jnp.exp((1 - beta) * finite(log_p)), 0)
    slope = jnp.sum(slopes, -1, keepdims=True)
    log_total = jnp.log(jnp.where(total > 0, total, 1))
    change = total * box_cox(-log_total, beta) * scaled / jnp.where(slope > 0, slope, 1)
    return total - 1, m + inverse_box_cox(change, beta)


@jax.custom_jvp
def log_entmax(d: Array, alpha: Array) -> Array:
    """Return the logarithm of the probabilities, -inf for those that are 0."""
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
    on, known = log_p != -jnp.inf, finite(log_p)
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
    """Solve for the largest of every 16 classes, and from there for all.

    Fewer classes have a smaller sum, so theirs is an upper bound, and as a rule a close one: for
    normal logits of 32,000 classes two to four steps over all of them are left of eight.
    """
    tolerance = 4 * float(jnp.finfo(d.dtype).eps)
    start, groups = high, d.shape[-1] // 16
    if groups >= 8:
        few = jnp.max(d[..., : 16 * groups].reshape(*d.shape[:-1], 16, groups), -2)
        start = increasing_root(partial(evaluate, few), low, high, high, tolerance)
    return increasing_root(partial(evaluate, d), low, high, start, tolerance)
