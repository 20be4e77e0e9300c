"""Margins that also change the scores of other classes: those that are mistaken for the true one.

A class j is hard if its cosine is above what the margin leaves of that of the true class. Which
are, is a comparison and has no gradient.
"""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import as_logits, check_shape, integer_labels
from jsoftmax.core.calls import explaining_calls
from jsoftmax.core.collectives import MeshAxes, check_bound_axis, psum
from jsoftmax.core.dtypes import cast_like
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.norms import cosine
from jsoftmax.margins.angular import Beyond, checked_choice, plus_angle, with_angle
from jsoftmax.margins.per_example import Number, radians
from jsoftmax.margins.record import record, static

Target = Literal["cosface", "arcface"]
Kind = Literal["adaptive", "fixed"]


@record
class MVSoftmax:
    """See `mv_softmax`."""

    margin: Any
    t: Any
    scale: Any
    kind: Kind = static()
    subtracted: bool = static()
    beyond: Beyond = static()

    def target(self, c_y: Array) -> Array:
        if not self.subtracted:
            return with_angle(c_y, self.margin, self.beyond)
        phi = c_y - self.margin
        return jnp.where(c_y > 0, phi, c_y) if self.beyond == "easy" else phi

    def others(self, c_j: Array, c_y: Array) -> Array:
        bar = c_y - self.margin if self.subtracted else plus_angle(c_y, self.margin)
        raised = (1 + self.t) * c_j + self.t if self.kind == "adaptive" else c_j + self.t
        return jnp.where(c_j > bar, raised, c_j)


@record
class CurricularFace:
    """See `curricularface`."""

    margin: Any
    scale: Any
    t: Any
    beyond: Beyond = static()

    def target(self, c_y: Array) -> Array:
        return with_angle(c_y, self.margin, self.beyond)

    def others(self, c_j: Array, c_y: Array) -> Array:
        t = lax.stop_gradient(self.t)
        return jnp.where(c_j > plus_angle(c_y, self.margin), c_j * (t + c_j), c_j)


@record
class ArcNegFace:
    """See `arcnegface`."""

    margin: Any
    alpha: Any
    sigma: Any
    scale: Any
    beyond: Beyond = static()

    def target(self, c_y: Array) -> Array:
        return with_angle(c_y, self.margin, self.beyond)

    def others(self, c_j: Array, c_y: Array) -> Array:
        distance = lax.stop_gradient(c_j - self.target(c_y))
        weight = self.alpha * jnp.exp(-(distance**2) / self.sigma)
        return weight * c_j + weight - 1


@explaining_calls
def mv_softmax(
    margin: Number = 0.35,
    t: Number = 0.2,
    scale: Number = 32.0,
    target: Target = "cosface",
    kind: Kind = "adaptive",
    *,
    beyond: Beyond = "easy",
) -> MVSoftmax:
    r"""MV-Softmax: hard classes are raised, the true one has the margin of CosFace or ArcFace.

    $$z_y = s\,\varphi(\theta_y), \qquad z_j = s \begin{cases} (1 + t) \cos\theta_j + t & \text{if }
    \cos\theta_j > \varphi(\theta_y) \\ \cos\theta_j & \text{else} \end{cases}$$

    Args:
      margin: m: $\varphi = \cos\theta - m$, or $\cos(\theta + m)$ with `target="arcface"`.
      t: by how much hard classes are raised, at least 0.
      scale: s, a factor on all scores, after the margin.
      target: "cosface" or "arcface".
      kind: "adaptive" as above; "fixed" adds t to the cosine of a hard class.
      beyond: what with `target="arcface"` the cosine of a = θ + m becomes where a passes π.
        "continue": it goes on falling, as (-1)^k cos a - 2k. "linear": cos θ - m sin m, with a step
        down. "shift": cos θ - (1 - cos m). "clamp": -1. "easy": cos θ wherever that is not
        positive, whatever a is. The authors' "easy" has no margin there, for "cosface" too; what is
        hard does not change with it.

    Returns:
      A frozen dataclass for `margin=` of a `linear_*` function.

    Source: Wang et al., "Mis-classified vector guided softmax loss", 2019, arXiv:1912.00833, eq. 8
    to 10; defaults as in the authors' code.

    Example:
      >>> x, w = jnp.array([[0.6, 0.8]]), jnp.eye(2)
      >>> js.linear_logits(x, w, jnp.array([0]), margin=js.mv_softmax(scale=10.0))
      Array([[ 2.5, 11.6]], dtype=float32)
    """
    checked_choice("target", target, Target)
    checked_choice("kind", kind, Kind)
    checked_choice("beyond", beyond, Beyond)
    if target == "arcface":
        radians("margin", margin)
    return MVSoftmax(margin, t, scale, kind, target == "cosface", beyond)


