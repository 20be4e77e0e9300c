"""Calibration errors: how far confidence is from accuracy.

A model is calibrated if it is right on eight in ten of the examples to which it gives a probability
of 0.8. Each error below compares probability and frequency within bins. They differ in which
probabilities they use and in how the bins are chosen.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import check_known
from jsoftmax.core.calls import explaining_calls
from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.masking import as_rows
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numbers import static_count
from jsoftmax.core.numerics import per
from jsoftmax.losses.reduction import weighted_mean
from jsoftmax.maps.softmax import softmax
from jsoftmax.metrics.inputs import metric_inputs
from jsoftmax.stats.labels import class_numbers, is_label


class ReliabilityCurve(NamedTuple):
    r"""Accuracy against confidence, in bins of confidence; returned by `reliability_curve`.

    $$\mathrm{confidence}_b = \frac{\sum_{i \in b} w_i \max_j p_{ij}}{\sum_{i \in b} w_i}, \qquad
    \mathrm{accuracy}_b = \frac{\sum_{i \in b} w_i\,[\arg\max_j p_{ij} = y_i]}{\sum_{i \in b} w_i}$$

    Args:
      confidence: `[bins]`, the mean probability of the predicted class; 0 in an empty bin.
      accuracy: `[bins]`, the fraction predicted correctly; 0 in an empty bin.
      weight: `[bins]`, the sum of the weights (without weights, the number of examples).

    Source: Guo et al., 2017, arXiv:1706.04599, figure 1.

    Example:
      >>> js.reliability_curve(jnp.zeros((4, 2)), jnp.array([0, 0, 0, 1]), num_bins=2).accuracy
      Array([0.75, 0.  ], dtype=float32)
    """

    confidence: Array
    accuracy: Array
    weight: Array


@on_any_mesh(same_everywhere)
def reliability_curve(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    num_bins: int = 15,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
) -> ReliabilityCurve:
    r"""Mean confidence and accuracy in equal-width bins of confidence.

    $$b(i) = \lceil B \max_j p_{ij} \rceil$$

    for B bins (lo, hi]; a confidence of 0 is in the first.

    Args:
      logits: `[..., classes]`, any real dtype. For the probabilities of another map
        pass their logarithm.
      labels: integers `[...]`.
      num_bins: B; static.
      where: booleans that broadcast against `logits`; False masks a class.
      sample_weight: `[...]`, a weight or a mask.
      ignore_index: a label whose examples are left out.

    Returns:
      A `ReliabilityCurve` of arrays `[num_bins]`. An out-of-range label that is not ignored makes
      its bin NaN.

    Source: Guo et al., "On calibration of modern neural networks", 2017, arXiv:1706.04599, section
      2.

    Example:
      >>> js.reliability_curve(jnp.array([[0.0, 2.0]]), jnp.array([1]), num_bins=2).confidence
      Array([0.    , 0.8808], dtype=float32)
    """
    num_bins = static_count("num_bins", num_bins, 1)
    logits, labels, weight = metric_inputs(logits, labels, where, sample_weight, ignore_index)
    confidence, right = top_confidence(logits, labels, weight)
    index = _equal_width(confidence, num_bins)

    def per_bin(values):
        return bin_sums((weight * values).reshape(-1, 1), index.reshape(-1, 1), num_bins)

    total = per_bin(jnp.ones_like(weight))
    return ReliabilityCurve(per(per_bin(confidence), total), per(per_bin(right), total), total)


@explaining_calls
def expected_calibration_error(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    num_bins: int = 15,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
) -> Array:
    r"""Mean gap between confidence and accuracy over equal-width bins of confidence (ECE).

    $$\sum_b \frac{W_b}{W}\,\bigl|\mathrm{accuracy}_b - \mathrm{confidence}_b\bigr|$$

    Args:
      logits: `[..., classes]`, any real dtype.
      labels: integers `[...]`.
      num_bins: the number of bins; static.
      where: booleans that broadcast against `logits`; False masks a class.
      sample_weight: `[...]`, a weight or a mask.
      ignore_index: a label whose examples are left out.

    Returns:
      A scalar in [0, 1]; 0 if no example is left. For reporting, not for training: its gradient
      ignores that examples move between bins.

    Source: Guo et al., 2017, arXiv:1706.04599, eq. 3; 15 bins as there.

    Example:
      >>> js.expected_calibration_error(jnp.zeros((4, 2)), jnp.array([0, 0, 0, 1]))
      Array(0.25, dtype=float32)
    """
    curve = reliability_curve(
        logits,
        labels,
        num_bins=num_bins,
        where=where,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
    )
    return weighted_mean(jnp.abs(curve.accuracy - curve.confidence), curve.weight)


@on_any_mesh(same_everywhere)
def adaptive_calibration_error(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    num_bins: int = 15,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
) -> Array:
    r"""Mean gap between confidence and accuracy over bins of equally many examples.

    $$\frac1B \sum_b \bigl|\mathrm{accuracy}_b - \mathrm{confidence}_b\bigr|$$

    for B bins over the examples in order of confidence, each with exactly 1/B of the weight. Only
    the bins differ from `expected_calibration_error`: where most confidences are near 1, bins of
    equal width put nearly all examples into one.

    Args:
      logits: `[..., classes]`, any real dtype.
      labels: integers `[...]`.
      num_bins: B; static.
      where: booleans that broadcast against `logits`; False masks a class.
      sample_weight: `[...]`, a weight or a mask. A weight of 3 counts as the example three times.
      ignore_index: a label whose examples are left out.

    Returns:
      A scalar in [0, 1]; 0 if no example is left. An example on the edge of two bins is divided
      between them, and equal confidences share their mean accuracy, so the order of the examples
      does not matter. NaN if a label is out of range and not ignored. For reporting, not for
      training.

    Source: the bins are the adaptive ones of Nguyen, O'Connor, "Posterior calibration and
    exploratory analysis for natural language processing models", 2015, arXiv:1508.05154; on the
    top class and with absolute gaps, as here, Roelofs et al., "Mitigating bias in calibration error
    estimation", 2020, arXiv:2012.08668, who find it less biased than equal widths. The ACE of Nixon
    et al., 2019, arXiv:1904.01685, cuts such bins for every class and averages over classes too.

    Example:
      >>> js.adaptive_calibration_error(jnp.zeros((4, 2)), jnp.array([0, 0, 0, 1]))
      Array(0.25, dtype=float32)
    """
    num_bins = static_count("num_bins", num_bins, 1)
    logits, labels, weight = metric_inputs(logits, labels, where, sample_weight, ignore_index)
    check_known("logits", weight.size, "The bins of equally many examples depend on their number.")
    confidence, right = top_confidence(logits, labels, weight)
    order = jnp.argsort(confidence, axis=None)
    confidence, right, weight = (x.ravel()[order] for x in (confidence, right, weight))
    # Cumulative sums up to and including each example and its ties. Interpolating them at the bin
    # edges divides examples that straddle an edge.
    end = jnp.pad(jnp.searchsorted(confidence, confidence, side="right"), (1, 0))
    mass, excess = (
        jnp.pad(jnp.cumsum(x), (1, 0))[end] for x in (weight, weight * (right - confidence))
    )
    edges = jnp.linspace(0, mass[-1], num_bins + 1, dtype=mass.dtype)
    gaps = jnp.diff(jnp.interp(edges, mass, excess))
    return per(jnp.sum(jnp.abs(gaps)), mass[-1])


@on_any_mesh(same_everywhere)
def classwise_calibration_error(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    num_bins: int = 15,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
) -> Array:
    r"""Mean gap between the probability of a class and its frequency, over classes and bins.

    $$\frac1C \sum_j \sum_b \frac{W_{jb}}{W} \bigl|\mathrm{frequency}_{jb} -
    \mathrm{probability}_{jb}\bigr|$$

    where bin (j, b) holds the examples whose probability of class j is in the b-th of B equal
    intervals. All probabilities count, not only the largest: a model can be calibrated in its first
    guesses but not in the others. With many classes most probabilities are near 0, and so is this
    mean.

    Args:
      logits: `[..., classes]`, any real dtype.
      labels: integers `[...]`.
      num_bins: the number of bins of each class; static.
      where: booleans that broadcast against `logits`; False masks a class. The mean is over the
        unmasked classes, weighted by their examples if the mask differs between examples.
      sample_weight: `[...]`, a weight or a mask.
      ignore_index: a label whose examples are left out.

    Returns:
      A scalar in [0, 1]; 0 if no example is left. NaN if a label is out of range and not ignored.
      For reporting, not for training.

    Source: Kull et al., "Beyond temperature scaling: obtaining well-calibrated multiclass
    probabilities with Dirichlet calibration", 2019, arXiv:1910.12656, section 2 (classwise-ECE);
    the static calibration error of Nixon et al., 2019, arXiv:1904.01685.

    Example:
      >>> js.classwise_calibration_error(jnp.zeros((4, 2)), jnp.array([0, 0, 0, 1]))
      Array(0.25, dtype=float32)
    """
    num_bins = static_count("num_bins", num_bins, 1)
    logits, labels, weight = metric_inputs(logits, labels, where, sample_weight, ignore_index)
    p = _probabilities(logits, weight)
    weight = jnp.where(logits == -jnp.inf, 0, weight[..., None])  # a masked class has no bins
    excess = weight * (cast_like(is_label(p, labels), p) - p)
    classes = p.shape[-1]
    index = _equal_width(p, num_bins) + num_bins * class_numbers(p, jnp.int32)
    gaps = bin_sums(as_rows(excess), as_rows(index), num_bins * classes)
    return per(jnp.sum(jnp.abs(gaps)), jnp.sum(weight))


def _probabilities(logits, weight):
    """Return the softmax of logits, 0 for ignored examples, which may be NaN."""
    return jnp.where(weight[..., None] == 0, 0, softmax(to_compute_dtype(logits)))


def top_confidence(logits: Array, labels: Array, weight: Array) -> tuple[Array, Array]:
    """Return the probability of the predicted class, and 1 where that is the label, else 0."""
    p = _probabilities(logits, weight)
    confidence = jnp.max(p, -1)
    right = (lax.argmax(p, p.ndim - 1, labels.dtype) == labels) & (confidence > 0)
    return confidence, cast_like(right, p)


def _equal_width(p, num_bins):
    """Return the index of the bin (lo, hi] of equal width that holds p; 0 is in the first."""
    return jnp.clip(jnp.ceil(p * num_bins).astype(jnp.int32) - 1, 0, num_bins - 1)


def bin_sums(values: Array, index: Array, num_bins: int, block: int = 256) -> Array:
    """Return the sum of the values `[examples, k]` in each bin.

    They are summed within blocks of examples and then over the blocks: in one long sum of
    confidences near 1 all rounding errors have the same sign, and for 60,000 examples add up to 5%
    of the gap.
    """
    examples = values.shape[0]
    blocks = examples // block + 1
    index = index + num_bins * (jnp.arange(examples, dtype=jnp.int32)[:, None] // block)
    sums = jnp.zeros(num_bins * blocks, values.dtype).at[index].add(values)
    return jnp.sum(sums.reshape(blocks, num_bins), 0)
