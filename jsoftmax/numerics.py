"""The arithmetic that the edge-case table asks for: dtypes, infinities, both tails of the logistic.

Nothing here knows about classes or labels. Every other module computes through these few functions,
so what they promise holds in all of them.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

__all__ = [
    "bits",
    "exp_nonpositive",
    "expm1",
    "finite",
    "from_bits",
    "is_known",
    "like",
    "promote",
    "sigmoid",
    "softplus",
    "times",
]


def promote(x: ArrayLike) -> Array:
    """Return `x` in the dtype of its computation: float32 or wider, integers the default float."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.integer):
        return x.astype(float)
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def like(value: ArrayLike, x: Array) -> Array:
    """Return a hyper-parameter in the dtype of `x`, so that strict dtype promotion accepts it."""
    return jnp.asarray(value).astype(x.dtype)


def bits(x: Array) -> Array:
    """Return 16-bit floats as integers, and other arrays as they are.

    XLA's CPU backend does many things with 16-bit floats by way of float32. Bits it leaves alone.
    """
    if x.dtype.itemsize != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return lax.bitcast_convert_type(x, jnp.uint16)


def from_bits(x: Array, dtype: jnp.dtype) -> Array:
    """Undo `bits`."""
    return x if x.dtype == dtype else lax.bitcast_convert_type(x, dtype)


def is_known(value: ArrayLike, default: float) -> bool:
    """Say whether an option is the Python number `default`, so that its term can be left out."""
    return isinstance(value, (int, float)) and value == default


def finite(x: Array) -> Array:
    """Replace -inf by 0: a reference that may be subtracted from -inf without giving NaN."""
    return jnp.where(x == -jnp.inf, 0, x)


@jax.custom_jvp
def exp_nonpositive(d: Array) -> Array:
    """Return `exp(d)` of a difference to a maximum, which is at most 0 by its making.

    It can exceed 0 where XLA compiles the producer of the logits into two places and rounds it
    differently in each; with logits beyond 2^31 that excess alone would overflow.
    """
    return jnp.exp(jnp.minimum(d, 0))


@exp_nonpositive.defjvp
def _exp_nonpositive_jvp(primals, tangents):
    # Not that of `minimum`: the maximum itself moves too, whatever its difference is rounded to.
    (d,), (dd,) = primals, tangents
    e = exp_nonpositive(d)
    return e, e * dd


def times(weight: Array, x: Array) -> Array:
    """Return `weight * x` in which a zero weight wins over an infinite `x`: 0 log 0 is 0.

    The second factor is made harmless before the product and not after it, because the derivative
    of a discarded `0 * inf` would still be NaN.
    """
    return weight * jnp.where((weight == 0) & jnp.isinf(x), 0, x)


@jax.custom_jvp
def sigmoid(u: Array) -> Array:
    """Return `1 / (1 + exp(-u))`, with all derivatives accurate in both tails.

    d/du σ(u) = σ(u) σ(-u). The usual form σ (1 - σ) loses every digit once σ rounds to 1.
    """
    return jax.nn.sigmoid(u)


@sigmoid.defjvp
def _sigmoid_jvp(primals, tangents):
    (u,), (du,) = primals, tangents
    s = sigmoid(u)
    return s, s * sigmoid(-u) * du


@jax.custom_jvp
def softplus(u: Array) -> Array:
    """Return `log(1 + exp(u))`, with all derivatives accurate in both tails: d/du = σ(u)."""
    return jnp.maximum(u, 0) + jnp.log1p(jnp.exp(-jnp.abs(u)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    (u,), (du,) = primals, tangents
    return softplus(u), sigmoid(u) * du


@jax.custom_jvp
def expm1(x: Array) -> Array:
    """Return `exp(x) - 1` with the derivative exp(x); JAX's adds 1 to the value, which cancels."""
    return jnp.expm1(x)


@expm1.defjvp
def _expm1_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return expm1(x), jnp.exp(x) * dx
