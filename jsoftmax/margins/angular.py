"""A margin as one function of the angle θ between a feature and its class vector.

    φ(θ) = (-1)^k cos(a) - 2k - m3        a = m1 θ + m2        k = floor(a / π)

It changes only the score of the true class. For a <= π it is cos(m1 θ + m2) - m3. Past π a plain
cosine would rise again and reward a feature for turning away. Each further half turn is therefore
mirrored and lowered by 2, so that φ decreases everywhere and has a continuous slope. For integer m1
and m2 = m3 = 0 it is the ψ of L-Softmax and A-Softmax; ArcFace, CosFace and their combinations do
not define a continuation, and get this one. `beyond` has those of other libraries, for who goes on
with what was trained there:

    continue   ours
    linear     c - m2 sin m2 for a >= π        insightface, pytorch-metric-learning, CurricularFace
    shift      c - (1 - cos m2) for a >= π     WeSpeaker
    clamp      a is clipped to [0, π]          AdaFace, OpenSphere
    easy       c for c <= 0                    MagFace, MV-Softmax

All but the second and the last are continuous; the last is not monotonic, either: it jumps up by
sin m2 where c falls below 0.
"""

from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.calls import explaining_calls
from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.maps.hard import straight_through
from jsoftmax.margins.angles import clipped, sine_of
from jsoftmax.margins.partition import whole_number
from jsoftmax.margins.per_example import Number, number_like, radians
from jsoftmax.margins.record import as_call, not_by_default, polynomial, record, static

Gradient = Literal["exact", "straight_through"]
Beyond = Literal["continue", "linear", "shift", "clamp", "easy"]


@record
class AngularMargin:
    r"""A margin on the angle to the true class vector; made by the presets and `angular_margin`.

    $$\varphi(\theta) = (-1)^k \cos a - 2k - m_3, \qquad a = m_1 \theta + m_2,\; k = \lfloor a/\pi
    \rfloor$$

    A frozen pytree: the numeric parameters are leaves, so they can be traced, scheduled and
    learned; the other fields are static.

    Args:
      m1: factor on the angle. It, m2, m3 and `anneal` may be arrays `[classes]`: the `linear_*`
        functions use the true class's entry, also where there are as many examples as classes. By
        example write `PerExample(values)`.
      m2: angle added, in radians.
      m3: cosine subtracted.
      scale: factor on all scores, after the margin; a number, or `PerExample`.
      anneal: λ >= 0; the target is $(\lambda \cos\theta + \varphi) / (1 + \lambda)$.
      normalize_features: whether features are normalised to unit length.
      normalize_weight: whether class vectors are.
      gradient: "exact", or "straight_through" for the derivative of cos θ in place of that of φ.
      beyond: what cos a becomes where a passes π: "continue", the formula above; "linear", "shift",
        "clamp" or "easy", what other libraries do.

    Source: Deng et al., "ArcFace", 2019, arXiv:1801.07698, eq. 4; the continuation past π: Liu et
    al., 2016, arXiv:1612.02295, eq. 5 and 6.

    Example:
      >>> js.arcface()(jnp.array([0.5, -0.9]))
      Array([ 0.0236, -1.0012], dtype=float32)
    """

    m1: Number = polynomial(default=1.0)
    m2: Number = 0.0
    m3: Number = 0.0
    scale: Number = 1.0
    anneal: Number = 0.0
    normalize_features: bool = static(default=True)
    normalize_weight: bool = static(default=True)
    gradient: Gradient = static(default="exact")
    beyond: Beyond = static(default="continue")

    def target(self, cosine: ArrayLike) -> Array:
        """Return the annealed φ of the cosine to the true class vector, for any shape."""
        c = to_compute_dtype(cosine)
        numbers = self.m1, self.m2, self.m3, self.anneal
        m1, m2, m3, anneal = (number_like(number, c) for number in numbers)
        phi = turned_cosine(c, m1, m2, whole_number(self.m1), self.beyond) - m3
        phi = (anneal * c + phi) / (1 + anneal)
        if self.gradient == "straight_through":
            return straight_through(phi, c)
        return phi

    __call__ = target

    def __repr__(self) -> str:
        """Write what makes it: a preset, if it is one."""
        fields = not_by_default(self)
        if (known := _PRESETS.get(" ".join(fields))) is None:
            return as_call("AngularMargin", fields)
        preset, names = known
        return as_call(preset, {name: fields[field] for field, name in names.items()})


# By the fields that are not as by default: the preset, and how it names them.
_PRESETS = {
    "scale": ("normface", {"scale": "scale"}),
    "m2 scale": ("arcface", {"m2": "margin", "scale": "scale"}),
    "m3 scale": ("cosface", {"m3": "margin", "scale": "scale"}),
    "normalize_features": ("modified_softmax", {}),
    "m1 normalize_features": ("a_softmax", {"m1": "m"}),
    "m1 normalize_features normalize_weight": ("l_softmax", {"m1": "m"}),
}


