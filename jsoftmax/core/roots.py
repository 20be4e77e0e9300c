"""Solve one equation per example: Newton's method, kept inside a bracket.

The sparse and tempered maps and the relaxed top-k have one unknown per example, such as a
threshold, chosen so that the probabilities have the right sum. All examples are solved together;
each stops moving once it has converged.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.varying import vary, varying_zero

_MAX_STEPS = 100  # bisection gains one bit in each; Newton's method needs about 8


def increasing_root(
    evaluate: Callable[[Array], tuple[Array, ...]],
    low: Array,
    high: Array,
    start: Array,
    tolerance: ArrayLike,
) -> Array:
    """Return x between `low` and `high` with f(x) = 0, elementwise, for an increasing f.

    `evaluate(x)` returns f(x) and the x that Newton's method proposes next; if it knows an upper
    bound of |f| there, this comes third, and may save the last step. A proposal outside the bracket
    is replaced by the bracket's midpoint. An x has converged when |f| is at most `tolerance`, or
    when the proposal differs from x by no more than rounding. Where f is NaN, so is the result.
    """
    eps = jnp.finfo(start.dtype).eps

    def step(state):
        x, low, high, _, count = state
        value, proposal, *bound = evaluate(x)
        low, high = jnp.where(value < 0, x, low), jnp.where(value > 0, x, high)
        inside = (low < proposal) & (proposal < high)
        following = jnp.where(inside, proposal, low + (high - low) / 2)
        moving = (jnp.abs(value) > tolerance) & (jnp.abs(proposal - x) > eps * jnp.abs(x))
        moving &= following != x
        x = jnp.where(jnp.isnan(value), value, jnp.where(moving, following, x))
        if bound:
            moving &= ~(inside & (bound[0] <= tolerance))
        return x, low, high, moving, count + 1

    def unfinished(state):
        *_, moving, count = state
        return jnp.any(moving) & (count < _MAX_STEPS)

    x, low, high = vary((start, low, high), varying_zero((start, low, high), start.dtype))
    state = (x, low, high, jnp.ones_like(x, bool), 0)
    return lax.while_loop(unfinished, step, state)[0]
