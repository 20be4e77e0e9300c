"""Other closed-form maps: with another function in place of exp, or another scale.

Those that depend only on differences of logits are computed from centred logits, as `softmax` is.
`taylor_softmax` and `spherical_softmax` divide the logits by the largest absolute value first,
which cancels in the end, so that no power over- or underflows.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import as_logits
from jsoftmax.core.dtypes import cast_like
from jsoftmax.core.masking import ArrayAxis, count_unmasked, masked_logits
from jsoftmax.core.meshes import like, on_any_mesh
from jsoftmax.core.numbers import at_least, by_example, static_count
from jsoftmax.core.numerics import exp_nonpositive, softplus
from jsoftmax.maps.softmax import softmax


@on_any_mesh(like("logits"))
def taylor_softmax(
    logits: ArrayLike,
    axis: ArrayAxis = -1,
    *,
    order: int = 2,
    where: ArrayLike | None = None,
) -> Array:
    r"""Softmax with a Taylor polynomial in place of the exponential: tails decay as a power.

    $$p_i = \frac{h(z_i)}{\sum_j h(z_j)}, \qquad h(z) = \sum_{k=0}^{n} \frac{z^k}{k!}$$

    It depends on a common offset of the logits, and h is not monotonic: for n = 2 it falls until
    z = -1, so that below -1 the smaller of two logits has the larger probability.

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis, or several that share one distribution.
      order: n, even and at least 2, which makes h positive. Static. The terms cancel where z is
        negative: float32 is accurate to 1e-6 up to order 4, 2e-5 at order 10, 5e-3 at order 20.
      where: booleans that broadcast against `logits`; False masks a class.

    Returns:
      Probabilities in the shape and dtype of `logits`, 0 for a class masked or at -inf. They
      sum to 1, and to 0 where all classes are masked. A logit of +inf or NaN gives NaN.

    Source: de Brébisson, Vincent, "An exploration of softmax alternatives belonging to the
    spherical loss family", 2016, arXiv:1511.05042. Orders above 2: Banerjee et al., 2020,
    arXiv:2011.11538.

    Example:
      >>> js.taylor_softmax(jnp.array([0.0, 1.0, 2.0]))
      Array([0.1176, 0.2941, 0.5882], dtype=float32)
    """
    order = static_count("order", order, 2)
    if order % 2:
        raise ValueError(f"`order`: expected an even number >= 2, got {order}.")
    logits = as_logits(logits)
    z, on, size = _with_size(logits, axis, where)
    # h(z) / s^n in terms of t = z / s, by h(z) = 1 + z/1 (1 + z/2 (1 + z/3 ...)). With |t| up to n
    # no term exceeds e^n; with |t| up to 1 the largest could be as small as 1 / n!.
    shrink = _inverse(jnp.maximum(size / order, 1))
    t = z * shrink
    h = jnp.ones_like(t)
    for k in reversed(range(order)):
        h = h * t / (k + 1) + shrink ** (order - k)
    return _normalised(jnp.where(on, h, 0), axis).astype(logits.dtype)


@on_any_mesh(like("logits"))
def spherical_softmax(
    logits: ArrayLike, axis: ArrayAxis = -1, *, where: ArrayLike | None = None
) -> Array:
    r"""Probabilities proportional to the squares of the logits.

    $$p_i = \frac{z_i^2}{\sum_j z_j^2}$$

    It depends on a common offset of the logits, but not on a common factor; the sign of a logit is
    lost.

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis, or several that share one distribution.
      where: booleans that broadcast against `logits`; False masks a class.

    Returns:
      Probabilities in the shape and dtype of `logits`, 0 for a class masked or at -inf. Where
      all logits are 0 they are equal, with a gradient of 0; where all classes are masked they are
      0. A logit of +inf or NaN gives NaN.

    Source: Vincent, de Brébisson, Bouthillier, 2015, arXiv:1412.7091; studied by de Brébisson,
    Vincent, 2016, arXiv:1511.05042. Their constant added to the squares is not needed here.

    Example:
      >>> js.spherical_softmax(jnp.array([1.0, -2.0, 0.0]))
      Array([0.2, 0.8, 0. ], dtype=float32)
    """
    logits = as_logits(logits)
    z, on, size = _with_size(logits, axis, where)
    t = z * _inverse(jnp.where(size == 0, 1, size))
    return _normalised(jnp.where(on & (size == 0), 1, t * t), axis).astype(logits.dtype)


@on_any_mesh(like("logits"))
def sigsoftmax(logits: ArrayLike, axis: ArrayAxis = -1, *, where: ArrayLike | None = None) -> Array:
    r"""Softmax with each exponential times a sigmoid: log-probabilities of higher rank.

    $$p_i = \frac{e^{z_i} \sigma(z_i)}{\sum_j e^{z_j} \sigma(z_j)}$$

    It depends on a common offset of the logits: where they are large it is the softmax of z, and
    where they are far below 0 that of 2z.

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis, or several that share one distribution.
      where: booleans that broadcast against `logits`; False masks a class.

    Returns:
      Probabilities in the shape and dtype of `logits`, 0 for a class masked or at -inf. They
      sum to 1, and to 0 where all classes are masked. A logit of +inf or NaN gives NaN.

    Source: Kanai et al., "Sigsoftmax: reanalysis of the softmax bottleneck", 2018,
    arXiv:1805.10829.

    Example:
      >>> js.sigsoftmax(jnp.array([-1.0, 0.0, 1.0]))
      Array([0.0383, 0.1933, 0.7684], dtype=float32)
    """
    logits = as_logits(logits)
    z = masked_logits(logits, axis, where)
    on, least = z != -jnp.inf, float(jnp.finfo(z.dtype).min)
    z = jnp.where(on, jnp.maximum(z - softplus(-z), least), -jnp.inf)
    return softmax(z, axis).astype(logits.dtype)


@on_any_mesh(like("logits"))
def ev_softmax(
    logits: ArrayLike,
    axis: ArrayAxis = -1,
    *,
    epsilon: ArrayLike = 0.0,
    where: ArrayLike | None = None,
) -> Array:
    r"""Softmax over the classes whose logit is at least the mean: sparse, with several modes.

    $$p_i \propto \bigl([\, z_i \ge \bar z \,] + \varepsilon\bigr) \, e^{z_i}, \qquad
    \bar z = \frac1n \sum_j z_j$$

    over the n unmasked classes. The derivative treats the set of classes kept as constant.

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis, or several that share one distribution.
      epsilon: at least 0, a scalar, or an array that broadcasts against `logits` with the class
        axis of size 1; may be traced. A small value while training, such as 1e-6, keeps the
        logarithm finite.
      where: booleans that broadcast against `logits`; False masks a class.

    Returns:
      Probabilities in the shape and dtype of `logits`, 0 for a class masked or at -inf; these
      do not count in the mean. Equal logits are all kept. The probabilities sum to 1, and to 0
      where all classes are masked. A logit of +inf or NaN gives NaN.

    Source: Chen et al., "Evidential softmax for sparse multimodal distributions in deep generative
    models", 2021, arXiv:2110.14182.

    Example:
      >>> js.ev_softmax(jnp.array([0.4, 1.4, -0.8]))
      Array([0.2689, 0.7311, 0.    ], dtype=float32)
    """
    logits = as_logits(logits)
    d, on, count = count_unmasked(logits, axis, where)
    epsilon = by_example("epsilon", at_least("epsilon", epsilon, 0), d.shape, axis)
    mean = jnp.sum(jnp.where(on, d, 0), axis, keepdims=True) / count
    weight = (~(d < mean)).astype(d.dtype) + cast_like(epsilon, d)  # so that NaN is kept
    return _normalised(weight * exp_nonpositive(d), axis).astype(logits.dtype)


@on_any_mesh(like("logits"))
def scalable_softmax(
    logits: ArrayLike,
    axis: ArrayAxis = -1,
    *,
    scale: ArrayLike,
    where: ArrayLike | None = None,
) -> Array:
    r"""Softmax that is sharper the more classes there are, so that many do not flatten it.

    $$p_i = \frac{n^{s z_i}}{\sum_j n^{s z_j}} = \mathrm{softmax}(s \log(n) \, z)_i$$

    for the n unmasked classes.

    Args:
      logits: `[..., classes]`. 16-bit floats are computed in float32; integers become floats.
      axis: the class axis, or several that share one distribution.
      scale: s at least 0, a scalar, or an array that broadcasts against `logits` with the class
        axis of size 1; may be traced, and so learned. The paper's example has 0.43.
      where: booleans that broadcast against `logits`; False masks a class.

    Returns:
      Probabilities in the shape and dtype of `logits`, 0 for a class masked or at -inf; these
      do not count in n. They sum to 1, and to 0 where all classes are masked. A logit of +inf or
      NaN gives NaN.

    Source: Nakanishi, "Scalable-softmax is superior for attention", 2025, arXiv:2501.19399.

    Example:
      >>> z = jnp.zeros(10_000).at[0].set(5.0)
      >>> js.softmax(z)[0], js.scalable_softmax(z, scale=0.43)[0]
      (Array(0.0146, dtype=float32), Array(1., dtype=float32))
    """
    logits = as_logits(logits)
    d, on, count = count_unmasked(logits, axis, where)
    scale = by_example("scale", at_least("scale", scale, 0), d.shape, axis)
    sharpness = cast_like(scale, d) * jnp.log(count)
    # A product with -inf has no derivative, and is NaN where the other factor is 0.
    d = jnp.where(on, jnp.where(on, d, 0) * sharpness, -jnp.inf)
    return softmax(d, axis).astype(logits.dtype)


def _with_size(logits, axis, where):
    """Return the logits, 0 for masked classes; which classes are unmasked; and the largest |z|.

    Differentiation treats the last as a constant, since it cancels in what is computed with it.
    """
    z = masked_logits(logits, axis, where)
    on = z != -jnp.inf
    z = jnp.where(on, z, 0)
    return z, on, lax.stop_gradient(jnp.max(jnp.abs(z), axis, keepdims=True, initial=0))


def _inverse(size):
    """Return 1 / size, or nearly so where that would be rounded to 0 for being subnormal."""
    tiny = float(jnp.finfo(size.dtype).tiny)
    return jnp.where(size == jnp.inf, 0, jnp.maximum(1 / size, tiny))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _normalised(h, axis):
    """Return `h` over its sum; 0 where all classes are masked, where `h` and its sum are 0."""
    return h / _total(h, axis)


@_normalised.defjvp
def _normalised_jvp(axis, primals, tangents):
    # dp_i = (dh_i - p_i sum_j dh_j) / sum_j h_j, without the square of the sum
    (h,), (dh,) = primals, tangents
    p = _normalised(h, axis)
    return p, (dh - p * jnp.sum(dh, axis, keepdims=True)) / _total(h, axis)


def _total(h, axis):
    total = jnp.sum(h, axis, keepdims=True)
    return jnp.where(total == 0, 1, total)
