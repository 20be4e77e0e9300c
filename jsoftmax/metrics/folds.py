"""Accuracy of verification with a threshold from other trials: the protocol of LFW."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import check_shape, integer_labels
from jsoftmax.core.dtypes import cast_like
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numbers import static_count
from jsoftmax.core.numerics import share
from jsoftmax.metrics.trials import checked_scores, checked_trials, last_of_equals


@on_any_mesh(same_everywhere)
def verification_accuracy(
    scores: ArrayLike,
    same: ArrayLike,
    folds: ArrayLike,
    *,
    num_folds: int = 10,
    sample_weight: ArrayLike | None = None,
) -> Array:
    r"""Accuracy on each fold, at the threshold that is best on the others: the LFW protocol.

    $$a_f = \mathrm{accuracy}_f(t_f), \qquad
    t_f = \arg\max_t\; \mathrm{accuracy}_{\mathrm{others\;than}\;f}(t)$$

    Report the mean, and its standard error. O(num_folds n) memory.

    Args:
      scores: `[n]`, larger for pairs that are more likely of the same class.
      same: `[n]`, booleans, or integers 1 and 0.
      folds: `[n]`, integers in [0, num_folds). A trial that is in none counts nowhere.
      num_folds: how many folds there are; static.
      sample_weight: `[n]`, a weight or a mask.

    Returns:
      `[num_folds]`. A threshold lies in the middle between two scores, or is the highest or the
      lowest that makes a difference; of several best ones it is the highest. NaN for a fold without
      trials, and if a score is NaN.

    Source: Huang et al., "Labeled faces in the wild", 2007. insightface tries the thresholds 0,
    0.01, ..., 4 of the squared distance and takes the lowest of the best.

    Example:
      >>> scores, same = jnp.array([0.9, 0.8, 0.3, 0.2]), jnp.array([True, True, False, False])
      >>> js.verification_accuracy(scores, same, jnp.array([0, 1, 0, 1]), num_folds=2)
      Array([1., 1.], dtype=float32)
    """
    num_folds = static_count("num_folds", num_folds, 1)
    folds = integer_labels(folds, name="folds")
    scores = checked_scores("scores", scores)
    check_shape("folds", folds, scores.shape, "an integer for every score")
    trials = checked_trials(scores, same, sample_weight)
    folds = folds.reshape(-1)
    in_some = (folds >= 0) & (folds < num_folds)
    weight = jnp.where(in_some, cast_like(trials.weight, trials.scores), 0)
    columns = (-trials.scores, trials.same.astype(jnp.int32), weight, folds)
    x, same, weight, folds = lax.sort(columns, is_stable=False)
    # Before all of them, a threshold that accepts none.
    x, same, weight, folds = (
        jnp.insert(column, 0, first)
        for column, first in ((-x, jnp.inf), (same, 0), (weight, 0), (folds, -1))
    )
    accuracy = jax.vmap(partial(_accuracy, x, same == 1, weight, folds))
    accuracies = accuracy(jnp.arange(num_folds, dtype=folds.dtype))
    return jnp.where(trials.valid, accuracies, jnp.nan)


def _accuracy(x, same, weight, folds, fold):
    """Return the accuracy on one fold; scores are in descending order."""
    others = jnp.where(folds != fold, weight, 0)
    gain = jnp.cumsum(jnp.where(same, others, -others))  # of accepting up to here
    best = jnp.argmax(jnp.where(last_of_equals(x), gain, -jnp.inf))
    below = lax.cummax(jnp.where(others > 0, x, -jnp.inf), reverse=True)
    below = jnp.append(below[1:], -jnp.inf)[best]
    middle = x[best] / 2 + below / 2
    # Between two neighbours the middle is one of them.
    threshold = jnp.where(jnp.isfinite(middle) & (middle > below), middle, x[best])
    mine = jnp.where(folds == fold, weight, 0)
    total = jnp.sum(mine)
    right = jnp.sum(jnp.where((x >= threshold) == same, mine, 0))
    return share(right, total)
