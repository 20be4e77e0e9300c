"""Heads around a margin: several vectors for a class, and the hardest of the other classes."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.arguments import as_logits, check_shape, integer_labels
from jsoftmax.core.calls import explaining_calls
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.core.norms import cosine
from jsoftmax.core.numbers import static_count
from jsoftmax.core.top_k import top_k
from jsoftmax.margins.angles import angle
from jsoftmax.margins.angular import plus_angle
from jsoftmax.margins.form import (
    Margin,
    call,
    changes_others,
    check_is_margin,
    has_summary,
    similarity,
)
from jsoftmax.margins.per_example import Number, radians
from jsoftmax.margins.record import record, static


class _Around:
    """What is not said here is as in the margin inside."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        margin: Any = object.__getattribute__(self, "margin")
        return getattr(margin, name)


@record
class SubCenter(_Around):
    """See `sub_center`."""

    margin: Any
    centers: int = static()

    @property
    def target(self) -> Callable[..., Any]:
        return self.margin.target


@record
class InterTopK(_Around):
    """See `inter_top_k`."""

    margin: Any
    k: int = static()
    penalty: Any

    def summary(self, c_j: Array, c_y: Array, norm: Array | None) -> Any:
        largest = self._largest(c_j)
        if not has_summary(self.margin):
            return largest, None
        return largest, call(self.margin.summary, c_j, c_y, norm=norm)

    def join(self, a: Any, b: Any) -> Any:
        largest = self._largest(jnp.concatenate([a[0], b[0]], -1))
        return largest, self.margin.join(a[1], b[1]) if has_summary(self.margin) else None

    def _largest(self, c):
        """Return the k + 1 largest, -inf where there are fewer."""
        found, _ = top_k(c, min(self.k + 1, c.shape[-1]))
        fewer = [(0, 0)] * (c.ndim - 1) + [(0, self.k + 1 - found.shape[-1])]
        return jnp.pad(found, fewer, constant_values=-jnp.inf)

    def others(self, c_j: Array, c_y: Array, summary: Any, norm: Array | None) -> Array:
        largest, of_margin = summary
        # Half way between the k-th and the next, where rounding does not matter.
        bar = (largest[..., self.k - 1] + largest[..., self.k]) / 2
        plain = similarity(self.margin, c_j)
        if changes_others(self.margin):
            plain = call(self.margin.others, c_j, c_y, norm=norm, summary=of_margin)
        return jnp.where(c_j >= bar, plus_angle(c_j, -self.penalty), plain)

    def target(self, c_y: Array, summary: Any = None, norm: Array | None = None) -> Array:
        of_margin = None if summary is None else summary[1]
        return call(self.margin.target, c_y, norm=norm, summary=of_margin)


@explaining_calls
def sub_center(margin: Margin, centers: int = 3) -> SubCenter:
    r"""Sub-centers: a class has several vectors, and the nearest counts.

    $$\cos\theta_j = \max_k \frac{w_{jk}^\top x}{\|w_{jk}\| \|x\|}$$

    Then the margin. Mislabelled and unusual examples gather at vectors of their own, and do not
    pull at the others: see `nearest_center`.

    Args:
      margin: such as `arcface()`, of unit features and class vectors.
      centers: K, how many vectors a class has. 3 in the paper; with many more the classes fall
        apart.

    Returns:
      A frozen dataclass for `margin=` of a `linear_*` function, whose weight is then `[classes,
      centers, features]`. The nearest vector gets the gradient; equal ones share it.

    Source: Deng et al., "Sub-center ArcFace", 2020, ECCV, eq. 2 and section 3.3.

    Example:
      >>> x, w = jnp.array([[0.6, 0.8]]), jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
      >>> js.linear_logits(x, w, margin=js.sub_center(js.normface(10.0), 2))
      Array([[8.]], dtype=float32)
    """
    check_is_margin(margin)
    return SubCenter(margin, static_count("centers", centers, 1))


@explaining_calls
def inter_top_k(margin: Margin, k: int = 5, penalty: Number = 0.06) -> InterTopK:
    r"""Inter-top-k: the hardest other classes of an example have a margin of their own.

    $$z_j = s \begin{cases} \cos(\theta_j - m') & \text{for the } k \text{ largest } \cos\theta_j,\;
    j \ne y \\ \cos\theta_j & \text{for the others} \end{cases}$$

    Args:
      margin: such as `arcface(0.2, 32.0)` or, for both, `sub_center(arcface(0.2, 32.0))`.
      k: how many, at most as many as there are other classes. Of equal cosines at the limit all
        are.
      penalty: m', in radians. WeSpeaker's is for a margin of 0.2, and in proportion to it while
        that is raised: 0.3 m; it is switched off for fine-tuning with a large margin.

    Returns:
      A frozen dataclass for `margin=` of a `linear_*` function. To find the largest of all classes
      the evaluators go over them once more, and keep the products of fewer examples.

    Source: Zhao et al., "Multi-query multi-head attention pooling and inter-topK penalty for
    speaker verification", 2021, arXiv:2110.05042, section 3; numbers as in WeSpeaker.

    Example:
      >>> x, w = jnp.array([[0.6, 0.8]]), jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
      >>> margin = js.inter_top_k(js.normface(10.0), k=1, penalty=0.1)
      >>> js.linear_logits(x, w, jnp.array([0]), margin=margin)
      Array([[ 6.   ,  8.559, -8.   ]], dtype=float32)
    """
    check_is_margin(margin)
    return InterTopK(margin, static_count("k", k, 1), radians("penalty", penalty))


@on_any_mesh(without_classes("features"))
def nearest_center(
    features: ArrayLike, weight: ArrayLike, labels: ArrayLike
) -> tuple[Array, Array]:
    r"""Which vector of its class an example is nearest to, and its angles to all of them.

    $$k_i = \arg\min_k \theta_{i k}, \qquad \theta_{ik} = \angle(x_i, w_{y_i k})$$

    The vector that owns most examples of a class is its dominant one. Those at more than 75 degrees
    from that are probably mislabelled: drop them, and train once more with one vector a class.

    Args:
      features: `[..., features]`, those of the batch, before any normalisation.
      weight: `[classes, centers, features]`, trained with `sub_center`.
      labels: integers `[...]`.

    Returns:
      Integers `[...]`, and angles `[..., centers]` in radians, NaN for a label outside [0,
      classes).

    Source: Deng et al., "Sub-center ArcFace", 2020, ECCV, section 3.4.

    Example:
      >>> x, w = jnp.array([[0.6, 0.8]]), jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
      >>> js.nearest_center(x, w, jnp.array([0]))
      (Array([1], dtype=int32), Array([[0.9273, 0.6435]], dtype=float32))
    """
    x, w = as_logits(features, "features"), as_logits(weight, "weight")
    y = integer_labels(labels)
    check_shape("labels", y, x.shape[:-1], "an integer class for every example")
    expected = (*w.shape[:1], *(w.shape[1:2] or (1,)), x.shape[-1])
    check_shape("weight", w, expected, "classes by centers by features")
    known = (y >= 0) & (y < w.shape[0])
    c = cosine(x[..., None, :], w.at[y].get(mode="clip"))
    return jnp.argmax(c, -1), jnp.where(known[..., None], angle(c), jnp.nan)
