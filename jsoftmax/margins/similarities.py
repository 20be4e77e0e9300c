"""Margins in which every class's score is another function of its cosine, or of its angle."""

import math
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.core.calls import explaining_calls
from jsoftmax.core.numbers import at_least
from jsoftmax.maps.hard import straight_through
from jsoftmax.margins.angles import angle, cosine_of
from jsoftmax.margins.angular import AngularMargin, Gradient, checked_choice
from jsoftmax.margins.per_example import Number, PerExample, radians
from jsoftmax.margins.record import record, static

_AT_START = 1 + math.log(2)  # of t-vMF: 1 + softplus(0)
Version = Literal["v0", "v1", "v2"]


@record
class DividedAngles:
    """See version 2 of `sphereface_r`."""

    m: Any
    scale: Any
    gradient: Gradient = static()

    def target(self, c_y: Array) -> Array:
        return c_y

    def others(self, c_j: Array, c_y: Array) -> Array:
        phi = cosine_of(angle(c_j) / self.m)
        return straight_through(phi, c_j) if self.gradient == "straight_through" else phi


@record
class LiArcFace:
    """See `li_arcface`."""

    margin: Any
    scale: Any

    def similarity(self, c: Array) -> Array:
        return 1 - angle(c) * (2 / math.pi)

    def target(self, c_y: Array) -> Array:
        return self.similarity(c_y) - self.margin * (2 / math.pi)


@record
class TVMF:
    """See `tvmf`."""

    kappa: Any
    scale: Any

    def similarity(self, c: Array) -> Array:
        return (1 + c) / (1 + self.kappa * (1 - c)) - 1

    target = similarity


@record
class Circle:
    """See `circle`."""

    m: Any
    scale: Any

    def target(self, c_y: Array) -> Array:
        return _positive(1 + self.m - c_y) * (c_y - (1 - self.m))

    def others(self, c_j: Array, c_y: Array) -> Array:
        return _positive(c_j + self.m) * (c_j - self.m)


def _positive(x):
    return lax.stop_gradient(jnp.maximum(x, 0))


@explaining_calls
def sphereface(
    m: Number = 1.7, scale: Number = 30.0, *, gradient: Gradient = "straight_through"
) -> AngularMargin:
    r"""SphereFace on unit features: the angle multiplied by any number, continued past π.

    $$z_y = s\,\psi(\theta_y), \qquad \psi = (-1)^k \cos(m\theta) - 2k,\; k = \lfloor m\theta/\pi
    \rfloor, \qquad z_j = s \cos\theta_j$$

    Args:
      m: factor on the angle, at least 1.
      scale: s, a factor on all scores, after the margin.
      gradient: "straight_through", the derivative of cos θ as in the authors' code, or "exact".

    Returns:
      An `AngularMargin`. With features of their own length it is `a_softmax`.

    Source: Liu et al., 2017, arXiv:1704.08063, eq. 7; unit features and numbers as in OpenSphere,
    by the authors.

    Example:
      >>> js.sphereface()(jnp.array([0.5, -1.0]))
      Array([-0.2079, -2.5878], dtype=float32)
    """
    checked_choice("gradient", gradient, Gradient)
    return AngularMargin(m, scale=scale, gradient=gradient)


@explaining_calls
def sphereface_r(
    m: Number = 1.5,
    scale: Number = 30.0,
    version: Version = "v2",
    *,
    gradient: Gradient = "straight_through",
) -> AngularMargin | DividedAngles:
    r"""SphereFace-R: the angle of the true class multiplied, or those of the others divided.

    $$\text{v0: } z_y = s\,\psi(m\theta_y), \quad \text{v1: } z_y = s \cos(\min(m\theta_y, \pi)),
    \quad z_j = s\cos\theta_j; \qquad \text{v2: } z_y = s\cos\theta_y, \quad z_j = s \cos(\theta_j /
    m)$$

    Args:
      m: factor on the angle, at least 1.
      scale: s, a factor on all scores, after the margin.
      version: "v0", "v1" or "v2", which of the formulas above.
      gradient: "straight_through", the derivative of cos θ for every class ("characteristic
        gradient detachment"), or "exact".

    Returns:
      A frozen dataclass for `margin=` of a `linear_*` function. The authors' loss is that of
      cross-entropy times 50 / s.

    Source: Liu et al., "SphereFace revived", 2022, arXiv:2109.05565, section 4; the authors'
    trained models are v2 with m = 1.4 and s = 60.

    Example:
      >>> x, w = jnp.array([[0.6, 0.8]]), jnp.eye(2)
      >>> js.linear_logits(x, w, jnp.array([0]), margin=js.sphereface_r(2.0, 10.0))
      Array([[6.    , 9.4868]], dtype=float32)
    """
    checked_choice("version", version, Version)
    checked_choice("gradient", gradient, Gradient)
    if version == "v2":
        return DividedAngles(m, scale, gradient)
    beyond = "clamp" if version == "v1" else "continue"
    return AngularMargin(m, scale=scale, gradient=gradient, beyond=beyond)


