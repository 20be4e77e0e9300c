"""Divergences between the softmax of logits and a whole distribution.

They depend on the probability of every class, so they are not functions of `LogitStats`. Each keeps
full relative precision when the model is confident or matches the target; `jax.checkpoint`
saves only the inputs as residuals.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.checks import check_logits
from jsoftmax.core.arguments import (
    as_logits,
    check_no_tuple,
    check_shape,
    check_some_class,
    is_distribution,
    normalize_axis,
)
from jsoftmax.core.dtypes import cast_like
from jsoftmax.core.masking import centred, masked_logits
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.core.numbers import at_least, by_example, is_static
from jsoftmax.core.numerics import has_log, multiply_no_nan
from jsoftmax.losses.inputs import from_top, loss_inputs
from jsoftmax.losses.of_stats import nll
from jsoftmax.losses.of_two_logits import Divergence, forward, log_mix
from jsoftmax.losses.reduction import Reduction, reduce_losses, weighed
from jsoftmax.maps.softmax import softmax_tangent
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
      sample_weight: `[...]`, a factor on each example's loss; booleans are a mask. One of weight 0
        is left out whatever its logits.
      reduction: None for one value per example; "sum"; or "mean", which divides by the sum of the
        weights, and is 0 without any.

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
    log_q = jnp.log(jnp.where(has_log(q), q, 1))
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
      sample_weight: `[...]`, a factor on each example's loss; booleans are a mask. One of weight 0
        is left out whatever its logits.
      reduction: None for one value per example; "sum"; or "mean", which divides by the sum of the
        weights, and is 0 without any.

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
    both = has_log(q) & (log_p != -jnp.inf)
    delta = jnp.where(both, log_p, 0) - jnp.log(jnp.where(both, q, 1))
    half = jnp.full((), 0.5, d.dtype)
    return tuple(jnp.where(both, -log_mix(x, half), jnp.log(2.0)) for x in (delta, -delta))


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
      sample_weight: `[...]`, a factor on each example's loss; booleans are a mask. One of weight 0
        is left out whatever its logits, such as padding: `sample_weight=labels != padding`.
      reduction: None for one value per example; "sum"; or "mean", which divides by the sum of the
        weights, and is 0 without any.
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
    check_logits(z, "student_logits", axis)
    check_logits(t, "teacher_logits", axis)
    temperature = at_least("temperature", temperature, 0, strict=True)
    temperature = by_example("temperature", temperature, z.shape, axis)
    (z, t), weights = weighed(sample_weight, z, t, axis=axis)

    divergence, by_one = Divergence(forward, axis), is_static(temperature, 1)

    @jax.checkpoint
    def softened_kl(z, t):
        z = masked_logits(z, axis, where)
        t = lax.stop_gradient(masked_logits(cast_like(t, z), axis, where))
        numbers = () if by_one else (cast_like(temperature, z),)
        return jnp.squeeze(divergence(z, t, *numbers), axis)

    return reduce_losses(softened_kl(z, t), weights, reduction)


def _aligned(logits, target_probs, axis, where, sample_weight):
    check_no_tuple("target_probs", target_probs)
    target_probs = jnp.asarray(target_probs)
    if not is_distribution(target_probs):
        raise TypeError(
            f"`target_probs`: expected floats, a probability per class, got {target_probs.dtype}. "
            "For integer labels pass jax.nn.one_hot(labels, classes)."
        )
    return loss_inputs(
        logits, target_probs, axis, where, sample_weight=sample_weight, name="target_probs"
    )
