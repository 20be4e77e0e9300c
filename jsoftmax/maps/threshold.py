"""The threshold of a sparse map: one unknown per example, found from few classes, then from all."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.core.numerics import neg_inf_to_zero
from jsoftmax.core.roots import increasing_root
from jsoftmax.core.row_sums import row_parts


def threshold(
    evaluate: Callable[[Array, Array], tuple[Array, ...]], z: Array, least: float, most: float
) -> tuple[Array, Array]:
    """Return `max z` and the x between `least` and `most` that `evaluate` finds, for each row.

    Both are constants: what `evaluate` closes over must be, too, and the derivative of x is added
    by a step of Newton's method that starts from it.

    `evaluate(d, x)` gets the logits relative to their maximum, and returns what `increasing_root`
    asks for. It is called with the maxima of groups of 8 classes first: fewer classes have a
    smaller sum, so their solution is an upper bound, and usually a close one.

    The difference to the maximum is computed where it is used, and nothing of the size of the
    logits is stored.
    """
    z = lax.stop_gradient(z)
    parts, rest = row_parts(z)
    few = jnp.max(parts, -2)
    candidates = jnp.concatenate([few, rest], -1) if rest.shape[-1] else few
    top = neg_inf_to_zero(jnp.max(candidates, -1, keepdims=True, initial=-jnp.inf))
    low, high = jnp.full_like(top, least), jnp.full_like(top, most)
    start = high
    if few.shape[-1] >= 8:
        start = increasing_root(lambda x: evaluate(few - top, x), low, high, high, 0.01)
    tolerance = 4 * float(jnp.finfo(z.dtype).eps)
    return top, increasing_root(lambda x: evaluate(z - top, x), low, high, start, tolerance)
