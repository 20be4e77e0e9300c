"""The formulas of the library in float64 numpy, written from probabilities and not from log-odds.

Every function takes the exact input of the library, whatever its dtype, and computes in float64.
Only 1 - p is taken with care (the sum of the other probabilities), since a plain difference would
have no digit left in the tails that the tests look at.
"""

import math

import jax.numpy as jnp
import numpy as np

# --- maps: (logits, axis, *, where, ...) ---


def masked(logits, where, temperature=1.0):
    z = np.asarray(logits, np.float64)
    if where is not None:
        z = np.where(where, z, -np.inf)
    return z / temperature


def softmax(logits, axis=-1, *, where=None, temperature=1.0, sink=None):
    return np.exp(log_softmax(logits, axis, where=where, temperature=temperature, sink=sink))


def log_softmax(logits, axis=-1, *, where=None, temperature=1.0, sink=None):
    z = masked(logits, where, temperature)
    top = z.max(axis, keepdims=True)
    total = np.exp(z - top).sum(axis, keepdims=True)
    if sink is not None:
        total = total + np.exp(sink / temperature - top)
    return z - top - np.log(total)


def logsumexp(logits, axis=-1, *, where=None):
    z = masked(logits, where)
    top = z.max(axis, keepdims=True)
    return np.squeeze(top + np.log(np.exp(z - top).sum(axis, keepdims=True)), axis)


def hardmax(logits, axis=-1, *, where=None):
    z = np.moveaxis(masked(logits, where), axis, -1)
    return np.moveaxis(np.eye(z.shape[-1])[z.argmax(-1)], -1, axis)


def range_limited_softmax(logits, axis=-1, *, where=None, num_samples):
    on = np.ones(np.shape(logits)) if where is None else np.broadcast_to(where, np.shape(logits))
    classes = on.sum(axis, keepdims=True)
    p = softmax(logits, axis, where=where)
    return np.where(on, 1 / num_samples + (1 - classes / num_samples) * p, 0)


def gaussian_softmax(logits, axis=-1, *, where=None, num_samples):
    power = (num_samples - 1.0) ** softmax(logits, axis, where=where)
    power = power if where is None else np.where(where, power, 0)
    return power / power.sum(axis, keepdims=True)


def log_gaussian_softmax(logits, axis=-1, *, where=None, num_samples):
    with np.errstate(divide="ignore"):
        return np.log(gaussian_softmax(logits, axis, where=where, num_samples=num_samples))


def shares(h, on, axis):
    h = np.where(on, h, 0)
    return h / h.sum(axis, keepdims=True)


def taylor_softmax(logits, axis=-1, *, where=None, order=2):
    z = masked(logits, where)
    on, z = np.isfinite(z), np.where(np.isfinite(z), z, 0)
    return shares(sum(z**k / math.factorial(k) for k in range(order + 1)), on, axis)


def spherical_softmax(logits, axis=-1, *, where=None):
    z = masked(logits, where)
    on, z = np.isfinite(z), np.where(np.isfinite(z), z, 0)
    return shares(np.where((z == 0).all(axis, keepdims=True), 1, z**2), on, axis)


def sigsoftmax(logits, axis=-1, *, where=None):
    z = masked(logits, where)
    return softmax(z - np.logaddexp(0, -z), axis)


def ev_softmax(logits, axis=-1, *, where=None, epsilon=0.0):
    z = masked(logits, where)
    on = np.isfinite(z)
    mean = np.where(on, z, 0).sum(axis, keepdims=True) / on.sum(axis, keepdims=True)
    return shares(((z >= mean) + epsilon) * np.exp(z - z.max(axis, keepdims=True)), on, axis)


def scalable_softmax(logits, axis=-1, *, where=None, scale):
    z = masked(logits, where)
    on = np.isfinite(z)
    n = on.sum(axis, keepdims=True).astype(float)
    return shares(n ** (scale * (z - z.max(axis, keepdims=True))), on, axis)


def entmax(logits, axis=-1, *, where=None, alpha):
    """Return the map by bisection on the logarithm of its largest probability."""
    z = masked(logits, where)
    d, b = z - z.max(axis, keepdims=True), alpha - 1
    if b == 0:
        return softmax(z, axis)

    def of(m):
        with np.errstate(all="ignore"):
            return np.exp(m + np.log1p(np.maximum(b * d * np.exp(-b * m), -1)) / b)

    high = np.zeros_like(d.max(axis, keepdims=True))
    low = high - np.log(d.size) - 1
    for _ in range(100):
        middle = (low + high) / 2
        above = of(middle).sum(axis, keepdims=True) > 1
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return of(high)


def tempered_softmax(logits, axis=-1, *, where=None, t):
    return entmax(logits, axis, where=where, alpha=2 - t)


def soft_top_k(logits, axis=-1, *, where=None, k, temperature=1.0):
    z = masked(logits, where)
    on = np.isfinite(z)
    kept = np.where(on, z, np.nan)
    # Sorted, the sum is k somewhere between the k-th and the next: see the bracket of the library.
    low = np.nanmin(kept, axis, keepdims=True) - 50 * temperature
    high = np.nanmax(kept, axis, keepdims=True) + 50 * temperature
    for _ in range(200):
        middle = (low + high) / 2
        p = np.where(on, np.exp(-np.logaddexp(0, -(z - middle) / temperature)), 0)
        above = p.sum(axis, keepdims=True) > k
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(on.sum(axis, keepdims=True) <= k, on, p)


# --- losses: (logits, q, *, where, ...), q a distribution or one-hot, classes last ---