@explaining_calls
def li_arcface(margin: Number = 0.45, scale: Number = 64.0) -> LiArcFace:
    r"""Li-ArcFace: scores that are linear in the angle, with a margin on that of the true class.

    $$z_y = s\,\frac{\pi - 2\,(\theta_y + m)}{\pi}, \qquad z_j = s\,\frac{\pi - 2\,\theta_j}{\pi}$$

    Args:
      margin: m, in radians.
      scale: s, a factor on all scores, after the margin.

    Returns:
      A frozen dataclass for `margin=` of a `linear_*` function. The derivative of an angle is
      infinite where a cosine is ±1; here it is finite.

    Source: Li et al., "AirFace", 2019, arXiv:1907.12256, eq. 5; m as in later code of the same
    origin.

    Example:
      >>> x, w = jnp.array([[1.0, 0.0]]), jnp.eye(2)
      >>> js.linear_logits(x, w, margin=js.li_arcface(scale=10.0))
      Array([[10.,  0.]], dtype=float32)
    """
    return LiArcFace(radians("margin", margin), scale)


@explaining_calls
def tvmf(kappa: Number = 16.0, scale: Number = _AT_START) -> TVMF:
    r"""t-vMF similarity: a heavy-tailed function of the cosine that is compact around its class.

    $$z_j = s\,\varphi(\cos\theta_j), \qquad \varphi(c) = \frac{1 + c}{1 + \kappa\,(1 - c)} - 1$$

    It is no margin on the true class: all classes have it, with or without labels.

    Args:
      kappa: κ > -1/2, the concentration; 0 is the cosine.
      scale: s; in the paper learned, as 1 + softplus of a number that starts at 0.

    Returns:
      A frozen dataclass for `margin=` of a `linear_*` function.

    Source: Kobayashi, "T-vMF similarity for regularizing intra-class feature distribution", 2021,
    CVPR, eq. 6.

    Example:
      >>> js.linear_logits(jnp.array([0.6, 0.8]), jnp.eye(2), margin=js.tvmf(4.0, 1.0))
      Array([-0.3846,  0.    ], dtype=float32)
    """
    if not isinstance(kappa, PerExample):
        kappa = at_least("kappa", kappa, -0.5, strict=True)
    return TVMF(kappa, scale)


@explaining_calls
def circle(m: Number = 0.25, scale: Number = 256.0) -> Circle:
    r"""Circle loss with class vectors: scores weighed by how far they are from their aims.

    $$z_y = \gamma\,[1 + m - c_y]_+\,(c_y - (1 - m)), \qquad z_j = \gamma\,[c_j + m]_+\,(c_j - m),
    \qquad c = \cos\theta$$

    The weights in brackets are constants.

    Args:
      m: the margin: c should be above 1 - m for the true class and below m for the others.
      scale: γ, a factor on all scores, after the margin.

    Returns:
      A frozen dataclass for `margin=` of a `linear_*` function.

    Source: Sun et al., "Circle loss", 2020, arXiv:2002.10857, eq. 8 to 10, with one true class.

    Example:
      >>> x, w = jnp.array([[0.6, 0.8]]), jnp.eye(2)
      >>> js.linear_logits(x, w, jnp.array([0]), margin=js.circle(scale=10.0))
      Array([[-0.975,  5.775]], dtype=float32)
    """
    return Circle(m, scale)
