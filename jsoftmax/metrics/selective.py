"""Selective prediction: the risk of what is answered if a model may abstain where it is unsure."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import check_no_tuple, check_shape
from jsoftmax.core.dtypes import cast_like, unnarrowed
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numerics import per, share
from jsoftmax.metrics.trials import accepted, checked_scores, checked_weight, counted


class RiskCoverageCurve(NamedTuple):
    r"""The risk of the most confident examples; returned by `risk_coverage_curve`.

    $$\mathrm{coverage}(t) = P(c \ge t), \qquad \mathrm{risk}(t) = E[\ell \mid c \ge t]$$

    Args:
      threshold: `[n]`, the confidences in descending order.
      coverage: `[n]`, the share of the examples that are answered.
      risk: `[n]`, their mean loss.

    Source: El-Yaniv, Wiener, "On the foundations of noise-free selective classification", 2010.

    Example:
      >>> js.risk_coverage_curve(jnp.array([0.9, 0.6]), jnp.array([0.0, 1.0])).risk
      Array([0. , 0.5], dtype=float32)
    """

    threshold: Array
    coverage: Array
    risk: Array


@on_any_mesh(same_everywhere)
def risk_coverage_curve(
    confidence: ArrayLike, losses: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> RiskCoverageCurve:
    r"""Risk against coverage at every threshold on the confidence.

    $$\mathrm{risk}(t) = \frac{\sum_i w_i\,[c_i \ge t]\; \ell_i}{\sum_i w_i\,[c_i \ge t]}$$

    Args:
      confidence: `[n]`, any number that is larger where the model is more certain: the largest
        probability, the negative entropy, the log-odds of the predicted class.
      losses: `[n]`, any loss, or booleans: True for a wrong prediction.
      sample_weight: `[n]`, a weight or a mask.

    Returns:
      A `RiskCoverageCurve` of arrays `[n]`, by one sort. Equally confident examples are answered
      together: each has a point, and these are equal. Examples of weight 0 come last, at the lowest
      threshold. All rates are NaN if a number that counts is.

    Source: Geifman, El-Yaniv, "Selective classification for deep neural networks", 2017,
    arXiv:1705.08500.

    Example:
      >>> wrong = jnp.array([False, True, False])
      >>> js.risk_coverage_curve(jnp.array([0.9, 0.5, 0.7]), wrong).coverage
      Array([0.3333, 0.6667, 1.    ], dtype=float32)
    """
    threshold, answered, lost = _sums(confidence, losses, sample_weight)
    total = jnp.max(answered, initial=0)
    coverage = jnp.where(total == 0, 0, share(answered, total))
    return RiskCoverageCurve(threshold, coverage, per(lost, answered))


@on_any_mesh(same_everywhere)
def aurc(
    confidence: ArrayLike,
    losses: ArrayLike,
    *,
    generalized: bool = False,
    sample_weight: ArrayLike | None = None,
) -> Array:
    r"""Area under the risk-coverage curve, or under the generalised one (AUGRC).

    $$\mathrm{AURC} = \frac1n \sum_i \mathrm{risk}(c_i), \qquad
    \mathrm{AUGRC} = \int_0^1 \mathrm{risk} \cdot \mathrm{coverage} \;\, d\,\mathrm{coverage}$$

    Args:
      confidence: `[n]`, larger where the model is more certain.
      losses: `[n]`, any loss, or booleans: True for a wrong prediction.
      generalized: whether a wrong answer counts the same however few are answered: the mean risk of
        silent failures, which for 0-1 losses is a function of accuracy and of the AUROC of the
        confidence. Static.
      sample_weight: `[n]`, a weight or a mask.

    Returns:
      A scalar; 0 if no example is left. Equally confident examples are answered together, in the
      generalised one in no particular order. NaN if a number that counts is.

    Source: Geifman, Uziel, El-Yaniv, 2019, arXiv:1805.08206; generalised: Traub et al., "Overcoming
    common flaws in the evaluation of selective classification systems", 2024, arXiv:2407.01032.

    Example:
      >>> confidence, wrong = jnp.array([0.9, 0.5, 0.7]), jnp.array([False, True, False])
      >>> js.aurc(confidence, wrong)
      Array(0.1111, dtype=float32)
    """
    _, answered, lost = _sums(confidence, losses, sample_weight)
    answered, lost = (jnp.concatenate([jnp.zeros(1, x.dtype), x]) for x in (answered, lost))
    total = jnp.where(answered[-1] == 0, 1, answered[-1])
    weight = jnp.diff(answered) / total
    if generalized:
        return jnp.sum(weight * (lost[1:] + lost[:-1])) / (2 * total)
    return jnp.sum(weight * per(lost[1:], answered[1:]))


def _sums(confidence, losses, sample_weight):
    """Return thresholds, and the weights and weighted losses of what is answered at each."""
    confidence = checked_scores("confidence", confidence)
    check_no_tuple("losses", losses)
    given = unnarrowed(losses)
    given = given.astype(confidence.dtype) if given.dtype == bool else given
    losses = checked_scores("losses", given).astype(confidence.dtype)
    check_shape("losses", losses, confidence.shape, "a loss for every confidence")
    weight = cast_like(checked_weight(sample_weight, confidence), confidence)
    confidence, counts = counted(confidence, weight)
    losses = jnp.where(counts, losses.reshape(-1), 0)
    bad = jnp.any(jnp.isnan(confidence) | jnp.isnan(losses))
    threshold, (answered, lost) = accepted(confidence, weight, weight * losses)
    return threshold, *(jnp.where(bad, jnp.nan, x) for x in (lax.cummax(answered), lost))
