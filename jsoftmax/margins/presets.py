"""The published margins as parameters of `AngularMargin`.

preset            φ                    scores of the other classes
modified_softmax  cos θ                |x| cos θ_j
l_softmax         ψ(θ)                 |w_j| |x| cos θ_j
a_softmax         ψ(θ)                 |x| cos θ_j
normface          cos θ                s cos θ_j
cosface           cos θ - m            s cos θ_j
arcface           cos(θ + m)           s cos θ_j
combined_margin   cos(m1 θ + m2) - m3  s cos θ_j
ldam              cos θ - m_y          s cos θ_j

Each of their numbers may be `PerExample`, one for every example, but for the largest margin of
`ldam`.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike

from jsoftmax.core.calls import explaining_calls
from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.numbers import at_least
from jsoftmax.margins.angular import AngularMargin
from jsoftmax.margins.per_example import Number, PerExample, radians


@explaining_calls
def modified_softmax() -> AngularMargin:
    r"""Unit class vectors, no margin: the score depends on the angle and the feature's norm.

    $$z_j = \|x\| \cos \theta_j$$

    Returns:
      An `AngularMargin`.

    Source: Liu et al., "SphereFace", 2017, arXiv:1704.08063, section 3.1.

    Example:
      >>> js.linear_logits(jnp.array([3.0, 4.0]), 2 * jnp.eye(2), margin=js.modified_softmax())
      Array([3., 4.], dtype=float32)
    """
    return AngularMargin(normalize_features=False)


@explaining_calls
def normface(scale: Number = 20.0) -> AngularMargin:
    r"""Unit features and unit class vectors, no margin.

    $$z_j = s \cos \theta_j$$

    Args:
      scale: s; may be traced, and so learned.

    Returns:
      An `AngularMargin`.

    Source: Wang et al., "NormFace", 2017, arXiv:1704.06369, eq. 6; s = 20: the best without a
    margin in Deng et al., 2019, arXiv:1801.07698v4, table 2.

    Example:
      >>> js.linear_logits(jnp.array([3.0, 4.0]), jnp.eye(2), margin=js.normface(10.0))
      Array([6., 8.], dtype=float32)
    """
    return AngularMargin(scale=scale)


@explaining_calls
def l_softmax(m: Number = 4, anneal: Number = 0.0) -> AngularMargin:
    r"""L-Softmax: the angle multiplied, with features and class vectors unnormalised.

    $$z_y = \|w_y\| \|x\| \frac{\lambda \cos\theta_y + \psi(\theta_y)}{1 + \lambda}, \qquad
    z_j = w_j^\top x$$

    Args:
      m: factor on the angle, a whole number in the paper.
      anneal: λ. On hard data start large (1000) and decay to about 5; may be traced.

    Returns:
      An `AngularMargin`.

    Source: Liu et al., "Large-margin softmax loss", 2016, arXiv:1612.02295, eq. 4 to 6.

    Example:
      >>> js.l_softmax(2)(jnp.array([0.5, -1.0]))
      Array([-0.5, -3. ], dtype=float32)
    """
    anneal = _checked_anneal(anneal)
    return AngularMargin(m, anneal=anneal, normalize_features=False, normalize_weight=False)


@explaining_calls
def a_softmax(m: Number = 4, anneal: Number = 0.0) -> AngularMargin:
    r"""A-Softmax (SphereFace): the angle multiplied, unit class vectors, features unnormalised.

    $$z_y = \|x\| \frac{\lambda \cos\theta_y + \psi(\theta_y)}{1 + \lambda}, \qquad
    z_j = \|x\| \cos\theta_j$$

    Args:
      m: factor on the angle, a whole number in the paper.
      anneal: λ. The paper's training lowers it from 1000 to 5; may be traced.

    Returns:
      An `AngularMargin`.

    Source: Liu et al., "SphereFace", 2017, arXiv:1704.08063, eq. 7.

    Example:
      >>> js.a_softmax(4)(jnp.array([0.5, 0.0]))
      Array([-1.5, -3. ], dtype=float32)
    """
    anneal = _checked_anneal(anneal)
    return AngularMargin(m, anneal=anneal, normalize_features=False)


@explaining_calls
def am_softmax(margin: Number = 0.35, scale: Number = 30.0) -> AngularMargin:
    r"""AM-Softmax: a margin subtracted from the cosine; `cosface` with another default scale.

    $$z_y = s\,(\cos\theta_y - m), \qquad z_j = s \cos\theta_j$$

    Args:
      margin: m, subtracted from the cosine of the true class.
      scale: s, a factor on all scores, after the margin.

    Returns:
      An `AngularMargin`.

    Source: Wang et al., "Additive margin softmax", 2018, arXiv:1801.05599, eq. 6.

    Example:
      >>> js.am_softmax()(jnp.array(0.5))
      Array(0.15, dtype=float32)
    """
    return AngularMargin(m3=margin, scale=scale)


@explaining_calls
def cosface(margin: Number = 0.35, scale: Number = 64.0) -> AngularMargin:
    r"""CosFace (large-margin cosine loss): a margin subtracted from the cosine.

    $$z_y = s\,(\cos\theta_y - m), \qquad z_j = s \cos\theta_j$$

    Args:
      margin: m, subtracted from the cosine of the true class.
      scale: s, a factor on all scores, after the margin.

    Returns:
      An `AngularMargin`.

    Source: Wang et al., "CosFace", 2018, arXiv:1801.09414, eq. 4.

    Example:
      >>> js.cosface()(jnp.array(0.5))
      Array(0.15, dtype=float32)
    """
    return AngularMargin(m3=margin, scale=scale)


@explaining_calls
def arcface(margin: Number = 0.5, scale: Number = 64.0) -> AngularMargin:
    r"""ArcFace: an angle added to the angle of the true class.

    $$z_y = s \cos(\theta_y + m), \qquad z_j = s \cos\theta_j$$

    Args:
      margin: m, in radians.
      scale: s, a factor on all scores, after the margin.

    Returns:
      An `AngularMargin`. Beyond θ = π - m, where the paper's formula would rise again, it keeps
      decreasing: see `AngularMargin`.

    Source: Deng et al., "ArcFace", 2019, arXiv:1801.07698, eq. 3.

    Example:
      >>> js.arcface()(jnp.array(0.5))
      Array(0.0236, dtype=float32)
    """
    return AngularMargin(m2=radians("margin", margin), scale=scale)


@explaining_calls
def combined_margin(
    m1: Number = 1.0, m2: Number = 0.3, m3: Number = 0.2, scale: Number = 64.0
) -> AngularMargin:
    r"""The three margins of SphereFace, ArcFace and CosFace together.

    $$z_y = s\,\bigl(\cos(m_1 \theta_y + m_2) - m_3\bigr), \qquad z_j = s \cos\theta_j$$

    Args:
      m1: factor on the angle.
      m2: angle added, in radians.
      m3: cosine subtracted.
      scale: s, a factor on all scores, after the margin.

    Returns:
      An `AngularMargin`: `angular_margin` with the paper's defaults (CM1).

    Source: Deng et al., 2019, arXiv:1801.07698, eq. 4 and table 2.

    Example:
      >>> js.combined_margin()(jnp.array(0.5))
      Array(0.0217, dtype=float32)
    """
    return AngularMargin(m1, radians("m2", m2), m3, scale=scale)


@explaining_calls
def ldam(
    class_counts: ArrayLike, max_margin: ArrayLike = 0.5, scale: Number = 30.0
) -> AngularMargin:
    r"""Label-distribution-aware margin: larger for classes with fewer examples.

    $$z_y = s\,(\cos\theta_y - m_y), \qquad m_j = m\,(\min_k n_k / n_j)^{1/4}, \qquad z_j = s
    \cos\theta_j$$

    Args:
      class_counts: `[classes]`, the number of examples of each class. A class of count 0 gets the
        largest margin.
      max_margin: m, the margin of the rarest class.
      scale: s, a factor on all scores, after the margin.

    Returns:
      An `AngularMargin` with one margin per class.

    Source: Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss",
    2019, arXiv:1906.07413, eq. 11 and 13; m = 0.5 and s = 30 as in the authors' code. The paper
    adds class weights, `class_balanced_weights`, late in training.

    Example:
      >>> js.ldam(jnp.array([1600, 100])).m3
      Array([0.25, 0.5 ], dtype=float32)
    """
    if isinstance(max_margin, PerExample):
        raise TypeError(
            "`max_margin`: expected one number, got PerExample: the margin is one by class."
        )
    n = to_compute_dtype(at_least("class_counts", class_counts, 0))
    if n.ndim != 1:
        raise AssertionError(f"`class_counts`: expected shape (classes,), got {n.shape}.")
    some = n != 0
    rarest = jnp.min(n, where=some, initial=jnp.inf)
    share = jnp.where(some, rarest / jnp.where(some, n, 1), 1)
    return AngularMargin(m3=cast_like(max_margin, share) * share**0.25, scale=scale)


def _checked_anneal(anneal):
    if isinstance(anneal, PerExample):
        return PerExample(at_least("anneal", anneal.values, 0))
    return at_least("anneal", anneal, 0)
