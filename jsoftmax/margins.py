r"""Class scores to class scores with a margin on the true class.

Every margin here is one function of the angle θ between a feature and its class vector, and changes
the true class's score only:

    φ(θ) = (-1)^k cos(a) - 2k - m3        a = m1 θ + m2        k = floor(a / π)

For a <= π this is cos(m1 θ + m2) - m3. Past π a bare cosine would rise again and reward a feature
for turning away; each half turn is therefore mirrored and lowered by 2, which makes φ fall
everywhere, continuously and with a continuous slope. For m2 = m3 = 0 and integer m1 it is the ψ of
L-Softmax and A-Softmax; it gives ArcFace, CosFace and their combinations the continuation that they
leave open.

The presets differ in m1, m2, m3 and in what is normalised:

    preset            φ                    scores of the other classes
    modified_softmax  cos θ                |x| cos θ_j
    l_softmax         ψ(θ)                 |w_j| |x| cos θ_j
    a_softmax         ψ(θ)                 |x| cos θ_j
    normface          cos θ                s cos θ_j
    cosface           cos θ - m            s cos θ_j
    arcface           cos(θ + m)           s cos θ_j
    combined_margin   cos(m1 θ + m2) - m3  s cos θ_j
    ldam              cos θ - m_y          s cos θ_j
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax import checks
from jsoftmax.maps import straight_through
from jsoftmax.numerics import like, promote

__all__ = [
    "AngularMargin",
    "a_softmax",
    "am_softmax",
    "angular_margin",
    "arcface",
    "combined_margin",
    "cosface",
    "l_softmax",
    "ldam",
    "modified_softmax",
    "normface",
]

_static = partial(dataclasses.field, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AngularMargin:
    r"""A margin on the angle to the true class vector; made by the presets and `angular_margin`.

    $$\varphi(\theta) = (-1)^k \cos a - 2k - m_3, \qquad a = m_1 \theta + m_2,\; k = \lfloor a/\pi
    \rfloor$$

    A frozen pytree: the numbers are leaves, so they can be traced, scheduled and learned; the other
    fields are static.

    Args:
      m1, m2, m3: factor on the angle, angle added (radians), and cosine subtracted. Each, and
        `anneal`, may be an array `[classes]`: the evaluators take the number of the true class.
      scale: factor on all scores, after the margin.
      anneal: λ >= 0; the target is $(\lambda \cos\theta + \varphi) / (1 + \lambda)$.
      normalize_features, normalize_weight: whether scores use the unit vector in place of the
        feature, and of each class vector.
      gradient: "exact", or "straight_through" for the derivative of cos θ in place of that of φ.

    Source: Deng et al., "ArcFace", 2019, arXiv:1801.07698, eq. 4; the continuation past π: Liu et
    al., 2016, arXiv:1612.02295, eq. 5 and 6.

    Example:
      >>> js.arcface()(jnp.array([0.5, -0.9]))
      Array([ 0.0236, -1.0012], dtype=float32)
    """

    m1: ArrayLike = 1.0
    m2: ArrayLike = 0.0
    m3: ArrayLike = 0.0
    scale: ArrayLike = 1.0
    anneal: ArrayLike = 0.0
    normalize_features: bool = _static(default=True)
    normalize_weight: bool = _static(default=True)
    gradient: str = _static(default="exact")

    def __call__(self, cosine: ArrayLike) -> Array:
        """Return φ, annealed, of the cosine to the true class vector, for any shape."""
        c = promote(cosine)
        phi = _continued_cosine(c, like(self.m1, c), like(self.m2, c), _multiple(self.m1))
        phi = phi - like(self.m3, c)
        anneal = like(self.anneal, c)
        phi = (anneal * c + phi) / (1 + anneal)
        if self.gradient == "straight_through":
            return straight_through(phi, c)
        return phi


def angular_margin(
    m1: ArrayLike = 1.0,
    m2: ArrayLike = 0.0,
    m3: ArrayLike = 0.0,
    *,
    scale: ArrayLike = 64.0,
    gradient: str = "exact",
) -> AngularMargin:
    r"""The general margin on unit features and unit class vectors.

    $$z_y = s\,\bigl((-1)^k \cos(m_1 \theta_y + m_2) - 2k - m_3\bigr), \qquad z_j = s \cos
    \theta_j$$

    Args:
      m1: factor on the angle. A whole number that is known while tracing is a polynomial in the
        cosine, which needs no inverse cosine.
      m2: angle added, in radians.
      m3: cosine subtracted.
      scale: s.
      gradient: "exact" follows φ, whose slope is sin(a)/sin(θ), and vanishes where the angle
        crosses a multiple of π. "straight_through" takes the slope of the plain cosine instead: a
        steadier signal that some implementations prefer.

    Returns:
      An `AngularMargin`, for `margin=` of an evaluator such as `linear_logits`.

    Source: Deng et al., 2019, arXiv:1801.07698, eq. 4. Straight-through: "characteristic gradient
    detachment" in Liu et al., "SphereFace revived", 2022, arXiv:2109.05565.

    Example:
      >>> js.angular_margin(1.0, 0.3, 0.2)(jnp.array([0.5, -0.99]))
      Array([ 0.0217, -1.2125], dtype=float32)
    """
    if gradient not in ("exact", "straight_through"):
        raise ValueError(f'`gradient`: expected "exact" or "straight_through", got {gradient!r}.')
    return AngularMargin(m1, m2, m3, scale=scale, gradient=gradient)


def modified_softmax() -> AngularMargin:
    r"""Unit class vectors, no margin: only the angle and the feature's norm decide.

    $$z_j = \|x\| \cos \theta_j$$

    Returns:
      An `AngularMargin`.

    Source: Liu et al., "SphereFace", 2017, arXiv:1704.08063, section 3.1.

    Example:
      >>> js.linear_logits(jnp.array([3.0, 4.0]), 2 * jnp.eye(2), margin=js.modified_softmax())
      Array([3., 4.], dtype=float32)
    """
    return AngularMargin(normalize_features=False)


def normface(scale: ArrayLike = 20.0) -> AngularMargin:
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


def l_softmax(m: ArrayLike = 4, anneal: ArrayLike = 0.0) -> AngularMargin:
    r"""L-Softmax: a multiplied angle, with the norms of features and class vectors kept.

    $$z_y = \|w_y\| \|x\| \frac{\lambda \cos\theta_y + \psi(\theta_y)}{1 + \lambda}, \qquad
    z_j = w_j^\top x$$

    Args:
      m: factor on the angle, a whole number in the paper.
      anneal: λ. Hard data needs it large at first (1000) and falling to 5 or so; may be traced.

    Returns:
      An `AngularMargin`.

    Source: Liu et al., "Large-margin softmax loss", 2016, arXiv:1612.02295, eq. 4 to 6.

    Example:
      >>> js.l_softmax(2)(jnp.array([0.5, -1.0]))
      Array([-0.5, -3. ], dtype=float32)
    """
    checks.at_least("anneal", anneal, 0)
    return AngularMargin(m, anneal=anneal, normalize_features=False, normalize_weight=False)


def a_softmax(m: ArrayLike = 4, anneal: ArrayLike = 0.0) -> AngularMargin:
    r"""A-Softmax, SphereFace: a multiplied angle, unit class vectors, the feature's norm kept.

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
    checks.at_least("anneal", anneal, 0)
    return AngularMargin(m, anneal=anneal, normalize_features=False)


