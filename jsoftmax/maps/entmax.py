"""Sparse probabilities: sparsemax, 1.5-entmax and their family, entmax.

    p_i = [1 + β (z_i - λ)]_+^(1/β)        β = α - 1, with λ such that they sum to 1

It is softmax at α = 1 and sparsemax at α = 2; below 1 its tails are heavier than those of softmax.
entmax_solver.py finds λ; where 1/β is a small integer, power_map.py does so without logarithms.
"""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.arguments import as_logits
from jsoftmax.core.masking import ArrayAxis, classes_back, classes_last, masked_logits
from jsoftmax.core.meshes import like, on_any_mesh
from jsoftmax.core.numbers import by_example, is_static
from jsoftmax.maps.entmax_solver import broadcast_alpha, log_entmax
from jsoftmax.maps.power_map import power_map, static_power
from jsoftmax.maps.softmax import softmax


def sparsemax(logits: ArrayLike, axis: ArrayAxis = -1, *, where: ArrayLike | None = None) -> Array:
    r"""Sparse probabilities: the point of the simplex nearest to the logits.

    $$p_i = [z_i - \tau]_+, \qquad \sum_i p_i = 1$$

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis, or several that share one distribution.
      where: booleans that broadcast against `logits`; False masks a class.

    Returns:
      Probabilities in the shape and dtype of `logits`, exactly 0 for logits more than 1 below the
      largest, and often for others; all 0 where all classes are masked. A logit of +inf or NaN
      gives NaN. The gradient is 0 for a class of probability 0.

    Source: Martins, Astudillo, "From softmax to sparsemax", 2016, arXiv:1602.02068, eq. 2; Newton's
    method in place of its algorithm 1, which sorts.

    Example:
      >>> js.sparsemax(jnp.array([1.0, 0.8, -2.0]))
      Array([0.6, 0.4, 0. ], dtype=float32)
    """
    return entmax(logits, axis, alpha=2.0, where=where)


def entmax15(logits: ArrayLike, axis: ArrayAxis = -1, *, where: ArrayLike | None = None) -> Array:
    r"""Sparse probabilities between softmax and sparsemax: entmax with α = 3/2.

    $$p_i = \left[\tfrac12 z_i - \tau\right]_+^2, \qquad \sum_i p_i = 1$$

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis, or several that share one distribution.
      where: booleans that broadcast against `logits`; False masks a class.

    Returns:
      Probabilities in the shape and dtype of `logits`, exactly 0 for logits more than 2 below the
      largest, and often for others; otherwise as `sparsemax`.

    Source: Peters, Niculae, Martins, "Sparse sequence-to-sequence models", 2019, arXiv:1905.05702,
    section 3; Newton's method in place of its algorithm 2, which sorts.

    Example:
      >>> js.entmax15(jnp.array([1.0, 0.8, -2.0]))
      Array([0.5705, 0.4295, 0.    ], dtype=float32)
    """
    return entmax(logits, axis, alpha=1.5, where=where)


@on_any_mesh(like("logits"))
def entmax(
    logits: ArrayLike,
    axis: ArrayAxis = -1,
    *,
    alpha: ArrayLike = 1.5,
    where: ArrayLike | None = None,
) -> Array:
    r"""The family from softmax (α = 1) through 1.5-entmax to sparsemax (α = 2).

    $$p_i = \bigl[(\alpha - 1) z_i - \tau\bigr]_+^{1 / (\alpha - 1)}, \qquad \sum_i p_i = 1$$

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis, or several that share one distribution.
      alpha: α, any real number: a scalar, or an array that broadcasts against `logits` with the
        class axis of size 1. May be traced and has a gradient, also at 1. Above 1 classes far below
        the largest get exactly 0; below 1 the tails are heavier than those of softmax.
      where: booleans that broadcast against `logits`; False masks a class.

    Returns:
      Probabilities in the shape and dtype of `logits`; otherwise as `sparsemax`. Above α = 2 the
      derivative is unbounded as a probability approaches 0.

    Source: Peters, Niculae, Martins, 2019, arXiv:1905.05702, eq. 8 and 9. The derivative with
    respect to α: Correia, Niculae, Martins, "Adaptively sparse transformers", 2019,
    arXiv:1909.00015, section 3.2.

    Example:
      >>> z = jnp.array([1.0, 0.8, -2.0])
      >>> js.entmax(z, alpha=1.2)
      Array([0.5561, 0.4418, 0.002 ], dtype=float32)
      >>> jax.grad(lambda alpha: js.entmax(z, alpha=alpha)[0])(jnp.ones(()))
      Array(0.1249, dtype=float32)
    """
    if is_static(alpha, 1):
        return softmax(logits, axis, where=where)
    logits = as_logits(logits)
    z = masked_logits(logits, axis, where)
    rows, power = classes_last(z, axis), static_power(alpha)
    if power:
        p = power_map(rows, power)
    else:
        top = jnp.max(z, axis, keepdims=True, initial=-jnp.inf)  # for its shape
        alpha = broadcast_alpha(by_example("alpha", alpha, z.shape, axis), top)
        p = jnp.exp(log_entmax(rows, classes_last(alpha, axis)))
    return classes_back(p, z.shape, axis).astype(logits.dtype)


def tempered_softmax(
    logits: ArrayLike,
    axis: ArrayAxis = -1,
    *,
    t: ArrayLike,
    where: ArrayLike | None = None,
) -> Array:
    r"""Softmax with a deformed exponential: heavy tails for t > 1, no tails for t < 1.

    $$p_i = \exp_t(z_i - \lambda), \qquad \exp_t(x) = [1 + (1 - t)\,x]_+^{1 / (1 - t)}, \qquad
    \sum_i p_i = 1$$

    It is `entmax` with $\alpha = 2 - t$: softmax at t = 1, sparsemax at t = 0.

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis, or several that share one distribution.
      t: any real number: a scalar, or an array that broadcasts against `logits` with the class
        axis of size 1; may be traced and has a gradient, also at 1.
      where: booleans that broadcast against `logits`; False masks a class.

    Returns:
      Probabilities in the shape and dtype of `logits`, as `entmax`.

    Source: Amid et al., "Robust bi-tempered logistic loss", 2019, arXiv:1906.03361, eq. 2 to 4.

    Example:
      >>> z = jnp.array([3.0, 0.0, -3.0])
      >>> js.tempered_softmax(z, t=2.0)
      Array([0.6474, 0.22  , 0.1325], dtype=float32)
      >>> js.softmax(z)
      Array([0.9503, 0.0473, 0.0024], dtype=float32)
    """
    logits = as_logits(logits)
    return entmax(logits, axis, alpha=2 - by_example("t", t, logits.shape, axis), where=where)
