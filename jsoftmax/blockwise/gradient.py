"""The derivative rules: a scalar's gradients in the pass of its value, else by recomputation."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero, zero_from_primal

from jsoftmax.blockwise.rows import reduce_again, reduce_rows, sum_and_gradients
from jsoftmax.blockwise.types import Examples, Forward, Head, Plan
from jsoftmax.core.collectives import psum
from jsoftmax.core.varying import vary, varying_zero
from jsoftmax.stats.logit_stats import LogitStats


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def weighted_sum(
    plan: Plan, examples: Examples, head: Head
) -> tuple[Array, tuple[Array, LogitStats]]:
    """Return the weighted sum of the losses, and (losses, stats) of all rows without derivative."""
    total, evaluation, _ = sum_and_gradients(plan, None, examples, head)
    return total, evaluation


@partial(weighted_sum.defjvp, symbolic_zeros=True)
def _weighted_sum_jvp(plan, primals, tangents):
    # The cotangent of a scalar only scales its gradient, so the gradient can be made with the
    # value. As a rule for tangents, d sum = <gradient, tangent>, whose transpose is that scaling.
    wanted = jax.tree.map(lambda t: not isinstance(t, SymbolicZero), tangents)
    total, evaluation, gradients = _nested(plan, wanted, *primals)
    moving = moving_tangents(wanted, primals, tangents)
    # Of features and what is per class each device has its part. The transpose of the sum over
    # devices sums the gradient of the features, if these are the same on all of them.
    parts = [
        (rows.features, head.weight, head.bias, head.class_weight)
        for rows, head in (gradients, moving)
    ]
    others = [
        (rows._replace(features=None), head._replace(weight=None, bias=None, class_weight=None))
        for rows, head in (gradients, moving)
    ]
    dtype = total.dtype
    d_total = psum(inner_product(parts, dtype), plan.class_axis) + inner_product(others, dtype)
    d_total = vary(d_total, varying_zero(total, dtype))
    return (total, evaluation), (d_total, jax.tree.map(jnp.zeros_like, evaluation))


def inner_product(pair: Any, dtype: jnp.dtype) -> Array:
    """Return the inner product of two trees, whose leaves have to match but not their types."""
    total = jnp.zeros((), dtype)
    for g, t in zip(*map(jax.tree.leaves, pair), strict=True):
        total += jnp.sum(g * t.astype(g.dtype)).astype(dtype)
    return total


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _nested(plan, wanted, examples, head):
    """Return `sum_and_gradients`, such that it can be differentiated once more.

    Linearising a custom_jvp rule inlines its scan and drops the rules of the functions in the
    body, which would break second derivatives. Nesting another custom_jvp keeps the scan opaque.
    """
    return sum_and_gradients(plan, wanted, examples, head)


@_nested.defjvp
def _nested_jvp(plan, wanted, primals, tangents):
    return jax.jvp(partial(_nested.fun, plan, wanted), primals, tangents)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def reduced(plan: Plan, examples: Examples, head: Head) -> Forward:
    """Return what the forward pass finds of all rows, with its derivatives by recomputation."""
    return reduce_rows(plan, examples, head)


@partial(reduced.defjvp, symbolic_zeros=True)
def _reduced_jvp(plan, primals, tangents):
    # The derivative is that of `reduce_again`, whose own value nobody reads. That makes four
    # products: one for the value, one recomputed, and two for the gradients. The sums' tangents
    # are those at a constant top.
    found = reduced(plan, *primals)
    wanted = jax.tree.map(lambda t: not isinstance(t, SymbolicZero), tangents)
    moving = moving_tangents(wanted, primals, tangents)
    cosines, runner_up, sums = _tangents(plan, wanted, primals, found, moving)
    constant = jax.tree.map(zero_from_primal, found)
    others = constant.others._replace(sums=sums)
    return found, constant._replace(cosines=cosines, runner_up=runner_up, others=others)


def moving_tangents(wanted: Any, primals: Any, tangents: Any) -> Any:
    """Return the tangents that are wanted; they may be Python numbers, and become arrays."""

    def moving(yes, x, t):
        return jnp.asarray(t, x.dtype) if yes else None

    return jax.tree.map(moving, wanted, primals, tangents)


@partial(jax.jit, static_argnums=(0, 1))
def _tangents(plan: Plan, wanted: Any, primals: Any, found: Forward, tangents: Any):
    """Return the tangents of cosines, runner-up and sums."""
    leaves, tree = jax.tree.flatten(primals)
    yes = jax.tree.leaves(wanted)

    def function(*moving):
        moving = iter(moving)
        given = [next(moving) if w else x for w, x in zip(yes, leaves, strict=True)]
        examples, head = tree.unflatten(given)
        return reduce_again(plan, examples, head, found)

    moving = tuple(x for w, x in zip(yes, leaves, strict=True) if w)
    return jax.jvp(function, moving, tuple(jax.tree.leaves(tangents)))[1]