def am_softmax(margin: ArrayLike = 0.35, scale: ArrayLike = 30.0) -> AngularMargin:
    r"""AM-Softmax: a margin subtracted from the cosine. `cosface` with another default scale.

    $$z_y = s\,(\cos\theta_y - m), \qquad z_j = s \cos\theta_j$$

    Args:
      margin: m.
      scale: s.

    Returns:
      An `AngularMargin`.

    Source: Wang et al., "Additive margin softmax", 2018, arXiv:1801.05599, eq. 6.

    Example:
      >>> js.am_softmax()(jnp.array(0.5))
      Array(0.15, dtype=float32)
    """
    return AngularMargin(m3=margin, scale=scale)


def cosface(margin: ArrayLike = 0.35, scale: ArrayLike = 64.0) -> AngularMargin:
    r"""CosFace (large-margin cosine loss): a margin subtracted from the cosine.

    $$z_y = s\,(\cos\theta_y - m), \qquad z_j = s \cos\theta_j$$

    Args:
      margin: m.
      scale: s.

    Returns:
      An `AngularMargin`.

    Source: Wang et al., "CosFace", 2018, arXiv:1801.09414, eq. 4.

    Example:
      >>> js.cosface()(jnp.array(0.5))
      Array(0.15, dtype=float32)
    """
    return AngularMargin(m3=margin, scale=scale)


