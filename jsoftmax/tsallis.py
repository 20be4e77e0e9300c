r"""Powers that pass through the logarithm: the arithmetic of entmax, tempered softmax and losses.

With a power b, and l = log p,

    box_cox(l, b) = (p^b - 1) / b        which is log p at b = 0
    inverse_box_cox(x, b) = log(1 + b x) / b        which is x at b = 0

(also known as the deformed or t-logarithm, b = 1 - t, and the logarithm of its inverse). Tsallis'
entropy of order α, and the divergence that it generates, are with β = α - 1

    Ω(p) = (Σ_j p_j^α - 1) / (α β) = 1/α Σ_j p_j box_cox(log p_j, β)
    D(q, p) = (q^α - α q p^β + β p^α) / (α β) >= 0        per class

Both are Shannon's entropy and q log(q/p) - q + p at α = 1. Written as above they lose all digits
around α = 1, and D also around p = q; the forms below do not.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.numerics import expm1, finite

__all__ = ["box_cox", "divergence", "expm2", "inverse_box_cox", "negative_entropy", "phi2"]


@jax.custom_jvp
def expm2(y: Array) -> Array:
    """Return `exp(y) - 1 - y`, accurate around 0, with the derivative exp(y) - 1."""
    return y * y * phi2(y)


@expm2.defjvp
def _expm2_jvp(primals, tangents):
    (y,), (dy,) = primals, tangents
    return expm2(y), expm1(y) * dy


def phi2(y: Array) -> Array:
    """Return `(exp(y) - 1 - y) / y²`, which is 1/2 at 0."""
    near = jnp.abs(y) < 1
    small, large = jnp.where(near, y, 0), jnp.where(near, 1, y)
    # 1/2! + y/3! + y²/4! + ...: the last term is below rounding for |y| < 1.
    terms = 10 if y.dtype == jnp.float32 else 18
    series = jnp.ones_like(y)
    for k in range(terms, 2, -1):
        series = 1 + series * small / k
    return jnp.where(near, series / 2, (expm1(large) - large) / (large * large))


def box_cox(log_p: Array, power: Array) -> Array:
    """Return `(p^b - 1) / b` of p = exp(l) and b = power; -1/b or -inf for p = 0."""
    zero = log_p == -jnp.inf  # what is computed from `finite` there is discarded
    y = power * finite(log_p)
    near = jnp.abs(y) < 1
    series = finite(log_p) * (1 + y * phi2(jnp.where(near, y, 0)))
    ratio = expm1(jnp.where(near, 1, y)) / jnp.where(power == 0, 1, power)
    positive = power > 0
    at_zero = jnp.where(positive, -1 / jnp.where(positive, power, 1), -jnp.inf)
    return jnp.where(zero, at_zero, jnp.where(near, series, ratio))


def inverse_box_cox(x: Array, power: Array) -> Array:
    """Return `log([1 + b x]_+) / b`, the log p of which `x` is the Box-Cox transform."""
    known = power != 0
    b = jnp.where(known, power, 1)
    return jnp.where(known, jnp.log1p(jnp.maximum(b * x, -1)) / b, x)


def negative_entropy(log_p: Array, alpha: Array) -> Array:
    """Return Ω(p) for classes last and α `[..., 1]`: 0 for a one-hot p, negative otherwise."""
    p, log_p = jnp.exp(log_p), finite(log_p)
    return jnp.sum(p * box_cox(log_p, alpha - 1) / alpha, -1)


def divergence(q: Array, log_p: Array, alpha: Array) -> Array:
    """Return D(q, p) of each class, for q >= 0, any p and alpha > 0."""
    beta = alpha - 1
    both = (q != 0) & (log_p != -jnp.inf)
    log_q = jnp.log(jnp.where(both, q, 1))
    log_p_kept = jnp.where(both, log_p, 0)
    x = log_p_kept - log_q
    # With x = log(p / q): D = q^α (box_cox(x, α) - box_cox(x, β)), here without the x in which both
    # begin, so that nothing cancels for p close to q.
    far = x > 1
    y = jnp.where(far, 0, x)
    q_alpha = jnp.exp(alpha * log_q)
    close = q_alpha * y * y * (alpha * phi2(alpha * y) - beta * phi2(beta * y))
    # The same for p much larger than q, whose ratio could overflow.
    change = box_cox(log_p_kept, beta) - box_cox(log_q, beta)
    apart = (jnp.exp(alpha * log_p_kept) - q_alpha) / alpha - q * change
    return jnp.where(both, jnp.where(far, apart, close), _divergence_from_zero(q, log_p, alpha))


def _divergence_from_zero(q, log_p, alpha):
    """Return D(q, p) where q or p is 0."""
    beta = alpha - 1
    positive = beta > 0
    q_alpha = jnp.exp(alpha * jnp.log(jnp.where(q == 0, 1, q)))
    p_alpha = jnp.where(log_p != -jnp.inf, jnp.exp(alpha * finite(log_p)), 0)
    from_q = jnp.where(positive, q_alpha / jnp.where(positive, alpha * beta, 1), jnp.inf)
    return jnp.where(q == 0, p_alpha / alpha, from_q)
