"""Open sets: known examples should be classified, and unknown ones rejected."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.checks import check_some
from jsoftmax.core.dtypes import cast_like
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.metrics.trials import (
    accepted,
    checked_kinds,
    checked_scores,
    checked_weight,
    counted,
    from_nothing,
    total_of,
    with_nothing,
)


class OpenSetCurve(NamedTuple):
    r"""Correct classifications against accepted unknown examples; returned by `oscr`.

    $$\mathrm{ccr}(t) = P(\mathrm{correct},\, c \ge t \mid \mathrm{known}), \qquad
    \mathrm{fpr}(t) = P(c \ge t \mid \mathrm{unknown})$$

    Args:
      threshold: `[n + 1]`, inf, and then the confidences in descending order.
      fpr: `[n + 1]`, the share of the unknown examples that are accepted.
      ccr: `[n + 1]`, the share of the known examples that are accepted and correct.
      area: the area under `ccr` over `fpr`.

    Source: Dhamija, Günther, Boult, "Reducing network agnostophobia", 2018, arXiv:1811.04110.

    Example:
      >>> known = jnp.array([True, False])
      >>> js.oscr(jnp.array([0.9, 0.2]), known, known).area
      Array(1., dtype=float32)
    """

    threshold: Array
    fpr: Array
    ccr: Array
    area: Array


@on_any_mesh(same_everywhere)
def oscr(
    confidence: ArrayLike,
    correct: ArrayLike,
    known: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> OpenSetCurve:
    r"""Open-set classification rate: correct classification against false positives, and its area.

    $$\mathrm{area} = \int_0^1 \mathrm{ccr}\; d\,\mathrm{fpr}$$

    Args:
      confidence: `[n]`, of known and unknown examples: larger where the model is more certain.
      correct: `[n]`, booleans, or integers 1 and 0: whether the predicted class is right; it does
        not matter of unknown examples.
      known: `[n]`, booleans, or integers 1 and 0: whether the class is one of those trained on.
      sample_weight: `[n]`, a weight or a mask.

    Returns:
      An `OpenSetCurve`, by one sort. Equally confident examples are accepted together. `ccr` is NaN
      if no example is known, `fpr` if none is unknown, and all but the thresholds if a confidence
      that counts is NaN. If all known examples are classified correctly, the area is the `auroc`.

    Source: Dhamija, Günther, Boult, "Reducing network agnostophobia", 2018, arXiv:1811.04110; the
    area: Vaze et al., "Open-set recognition: a good closed-set classifier is all you need?", 2021,
    arXiv:2110.06207.

    Example:
      >>> confidence = jnp.array([0.9, 0.8, 0.7, 0.3])
      >>> correct, known = jnp.array([1, 0, 0, 1]), jnp.array([1, 0, 1, 1])
      >>> js.oscr(confidence, correct, known).ccr
      Array([0.    , 0.3333, 0.3333, 0.3333, 0.6667], dtype=float32)
    """
    x = checked_scores("confidence", confidence)
    correct, wrong = checked_kinds("correct", correct, x.shape)
    known, wrong_too = checked_kinds("known", known, x.shape)
    weight = checked_weight(sample_weight, x)
    x, counts = counted(x, weight)
    bad = jnp.any(counts & (jnp.isnan(x) | (known & wrong) | wrong_too))
    none = cast_like(0, weight)
    of_unknown, of_known = jnp.where(known, none, weight), jnp.where(known, weight, none)
    check_some(jnp.any(of_unknown > 0), "unknown examples")
    check_some(jnp.any(of_known > 0), "known examples")
    right = jnp.where(correct, of_known, none)
    threshold, (*sums, known_sums) = accepted(x, of_unknown, right, of_known)
    totals = (total_of(kind, ~bad, x) for kind in (sums[0], known_sums))
    fpr, ccr = (from_nothing(*each) for each in zip(sums, totals, strict=True))
    area = fpr[0] + ccr[0] + jnp.sum(jnp.diff(fpr) * (ccr[1:] + ccr[:-1])) / 2  # 0 or NaN first
    return OpenSetCurve(with_nothing(threshold), fpr, ccr, area)
