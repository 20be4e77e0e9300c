"""Accuracy and perplexity."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numbers import static_count
from jsoftmax.losses.cross_entropy import cross_entropy
from jsoftmax.losses.reduction import weighted_mean
from jsoftmax.metrics.inputs import metric_inputs
from jsoftmax.stats.labels import at_label, class_numbers, is_label


@on_any_mesh(same_everywhere)
def top_k_accuracy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    k: int = 1,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
) -> Array:
    r"""Fraction of examples whose true class is among the k largest logits.

    $$\frac{\sum_i w_i\,[\,\mathrm{rank}_i(y_i) \le k\,]}{\sum_i w_i}$$

    Args:
      logits: `[..., classes]`, any real dtype.
      labels: integers `[...]`.
      k: number of guesses per example; static.
      where: booleans that broadcast against `logits`; False masks a class.
      sample_weight: `[...]`, a weight or a mask.
      ignore_index: a label whose examples are left out.

    Returns:
      A scalar; 0 if no example is left. Among equal logits the lower class ranks first, as in
      `jnp.argmax` and `jax.lax.top_k`. A class that is masked or at -inf is never among the k. NaN
      if a label is out of range and not ignored.

    Source: Russakovsky et al., "ImageNet large scale visual recognition challenge", 2015,
    arXiv:1409.0575, section 4.

    Example:
      >>> js.top_k_accuracy(jnp.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), jnp.array([0, 2]))
      Array(0.5, dtype=float32)
      >>> js.top_k_accuracy(jnp.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), jnp.array([0, 2]), k=2)
      Array(1., dtype=float32)
    """
    k = static_count("k", k, 1)
    given = logits, labels, where, sample_weight, ignore_index
    logits, labels, weight = metric_inputs(*given, only_ranked=True)
    k = min(k, logits.shape[-1])
    target = at_label(logits, labels)
    z = to_compute_dtype(logits)
    before = class_numbers(z, labels.dtype) < labels[..., None]
    # "not less" instead of "greater", so that NaN logits rank ahead.
    ahead = jnp.where(before, ~(z < target[..., None]), ~(z <= target[..., None]))
    rank = jnp.sum(ahead & ~is_label(z, labels), -1)
    right = (rank < k) & (target > -jnp.inf)
    return weighted_mean(cast_like(right, z), weight)


@on_any_mesh(same_everywhere)
def perplexity(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Array:
    r"""Exponential of the mean cross-entropy: the effective number of equally likely classes.

    $$\exp\left(\frac{\sum_i w_i\,(-\log p_i)}{\sum_i w_i}\right)$$

    Args:
      logits: `[..., classes]`, any real dtype.
      labels: integers `[...]`.
      where: booleans that broadcast against `logits`; False masks a class.
      sample_weight: `[...]`, a weight or a mask.
      ignore_index: a label whose examples are left out.
      axis_name: mesh axes of the surrounding `shard_map`, or the axis of a `vmap`, over which the
        mean is taken.

    Returns:
      A scalar, float32 or wider. From given losses: `jnp.exp(weighted_mean(losses, weight))`.

    Source: Jelinek et al., "Perplexity: a measure of the difficulty of speech recognition tasks",
      1977.

    Example:
      >>> js.perplexity(jnp.zeros((5, 8)), jnp.arange(5))
      Array(8., dtype=float32)
    """
    logits, labels, weight = metric_inputs(logits, labels, where, sample_weight, ignore_index)
    return jnp.exp(weighted_mean(cross_entropy(logits, labels), weight, axis_name=axis_name))