@explaining_calls
def curricularface(
    margin: Number = 0.5, scale: Number = 64.0, t: Number = 0.0, *, beyond: Beyond = "linear"
) -> CurricularFace:
    r"""CurricularFace: hard classes count little at first, and more as training goes on.

    $$z_y = s \cos(\theta_y + m), \qquad z_j = s \begin{cases} \cos\theta_j\,(t + \cos\theta_j) &
    \text{if } \cos\theta_j > \cos(\theta_y + m) \\ \cos\theta_j & \text{else} \end{cases}$$

    Args:
      margin: m, in radians.
      scale: s, a factor on all scores, after the margin.
      t: a constant, the running mean of $\cos\theta_y$, which `curricularface_update` moves.
      beyond: what the cosine of a = θ + m becomes where a passes π. "continue": it goes on falling,
        as (-1)^k cos a - 2k. "linear": cos θ - m sin m, with a step down. "shift": cos θ - (1 - cos
        m). "clamp": -1. "easy": cos θ wherever that is not positive, whatever a is.

    Returns:
      A frozen dataclass for `margin=` of a `linear_*` function. It is the state of the training:
      keep it with the parameters.

    Source: Huang et al., "CurricularFace", 2020, arXiv:2004.00288, eq. 5 to 9.

    Example:
      >>> x, w = jnp.array([[0.6, 0.8]]), jnp.eye(2)
      >>> js.linear_logits(x, w, jnp.array([0]), margin=js.curricularface(scale=10.0, t=0.5))
      Array([[ 1.4301, 10.4   ]], dtype=float32)
    """
    checked_choice("beyond", beyond, Beyond)
    return CurricularFace(radians("margin", margin), scale, t, beyond)


@on_any_mesh(same_everywhere)
def curricularface_update(
    margin: CurricularFace,
    features: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    *,
    momentum: ArrayLike = 0.01,
    axis_name: MeshAxes = None,
) -> CurricularFace:
    r"""The margin of `curricularface` with the mean cosine of the true classes of another batch.

    $$t \leftarrow \alpha \frac1N \sum_i \cos\theta_{i y_i} + (1 - \alpha)\,t$$

    Call it before the loss.

    Args:
      margin: made by `curricularface`.
      features: `[..., features]`, those of the batch, before any normalisation.
      weight: `[classes, features]`, the class vectors.
      labels: integers `[...]`. One outside [0, classes) does not count.
      momentum: α, the weight of this batch.
      axis_name: inside `shard_map`, the mesh axis, or axes, over which the examples are sharded.

    Returns:
      The margin with another t, which is a constant. Without examples it stays.

    Source: Huang et al., 2020, arXiv:2004.00288, eq. 10; α = 0.01 as there.

    Example:
      >>> x, w, y = jnp.array([[0.6, 0.8]]), jnp.eye(2), jnp.array([1])
      >>> js.curricularface_update(js.curricularface(), x, w, y, momentum=0.5).t
      Array(0.4, dtype=float32)
    """
    if not isinstance(margin, CurricularFace):
        raise TypeError(f"`margin`: expected one that curricularface made, got {margin!r}.")
    check_bound_axis("axis_name", axis_name)
    x = as_logits(features, "features")
    w, y = as_logits(weight, "weight"), integer_labels(labels)
    check_shape("weight", w, (*w.shape[:1], x.shape[-1]), "classes by features")
    check_shape("labels", y, x.shape[:-1], "an integer class for every example")
    known = (y >= 0) & (y < w.shape[0])
    c = jnp.clip(cosine(*lax.stop_gradient((x, w.at[y].get(mode="clip")))), -1, 1)
    found = jnp.sum(jnp.where(known, c, 0)), jnp.sum(known.astype(c.dtype))
    total, count = psum(found, axis_name)
    t, weight = (cast_like(number, c) for number in (margin.t, momentum))
    moved = t + weight * (total / jnp.maximum(count, 1) - t)
    return dataclasses.replace(margin, t=jnp.where(count > 0, moved, t))


@explaining_calls
def arcnegface(
    margin: Number = 0.5,
    alpha: Number = 1.2,
    sigma: Number = 2.0,
    scale: Number = 64.0,
    *,
    beyond: Beyond = "linear",
) -> ArcNegFace:
    r"""ArcNegFace: other classes are weighed by how close their score is to that of the true one.

    $$z_y = s\,\varphi, \quad \varphi = \cos(\theta_y + m), \qquad z_j = s\,(\tau_j \cos\theta_j +
    \tau_j - 1), \quad \tau_j = \alpha\,e^{-(\cos\theta_j - \varphi)^2 / \sigma}$$

    The weights τ are constants.

    Args:
      margin: m, in radians.
      alpha: α, the weight of a class whose score is that of the true one.
      sigma: σ, by which the weights fall with the squared distance of the scores.
      scale: s, a factor on all scores, after the margin.
      beyond: what the cosine of a = θ + m becomes where a passes π. "continue": it goes on falling,
        as (-1)^k cos a - 2k. "linear": cos θ - m sin m, with a step down. "shift": cos θ - (1 - cos
        m). "clamp": -1. "easy": cos θ wherever that is not positive, whatever a is.

    Returns:
      A frozen dataclass for `margin=` of a `linear_*` function.

    Source: Liu et al., "Towards flops-constrained face recognition", 2019, arXiv:1909.00632,
    section 3.2; defaults as in FaceX-Zoo.

    Example:
      >>> x, w = jnp.array([[0.6, 0.8]]), jnp.eye(2)
      >>> js.linear_logits(x, w, jnp.array([0]), margin=js.arcnegface(scale=10.0))
      Array([[1.4301, 7.407 ]], dtype=float32)
    """
    checked_choice("beyond", beyond, Beyond)
    return ArcNegFace(radians("margin", margin), alpha, sigma, scale, beyond)
