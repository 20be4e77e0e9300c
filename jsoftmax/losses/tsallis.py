"""The Tsallis entropy of order α and its Bregman divergence, with β = α - 1:

    Ω(p) = (Σ_j p_j^α - 1) / (α β) = 1/α Σ_j p_j box_cox(log p_j, β)
    D(q, p) = (q^α - α q p^β + β p^α) / (α β) >= 0        per class

At α = 1 these are the (negative) Shannon entropy and q log(q/p) - q + p. Evaluated as written they
lose all digits around α = 1, and D also around p = q; the forms below do not.
"""

import jax.numpy as jnp
from jax import Array

from jsoftmax.core.box_cox import box_cox, phi2
from jsoftmax.core.numerics import has_log, neg_inf_to_zero


def negative_entropy(log_p: Array, alpha: Array) -> Array:
    """Return Ω(p) for classes last and α `[..., 1]`: 0 for a one-hot p, negative otherwise."""
    p, log_p = jnp.exp(log_p), neg_inf_to_zero(log_p)
    return jnp.sum(p * box_cox(log_p, alpha - 1) / alpha, -1)


def divergence(q: Array, log_p: Array, alpha: Array) -> Array:
    """Return D(q, p) per class, for q >= 0, any p and alpha > 0."""
    beta = alpha - 1
    both = has_log(q) & (log_p != -jnp.inf)
    log_q = jnp.log(jnp.where(both, q, 1))
    log_p_kept = jnp.where(both, log_p, 0)
    x = log_p_kept - log_q
    # With x = log(p / q): D = q^α (box_cox(x, α) - box_cox(x, β)). The leading term x of both is
    # left out, so that nothing cancels for p close to q.
    far = (x > 1) | (x < -1e3)
    y = jnp.where(far, 0, x)
    q_alpha = jnp.exp(alpha * log_q)
    close = q_alpha * y * y * (alpha * phi2(alpha * y) - beta * phi2(beta * y))
    # The same where p is much larger than q and their ratio could overflow, or so much smaller that
    # the square could.
    change = box_cox(log_p_kept, beta) - box_cox(log_q, beta)
    apart = (jnp.exp(alpha * log_p_kept) - q_alpha) / alpha - q * change
    return jnp.where(both, jnp.where(far, apart, close), _divergence_from_zero(q, log_p, alpha))


def _divergence_from_zero(q, log_p, alpha):
    """Return D(q, p) where q or p is 0."""
    beta = alpha - 1
    positive = beta > 0
    q_alpha = jnp.exp(alpha * jnp.log(jnp.where(has_log(q), q, 1)))
    p_alpha = jnp.where(log_p != -jnp.inf, jnp.exp(alpha * neg_inf_to_zero(log_p)), 0)
    from_q = jnp.where(positive, q_alpha / jnp.where(positive, alpha * beta, 1), jnp.inf)
    # Where q is 0 its slope is finite for β > 0; at and below that, where it is -inf, it counts 0.
    p_beta = jnp.exp(beta * jnp.where(positive, neg_inf_to_zero(log_p), 0))
    slope = jnp.where(positive & (log_p != -jnp.inf), p_beta / jnp.where(positive, beta, 1), 0)
    return jnp.where(has_log(q), from_q, p_alpha / alpha - q * slope)
