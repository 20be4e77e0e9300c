r"""Losses that compare the softmax of logits with a whole distribution, and its entropy.

They look at every class, not only at the true one, so they are no functions of `LogitStats`. Each
is written such that a sure model, or one that agrees with the target, costs it no digits. The
checkpoints make that cost no memory: for the backward pass they keep what was given, and no more.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax import checks, maps
from jsoftmax.alignment import align, from_top
from jsoftmax.logit_losses import cross_entropy
from jsoftmax.losses import nll
from jsoftmax.numerics import expm1, finite, like, promote, sigmoid, times
from jsoftmax.rest import SparseLabels
from jsoftmax.stats import centred_stats, class_stats, is_label
from jsoftmax.tsallis import expm2

__all__ = [
    "brier_loss",
    "confidence_penalty_loss",
    "distillation_loss",
    "entropy",
    "js_divergence",
    "kl_divergence",
]


def kl_divergence(
    logits: ArrayLike,
    target_probs: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Kullback-Leibler divergence from the softmax of logits to target probabilities.

    $$\mathrm{KL}(q \,\|\, p) = \sum_j q_j \log \frac{q_j}{p_j}, \qquad p = \mathrm{softmax}(z)$$

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      target_probs: q, floats of the shape of `logits`. A zero adds 0, whatever p is.
      axis: the class axis.
      where: booleans that broadcast against `logits`; False switches a class off.

    Returns:
      `[...]`, float32 or wider; +inf if q is positive where p is 0.

    Source: Kullback, Leibler, "On information and sufficiency", 1951.

    Example:
      >>> js.kl_divergence(jnp.array([0.0, 0.0]), jnp.array([0.5, 0.5]))
      Array(0., dtype=float32)
      >>> js.kl_divergence(jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0]))
      Array(1.3133, dtype=float32)
    """
    logits, q, _, where, _ = _aligned(logits, target_probs, axis, where)
    z, _ = maps.centred(logits, -1, where)
    stats, _, below = from_top(z, where)
    q = like(q, z)
    log_q = jnp.log(jnp.where(q == 0, 1, q))
    return jnp.sum(times(q, log_q + nll(stats)[..., None] + below), -1)