def one_hot(labels, classes):
    return np.eye(classes)[np.asarray(labels)]


def probabilities(logits, where=None, temperature=1.0):
    """Return p, 1 - p and -log p of every class, each to full relative precision."""
    log_p = log_softmax(logits, where=where, temperature=temperature)
    p = np.exp(log_p)
    rest = p @ (1 - np.eye(p.shape[-1]))
    with np.errstate(divide="ignore"):
        return p, rest, np.where(p > 0.5, -np.log1p(-np.minimum(rest, 0.5)), -log_p)


def expected(q, losses):
    """Return sum_j q_j loss_j, in which q_j = 0 wins over an infinite loss."""
    q = np.asarray(q, np.float64)
    return np.where(q == 0, 0, q * np.where(q == 0, 0, losses)).sum(-1)


def cross_entropy(
    logits, q, *, where=None, temperature=1.0, label_smoothing=0.0, z_loss=0.0, class_weight=1.0
):
    nll = probabilities(logits, where, temperature)[2]
    on = np.ones(nll.shape, bool) if where is None else np.broadcast_to(where, nll.shape)
    q = np.asarray(q, np.float64)
    share = on / on.sum(-1, keepdims=True) * q.sum(-1, keepdims=True)
    smoothed = (1 - label_smoothing) * q + label_smoothing * share
    log_z = logsumexp(masked(logits, where, temperature))[..., None]
    return expected(smoothed * class_weight, nll + z_loss * log_z**2)


def focal(logits, q, *, where=None, gamma=2.0):
    _, rest, nll = probabilities(logits, where)
    return expected(q, rest**gamma * nll)


def poly1(logits, q, *, where=None, epsilon=2.0):
    _, rest, nll = probabilities(logits, where)
    return expected(q, nll + epsilon * rest)


def gce(logits, q_labels, *, where=None, q=0.7):
    _, _, nll = probabilities(logits, where)
    return expected(q_labels, nll if q == 0 else -np.expm1(-q * nll) / q)


def mae(logits, q, *, where=None):
    p, _, _ = probabilities(logits, where)
    distance = np.abs(p[..., None, :] - np.eye(p.shape[-1])).sum(-1)
    return expected(q, distance)


def sce(logits, q, *, where=None, alpha=0.1, beta=1.0, log_zero=-4.0):
    _, rest, nll = probabilities(logits, where)
    return expected(q, alpha * nll - beta * log_zero * rest)


def tsallis(p, alpha):
    """Return the entropy of order alpha, Shannon's at 1."""
    if alpha == 1:
        return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(-1)
    return (1 - (p**alpha).sum(-1)) / (alpha * (alpha - 1))


def entmax_loss(logits, q, *, where=None, alpha):
    """Return the Fenchel-Young loss by its definition; +inf for a masked label."""
    z = masked(logits, where)
    q = np.asarray(q, np.float64)
    q = q / q.sum(-1, keepdims=True)
    p = entmax(logits, where=where, alpha=alpha)
    d = z - z.max(-1, keepdims=True)
    lead = np.where(p == q, 0, (p - q) * np.where(p == q, 0, d)).sum(-1)
    return lead + tsallis(p, alpha) - tsallis(q, alpha)


def bi_tempered_loss(logits, q, *, where=None, t1, t2):
    """Return the loss by its definition, with log_t 0 finite for t1 < 1."""
    q = np.asarray(q, np.float64)
    p = tempered_softmax(logits, where=where, t=t2)

    def log_t(x):
        return (x ** (1 - t1) - 1) / (1 - t1)

    return (q * (log_t(q) - log_t(p)) - (q ** (2 - t1) - p ** (2 - t1)) / (2 - t1)).sum(-1)


def brier(logits, q, *, where=None):
    p, rest, _ = probabilities(logits, where)
    q = np.asarray(q, np.float64)
    return (np.where(p > 0.5, (1 - q) - rest, p - q) ** 2).sum(-1)


def confidence_penalty(logits, q, *, where=None, beta=0.1):
    p, _, nll = probabilities(logits, where)
    return expected(q, nll) - beta * expected(p, nll)


def kl_divergence(logits, q, *, where=None):
    q = np.asarray(q, np.float64)
    return expected(q, np.log(np.where(q == 0, 1, q)) + probabilities(logits, where)[2])


def binary_cross_entropy(logits, labels, *, pos_weight=1.0):
    z, y = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    return pos_weight * y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z)


# --- margins ---


def phi(cosine, m1=1.0, m2=0.0, m3=0.0, anneal=0.0):
    """Return the continued cosine by its definition, through the angle."""
    c = np.clip(np.asarray(cosine, np.float64), -1, 1)
    a = m1 * np.arccos(c) + m2
    k = np.floor(a / np.pi)
    return (anneal * c + (-1) ** k * np.cos(a) - 2 * k - m3) / (1 + anneal)


def margin_logits(
    features, weight, labels, *, scale=1.0, unit_features=True, unit_weight=True, **margin
):
    x, w = np.asarray(features, np.float64), np.asarray(weight, np.float64)
    x_norm, w_norm = np.linalg.norm(x, axis=-1, keepdims=True), np.linalg.norm(w, axis=-1)
    cosine = (x @ w.T) / (x_norm * w_norm)
    true = one_hot(labels, len(w)).astype(bool)
    z = np.where(true, phi(cosine, **margin), cosine)
    return scale * z * (1 if unit_features else x_norm) * (1 if unit_weight else w_norm)


def float64(x):
    """Return the exact values of an array of any dtype."""
    return np.asarray(jnp.asarray(x), np.float64)