def arcface(margin: ArrayLike = 0.5, scale: ArrayLike = 64.0) -> AngularMargin:
    r"""ArcFace: an angle added to the angle of the true class.

    $$z_y = s \cos(\theta_y + m), \qquad z_j = s \cos\theta_j$$

    Args:
      margin: m, in radians.
      scale: s.

    Returns:
      An `AngularMargin`. Beyond θ = π - m it goes on falling, as the module's head describes; the
      paper's formula rises again there.

    Source: Deng et al., "ArcFace", 2019, arXiv:1801.07698, eq. 3.

    Example:
      >>> js.arcface()(jnp.array(0.5))
      Array(0.0236, dtype=float32)
    """
    return AngularMargin(m2=margin, scale=scale)


def combined_margin(
    m1: ArrayLike = 1.0, m2: ArrayLike = 0.3, m3: ArrayLike = 0.2, scale: ArrayLike = 64.0
) -> AngularMargin:
    r"""The three margins of SphereFace, ArcFace and CosFace together.

    $$z_y = s\,\bigl(\cos(m_1 \theta_y + m_2) - m_3\bigr), \qquad z_j = s \cos\theta_j$$

    Args:
      m1: factor on the angle.
      m2: angle added, in radians.
      m3: cosine subtracted.
      scale: s.

    Returns:
      An `AngularMargin`, the same as `angular_margin` with the paper's defaults (CM1).

    Source: Deng et al., 2019, arXiv:1801.07698, eq. 4 and table 2.

    Example:
      >>> js.combined_margin()(jnp.array(0.5))
      Array(0.0217, dtype=float32)
    """
    return AngularMargin(m1, m2, m3, scale=scale)


def ldam(
    class_counts: ArrayLike, max_margin: ArrayLike = 0.5, scale: ArrayLike = 30.0
) -> AngularMargin:
    r"""Label-distribution-aware margin: larger for classes with fewer examples.

    $$z_y = s\,(\cos\theta_y - m_y), \qquad m_j = m\,(\min_k n_k / n_j)^{1/4}, \qquad z_j = s
    \cos\theta_j$$

    Args:
      class_counts: `[classes]`, how many examples each class has. A class of count 0 gets the
        largest margin.
      max_margin: m, the margin of the rarest class.
      scale: s.

    Returns:
      An `AngularMargin` with a margin for every class.

    Source: Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss",
    2019, arXiv:1906.07413, eq. 11 and 13; m = 0.5 and s = 30 as in the authors' code. The paper
    adds class weights, `class_balanced_weights`, late in training.

    Example:
      >>> js.ldam(jnp.array([1600, 100])).m3
      Array([0.25, 0.5 ], dtype=float32)
    """
    counts = jnp.asarray(class_counts)
    if counts.ndim != 1:
        raise AssertionError(f"`class_counts`: expected shape (classes,), got {counts.shape}.")
    checks.at_least("class_counts", class_counts, 0)
    n = promote(counts)
    n = jnp.where(n >= 0, n, jnp.nan)
    some = n != 0
    rarest = jnp.min(jnp.where(some, n, jnp.inf))
    share = jnp.where(some, rarest / jnp.where(some, n, 1), 1)
    return AngularMargin(m3=like(max_margin, share) * share**0.25, scale=scale)