def js_divergence(
    logits: ArrayLike,
    target_probs: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Jensen-Shannon divergence between the softmax of logits and target probabilities.

    $$\mathrm{JS}(q, p) = \tfrac12 \mathrm{KL}\Bigl(q \,\Big\|\, \frac{q + p}2\Bigr) + \tfrac12
    \mathrm{KL}\Bigl(p \,\Big\|\, \frac{q + p}2\Bigr), \qquad p = \mathrm{softmax}(z)$$

    Symmetric and at most log 2, which makes it robust to wrong labels.

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      target_probs: q, floats of the shape of `logits`, each summing to 1. Zeros are allowed.
      axis: the class axis.
      where: booleans that broadcast against `logits`; False switches a class off.

    Returns:
      `[...]`, float32 or wider, in [0, log 2].

    Source: Lin, "Divergence measures based on the Shannon entropy", 1991. As a loss for noisy
    labels: Englesson, Azizpour, 2021, arXiv:2105.04522.

    Example:
      >>> js.js_divergence(jnp.array([0.0, 0.0]), jnp.array([0.5, 0.5]))
      Array(0., dtype=float32)
      >>> js.js_divergence(jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0]))
      Array(0.3654, dtype=float32)
    """
    logits, q, _, where, _ = _aligned(logits, target_probs, axis, where)

    @jax.checkpoint
    def divergence(logits, q):
        d, _ = maps.centred(logits, -1, where)
        return _jensen_shannon(d, like(q, d))

    return divergence(logits, q)


@jax.custom_jvp
def _jensen_shannon(d, q):
    """Return the divergence of centred logits."""
    p = jnp.exp(class_stats(d, None).log_prob)
    over_q, over_p = _log_over_mean(d, q)
    return jnp.sum(jnp.maximum(q * over_q + p * over_p, 0), -1) / 2


@_jensen_shannon.defjvp
def _jensen_shannon_jvp(primals, tangents):
    (d, q), (dd, dq) = primals, tangents
    over_q, over_p = (x / 2 for x in _log_over_mean(d, q))
    moved = _softmax_tangent(d, over_p, dd) + jnp.sum(over_q * dq, -1)
    return _jensen_shannon(d, q), moved


def _log_over_mean(d, q):
    """Return `log(2q / (q + p))` and `log(2p / (q + p))`; log 2 where either is 0."""
    log_p = class_stats(d, None).log_prob
    both = (q != 0) & (log_p != -jnp.inf)
    delta = jnp.where(both, log_p, 0) - jnp.log(jnp.where(both, q, 1))
    return tuple(jnp.where(both, -_log_mean_exp(x), jnp.log(2.0)) for x in (delta, -delta))


def _softmax_tangent(d, slope, dd):
    """Return the tangent of a function of p = softmax(d) whose derivative to p_j is `slope`.

    Only differences of slopes count. Relative to that of the largest probability a sure model's
    slopes are 0 for it, and what is left is as accurate as the other probabilities.
    """
    p = maps.softmax(d)
    slope -= jnp.take_along_axis(slope, jnp.argmax(d, -1, keepdims=True), -1)
    return jnp.sum(p * (slope - jnp.sum(p * slope, -1, keepdims=True)) * dd, -1)


@jax.custom_jvp
def _log_mean_exp(x):
    """Return `log((1 + exp(x)) / 2)`, accurate around 0."""
    return jnp.maximum(x, 0) + jnp.log1p(expm1(-jnp.abs(x)) / 2)


@_log_mean_exp.defjvp
def _log_mean_exp_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return _log_mean_exp(x), sigmoid(x) * dx


def distillation_loss(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
) -> Array:
    r"""Knowledge distillation: how far a student's softened softmax is from its teacher's.

    $$\ell = T^2\, \mathrm{KL}\bigl(\mathrm{softmax}(t / T) \,\|\, \mathrm{softmax}(z / T)\bigr)$$

    Args:
      student_logits: z, `[..., classes]`, any real dtype; computed in float32 or wider.
      teacher_logits: t, of the same shape. They get no gradient.
      axis: the class axis.
      where: booleans that broadcast against the logits; False switches a class off in both.
      temperature: T > 0, a scalar, or an array that broadcasts against the logits with the class
        axis of size 1; may be traced. The factor T² keeps the size of gradients about the same.

    Returns:
      `[...]`, float32 or wider, never below 0, and accurate where the two agree; +inf if the
      student switches a class off that the teacher does not. Mix it with the loss on labels as
      `a * distillation_loss(...) + (1 - a) * cross_entropy(...)`.

    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015,
    arXiv:1503.02531, section 2.

    Example:
      >>> student, teacher = jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])
      >>> js.distillation_loss(student, teacher, temperature=2.0)
      Array(0.4898, dtype=float32)
    """
    z = checks.as_logits(student_logits, "student_logits")
    t = checks.as_logits(teacher_logits, "teacher_logits")
    checks.shape("teacher_logits", t, z.shape, "one logit for every one of the student")

    @jax.checkpoint
    def softened_kl(z, t):
        z = promote(z)
        t = lax.stop_gradient(like(t, z))
        log_p, log_q = (
            maps.log_softmax(x, axis, where=where, temperature=temperature) for x in (z, t)
        )
        q, p = jnp.exp(log_q), jnp.exp(log_p)
        delta, both = _log_ratio(z, t, log_p, log_q, axis, temperature)
        # q log(q / p) - q + p: every term is positive, and the sum is the same.
        close = q * expm2(jnp.minimum(delta, 1))
        terms = jnp.where(delta > 1, p - q - q * delta, close)
        terms = jnp.where(both, terms, jnp.where(log_q == -jnp.inf, p, jnp.inf))
        return jnp.sum(jnp.square(like(temperature, log_p)) * terms, axis)

    return softened_kl(z, t)


def _log_ratio(z, t, log_p, log_q, axis, temperature):
    """Return `log(p / q)`, 0 where either is 0, and where neither is.

    It is taken from the difference of the logits, as x - log sum_k q_k exp(x_k): log p and log q
    are rounded by more than they differ where the two agree. Only if nearly all of q is in classes
    that p is not in, it is the difference of the logarithms.
    """
    p_off, q_off = log_p == -jnp.inf, log_q == -jnp.inf
    both = ~(p_off | q_off)
    z, t, log_p, log_q = (jnp.where(both, x, 0) for x in (z, t, log_p, log_q))
    offset = lax.stop_gradient(jnp.max(z, axis, keepdims=True) - jnp.max(t, axis, keepdims=True))
    whole = jnp.round(offset)  # as a rule 0, and then the difference of close logits is exact
    x = (((z - whole) - t) - (offset - whole)) / like(temperature, z)
    fits = jnp.where(both, x < 80, p_off & q_off)  # exp(x) does not overflow
    x = jnp.where(both & fits, x, 0)
    change = jnp.sum(jnp.exp(log_q) * expm1(x), axis, keepdims=True)
    direct = jnp.all(fits, axis, keepdims=True) & (change > -0.5)
    by_logits = x - jnp.log1p(jnp.where(direct, change, 0))
    return jnp.where(both, jnp.where(direct, by_logits, log_p - log_q), 0), both


def brier_loss(
    logits: ArrayLike,
    labels: ArrayLike | SparseLabels,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
) -> Array:
    r"""Brier score of the softmax of logits: the squared distance to the label.

    $$\ell = \sum_j (p_j - q_j)^2, \qquad p = \mathrm{softmax}(z)$$

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      labels: integers `[...]`, or a distribution q: floats of the shape of `logits`, or a short
        list, `SparseLabels`. For these it is the distance to q, 0 where p = q.
      axis: the class axis of `logits`.
      where: booleans that broadcast against `logits`; False switches a class off.
      ignore_index: a label whose examples have loss 0 and gradient 0.

    Returns:
      `[...]`, float32 or wider, in [0, 2]; NaN as in `cross_entropy`.

    Source: Brier, "Verification of forecasts expressed in terms of probability", 1950, eq. 2,
    without its factor 1/N for the mean over examples.

    Example:
      >>> js.brier_loss(jnp.array([[0.0, 1.0], [9.0, 0.0]]), jnp.array([0, 0]))
      Array([1.0689, 0.    ], dtype=float32)
    """
    return _squared_distance(align(logits, labels, axis, where, ignore_index))


@jax.checkpoint
def _squared_distance(aligned):
    z, q = aligned.whole()
    z = checks.switch_off(z, aligned.where)
    # The largest probability is 1 - rest, and the others are shares w of the rest: the difference
    # to a label of 1, and all gradients, keep their digits.
    top = jnp.argmax(z, -1)
    stats, shift = centred_stats(z, top, None)
    u = stats.log_odds[..., None]
    rest = sigmoid(-u)
    is_top = is_label(z, top)
    relative = jnp.where(is_top, -jnp.inf, z - shift[..., None]) - finite(stats.others)[..., None]
    of_top = jnp.where(u > 0, (1 - q) - rest, sigmoid(u) - q)
    residual = jnp.where(is_top, of_top, rest * jnp.exp(relative) - q)
    return jnp.where(aligned.ignored, 0, jnp.sum(jnp.square(residual), -1))


def entropy(logits: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None) -> Array:
    r"""Shannon entropy of the softmax of logits, in nats.

    $$H = -\sum_j p_j \log p_j, \qquad p = \mathrm{softmax}(z)$$

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      axis: the class axis.
      where: booleans that broadcast against `logits`; False switches a class off.

    Returns:
      `[...]`, float32 or wider, from 0 for a sure prediction to log C for C equal logits; 0 where
      no class is on.

    Source: Shannon, "A mathematical theory of communication", 1948.

    Example:
      >>> js.entropy(jnp.array([[0.0, 0.0], [0.0, 20.0]]))
      Array([0.6931, 0.    ], dtype=float32)
    """
    logits = checks.as_logits(logits)
    z = jnp.moveaxis(checks.switch_off(logits, where), checks.has_axis("logits", logits, axis), -1)
    return jax.checkpoint(lambda z: _entropy(maps.centred(z, -1, None)[0]))(z)


@jax.custom_jvp
def _entropy(d):
    """Return the entropy of centred logits."""
    log_p = class_stats(d, None).log_prob
    return jnp.sum(times(jnp.exp(log_p), -log_p), -1)


@_entropy.defjvp
def _entropy_jvp(primals, tangents):
    # dH/dp_j = -log p_j - 1, which is -d_j up to what is the same for all classes.
    (d,), (dd,) = primals, tangents
    return _entropy(d), _softmax_tangent(d, -finite(d), dd)


def confidence_penalty_loss(
    logits: ArrayLike,
    labels: ArrayLike | SparseLabels,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    beta: ArrayLike = 0.1,
) -> Array:
    r"""Cross-entropy less a share of the prediction's entropy: a price on being sure.

    $$\ell = -\log p_y - \beta H(p)$$

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      labels: integers `[...]`, a distribution or `SparseLabels`, as in `cross_entropy`.
      axis: the class axis of `logits`.
      where: booleans that broadcast against `logits`; False switches a class off.
      ignore_index: a label whose examples have loss 0 and gradient 0.
      beta: β, 0.1 for most tasks of the paper.

    Returns:
      `[...]`, float32 or wider; it can be negative; +inf and NaN as in `cross_entropy`.

    Source: Pereyra et al., "Regularizing neural networks by penalizing confident output
    distributions", 2017, arXiv:1701.06548, section 3.

    Example:
      >>> js.confidence_penalty_loss(jnp.array([[0.0, 1.0]]), jnp.array([0]))
      Array([1.255], dtype=float32)
    """

    @jax.checkpoint
    def penalised(logits):
        z = promote(checks.as_logits(logits))  # 16-bit gradients of two terms are rounded once
        loss = cross_entropy(z, labels, axis=axis, where=where, ignore_index=ignore_index)
        aligned = align(z, labels, axis, where, ignore_index)
        penalty = like(beta, loss) * entropy(aligned.logits, where=aligned.where)
        return loss - jnp.where(aligned.ignored, 0, penalty)

    return penalised(logits)


def _aligned(logits, target_probs, axis, where):
    target_probs = jnp.asarray(target_probs)
    if not checks.is_distribution(target_probs):
        raise TypeError(
            f"`target_probs`: expected floats, a probability per class, got {target_probs.dtype}. "
            "For integer labels pass jax.nn.one_hot(labels, classes)."
        )
    return align(logits, target_probs, axis, where, None, name="target_probs")
