"""Temperature scaling."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.dtypes import cast_like
from jsoftmax.core.masking import centred
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numerics import multiply_no_nan
from jsoftmax.core.roots import increasing_root
from jsoftmax.losses.reduction import weighted_mean
from jsoftmax.maps.softmax import softmax
from jsoftmax.metrics.inputs import metric_inputs
from jsoftmax.stats.labels import at_label

_RANGE = 1000  # factor between a fitted temperature and the gaps of the logits, at most


@on_any_mesh(same_everywhere)
def fit_temperature(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Array:
    r"""The temperature that minimises the mean cross-entropy: temperature scaling.

    $$\arg\min_T \frac{\sum_i w_i\,\bigl(-\log \mathrm{softmax}(z_i / T)_{y_i}\bigr)}{\sum_i w_i}$$

    Fit it on examples that the model was not trained on, and pass it as the `temperature` of
    `softmax` and `cross_entropy`. Predictions stay the same; confidences become calibrated.

    Args:
      logits: `[..., classes]`, any real dtype.
      labels: integers `[...]`.
      where: booleans that broadcast against `logits`; False masks a class.
      sample_weight: `[...]`, a weight or a mask.
      ignore_index: a label whose examples are left out.
      axis_name: mesh axes of the surrounding `shard_map`, or the axis of a `vmap`, over which the
        mean is taken.

    Returns:
      A scalar T > 0, float32 or wider, exact up to rounding, without gradient. It is kept within a
      factor of 1000 of the typical (geometric mean) gap between the two largest logits, and reaches
      that bound where the minimum is at T = 0, as for logits that are always right, or at T = ∞, as
      for logits no better than chance. 1 if no example is left or all logits are equal. NaN if a
      label that is not ignored is out of range, a masked class, or one with a logit of -inf.

    Source: Guo et al., "On calibration of modern neural networks", 2017, arXiv:1706.04599, section
    4.2. Solved in 1/T, in which cross-entropy is convex, as in logistic regression.

    Example:
      >>> logits = jnp.array([[0.0, 4.0], [0.0, 4.0], [0.0, 4.0], [0.0, 4.0]])
      >>> temperature = js.fit_temperature(logits, jnp.array([1, 1, 1, 0]))
      >>> js.softmax(logits[0], temperature=temperature)
      Array([0.25, 0.75], dtype=float32)
    """
    return _fitted(
        *lax.stop_gradient(metric_inputs(logits, labels, where, sample_weight, ignore_index)),
        axis_name=axis_name,
    )


# Jitted here, because outside of `jit` every call would compile the loop again.
@partial(jax.jit, static_argnames="axis_name")
def _fitted(logits, labels, weight, axis_name):
    def mean(values, weight=weight):
        return weighted_mean(values, weight, axis_name=axis_name)

    # How far each logit is below the largest; inf if masked. In units of the typical gap the root
    # is around 1 for any scale of the logits, and one huge gap (a class at -1e9) does not matter.
    below = -centred(logits, -1, None)[0]
    gap = jnp.min(below, -1, where=below > 0, initial=jnp.inf)
    unit = jnp.exp(mean(jnp.log(gap), jnp.where(gap == jnp.inf, 0, weight)))
    below = below / unit
    observed = mean(at_label(below, labels))

    # With b = 1/T, the slope of the mean cross-entropy is the observed distance of the label below
    # the largest logit minus the distance that the model expects, which falls as b grows. Newton's
    # method is applied to the logarithm of their ratio: both are positive, and the expected one
    # falls about exponentially, so it is accurate and needs few steps.
    def expected(b):
        p = softmax(-b * below)
        distance = jnp.sum(multiply_no_nan(p, below), -1)
        variance = jnp.sum(multiply_no_nan(p, jnp.square(below - distance[..., None])), -1)
        return mean(distance), mean(variance)

    def evaluate(b):
        distance, variance = expected(b)
        same = distance == observed  # both may be 0
        excess = jnp.where(same, 0, jnp.log(distance / jnp.where(same, 1, observed)))
        return -excess, b + excess * distance / variance

    least, most = cast_like(1 / _RANGE, observed), cast_like(_RANGE, observed)
    # If the root is outside the bracket, both ends are set to the nearer one. If nothing depends on
    # b, the ends are swapped, which makes the starting point, 1, the answer.
    low = jnp.where(observed <= expected(most)[0], most, least)
    high = jnp.where(observed >= expected(least)[0], least, most)
    tolerance = 4 * float(jnp.finfo(observed.dtype).eps)
    b = increasing_root(evaluate, low, high, jnp.sqrt(low * high), tolerance)
    return jnp.where(jnp.isfinite(observed), unit / b, jnp.nan)
