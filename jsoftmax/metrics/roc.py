"""How well scores separate two kinds: the area under the ROC curve, and a point on it."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.dtypes import to_compute_dtype
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numbers import within
from jsoftmax.metrics.trials import checked_trials, shares, slack
from jsoftmax.metrics.verification import verification_curve


@on_any_mesh(same_everywhere)
def auroc(scores: ArrayLike, same: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Array:
    r"""Area under the ROC curve: how probably a pair of one kind has a larger score than the other.

    $$P(s_+ > s_-) + \tfrac12 P(s_+ = s_-)$$

    Args:
      scores: `[n]`, any real dtype.
      same: `[n]`, booleans, or integers 1 and 0: which should have the larger scores, such as pairs
        of the same class, or known examples against unknown ones.
      sample_weight: `[n]`, a weight or a mask.

    Returns:
      A scalar in [0, 1]; 1/2 if all scores are equal. NaN if there is none of a kind, or a score is
      NaN.

    Source: Hanley, McNeil, 1982; `roc_auc_score` of scikit-learn.

    Example:
      >>> js.auroc(jnp.array([0.9, 0.8, 0.7, 0.3]), jnp.array([True, False, True, False]))
      Array(0.75, dtype=float32)
    """
    _, far, tar = verification_curve(scores, same, sample_weight=sample_weight)
    nothing = far[0] + tar[0]  # 0, or NaN if there is none of a kind
    return nothing + jnp.sum(jnp.diff(far) * (tar[1:] + tar[:-1])) / 2


@on_any_mesh(same_everywhere)
def fpr_at_tpr(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    tpr: ArrayLike = 0.95,
    sample_weight: ArrayLike | None = None,
) -> Array:
    r"""False positive rate at a true positive rate: FPR95 of the detection of unknown examples.

    $$\min_t\;\{\mathrm{fpr}(t) : \mathrm{tpr}(t) \ge \mathrm{tpr}\}$$

    Args:
      scores: `[n]`, any real dtype.
      same: `[n]`, booleans, or integers 1 and 0: which should have the larger scores.
      tpr: how many of these have to be accepted, a number or several `[k]`.
      sample_weight: `[n]`, a weight or a mask.

    Returns:
      A number for each tpr, of its shape. NaN if there is none of a kind, or a score is NaN.

    Source: Hendrycks, Gimpel, 2016, arXiv:1610.02136; Liang et al., 2017, arXiv:1706.02690.

    Example:
      >>> js.fpr_at_tpr(jnp.array([0.9, 0.8, 0.7, 0.3]), jnp.array([True, False, True, False]))
      Array(0.5, dtype=float32)
    """
    trials = checked_trials(scores, same, sample_weight)
    _, far, tar = shares(trials)
    tpr = to_compute_dtype(within("tpr", tpr, 0, 1)).astype(tar.dtype)
    least = tpr - slack(tpr, jnp.where(trials.same, trials.weight, 0))
    index = jnp.argmax(tar >= least[..., None], -1)
    return jnp.where(jnp.isnan(far[-1] + tar[-1] + tpr), jnp.nan, far[index])
