"""Divergences between the softmax of logits and a whole distribution.

They depend on the probability of every class, so they are not functions of `LogitStats`. Each keeps
full relative precision when the model is confident or matches the target; `jax.checkpoint`
saves only the inputs as residuals.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import (
    as_logits,
    check_shape,
    check_some_class,
    is_distribution,
    normalize_axis,
)
from jsoftmax.core.box_cox import expm2
from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.masking import centred
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.core.numbers import at_least, by_example
from jsoftmax.core.numerics import expm1, multiply_no_nan, sigmoid
from jsoftmax.losses.inputs import from_top, loss_inputs
from jsoftmax.losses.of_stats import nll
from jsoftmax.losses.reduction import Reduction, reduce_losses, weighed
from jsoftmax.maps.softmax import log_softmax, softmax_tangent
from jsoftmax.stats.dense import class_stats


@on_any_mesh(without_classes("logits", "axis"))
def kl_divergence(
    logits: ArrayLike,
    target_probs: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
) -> Array:
    r"""Kullback-Leibler divergence from the softmax of logits to target probabilities.

    $$\mathrm{KL}(q \,\|\, p) = \sum_j q_j \log \frac{q_j}{p_j}, \qquad p = \mathrm{softmax}(z)$$

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      target_probs: q, floats of the shape of `logits`. Where q is 0 the term is 0, whatever p is.
      axis: the class axis.
      where: booleans that broadcast against `logits`; False masks a class.
      sample_weight, reduction: as in `cross_entropy`.

    Returns:
      `[...]`, float32 or wider; +inf if q is positive where p is 0.

    Source: Kullback, Leibler, "On information and sufficiency", 1951.

    Example:
      >>> js.kl_divergence(jnp.array([0.0, 0.0]), jnp.array([0.5, 0.5]))
      Array(0., dtype=float32)
      >>> js.kl_divergence(jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0]))
      Array(1.3133, dtype=float32)
    """
    inputs = _aligned(logits, target_probs, axis, where, sample_weight)
    logits, q, where = inputs.logits, inputs.labels, inputs.where
    z, _ = centred(logits, -1, where)
    stats, _, below = from_top(z, where, ())
    q = cast_like(q, z)
    log_q = jnp.log(jnp.where(q == 0, 1, q))
    losses = jnp.sum(multiply_no_nan(q, log_q + nll(stats)[..., None] + below), -1)
    return inputs.reduced(losses, reduction)


@on_any_mesh(without_classes("logits", "axis"))
def js_divergence(
    logits: ArrayLike,
    target_probs: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
) -> Array:
    r"""Jensen-Shannon divergence between the softmax of logits and target probabilities.

    $$\mathrm{JS}(q, p) = \tfrac12 \mathrm{KL}\Bigl(q \,\Big\|\, \frac{q + p}2\Bigr) + \tfrac12
    \mathrm{KL}\Bigl(p \,\Big\|\, \frac{q + p}2\Bigr), \qquad p = \mathrm{softmax}(z)$$

    It is symmetric, and at most log 2, which makes it robust to wrong labels.

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      target_probs: q, floats of the shape of `logits`, each summing to 1. Zeros are allowed.
      axis: the class axis.
      where: booleans that broadcast against `logits`; False masks a class.
      sample_weight, reduction: as in `cross_entropy`.

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
    inputs = _aligned(logits, target_probs, axis, where, sample_weight)
    logits, q, where = inputs.logits, inputs.labels, inputs.where

    @jax.checkpoint
    def divergence(logits, q):
        d, _ = centred(logits, -1, where)
        return _jensen_shannon(d, cast_like(q, d))

    return inputs.reduced(divergence(logits, q), reduction)


@jax.custom_jvp
def _jensen_shannon(d, q):
    """Return the divergence of centred logits."""
    p = jnp.exp(class_stats(d, None).log_prob)
    over_q, over_p = _log_over_mean(d, q)
    terms = q * over_q + p * over_p
    # Below 0 by rounding only: that is put right in the value, without a kink in its derivative.
    terms += lax.stop_gradient(jnp.maximum(terms, 0) - terms)
    return jnp.sum(terms, -1) / 2


@_jensen_shannon.defjvp
def _jensen_shannon_jvp(primals, tangents):
    (d, q), (dd, dq) = primals, tangents
    over_q, over_p = (x / 2 for x in _log_over_mean(d, q))
    moved = softmax_tangent(d, over_p, dd) + jnp.sum(over_q * dq, -1)
    return _jensen_shannon(d, q), moved


def _log_over_mean(d, q):
    """Return `log(2q / (q + p))` and `log(2p / (q + p))`; log 2 where either is 0."""
    log_p = class_stats(d, None).log_prob
    both = (q != 0) & (log_p != -jnp.inf)
    delta = jnp.where(both, log_p, 0) - jnp.log(jnp.where(both, q, 1))
    return tuple(jnp.where(both, -_log_mean_exp(x), jnp.log(2.0)) for x in (delta, -delta))


