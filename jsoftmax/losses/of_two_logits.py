r"""Divergences between the softmaxes of two arrays of logits: a student's z and a teacher's t.

With p = softmax(z / T), q = softmax(t / T), m = β q + (1 - β) p and δ = log(p / q), each is T²
times a sum over the classes of terms that are not negative,

    kl(r, s) = r log(r / s) - r + s           whose sum is KL(r || s)

    forward    kl(q, p)
    reverse    kl(p, q)
    js         β kl(q, m) + (1 - β) kl(p, m)

All are of the form q h(δ), with h and h' 0 at 0: small to second order where the two agree. Where D
is the sum, H = Σ q h'(δ), and the logits are divided by T already,

    dD = Σ (q h' - p H) dz + Σ (q (h - h') - q (D - H)) dt

D - H is Σ q (h - h'): of large logits the difference is lost to rounding, of close ones the sum.

The classes may be shared by the devices of a mesh.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jsoftmax.core.box_cox import expm2
from jsoftmax.core.collectives import MeshAxes, packed_psum
from jsoftmax.core.masking import relative
from jsoftmax.core.numerics import exp_nonpositive, expm1, log1p

_LARGE = 1e30  # in place of infinite ratios


class Softmaxes(NamedTuple):
    """Both softmaxes, and how they compare; all have the shape of the logits."""

    log_p: Array
    log_q: Array
    p: Array
    q: Array
    delta: Array  # log(p / q), 0 where either is masked
    growth: Array  # p / q - 1, likewise; never infinite
    p_off: Array  # booleans
    q_off: Array


class Terms(NamedTuple):
    """What a divergence sums over the classes."""

    value: Array  # q h(δ), without what is infinite
    infinite: Array | None  # booleans
    slope: Array  # q h'(δ)
    mirror: Array  # q (h(δ) - h'(δ)), the slope if the roles of p and q are exchanged
    of_beta: Array | None  # the derivative with respect to β


class Gradients(NamedTuple):
    """Of z and t, in the shape of the logits, and of the numbers, with size 1 for the classes."""

    student: Array
    teacher: Array
    temperature: Array | None
    beta: Array | None


class Divergence(NamedTuple):
    """A divergence of logits that have their classes on an axis; it can be hashed.

    Logits are float32 or wider, -inf for a masked class. A temperature of None is 1. It, and β,
    have size 1 on the class axis, and so has the result.
    """

    terms: Callable[[Softmaxes, Any], Terms]
    axis: int = -1
    mesh_axes: MeshAxes = None

    def __call__(
        self, z: Array, t: Array, temperature: Array | None = None, beta: Array | None = None
    ) -> Array:
        """Return the divergence."""
        return _divergence(self, z, t, temperature, beta)

    def with_gradients(
        self, z: Array, t: Array, temperature: Array | None = None, beta: Array | None = None
    ) -> tuple[Array, Gradients]:
        """Return the divergence and its gradients; nothing in here has to be differentiated."""
        found = self._softmaxes(z, t, temperature)
        terms = self.terms(found, beta)
        value, d, h, rest = self._value(terms, temperature, terms.slope, terms.mirror)
        far = h > 1
        rest = jnp.where(far, rest, d - h)
        log_p, log_q, p, q, delta, _, p_off, q_off = found
        of_z = terms.slope - p * h
        of_t = terms.mirror - q * rest
        one = jnp.ones((), z.dtype) if temperature is None else temperature
        # That of T goes along z and t, or what differs from them by an offset. Of what they have in
        # common, the derivative is as small as the value: for close logits not the sum of the two.
        moved = of_z * jnp.where(p_off, 0, jnp.where(q_off, log_p, delta))
        in_common = jnp.where(far, of_z + of_t, terms.value - q * d - (p - q) * h)
        moved += in_common * jnp.where(q_off, 0, log_q)
        sums = (moved,) if terms.of_beta is None else (moved, terms.of_beta)
        moved, *of_beta = self._total(*sums)
        return value, Gradients(
            student=one * of_z,
            teacher=one * of_t,
            temperature=None if temperature is None else one * (2 * d - moved),
            beta=one * one * of_beta[0] if of_beta else None,
        )

    def _value(self, terms, temperature, *more):
        """Return the value, and the sums of the finite terms and of `more`."""
        infinite = () if terms.infinite is None else (terms.infinite.astype(terms.value.dtype),)
        d, *sums = self._total(terms.value, *more, *infinite)
        value = d if temperature is None else temperature * temperature * d
        if infinite:
            value = jnp.where(sums.pop() > 0, jnp.inf, value)
        return value, d, *sums

    def _total(self, *terms):
        sums = tuple(jnp.sum(x, self.axis, keepdims=True) for x in terms)
        return packed_psum(sums, self.mesh_axes)

    def _largest(self, *logits):
        top = tuple(
            jnp.max(lax.stop_gradient(x), self.axis, keepdims=True, initial=-jnp.inf)
            for x in logits
        )
        return top if self.mesh_axes is None else lax.pmax(top, self.mesh_axes)

    def _softmaxes(self, z, t, temperature):
        """Return p, q and what compares them.

        δ is computed from the difference of the logits, y - log sum_k q_k exp(y_k), since where the
        two agree, the rounding errors of log p and log q exceed their difference. Only where a
        class is at -inf in one, or all of q lies where p vanishes, it is log p - log q.
        """
        top_z, top_t = self._largest(z, t)
        by_t = 1.0 if temperature is None else temperature
        log_p, log_q = (relative(x, top, by_t, self.axis) for x, top in ((z, top_z), (t, top_t)))
        p_off, q_off = log_p == -jnp.inf, log_q == -jnp.inf
        both = ~(p_off | q_off)
        # Usually 0; then the difference of close logits is exact.
        known = jnp.isfinite(top_z) & jnp.isfinite(top_t)
        whole = jnp.round(jnp.where(known, top_z, 0) - jnp.where(known, top_t, 0))
        apart = (jnp.where(both, z, whole) - whole) - jnp.where(both, t, 0)
        p, q = exp_nonpositive(log_p), exp_nonpositive(log_q)
        constant = lax.stop_gradient(q * apart)
        total_p, total_q, centre = self._total(p, q, constant)
        # At least 1, but 0 where all classes are masked.
        total_p, total_q = (jnp.where(x < 0.5, 0.5, x) for x in (total_p, total_q))
        log_p, log_q = log_p - jnp.log(total_p), log_q - jnp.log(total_q)
        p, q = p * (1 / total_p), q * (1 / total_q)
        y = apart - lax.stop_gradient(centre / total_q)
        y = y if temperature is None else y / temperature
        fits = jnp.where(both, y < 80, p_off & q_off)  # exp(y) does not overflow
        y = jnp.where(both & fits, y, 0)
        growth = expm1(y)
        change, unfit = self._total(q * growth, (~fits).astype(y.dtype))
        direct = (unfit == 0) & (change > -0.5)
        change = jnp.where(direct, change, 0)
        given = (jnp.where(both, x, 0) for x in (log_p, log_q))
        delta = jnp.where(direct, y - jnp.log1p(change), jnp.subtract(*given))
        within = q > p / _LARGE
        ratio = jnp.where(within, p / jnp.where(within, q, 1), _LARGE)
        growth = jnp.where(direct, (growth - change) / (1 + change), ratio - 1)
        delta, growth = (jnp.where(both, x, 0) for x in (delta, growth))
        return Softmaxes(log_p, log_q, p, q, delta, growth, p_off, q_off)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _divergence(divergence, z, t, temperature, beta):
    found = divergence._softmaxes(z, t, temperature)
    return divergence._value(divergence.terms(found, beta), temperature)[0]


@partial(_divergence.defjvp, symbolic_zeros=True)
def _divergence_jvp(divergence, primals, tangents):
    value, gradients = divergence.with_gradients(*primals)
    logits = zip(gradients[:2], tangents[:2], strict=True)
    along = [g * dx for g, dx in logits if not isinstance(dx, SymbolicZero)]
    moved = divergence._total(sum(along))[0] if along else jnp.zeros_like(value)
    for g, dx in zip(gradients[2:], tangents[2:], strict=True):
        if dx is not None and not isinstance(dx, SymbolicZero):
            moved += jnp.broadcast_to(g * dx, moved.shape)
    return value, moved


def forward(found: Softmaxes, beta: Any) -> Terms:
    """Return the terms of KL(q || p): h = exp(δ) - 1 - δ."""
    _, _, p, q, delta, growth, p_off, q_off = found
    given = q, p, delta, growth, q_off, p_off
    return Terms(*_kl_or_infinite(*given), _apart(*given), -q * delta, None)


def reverse(found: Softmaxes, beta: Any) -> Terms:
    """Return the terms of KL(p || q): h = 1 - exp(δ) + δ exp(δ)."""
    _, _, p, q, delta, growth, p_off, q_off = found
    growth = -growth / jnp.maximum(1 + growth, 1 / _LARGE)  # q / p - 1
    given = p, q, -delta, growth, p_off, q_off
    return Terms(*_kl_or_infinite(*given), p * delta, _apart(*given), None)


def jensen_shannon(found: Softmaxes, beta: Any) -> Terms:
    """Return the terms of the generalised Jensen-Shannon divergence."""
    _, _, p, q, delta, _, p_off, q_off = found
    m = beta * q + (1 - beta) * p
    # log(m / q) and log(m / p); where q is 0, kl(q, m) is m, as far from there.
    over_q = jnp.where(q_off, 2, jnp.where(p_off, _log(beta), log_mix(delta, beta)))
    over_p = jnp.where(p_off, 2, jnp.where(q_off, _log(1 - beta), log_mix(-delta, 1 - beta)))
    of_q, of_p = (_kl(r, m, x, expm1(jnp.minimum(x, 1))) for r, x in ((q, over_q), (p, over_p)))
    value = beta * of_q + (1 - beta) * of_p
    return Terms(value, None, (beta - 1) * p * over_p, -beta * q * over_q, of_q - of_p)


DIVERGENCES = {"forward": forward, "reverse": reverse, "js": jensen_shannon}


def log_mix(delta: Array, weight: Array) -> Array:
    """Return `log(w + (1 - w) exp(δ))`, accurate around 0."""
    near = jnp.abs(delta) < 1
    close = (1 - weight) * expm1(jnp.where(near, delta, 0))
    one, other = _log(weight), _log(1 - weight) + jnp.where(near, 1, delta)
    larger, smaller = jnp.maximum(one, other), jnp.minimum(one, other)
    return jnp.where(near, 0, larger) + log1p(jnp.where(near, close, jnp.exp(smaller - larger)))


def _log(weight):
    """Return the logarithm of a weight in [0, 1], finite at 0: it is multiplied by the weight."""
    return jnp.log(jnp.maximum(weight, jnp.finfo(weight.dtype).tiny))


def _kl(r, s, log_ratio, growth):
    """Return `r log(r / s) - r + s`, given `log(s / r)` and, where that is below 1, `s / r - 1`.

    The logarithm is above 1 where r is 0 and s is not.
    """
    far = log_ratio > 1
    close = r * expm2(jnp.where(far, 0, log_ratio), growth)
    return jnp.where(far, s - r - r * log_ratio, close)


def _kl_or_infinite(r, s, log_ratio, growth, r_off, s_off):
    """Return the same, 0 where it is infinite, and where that is; the ratio there is any."""
    terms = jnp.where(r_off, s, _kl(r, s, log_ratio, growth))
    infinite = s_off & ~r_off
    return jnp.where(infinite, 0, terms), infinite


def _apart(r, s, log_ratio, growth, r_off, s_off):
    """Return s - r, given the same; 0 where the divergence of r from s is infinite."""
    return jnp.where(s_off, 0, jnp.where((log_ratio > 1) | r_off, s - r, r * growth))
