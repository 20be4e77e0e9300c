"""Reductions over the classes of logits that are in memory, each in one pass over them.

XLA's CPU backend has a fast kernel for a reduction and what leads to it: the row stays in the
cache, 16-bit numbers are converted on the way, and nothing is written to memory. Three things rule
it out, and cost a factor of two to four.
- A comparison, a select or an integer among what leads to the reduction. Masks are made of
  differences, minima and products instead.
- Arithmetic on the result: that must begin with a comparison or a select.
- An array that two reductions share, which is then written to memory. `apart` keeps XLA from
  finding that they do.
Other backends need none of this.
"""

import jax.numpy as jnp
from jax import Array, lax


def largest(z: Array) -> Array:
    """Return each row's largest logit as a constant; the least finite number if all are -inf.

    So it can be subtracted from -inf.
    """
    least = jnp.finfo(z.dtype).min.astype(z.dtype)
    if z.shape[-1] == 1:  # of one number, XLA takes that alone
        return lax.stop_gradient(jnp.maximum(z[..., 0], least))
    return lax.stop_gradient(lax.reduce(z, least, lax.max, (z.ndim - 1,)))


def apart(*arrays: Array) -> tuple[Array, ...]:
    """Return the arrays as if they were others, for a reduction that shares nothing on a CPU."""
    return lax.platform_dependent(*arrays, cpu=_barrier, default=_same)


def result(reduced: Array) -> Array:
    """Return the same numbers, to do arithmetic on."""
    return jnp.where(jnp.isnan(reduced), jnp.nan, reduced)


def _barrier(*arrays):
    return lax.optimization_barrier(arrays)


def _same(*arrays):
    return arrays
