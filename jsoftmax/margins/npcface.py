"""NPCFace: a margin that needs the mean over all hard classes before the true one has its score."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core.calls import explaining_calls
from jsoftmax.margins.angular import plus_angle, with_angle
from jsoftmax.margins.per_example import Number, radians
from jsoftmax.margins.record import record


@record
class NPCFace:
    """See `npcface`."""

    margin: Any
    slope: Any
    t: Any
    a: Any
    scale: Any
    mask_margin: Any

    def _hard(self, c_j, c_y):
        return c_j > plus_angle(c_y, self.mask_margin)

    def summary(self, c_j: Array, c_y: Array) -> tuple[Array, Array]:
        hard = self._hard(c_j, c_y)
        return jnp.sum(jnp.where(hard, c_j, 0), -1), jnp.sum(hard.astype(c_j.dtype), -1)

    def join(self, a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return jax.tree.map(jnp.add, a, b)

    def target(self, c_y: Array, summary: tuple[Array, Array]) -> Array:
        total, count = summary
        mean = total / jnp.maximum(count, 1)
        return with_angle(c_y, self.margin + self.slope * mean, "easy")

    def others(self, c_j: Array, c_y: Array) -> Array:
        return jnp.where(self._hard(c_j, c_y), self.t * c_j + self.a, c_j)


@explaining_calls
def npcface(
    margin: Number = 0.4,
    slope: Number = 0.2,
    t: Number = 1.1,
    a: Number = 0.2,
    scale: Number = 64.0,
    *,
    mask_margin: Number = 0.5,
) -> NPCFace:
    r"""NPCFace: hard classes are raised, and the margin grows with their mean cosine.

    $$z_y = s \cos(\theta_y + m_0 + m_1 \bar c), \qquad z_j = s \begin{cases} t \cos\theta_j + a &
    j \in H \\ \cos\theta_j & \text{else} \end{cases}, \qquad H = \{j \ne y: \cos\theta_j >
    \cos(\theta_y + m)\}$$

    $\bar c$ is the mean cosine over H, 0 if that is empty; a constant. Where the true class's
    cosine is not positive it has no margin.

    Args:
      margin: m0, in radians.
      slope: m1, by how much the margin grows with the mean cosine of the hard classes.
      t: a factor on the cosines of hard classes.
      a: what is added to them.
      scale: s, a factor on all scores, after the margin.
      mask_margin: m, in radians, which says what is hard.

    Returns:
      A frozen dataclass for `margin=` of a `linear_*` function. For the mean over all classes the
      evaluators go over them once more, and keep the products of fewer examples.

    Source: Zeng et al., "NPCFace", 2020, arXiv:2007.10172; defaults as in FaceX-Zoo.

    Example:
      >>> x, w = jnp.array([[0.6, 0.8]]), jnp.eye(2)
      >>> js.linear_logits(x, w, jnp.array([0]), margin=js.npcface(scale=10.0))
      Array([[ 0.834, 10.8  ]], dtype=float32)
    """
    return NPCFace(
        radians("margin", margin), slope, t, a, scale, radians("mask_margin", mask_margin)
    )