@explaining_calls
def angular_margin(
    m1: Number = 1.0,
    m2: Number = 0.0,
    m3: Number = 0.0,
    *,
    scale: Number = 64.0,
    gradient: Gradient = "exact",
    beyond: Beyond = "continue",
) -> AngularMargin:
    r"""The general margin on unit features and unit class vectors.

    $$z_y = s\,\bigl((-1)^k \cos(m_1 \theta_y + m_2) - 2k - m_3\bigr), \qquad z_j = s \cos
    \theta_j$$

    Args:
      m1: factor on the angle. For a concrete whole number, φ is computed as a polynomial in the
        cosine, without an inverse cosine.
      m2: angle added, in radians.
      m3: cosine subtracted.
      scale: s, a factor on all scores, after the margin. All four may be `PerExample`.
      gradient: "exact" differentiates φ, whose slope is sin(a)/sin(θ) and vanishes where a crosses
        a multiple of π. "straight_through" uses the slope of the plain cosine instead: a steadier
        signal that some implementations prefer.
      beyond: what φ is, before m3, where a = m1 θ + m2 passes π. "continue": the formula above.
        "linear": cos θ - m2 sin m2, as in insightface and pytorch-metric-learning, with a jump.
        "shift": cos θ - (1 - cos m2), as in WeSpeaker. "clamp": a is clipped to [0, π], as in
        AdaFace. "easy": cos θ where that is not positive, whatever a is, as in MagFace; it jumps
        up there. Choose one of these to go on with what was trained with it.

    Returns:
      An `AngularMargin`, for `margin=` of a `linear_*` function such as `linear_logits`.

    Source: Deng et al., 2019, arXiv:1801.07698, eq. 4. Straight-through: "characteristic gradient
    detachment" in Liu et al., "SphereFace revived", 2022, arXiv:2109.05565.

    Example:
      >>> js.angular_margin(1.0, 0.3, 0.2)(jnp.array([0.5, -0.99]))
      Array([ 0.0217, -1.2125], dtype=float32)
    """
    checked_choice("gradient", gradient, Gradient)
    checked_choice("beyond", beyond, Beyond)
    radians("m2", m2)
    return AngularMargin(m1, m2, m3, scale=scale, gradient=gradient, beyond=beyond)


def checked_choice(name: str, value: str, choices: Any) -> str:
    """Return an option that is one of some words, those of a `Literal`."""
    if value not in get_args(choices):
        *most, last = map(repr, get_args(choices))
        raise ValueError(f"`{name}`: expected {', '.join(most)} or {last}, got {value!r}.")
    return value


def plus_angle(c: Array, m: ArrayLike) -> Array:
    """Return cos(θ + m) of a cosine, whatever θ + m is."""
    m = cast_like(m, c)
    c = clipped(c)
    return c * jnp.cos(m) - sine_of(c) * jnp.sin(m)


def with_angle(c: Array, m: Array, beyond: Beyond) -> Array:
    """Return cos(θ + m) of a cosine, past π what `beyond` says."""
    return turned_cosine(c, jnp.ones_like(c), m + jnp.zeros_like(c), 1, beyond)


def _chebyshev(c, n):
    """Return cos(nθ) and sin(nθ)/sin(θ), polynomials in c = cos θ, for a whole n >= 1.

    T(n+1) = 2c T(n) - T(n-1) and the same for U; more accurate in float32 than cos(n arccos c).
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


# What takes the place of cos(a), a function of c and m2.
_INSTEAD = {
    "linear": lambda c, m: c - m * jnp.sin(m),
    "shift": lambda c, m: c - (1 - jnp.cos(m)),
    "clamp": lambda c, m: jnp.full_like(c, -1),
    "easy": lambda c, m: c,
}


def _regions(c, sine, m1, m2, beyond):
    """Return booleans: where something else takes the place of cos(a), and where 1 does."""
    if beyond == "easy":
        return c <= 0, False
    a = m1 * jnp.arctan2(sine, c) + m2
    return a >= jnp.pi, (a < 0) if beyond == "clamp" else False


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def turned_cosine(c: Array, m1: Array, m2: Array, multiple: int | None, beyond: Beyond) -> Array:
    """Return cos(m1 θ + m2), past π what `beyond` says; a rounded cosine beyond ±1 counts as ±1.

    `multiple` is m1, if that is known and whole.
    """
    c = clipped(c)
    sine = sine_of(c)
    cos_a, _ = _turned(c, sine, m1, m2, multiple)
    if beyond == "continue":
        k, sign = _half_turns(c, sine, m1, m2)
        return sign * cos_a - 2 * k
    past, before = _regions(c, sine, m1, m2, beyond)
    return jnp.where(before, 1, jnp.where(past, _INSTEAD[beyond](c, m2), cos_a))


@turned_cosine.defjvp
def _turned_cosine_jvp(multiple, beyond, primals, tangents):
    # With dθ/dc = -1 / sin θ, and k constant between multiples of π, where sin(a) is zero:
    #   dφ = (-1)^k sin(a) (m1 dc / sin θ - θ dm1 - dm2)
    # At c = ±1 the slope is singular for m2 != 0, but it multiplies dc/dx = O(sin θ), so any finite
    # value will do. Bounding sin θ below by sqrt(eps), about the sine of the float next to 1, gives
    # one and leaves every other c unchanged. k is piecewise constant: its gradient is stopped.
    (c, m1, m2), (dc, dm1, dm2) = primals, tangents
    phi = turned_cosine(c, m1, m2, multiple, beyond)
    c = clipped(c)
    sine = jnp.maximum(sine_of(c), float(jnp.finfo(c.dtype).eps) ** 0.5)
    _, sin_a = _turned(c, sine, m1, m2, multiple)
    theta = jnp.arctan2(sine, c)
    slope = sin_a * (m1 / sine * dc - theta * dm1 - dm2)
    if beyond == "continue":
        _, sign = lax.stop_gradient(_half_turns(c, sine, m1, m2))
        return phi, sign * slope
    past, before = lax.stop_gradient(_regions(c, sine, m1, m2, beyond))
    d_instead = jax.jvp(_INSTEAD[beyond], (c, m2), (dc, dm2))[1]
    return phi, jnp.where(before, 0, jnp.where(past, d_instead, slope))
