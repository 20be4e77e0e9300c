"""A calibration error whose bins do not add their own noise to it."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numbers import static_count
from jsoftmax.core.numerics import per, safe_sqrt
from jsoftmax.metrics.calibration import top_confidence
from jsoftmax.metrics.inputs import metric_inputs
from jsoftmax.metrics.trials import accepted


@on_any_mesh(same_everywhere)
def debiased_calibration_error(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    num_bins: int = 15,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
) -> Array:
    r"""Root mean square gap between confidence and accuracy, without the noise of the bins.

    $$\sqrt{\max\Bigl(0,\; \sum_b \frac{n_b}{n} \Bigl[(a_b - c_b)^2 -
    \frac{a_b (1 - a_b)}{n_b - 1}\Bigr]\Bigr)}$$

    for bins of about equally many examples with n_b of them, of accuracy a and mean confidence c.
    Where a bin holds few examples its accuracy is off by chance, which plain errors count as a gap:
    a calibrated model then has an error that grows with the number of bins. Here that is
    subtracted.

    Args:
      logits: `[..., classes]`, any real dtype.
      labels: integers `[...]`.
      num_bins: the number of bins; static.
      where: booleans that broadcast against `logits`; False masks a class.
      sample_weight: `[...]`, a mask, or how many times an example counts.
      ignore_index: a label whose examples are left out.

    Returns:
      A scalar; 0 if no example is left. Equal confidences are in one bin. A bin of one example has
      no noise that could be estimated: nothing is subtracted. NaN if a label is out of range and
      not ignored. For reporting, not for training.

    Source: Kumar, Liang, Ma, "Verified uncertainty calibration", 2019, arXiv:1909.10155, section 4.

    Example:
      >>> js.debiased_calibration_error(jnp.zeros((5, 2)), jnp.array([0, 0, 0, 0, 1]))
      Array(0.2236, dtype=float32)
    """
    num_bins = static_count("num_bins", num_bins, 1)
    logits, labels, weight = metric_inputs(logits, labels, where, sample_weight, ignore_index)
    p, right = top_confidence(logits, labels, weight)
    p, right, weight = p.ravel(), right.ravel(), weight.ravel()
    p, reached = accepted(p, weight, weight * right, weight * (right - p))
    total = jnp.max(reached[0], initial=0)
    some = jnp.where(total == 0, 1, total)
    # Of equal confidences all have the sums up to the last of them: only the first adds to a bin.
    sums = jnp.stack(reached, -1)
    sums = jnp.diff(jnp.concatenate([jnp.zeros((1, 3), p.dtype), sums]), axis=0)
    middle = (reached[0] - sums[:, 0] / 2) / some
    index = jnp.clip((middle * num_bins).astype(jnp.int32), 0, num_bins - 1)
    n, right, excess = jax.ops.segment_sum(sums, index, num_bins).T
    accuracy, gap = per(right, n), per(excess, n)
    noise = jnp.where(n > 1, accuracy * (1 - accuracy) / jnp.where(n > 1, n - 1, 1), 0)
    square = jnp.sum(n / some * (jnp.square(gap) - noise))
    return safe_sqrt(jnp.where(total == 0, 0, square))
