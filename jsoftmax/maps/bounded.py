"""Maps whose confidence is bounded by the number of training samples."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.arguments import as_logits, normalize_axis
from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.masking import class_mask
from jsoftmax.core.meshes import like, on_any_mesh
from jsoftmax.core.numbers import at_least, by_example
from jsoftmax.maps.softmax import log_softmax, softmax


@on_any_mesh(like("logits"))
def range_limited_softmax(
    logits: ArrayLike,
    axis: int = -1,
    *,
    num_samples: ArrayLike,
    where: ArrayLike | None = None,
) -> Array:
    r"""Softmax limited to [1/n, 1 - 1/n]: no more confident than n training samples allow.

    $$p_i = \frac1n + \left(1 - \frac Cn\right) \mathrm{softmax}(z)_i$$

    for C classes; for two classes this is $1/n + (1 - 2/n)\,s$.

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis.
      num_samples: n >= C, the number of training samples, one for all or by example. A smaller n
        raises `ValueError`, or gives NaN if it is traced.
      where: booleans that broadcast against `logits`; a masked class gets 0, not 1/n, and does not
        count in C.

    Returns:
      Probabilities that sum to 1 in the shape and dtype of `logits`. A logit of -inf gets the
      lower limit 1/n, since its softmax is 0; use `where` to remove a class.

    Source: label smoothing (Szegedy et al., 2016, arXiv:1512.00567, section 7) with
    $\varepsilon = C/n$, applied to the prediction instead of the label.

    Example:
      >>> js.range_limited_softmax(jnp.array([0.0, 20.0]), num_samples=50)
      Array([0.02, 0.98], dtype=float32)
    """
    logits = as_logits(logits)
    p = softmax(to_compute_dtype(logits), axis, where=where)
    axis = normalize_axis("logits", logits, axis)
    on = jnp.broadcast_to(True if where is None else class_mask(where, p.shape), p.shape)
    least = 2 if where is not None else max(2, p.shape[axis])
    num_samples = at_least("num_samples", num_samples, least)
    n = cast_like(by_example("num_samples", num_samples, p.shape, axis), p)
    classes = jnp.sum(on, axis, keepdims=True).astype(p.dtype)
    n = jnp.where(n >= jnp.maximum(classes, 2), n, jnp.nan)
    return jnp.where(on, 1 / n + (1 - classes / n) * p, 0).astype(logits.dtype)


@on_any_mesh(like("logits"))
def gaussian_softmax(
    logits: ArrayLike,
    axis: int = -1,
    *,
    num_samples: ArrayLike,
    where: ArrayLike | None = None,
) -> Array:
    r"""Softmax of a softmax, scaled so that n training samples bound the confidence.

    $$p = \mathrm{softmax}\bigl(\log(n - 1)\; \mathrm{softmax}(z)\bigr)$$

    For two classes, one of which has softmax s, it is $1 / (1 + (n-1)^{1 - 2s})$: the posterior of
    two Gaussians of equal width around 0 and 1, from 1/n at s = 0 to 1 - 1/n at s = 1. For C
    classes it stays inside $[1/(n + C - 2),\ (n-1)/(n + C - 2)]$.

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis.
      num_samples: n >= 2, the number of training samples, one for all or by example. A smaller n
        raises `ValueError`, or gives NaN if it is traced.
      where: booleans that broadcast against `logits`; a masked class gets 0.

    Returns:
      Probabilities in the shape and dtype of `logits`. A logit of -inf gets the smallest
      probability, which is not 0, since its softmax is 0; use `where` to remove a class.

    Source: no publication known to us; the two-class form is derived above. For a loss use its
    logarithm, `log_gaussian_softmax`.

    Example:
      >>> js.gaussian_softmax(jnp.array([0.0, 20.0]), num_samples=50)
      Array([0.02, 0.98], dtype=float32)
    """
    logits = as_logits(logits)
    z = _gaussian_logits(logits, axis, num_samples, where)
    return softmax(z, axis, where=where).astype(logits.dtype)


@on_any_mesh(like("logits"))
def log_gaussian_softmax(
    logits: ArrayLike,
    axis: int = -1,
    *,
    num_samples: ArrayLike,
    where: ArrayLike | None = None,
) -> Array:
    r"""Logarithm of `gaussian_softmax`; at least -log(n + C - 2), so it cannot underflow.

    $$\log p = L s - \log \sum_j e^{L s_j}, \qquad s = \mathrm{softmax}(z), \quad L = \log(n - 1)$$

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis.
      num_samples: n >= 2, the number of training samples, one for all or by example. A smaller n
        raises `ValueError`, or gives NaN if it is traced.
      where: booleans that broadcast against `logits`; a masked class gets -inf.

    Returns:
      Log-probabilities in the shape and dtype of `logits`.

    Source: as `gaussian_softmax`.

    Example:
      >>> js.log_gaussian_softmax(jnp.array([0.0, 1e4]), num_samples=50)
      Array([-3.912 , -0.0202], dtype=float32)
    """
    logits = as_logits(logits)
    z = _gaussian_logits(logits, axis, num_samples, where)
    return cast_like(log_softmax(z, axis, where=where), logits)


def _gaussian_logits(logits, axis, num_samples, where):
    s = softmax(to_compute_dtype(logits), axis, where=where)
    n = by_example("num_samples", at_least("num_samples", num_samples, 2), s.shape, axis)
    return jnp.log(cast_like(n, s) - 1) * s