def _multiple(m1):
    """Return m1 as an int if it is known and whole, so that cos(m1 θ) is a polynomial; or None."""
    if checks.is_concrete(m1) and jnp.ndim(m1) == 0 and float(m1).is_integer() and float(m1) > 0:
        return int(m1)
    return None


def _chebyshev(c, n):
    """Return cos(nθ) and sin(nθ)/sin(θ), polynomials in c = cos θ, for a whole n >= 1.

    T(n+1) = 2c T(n) - T(n-1) and the same for U; in float32 more accurate than cos(n arccos c).
    """
    t, t_next = jnp.ones_like(c), c
    u, u_next = jnp.zeros_like(c), jnp.ones_like(c)
    for _ in range(n - 1):
        t, t_next = t_next, 2 * c * t_next - t
        u, u_next = u_next, 2 * c * u_next - u
    return t_next, u_next


def _turned(c, sine, m1, m2, multiple):
    """Return cos(a) and sin(a) of a = m1 θ + m2, for cos θ = c and sin θ = sine."""
    if multiple is None:
        a = m1 * jnp.arctan2(sine, c) + m2
        return jnp.cos(a), jnp.sin(a)
    cos_m, ratio = _chebyshev(c, multiple)
    sin_m = ratio * sine
    cos_2, sin_2 = jnp.cos(m2), jnp.sin(m2)
    return cos_m * cos_2 - sin_m * sin_2, sin_m * cos_2 + cos_m * sin_2


def _half_turns(c, sine, m1, m2):
    k = jnp.floor((m1 * jnp.arctan2(sine, c) + m2) / jnp.pi)
    return k, 1 - 2 * jnp.mod(k, 2)


def _sine(c, least):
    # (1 - c)(1 + c) is exact near |c| = 1 where 1 - c² cancels.
    return jnp.sqrt(jnp.maximum((1 - c) * (1 + c), least**2))


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _continued_cosine(c, m1, m2, multiple):
    """Return (-1)^k cos(a) - 2k; a rounded cosine outside [-1, 1] counts as ±1."""
    c = jnp.clip(c, -1, 1)
    sine = _sine(c, 0)
    cos_a, _ = _turned(c, sine, m1, m2, multiple)
    k, sign = _half_turns(c, sine, m1, m2)
    return sign * cos_a - 2 * k


@_continued_cosine.defjvp
def _continued_cosine_jvp(multiple, primals, tangents):
    # With dθ/dc = -1 / sin θ, and k constant between multiples of π, where sin(a) is zero:
    #   dφ = (-1)^k sin(a) (m1 dc / sin θ - θ dm1 - dm2)
    # At c = ±1 the slope is singular for m2 != 0, but it multiplies dc/dx = O(sin θ): any finite
    # value serves. Taking sin θ >= sqrt(eps), the sine of the float next to 1, gives a finite one,
    # and leaves every other c as it is. k is recomputed from a stopped gradient: it has none.
    (c, m1, m2), (dc, dm1, dm2) = primals, tangents
    phi = _continued_cosine(c, m1, m2, multiple)
    c = jnp.clip(c, -1, 1)
    sine = _sine(c, float(jnp.finfo(c.dtype).eps) ** 0.5)
    _, sin_a = _turned(c, sine, m1, m2, multiple)
    _, sign = lax.stop_gradient(_half_turns(c, sine, m1, m2))
    theta = jnp.arctan2(sine, c)
    return phi, sign * sin_a * (m1 / sine * dc - theta * dm1 - dm2)
