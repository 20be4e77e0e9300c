"""Choose one class, the largest or a random one, with usable gradients."""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import as_logits, check_key, check_shape
from jsoftmax.core.dtypes import to_compute_dtype
from jsoftmax.core.masking import masked_logits
from jsoftmax.core.meshes import like, on_any_mesh
from jsoftmax.core.numerics import change
from jsoftmax.maps.softmax import softmax


@on_any_mesh(like("logits"))
def hardmax(logits: ArrayLike, axis: int = -1, *, where: ArrayLike | None = None) -> Array:
    r"""One for the largest logit and zero for the others: softmax at temperature zero.

    $$p_i = [\, i = \arg\max_j z_j \,]$$

    Args:
      logits: `[..., classes]`, any real dtype.
      axis: the class axis.
      where: booleans that broadcast against `logits`; False masks a class.

    Returns:
      One-hot vectors in the shape and dtype of `logits`. The first of equal logits wins; all zeros
      where all classes are masked; NaN where a logit is NaN. The gradient is zero: see
      `straight_through`.

    Source: the usual definition.

    Example:
      >>> js.hardmax(jnp.array([1.0, 3.0, 2.0]))
      Array([0., 1., 0.], dtype=float32)
    """
    logits = lax.stop_gradient(as_logits(logits))
    z = masked_logits(logits, axis, where)
    top = jnp.max(z, axis, keepdims=True, initial=-jnp.inf)
    if not z.size:  # it has no argmax
        return logits
    first = jnp.argmax(z, axis, keepdims=True)
    hard = (lax.broadcasted_iota(first.dtype, z.shape, axis % z.ndim) == first) & (top > -jnp.inf)
    return jnp.where(jnp.isnan(top), jnp.nan, hard.astype(logits.dtype))


@on_any_mesh(like("hard"))
def straight_through(hard: ArrayLike, soft: ArrayLike) -> Array:
    r"""The value of `hard` with the derivative of `soft`.

    $$y = \mathrm{hard}, \qquad \partial y = \partial\,\mathrm{soft}$$

    Args:
      hard: the value of the forward pass, such as `hardmax(logits)`.
      soft: what is differentiated, such as `softmax(logits)`; the shape and dtype of `hard`.

    Returns:
      `hard`, exact to the last bit; the usual `soft + stop_gradient(hard - soft)` rounds it.

    Source: Bengio, Léonard, Courville, "Estimating or propagating gradients through stochastic
    neurons", 2013, arXiv:1308.3432.

    Example:
      >>> z = jnp.array([1.0, 2.0])
      >>> js.straight_through(js.hardmax(z), js.softmax(z))
      Array([0., 1.], dtype=float32)
      >>> jax.grad(lambda z: js.straight_through(js.hardmax(z), js.softmax(z))[1])(z)
      Array([-0.1966,  0.1966], dtype=float32)
    """
    hard, soft = jnp.asarray(hard), jnp.asarray(soft)
    check_shape("hard", hard, soft.shape, "the same shape as `soft`")
    return _first(hard, soft)


@jax.custom_jvp
def _first(hard, soft):
    return lax.stop_gradient(hard) + change(soft)


@_first.defjvp
def _first_jvp(primals, tangents):
    return _first(*primals), tangents[1]


@on_any_mesh(like("logits"))
def gumbel_softmax(
    key: Array,
    logits: ArrayLike,
    axis: int = -1,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    hard: bool = False,
) -> Array:
    r"""A random point of the simplex: the differentiable relaxation of sampling a class.

    $$y = \mathrm{softmax}\bigl((z + g) / T\bigr), \qquad g_i \sim \mathrm{Gumbel}(0, 1)$$

    Args:
      key: a key of `jax.random`.
      logits: `[..., classes]`; the noise is drawn in float32 or wider, accurate in its upper tail.
      axis: the class axis.
      where: booleans that broadcast against `logits`; False masks a class.
      temperature: T > 0; as it falls, `y` approaches a one-hot sample. May be traced.
      hard: return the one-hot sample itself, with the gradient of the relaxation.

    Returns:
      Points of the simplex in the shape and dtype of `logits`.

    Source: Jang, Gu, Poole, 2017, arXiv:1611.01144; Maddison, Mnih, Teh, 2017, arXiv:1611.00712.

    Example:
      >>> js.gumbel_softmax(jax.random.key(0), jnp.zeros(3), hard=True).sum()
      Array(1., dtype=float32)
    """
    check_key(key)
    logits = as_logits(logits)
    z = to_compute_dtype(logits)
    noisy = z + jax.random.gumbel(key, z.shape, z.dtype, mode="high")
    soft = softmax(noisy, axis, where=where, temperature=temperature)
    sample = straight_through(hardmax(noisy, axis, where=where), soft) if hard else soft
    return sample.astype(logits.dtype)
