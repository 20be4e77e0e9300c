"""Margins that depend on the norm of the features, which grows with the quality of an image."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import as_logits
from jsoftmax.core.calls import explaining_calls
from jsoftmax.core.collectives import MeshAxes, check_bound_axis, psum
from jsoftmax.core.meshes import on_any_mesh, same_everywhere, without_classes
from jsoftmax.core.norms import norm as norm_of
from jsoftmax.margins.angular import Beyond, checked_choice, with_angle
from jsoftmax.margins.per_example import Number, radians
from jsoftmax.margins.record import record, static

_ADAFACE_NORMS = 1e-3, 100.0  # to which AdaFace clips norms
_ADAFACE_EPS = 1e-3  # added to their standard deviation


@record
class AdaFace:
    """See `adaface`."""

    margin: Any
    h: Any
    scale: Any
    norm_mean: Any
    norm_std: Any

    def target(self, c_y: Array, norm: Array) -> Array:
        norm = lax.stop_gradient(jnp.clip(norm, *_ADAFACE_NORMS))
        quality = (norm - self.norm_mean) / (self.norm_std + _ADAFACE_EPS) * self.h
        quality = jnp.clip(quality, -1, 1)
        phi = with_angle(c_y, -self.margin * quality, "clamp")
        return phi - self.margin * (1 + quality)


@record
class MagFace:
    """See `magface`."""

    l_margin: Any
    u_margin: Any
    l_norm: Any
    u_norm: Any
    scale: Any
    beyond: Beyond = static()

    def target(self, c_y: Array, norm: Array) -> Array:
        slope = (self.u_margin - self.l_margin) / (self.u_norm - self.l_norm)
        m = self.l_margin + slope * (jnp.clip(norm, self.l_norm, self.u_norm) - self.l_norm)
        return with_angle(c_y, m, self.beyond)


@explaining_calls
def adaface(
    margin: Number = 0.4,
    h: Number = 0.333,
    scale: Number = 64.0,
    norm_mean: Number = 20.0,
    norm_std: Number = 100.0,
) -> AdaFace:
    r"""AdaFace: a margin that stresses hard examples of high quality and easy ones of low quality.

    $$z_y = s\,\bigl(\cos(\theta_y - m\,q) - m\,(1 + q)\bigr), \qquad q = \mathrm{clip}\Bigl(h\,
    \frac{\|x\| - \mu}{\sigma + 10^{-3}}, -1, 1\Bigr), \qquad z_j = s \cos\theta_j$$

    The norm stands for the quality of an image. It is a constant: no gradient goes through it. The
    angle θ - m q is clipped to [0, π].

    Args:
      margin: m, in radians and as a cosine.
      h: how much of the norms' spread is used: of a normal distribution two thirds by default.
      scale: s, a factor on all scores, after the margin.
      norm_mean: μ, the mean of the norms, which are clipped to [0.001, 100]; `adaface_update` keeps
        it up to date.
      norm_std: σ, their standard deviation, likewise.

    Returns:
      A frozen dataclass for `margin=` of a `linear_*` function. It is the state of the training:
      keep it with the parameters.

    Source: Kim, Jain, Liu, "AdaFace", 2022, arXiv:2204.00964, eq. 12 to 15; as in the authors'
    code, but that cosines are not cut to ±0.999 and angles to [0.001, π - 0.001], where they would
    lose their gradients.

    Example:
      >>> x, w = jnp.array([[30.0, 0.0], [300.0, 0.0]]), jnp.eye(2)
      >>> js.linear_logits(x, w, jnp.array([0, 0]), margin=js.adaface(norm_std=10.0))[:, 0]
      Array([29.8761, 12.8   ], dtype=float32)
    """
    return AdaFace(radians("margin", margin), h, scale, norm_mean, norm_std)


@on_any_mesh(same_everywhere)
def adaface_update(
    margin: AdaFace,
    features: ArrayLike,
    *,
    t_alpha: ArrayLike = 0.01,
    axis_name: MeshAxes = None,
) -> AdaFace:
    r"""The margin of `adaface` with the mean and spread of the norms of another batch.

    $$\mu \leftarrow \alpha\,\bar n + (1 - \alpha)\,\mu, \qquad \sigma \leftarrow \alpha \sqrt{
    \frac{1}{N - 1} \sum_i (n_i - \bar n)^2} + (1 - \alpha)\,\sigma, \qquad n_i =
    \mathrm{clip}(\|x_i\|, 0.001, 100)$$

    Call it before the loss: `margin = adaface_update(margin, features)`.

    Args:
      margin: made by `adaface`.
      features: `[..., features]`, the batch.
      t_alpha: α, the weight of this batch.
      axis_name: inside `shard_map`, the mesh axis, or axes, over which the examples are sharded:
        the statistics are those of all devices.

    Returns:
      The margin with other numbers, which are constants. One example has no spread, and none has
      no mean: then the old one stays.

    Source: Kim, Jain, Liu, 2022, arXiv:2204.00964, section 3.3; α = 0.01 as in the authors'
    settings.

    Example:
      >>> margin = js.adaface_update(js.adaface(), jnp.array([[3.0, 4.0], [6.0, 8.0]]), t_alpha=0.5)
      >>> margin.norm_mean, margin.norm_std
      (Array(13.75, dtype=float32), Array(51.7678, dtype=float32))
    """
    if not isinstance(margin, AdaFace):
        raise TypeError(f"`margin`: expected one that adaface made, got {margin!r}.")
    check_bound_axis("axis_name", axis_name)
    n = jnp.clip(norm_of(lax.stop_gradient(as_logits(features, "features"))), *_ADAFACE_NORMS)
    count = psum(jnp.asarray(n.size, n.dtype), axis_name)
    mean = psum(jnp.sum(n), axis_name) / jnp.maximum(count, 1)
    variance = psum(jnp.sum(jnp.square(n - mean)), axis_name) / jnp.maximum(count - 1, 1)
    moved = []
    for old, new, known in (
        (margin.norm_mean, mean, count > 0),
        (margin.norm_std, jnp.sqrt(variance), count > 1),
    ):
        old, weight = (jnp.asarray(x, n.dtype) for x in (old, t_alpha))
        moved.append(jnp.where(known, old + weight * (new - old), old))
    return dataclasses.replace(margin, norm_mean=moved[0], norm_std=moved[1])


@explaining_calls
def magface(
    l_margin: Number = 0.45,
    u_margin: Number = 0.8,
    l_norm: Number = 10.0,
    u_norm: Number = 110.0,
    scale: Number = 64.0,
    *,
    beyond: Beyond = "easy",
) -> MagFace:
    r"""MagFace: an angular margin that grows with the norm of the features, which learns quality.

    $$z_y = s \cos\bigl(\theta_y + m(\|x\|)\bigr), \qquad m(a) = l_m + \frac{u_m - l_m}{u_a - l_a}
    \bigl(\mathrm{clip}(a, l_a, u_a) - l_a\bigr), \qquad z_j = s \cos\theta_j$$

    The gradient goes through the norm. Alone, this margin makes norms small: add
    `magface_regularizer`, which makes them large, with a weight of at least $s\,(u_m -
    l_m)\,u_a^2\,l_a^2 / ((u_a - l_a)(u_a^2 - l_a^2))$; the paper takes 35. With a smaller one all
    norms end at the lower bound, and their quality is lost.

    Args:
      l_margin: the margin at the smallest norm, in radians.
      u_margin: the margin at the largest norm.
      l_norm: the norm up to which the margin is the smallest.
      u_norm: the norm from which on it is the largest.
      scale: s, a factor on all scores, after the margin.
      beyond: what the cosine of a = θ + m becomes where a passes π. "continue": it goes on falling,
        as (-1)^k cos a - 2k. "linear": cos θ - m sin m for m = m(|x|), with a step down. "shift":
        cos θ - (1 - cos m). "clamp": -1. "easy": cos θ wherever that is not positive, whatever a
        is. The authors' "easy" has no margin there, and jumps; "continue" has neither fault.

    Returns:
      A frozen dataclass for `margin=` of a `linear_*` function.

    Source: Meng et al., "MagFace", 2021, arXiv:2103.06627, eq. 3 to 6; numbers as in the authors'
    settings.

    Example:
      >>> x, w = jnp.array([[10.0, 0.0], [110.0, 0.0]]), jnp.eye(2)
      >>> js.linear_logits(x, w, jnp.array([0, 0]), margin=js.magface(scale=1.0))[:, 0]
      Array([0.9004, 0.6965], dtype=float32)
    """
    checked_choice("beyond", beyond, Beyond)
    radians("l_margin", l_margin)
    radians("u_margin", u_margin)
    return MagFace(l_margin, u_margin, l_norm, u_norm, scale, beyond)


@on_any_mesh(without_classes("features"))
def magface_regularizer(
    features: ArrayLike, *, l_norm: ArrayLike = 10.0, u_norm: ArrayLike = 110.0
) -> Array:
    r"""What makes the norms of `magface` large: smallest at the upper bound.

    $$g(x) = \frac{a}{u_a^2} + \frac1a, \qquad a = \mathrm{clip}(\|x\|, l_a, u_a)$$

    Args:
      features: `[..., features]`, those of the batch, before any normalisation.
      l_norm: the lower bound of the norm, that of the margin.
      u_norm: the upper bound of the norm, that of the margin.

    Returns:
      `[...]`, to be added to the loss with a weight of about 35; its gradient is 0 outside of the
      bounds.

    Source: Meng et al., 2021, arXiv:2103.06627, eq. 6 and appendix.

    Example:
      >>> js.magface_regularizer(jnp.array([[30.0, 40.0]]))
      Array([0.0241], dtype=float32)
    """
    n = norm_of(as_logits(features, "features"))
    low, high = (jnp.asarray(x, n.dtype) for x in (l_norm, u_norm))
    a = jnp.clip(n, low, high)
    return a / high**2 + 1 / a
