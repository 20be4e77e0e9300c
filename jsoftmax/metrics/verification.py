"""Verification: are two examples of the same class? Judged by the scores of given trials.

A threshold accepts a trial if its score is at least as large. All thresholds that make a difference
are among the scores, so that everything here is exact, by one sort.
"""

from typing import NamedTuple

from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.metrics.trials import checked_trials, shares


class VerificationCurve(NamedTuple):
    r"""What each threshold accepts; returned by `verification_curve`.

    $$\mathrm{far}(t) = P(s \ge t \mid \mathrm{different}), \qquad
    \mathrm{tar}(t) = P(s \ge t \mid \mathrm{same})$$

    Args:
      threshold: `[n + 1]`, inf, and then the scores in descending order.
      far: `[n + 1]`, the share of the different pairs that are accepted, from 0 to 1; also called
        false positive rate.
      tar: `[n + 1]`, the share of the same pairs that are accepted, from 0 to 1; also called true
        positive rate.

    Source: Fawcett, "An introduction to ROC analysis", 2006.

    Example:
      >>> js.verification_curve(jnp.array([0.9, 0.2]), jnp.array([True, False])).tar
      Array([0., 1., 1.], dtype=float32)
    """

    threshold: Array
    far: Array
    tar: Array


@on_any_mesh(same_everywhere)
def verification_curve(
    scores: ArrayLike, same: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> VerificationCurve:
    r"""False and true accepts at every threshold: the ROC curve.

    $$\mathrm{far}(t) = \frac{\sum_{i\;\mathrm{different}} w_i\,[s_i \ge t]}
    {\sum_{i\;\mathrm{different}} w_i}, \qquad
    \mathrm{tar}(t) = \frac{\sum_{i\;\mathrm{same}} w_i\,[s_i \ge t]}{\sum_{i\;\mathrm{same}} w_i}$$

    Args:
      scores: `[n]`, any real dtype: larger for pairs that are more likely of the same class. Of a
        distance take the negative.
      same: `[n]`, booleans, or integers 1 and 0: whether the pair is of the same class.
      sample_weight: `[n]`, a weight or a mask.

    Returns:
      A `VerificationCurve` of arrays `[n + 1]`. Equal scores are accepted together: each has a
      point, and these are equal. Trials of weight 0 come last, at the lowest threshold. `far` is
      NaN if there is no different pair, `tar` if there is no same pair, both if a score is NaN.

    Source: as `roc_curve` of scikit-learn, with `drop_intermediate=False`, which has one point for
    equal scores.

    Example:
      >>> scores, same = jnp.array([0.9, 0.8, 0.7, 0.3]), jnp.array([True, False, True, False])
      >>> js.verification_curve(scores, same).far
      Array([0. , 0. , 0.5, 0.5, 1. ], dtype=float32)
    """
    return VerificationCurve(*shares(checked_trials(scores, same, sample_weight)))
