"""Numbers for a margin that are drawn at random, or follow from how many examples a class has."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.arguments import check_key
from jsoftmax.core.calls import explaining_calls
from jsoftmax.core.dtypes import to_compute_dtype
from jsoftmax.core.numbers import at_least
from jsoftmax.margins.per_example import PerExample, radians


@explaining_calls
def elastic_margin(
    key: Array, shape: tuple[int, ...], *, mean: ArrayLike = 0.5, std: ArrayLike = 0.05
) -> PerExample:
    r"""ElasticFace: another margin for every example and step, drawn from a normal distribution.

    $$m_i \sim \mathcal N(\mu, \sigma^2)$$

    Args:
      key: a `jax.random` key, a new one for every step.
      shape: that of the labels.
      mean: μ, the mean of the margins: 0.5 for `arcface`, 0.35 for `cosface`. May be traced.
      std: σ >= 0, their standard deviation: 0.05 for both. May be traced.

    Returns:
      `PerExample`, for any number of any margin: `js.arcface(js.elastic_margin(key,
      labels.shape))`.

    Source: Boutros et al., "ElasticFace", 2022, arXiv:2109.09416, eq. 6 and 7. In "ElasticFace+"
    the largest margins go to the examples nearest their class; the authors' code mixes them up by
    taking an order for its inverse, and is not followed.

    Example:
      >>> margin = js.arcface(js.elastic_margin(jax.random.key(0), (2,)))
      >>> js.linear_logits(jnp.eye(2), jnp.eye(2), jnp.array([0, 1]), margin=margin).shape
      (2, 2)
    """
    check_key(key)
    radians("mean", mean)
    mean, std = (to_compute_dtype(x) for x in (mean, at_least("std", std, 0)))
    noise = jax.random.normal(key, shape, jnp.promote_types(mean.dtype, std.dtype))
    return PerExample(mean.astype(noise.dtype) + std.astype(noise.dtype) * noise)


@explaining_calls
def dynamic_margins(
    class_counts: ArrayLike,
    *,
    smallest: ArrayLike = 0.05,
    largest: ArrayLike = 0.5,
    power: ArrayLike = 0.25,
) -> Array:
    r"""Margins by class that fall with the number of its examples, between two bounds.

    $$m_j = a + (b - a) \frac{n_j^{-p} - \min_k n_k^{-p}}{\max_k n_k^{-p} - \min_k n_k^{-p}}$$

    Args:
      class_counts: `[classes]`. A class of count 0 gets the largest margin, and does not count for
        the others.
      smallest: a, the margin of the most frequent class.
      largest: b, the margin of the rarest class.
      power: p, how fast margins fall with the number of examples.

    Returns:
      `[classes]`, for a number of a margin: `js.arcface(js.dynamic_margins(counts))`. If all counts
      are equal, all margins are the largest.

    Source: Ha et al., "Google landmark recognition 2020 competition third place solution", 2020,
    arXiv:2010.05350, section 2.3. For margins that a bound on the error gives, see `ldam`.

    Example:
      >>> js.dynamic_margins(jnp.array([10000, 16, 1]))
      Array([0.05, 0.25, 0.5 ], dtype=float32)
    """
    n = to_compute_dtype(at_least("class_counts", class_counts, 0))
    if n.ndim != 1:
        raise AssertionError(f"`class_counts`: expected shape (classes,), got {n.shape}.")
    some = n > 0
    radians("smallest", smallest)
    radians("largest", largest)
    a, b, p = (jnp.asarray(x, n.dtype) for x in (smallest, largest, power))
    rare = jnp.where(some, jnp.where(some, n, 1) ** -p, 0)
    low = jnp.min(rare, where=some, initial=jnp.inf)
    high = jnp.max(rare, where=some, initial=-jnp.inf)
    differ = high > low
    share = (rare - low) / jnp.where(differ, high - low, 1)
    return jnp.where(some & differ, a + (b - a) * share, b)
