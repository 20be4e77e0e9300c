"""Losses and scales for heads of cosines: one class against the rest, P2SGrad, AdaCos.

The former are sums over the other classes as cross-entropy is, of another function of the logit;
they are no function of the log-odds.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jsoftmax.core.calls import explaining_calls
from jsoftmax.core.collectives import MeshAxes, all_gather_unvarying, check_bound_axis
from jsoftmax.core.dtypes import to_compute_dtype
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numbers import static_count
from jsoftmax.core.numerics import softplus
from jsoftmax.maps.hard import straight_through
from jsoftmax.maps.softmax import logsumexp
from jsoftmax.margins.angular import Gradient, checked_choice
from jsoftmax.margins.form import Margin
from jsoftmax.margins.per_example import Number
from jsoftmax.margins.presets import cosface
from jsoftmax.margins.record import record, static
from jsoftmax.stats.logit_stats import LogitStats


class MarginAndLoss(NamedTuple):
    r"""A margin and the loss that belongs to it, two options of a linear function.

    $$\ell(\mathrm{stats}(z)), \qquad z = s\,f(\cos\theta) + b$$

    Args:
      margin: for `margin=`.
      loss: a function of `LogitStats`, for `loss`.

    Source: made by `sphereface2` and `uniface`.

    Example:
      >>> head = js.uniface()
      >>> x, w, y = jnp.eye(2), jnp.eye(2), jnp.array([0, 1])
      >>> js.linear_loss(x, w, y, head.loss, margin=head.margin)
      Array(0.6931, dtype=float32)
    """

    margin: Margin
    loss: Callable[[LogitStats], Array]


@record
class _SphereFace2:
    """See `sphereface2`."""

    m: Any
    t: Any
    scale: Any
    gradient: Gradient = static()

    def similarity(self, c: Array) -> Array:
        half = jnp.maximum((c + 1) / 2, jnp.finfo(c.dtype).tiny)
        g = 2 * half**self.t - 1
        return straight_through(g, c) if self.gradient == "straight_through" else g

    def target(self, c_y: Array) -> Array:
        return self.similarity(c_y) - self.m

    def others(self, c_j: Array, c_y: Array) -> Array:
        return self.similarity(c_j) + self.m


def _against_the_rest(stats, of_target, of_others):
    if stats.others_softplus is None:
        raise ValueError("`stats`: expected LogitStats with `others_softplus`, got some without.")
    of_target, of_others = (jnp.asarray(x, stats.target.dtype) for x in (of_target, of_others))
    return of_target * softplus(-stats.target) + of_others * stats.others_softplus


@explaining_calls
def sphereface2(
    alpha: ArrayLike = 0.7,
    r: ArrayLike = 40.0,
    m: Number = 0.4,
    t: Number = 3.0,
    lw: ArrayLike = 50.0,
    *,
    gradient: Gradient = "straight_through",
) -> MarginAndLoss:
    r"""SphereFace2: every class against the rest, as many yes-or-no questions.

    $$\begin{gathered} \frac{\lambda}{r} \Bigl(\alpha \log(1 + e^{-z_y}) + (1 - \alpha)
    \sum_{j \ne y} \log(1 + e^{z_j})\Bigr), \\ z_y = r\,(g(\cos\theta_y) - m) + b, \quad
    z_j = r\,(g(\cos\theta_j) + m) + b, \quad g(c) = 2 \Bigl(\frac{c + 1}{2}\Bigr)^t - 1
    \end{gathered}$$

    The classes do not compete, so labels may be wrong for some of them. It needs the bias b, one
    for all classes, learned from `sphereface2_bias` on: `bias=jnp.full(classes, b)`.

    Args:
      alpha: α, the weight of the true class's question.
      r: the scale.
      m: the margin, on both sides.
      t: what the similarity is bent by.
      lw: λ, a factor on the loss.
      gradient: "straight_through", the derivative of the cosine, as in the authors' code; or
        "exact", as in WeSpeaker.

    Returns:
      `MarginAndLoss`, for `linear_loss(..., head.loss, margin=head.margin, bias=...)`.

    Source: Wen et al., "SphereFace2", 2022, arXiv:2108.01513, eq. 8 and 9; numbers as in
    OpenSphere.

    Example:
      >>> x, w, y = jnp.eye(2), jnp.eye(2), jnp.array([0, 1])
      >>> head = js.sphereface2()
      >>> bias = jnp.full(2, js.sphereface2_bias(2))
      >>> js.linear_loss(x, w, y, head.loss, margin=head.margin, bias=bias)
      Array(12.1072, dtype=float32)
    """
    checked_choice("gradient", gradient, Gradient)
    share, factor = to_compute_dtype(alpha), to_compute_dtype(lw) / to_compute_dtype(r)
    factors = {"of_target": factor * share, "of_others": factor * (1 - share)}
    margin = _SphereFace2(m, t, r, gradient)
    return MarginAndLoss(margin, Partial(_against_the_rest, **factors))


@explaining_calls
def sphereface2_bias(
    num_classes: int,
    *,
    alpha: float = 0.7,
    r: float = 40.0,
    m: float = 0.4,
    t: float = 3.0,
) -> float:
    r"""The bias at which `sphereface2` starts with gradients that are in balance.

    $$b = \arg\min_b\; \alpha \log(1 + e^{-a_y - b}) + (1 - \alpha)(C - 1) \log(1 + e^{a_j + b}),
    \qquad a = r\,(2^{1-t} - 1 \mp m)$$

    That is the loss where all cosines are 0, as they are for random vectors.

    Args:
      num_classes: C, how many classes there are.
      alpha: α, the weight of the true class's question.
      r: the scale.
      m: the margin, on both sides.
      t: what the similarity is bent by.

    Returns:
      A Python number.

    Source: Wen et al., 2022, arXiv:2108.01513, appendix; the closed form of OpenSphere.

    Example:
      >>> round(js.sphereface2_bias(10000), 2)
      5.64
    """
    static_count("num_classes", num_classes, 2)
    z = alpha / ((1 - alpha) * (num_classes - 1))
    of_target, of_others = (r * (2 * 0.5**t - 1 + side * m) for side in (-1, 1))
    root = math.sqrt((1 - z) ** 2 + 4 * z * math.exp(of_target - of_others))
    return math.log(2 * z) - of_others - math.log(1 - z + root)


@explaining_calls
def uniface(m: Number = 0.4, scale: Number = 64.0) -> MarginAndLoss:
    r"""UniFace: one threshold for all classes, above which only the true one should be.

    $$\log(1 + e^{-z_y}) + \sum_{j \ne y} \log(1 + e^{z_j}), \qquad z_y = s\,(\cos\theta_y - m) + b,
    \quad z_j = s \cos\theta_j + b$$

    It needs the bias b, one for all classes (or one for each: "normalised binary cross-entropy"),
    learned from `uniface_bias` on: `bias=jnp.full(classes, b)`. s times the threshold is -b.

    Args:
      m: the margin.
      scale: s, a factor on all scores, after the margin.

    Returns:
      `MarginAndLoss`, for `linear_loss(..., head.loss, margin=head.margin, bias=...)`. The authors'
      code clips the logits to ±s, where the worst examples then have no gradient; here they have.

    Source: Zhou et al., "UniFace", 2023, ICCV, eq. 11.

    Example:
      >>> x, w, y = jnp.eye(2), jnp.eye(2), jnp.array([0, 1])
      >>> head = js.uniface()
      >>> bias = jnp.full(2, js.uniface_bias(2))
      >>> js.linear_loss(x, w, y, head.loss, margin=head.margin, bias=bias)
      Array(0.0488, dtype=float32)
    """
    loss = Partial(_against_the_rest, of_target=1.0, of_others=1.0)
    return MarginAndLoss(cosface(m, scale), loss)


@explaining_calls
def uniface_bias(num_classes: int, *, ratio: float = 1.0) -> float:
    r"""The bias at which `uniface` starts.

    $$b = -\log(10\,r\,C)$$

    Args:
      num_classes: C, how many classes there are.
      ratio: r, the share of the classes that a step has, with `sample_classes`.

    Returns:
      A Python number.

    Source: Zhou et al., 2023, ICCV; the authors' code, whose bias is subtracted.

    Example:
      >>> round(js.uniface_bias(10000), 2)
      -11.51
    """
    return -math.log(10 * ratio * static_count("num_classes", num_classes, 1))


@explaining_calls
def p2sgrad(stats: LogitStats) -> Array:
    r"""P2SGrad: gradients that are distances between cosines and what they should be.

    $$\sum_j (\cos\theta_j - [j = y])^2$$

    It has neither scale nor margin: with `margin=js.normface(1.0)`.

    Args:
      stats: of cosines; with `others_square`, as all functions of logits or features give them.

    Returns:
      `[...]`.

    Source: Zhang et al., "P2SGrad", 2019, arXiv:1905.02479, eq. 11, whose gradient is half of this
    one; nii-yamagishilab's and pytorch-metric-learning's code divide by the number of classes.

    Example:
      >>> x, w, y = jnp.array([[0.6, 0.8]]), jnp.eye(2), jnp.array([0])
      >>> js.linear_loss(x, w, y, js.p2sgrad, margin=js.normface(1.0))
      Array(0.8, dtype=float32)
    """
    if stats.others_square is None:
        raise ValueError("`stats`: expected LogitStats with `others_square`, got some without.")
    return jnp.square(stats.target - 1) + stats.others_square


@on_any_mesh(same_everywhere)
def adacos_scale(
    stats: LogitStats, scale: ArrayLike, num_classes: int, *, axis_name: MeshAxes = None
) -> Array:
    r"""AdaCos: the scale at which an example in the middle of the batch has the steepest loss.

    $$s \leftarrow \frac{\log\bigl(\frac1N \sum_i \sum_{j \ne y_i} e^{s \cos\theta_{ij}}\bigr)}
    {\cos(\min(\pi/4, \mathrm{median}_i\,\theta_{i y_i}))}, \qquad s_0 = \sqrt2 \log(C - 1)$$

    Call it before the loss, with stats of `margin=js.normface(scale)`.

    Args:
      stats: of the batch at the old scale, fields `[...]`.
      scale: the old s, or None for s0, which needs no stats.
      num_classes: C, how many classes there are.
      axis_name: inside `shard_map`, the mesh axis, or axes, over which the examples are sharded.

    Returns:
      The new s, a constant; without examples the old one. Of an even number of angles the lower one
      in the middle counts, as in torch.

    Source: Zhang et al., "AdaCos", 2019, arXiv:1905.00292, eq. 10 and 15.

    Example:
      >>> x, w, y = jnp.eye(3), jnp.eye(3), jnp.arange(3)
      >>> stats = js.linear_stats(x, w, y, margin=js.normface(10.0))
      >>> js.adacos_scale(stats, 10.0, 3)
      Array(0.6931, dtype=float32)
    """
    if scale is None:
        return jnp.asarray(math.sqrt(2) * math.log(static_count("num_classes", num_classes, 3) - 1))
    check_bound_axis("axis_name", axis_name)
    score, others = (lax.stop_gradient(x).reshape(-1) for x in (stats.score, stats.others))
    if axis_name is not None:
        score, others = (all_gather_unvarying(x, axis_name) for x in (score, others))
    cosine = jnp.clip(score / jnp.asarray(scale, score.dtype), -1, 1)
    if not score.size:
        return jnp.asarray(scale, score.dtype)
    # The median angle is that of the median cosine: the lower angle in the middle the higher one.
    middle = jnp.sort(cosine)[cosine.size // 2]
    log_average = logsumexp(others) - math.log(others.size)
    return log_average / jnp.maximum(middle, math.sqrt(0.5))