@jax.custom_jvp
def _log_mean_exp(x):
    """Return `log((1 + exp(x)) / 2)`, accurate around 0."""
    positive = x > 0  # each branch is smooth
    return jnp.where(positive, x, 0) + jnp.log1p(expm1(jnp.where(positive, -x, x)) / 2)


@_log_mean_exp.defjvp
def _log_mean_exp_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return _log_mean_exp(x), sigmoid(x) * dx


@on_any_mesh(without_classes("student_logits", "axis"))
def distillation_loss(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
    temperature: ArrayLike = 1.0,
) -> Array:
    r"""Knowledge distillation: the divergence of a student's softened softmax from the teacher's.

    $$\ell = T^2\, \mathrm{KL}\bigl(\mathrm{softmax}(t / T) \,\|\, \mathrm{softmax}(z / T)\bigr)$$

    Args:
      student_logits: z, `[..., classes]`, any real dtype; computed in float32 or wider.
      teacher_logits: t, of the same shape; they get no gradient.
      axis: the class axis.
      where: booleans that broadcast against the logits; False masks a class in both.
      sample_weight, reduction: as in `cross_entropy`.
      temperature: T > 0, a scalar or by example; may be traced. The factor T² keeps the gradients
        at about the same size.

    Returns:
      `[...]`, float32 or wider, never below 0, and accurate where the two agree; +inf if a class
      is at -inf for the student but not for the teacher. Mix it with the loss on labels as
      `a * distillation_loss(...) + (1 - a) * cross_entropy(...)`.

    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015,
    arXiv:1503.02531, section 2.

    Example:
      >>> student, teacher = jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])
      >>> js.distillation_loss(student, teacher, temperature=2.0)
      Array(0.4898, dtype=float32)
    """
    z = as_logits(student_logits, "student_logits")
    t = as_logits(teacher_logits, "teacher_logits")
    check_shape("teacher_logits", t, z.shape, "one logit for every one of the student")
    axis = normalize_axis("student_logits", z, axis)
    check_some_class("student_logits", z, axis)
    temperature = at_least("temperature", temperature, 0, strict=True)
    temperature = by_example("temperature", temperature, z.shape, axis)
    (z, t), weights = weighed(sample_weight, z, t, axis=axis)

    @jax.checkpoint
    def softened_kl(z, t):
        z = to_compute_dtype(z)
        t = lax.stop_gradient(cast_like(t, z))
        log_p, log_q = (log_softmax(x, axis, where=where, temperature=temperature) for x in (z, t))
        q, p = jnp.exp(log_q), jnp.exp(log_p)
        delta, both = _log_ratio(z, t, log_p, log_q, axis, temperature)
        # q log(q / p) - q + p: no term is negative, and the sum is the same.
        close = q * expm2(jnp.minimum(delta, 1))
        terms = jnp.where(delta > 1, p - q - q * delta, close)
        terms = jnp.where(both, terms, jnp.where(log_q == -jnp.inf, p, jnp.inf))
        return jnp.sum(jnp.square(cast_like(temperature, log_p)) * terms, axis)

    return reduce_losses(softened_kl(z, t), weights, reduction)


def _log_ratio(z, t, log_p, log_q, axis, temperature):
    """Return `log(p / q)`, 0 where p or q is 0, and a mask of where neither is.

    It is computed from the difference x of the logits, as x - log sum_k q_k exp(x_k), since where
    the two agree, the rounding errors of log p and log q exceed their difference. Only if nearly
    all of q lies in classes where p is small is log p - log q used.
    """
    p_off, q_off = log_p == -jnp.inf, log_q == -jnp.inf
    both = ~(p_off | q_off)
    z, t, log_p, log_q = (jnp.where(both, x, 0) for x in (z, t, log_p, log_q))
    offset = lax.stop_gradient(jnp.max(z, axis, keepdims=True) - jnp.max(t, axis, keepdims=True))
    whole = jnp.round(offset)  # usually 0; then the difference of close logits is exact
    x = (((z - whole) - t) - (offset - whole)) / cast_like(temperature, z)
    fits = jnp.where(both, x < 80, p_off & q_off)  # exp(x) does not overflow
    x = jnp.where(both & fits, x, 0)
    change = jnp.sum(jnp.exp(log_q) * expm1(x), axis, keepdims=True)
    direct = jnp.all(fits, axis, keepdims=True) & (change > -0.5)
    by_logits = x - jnp.log1p(jnp.where(direct, change, 0))
    return jnp.where(both, jnp.where(direct, by_logits, log_p - log_q), 0), both


def _aligned(logits, target_probs, axis, where, sample_weight):
    target_probs = jnp.asarray(target_probs)
    if not is_distribution(target_probs):
        raise TypeError(
            f"`target_probs`: expected floats, a probability per class, got {target_probs.dtype}. "
            "For integer labels pass jax.nn.one_hot(labels, classes)."
        )
    return loss_inputs(
        logits, target_probs, axis, where, sample_weight=sample_weight, name="target_probs"
    )
