"""Reductions over the classes of logits that are in memory, each in one pass over them.

XLA's CPU backend has a fast kernel for a reduction and what leads to it: the row stays in the
cache, 16-bit numbers are converted on the way, and nothing is written to memory. Three things rule
it out, and cost a factor of two to four.
- A comparison, a select or an integer among what leads to the reduction. Masks are made of
  differences, minima and products instead.
- Arithmetic on the result: that must begin with a comparison or a select.
- An array that two reductions share, which is then written to memory. `apart` keeps XLA from
  finding that they do. It may be a constant, as the 1 of `minimum(x, 1)`.
Other backends need none of this.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.core.arguments import with_rank_of
from jsoftmax.core.by_rows import by_rows
from jsoftmax.core.dtypes import to_compute_dtype
from jsoftmax.core.masking import mask_classes
from jsoftmax.core.varying import vary, varying_zero


def largest(z: Array) -> Array:
    """Return each row's largest logit as a constant; the least finite number if all are -inf.

    So it can be subtracted from -inf.
    """
    z = lax.stop_gradient(z)  # first, or JAX makes a slow maximum for a derivative
    least = jnp.finfo(z.dtype).min.astype(z.dtype)
    if z.shape[-1] == 1:  # of one number, XLA takes that alone
        return jnp.maximum(z[..., 0], least)
    return lax.reduce(z, least, lax.max, (z.ndim - 1,))


@jax.jit  # or a call outside of jit would compile each time
def first_of_largest(z: Array, where: Array | None = None) -> Array:
    """Return the class of each row's largest logit, the first of equal ones; 0 if all are -inf.

    As the least of the numbers of the classes, to which those that are not largest have all of the
    classes added. XLA's argmax takes five times as long.
    """

    def least(z, where):
        z = mask_classes(z, where)
        top = largest(apart(z)[0])
        classes = with_rank_of(z, jnp.arange(z.shape[-1], dtype=number))
        top, z, classes = apart(top, z, classes)
        z = z.astype(number)
        # Large from any difference, the smallest of all included.
        below = jnp.minimum((top.astype(number)[..., None] - z) * much, 2)
        below = jnp.minimum(below * much, z.shape[-1])
        return result(jnp.min(classes + below, -1))

    def argmax(z, where):
        return jnp.argmax(mask_classes(z, where), -1)

    z = lax.stop_gradient(z)
    number = to_compute_dtype(z).dtype
    much = jnp.finfo(number).max
    if z.shape[-1] > 1 << 24:  # beyond that a float32 is not exact
        return argmax(z, where)

    def on_cpu(z, where):
        found = by_rows(least, least, z, where, one_pass=where is None)
        return jnp.where(found < z.shape[-1], found, 0).astype(int)

    return lax.platform_dependent(z, where, cpu=on_cpu, default=argmax)


def apart(*arrays: Array) -> tuple[Array, ...]:
    """Return the arrays as if they were others, for a reduction that shares nothing on a CPU."""
    arrays = vary(arrays, varying_zero(arrays, jnp.dtype(jnp.float32)))  # as a barrier makes them
    return lax.platform_dependent(*arrays, cpu=_barrier, default=_same)


def result(reduced: Array) -> Array:
    """Return the same numbers, to do arithmetic on."""
    return jnp.where(jnp.isnan(reduced), jnp.nan, reduced)


def _barrier(*arrays):
    return lax.optimization_barrier(arrays)


def _same(*arrays):
    return arrays
