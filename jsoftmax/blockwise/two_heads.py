"""Two linear heads over the same classes, by blocks of rows: a student's and a teacher's.

A block of rows holds the products of all classes of its device, of both heads: what compares them
needs both normalisers first. As with one head, the gradients of a scalar are made in the pass of
its value: one product of each head, and two more of each whose gradients are asked for.

The comparison itself makes several arrays of the size of its logits. On a CPU it has a few rows at
a time, so that these stay in the cache.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.lax import PrecisionLike

from jsoftmax.blockwise.backward import add_wanted, keep
from jsoftmax.blockwise.block_loop import add_rows, join_blocks, over_blocks, slice_rows
from jsoftmax.blockwise.block_sizes import PairBlocks
from jsoftmax.blockwise.gradient import inner_product, moving_tangents
from jsoftmax.blockwise.matmul import features_gradient, matmul, weight_gradient
from jsoftmax.blockwise.scores import logits_of, sound_vectors
from jsoftmax.blockwise.types import Head
from jsoftmax.core.collectives import MeshAxes, psum
from jsoftmax.core.dtypes import sum_dtype
from jsoftmax.core.numerics import multiply_no_nan
from jsoftmax.core.varying import vary, varying_zero


class Comparison(NamedTuple):
    """What is known before anything is computed; it can be hashed.

    `compare(student, teacher, *numbers)` returns losses `[n, 1]` of two arrays of logits `[n, C]`
    and of numbers `[n, 1]`. `compare.with_gradients` returns their gradients as well.
    """

    compare: Any
    blocks: PairBlocks
    class_axis: MeshAxes
    precision: PrecisionLike


class Pairs(NamedTuple):
    """What has a row per example."""

    features: tuple[Any, Any]  # [N, D] of the student, [N, E] of the teacher
    numbers: tuple[Any, ...]  # [N] or None, what else the loss takes
    weights: Any  # [N], factors on the losses


Heads = tuple[Head, Head]  # of which `where` is the same


@partial(jax.jit, static_argnums=0)
def compare_rows(plan: Comparison, pairs: Pairs, heads: Heads) -> Array:
    """Return the losses `[N]`. Their derivatives compute the logits again."""
    rows = pairs.weights.shape[0]
    size = min(plan.blocks.rows, rows)
    pairs, heads = _before_the_loop(plan, pairs, heads)

    @partial(jax.checkpoint, prevent_cse=False)
    def body(_, start, new, __):
        part = slice_rows(pairs, start, size)

        @partial(jax.checkpoint, prevent_cse=False)
        def compare(_, given):
            products, numbers = given
            logits = _logits(heads, products, _of_logits(heads))
            return None, plan.compare(*logits, *_columns(numbers))[:, 0]

        return None, _by_few(plan, compare, None, (_products(plan, part, heads), part.numbers))[1]

    return join_blocks(over_blocks(body, None, rows, size)[1], rows)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def compared_sum(plan: Comparison, pairs: Pairs, heads: Heads) -> Array:
    """Return the weighted sum of the losses."""
    return jnp.sum(_weighted(pairs.weights, compare_rows(plan, pairs, heads)))


@partial(compared_sum.defjvp, symbolic_zeros=True)
def _compared_sum_jvp(plan, primals, tangents):
    # As in gradient.py: d sum = <gradient, tangent>, whose transpose scales the gradient.
    wanted = jax.tree.map(lambda t: not isinstance(t, SymbolicZero), tangents)
    total, gradients = _nested(plan, wanted, *primals)
    moving = moving_tangents(wanted, primals, tangents)
    # Of features, weight and bias each device has its part.
    parts = [(pairs.features, [h[:2] for h in heads]) for pairs, heads in (gradients, moving)]
    others = [
        (pairs._replace(features=()), [h.softcap for h in heads])
        for pairs, heads in (gradients, moving)
    ]
    d_total = psum(inner_product(parts, total.dtype), plan.class_axis)
    d_total += inner_product(others, total.dtype)
    return total, vary(d_total, varying_zero(total, total.dtype))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _nested(plan, wanted, pairs, heads):
    """Return the weighted sum and its gradients; see `_nested` in gradient.py."""
    return _sum_and_gradients(plan, wanted, pairs, heads)


@_nested.defjvp
def _nested_jvp(plan, wanted, primals, tangents):
    return jax.jvp(partial(_nested.fun, plan, wanted), primals, tangents)


@partial(jax.jit, static_argnums=(0, 1))
def _sum_and_gradients(plan, wanted, pairs, heads):
    """Return the weighted sum, and the gradients that are wanted, None for the others.

    Those of features, weights and biases are this device's part.
    """
    rows = pairs.weights.shape[0]
    size = min(plan.blocks.rows, rows)
    pairs, heads = _before_the_loop(plan, pairs, heads)
    of_pairs, of_heads = wanted
    wanted_sums = tuple(
        (yes, of_head.weight, of_head.bias, of_head.softcap)
        for yes, of_head in zip(of_pairs.features, of_heads, strict=True)
    )

    @partial(jax.checkpoint, prevent_cse=False)
    def body(gradients, start, new, _):
        part = slice_rows(pairs, start, size)
        weights = jnp.where(start + jnp.arange(size) >= new, part.weights, 0)

        def compare(sums, given):
            products, numbers, weights = given
            logits, pull = jax.vjp(partial(_logits, heads), products, _of_logits(heads))
            losses, found = plan.compare.with_gradients(*logits, *_columns(numbers))
            losses = losses[:, 0]
            # An example of weight 0 is left out even if it is NaN.
            spoilt = ((weights == 0) & ~jnp.isfinite(losses))[:, None]
            student, teacher, *numbers = jax.tree.map(
                lambda x: jnp.where(spoilt, 0, weights[:, None] * x), tuple(found)
            )
            d_products, d_small = pull((student, teacher))
            d_products = tuple(
                d if any(yes[:2]) else None for d, yes in zip(d_products, wanted_sums, strict=True)
            )
            sums = add_wanted(sums, d_small)
            by_row = [None if x is None else x[:, 0] for x in numbers], losses
            return sums, (d_products, jnp.sum(_weighted(weights, losses)), by_row)

        parts, small = zip(*[(x[:2], x[2:]) for x in gradients], strict=True)
        given = _products(plan, part, heads), part.numbers, weights
        small, (d_products, total, by_row) = _by_few(plan, compare, small, given)
        parts = tuple(
            _add_products(plan, start, *each)
            for each in zip(parts, part.features, heads, d_products, strict=True)
        )
        gradients = tuple((*x, *y) for x, y in zip(parts, small, strict=True))
        return gradients, (jnp.sum(total), by_row)

    nothing = tuple(
        keep(yes, _zeros(x, head))
        for yes, x, head in zip(wanted_sums, pairs.features, heads, strict=True)
    )
    gradients, (total, by_row) = over_blocks(body, nothing, rows, size)
    numbers, losses = jax.tree.map(partial(join_blocks, size=rows), by_row)
    features, *small = zip(*gradients, strict=True)
    of_weights = jnp.where((pairs.weights == 0) & jnp.isnan(losses), 0, losses)
    d_pairs = Pairs(features, tuple(numbers), of_weights)
    d_heads = tuple(
        Head(weight, bias, softcap=psum(softcap, plan.class_axis))
        for weight, bias, softcap in zip(*small, strict=True)
    )
    return jnp.sum(total), keep(wanted, (d_pairs, d_heads))


def _by_few(plan, compare, carry, given):
    """Scan a block a few rows at a time; the outputs have a row per example, or are stacked."""
    rows = jax.tree.leaves(given)[0].shape[0]
    few = plan.blocks.few
    if rows == few or not rows or rows % few:
        return compare(carry, given)
    given = jax.tree.map(lambda x: x.reshape(-1, few, *x.shape[1:]), given)
    carry, found = lax.scan(compare, carry, given)
    return carry, jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]) if x.ndim > 1 else x, found)


def _add_products(plan, start, gradients, features, head, d_products):
    """Add what a block of rows has of the gradients of features and weight, where wanted."""
    d_features, d_weight = gradients
    if d_features is not None:
        added = features_gradient(d_products, head.weight, plan.precision)
        d_features = add_rows(d_features, start, added)
    if d_weight is not None:
        d_weight += weight_gradient(d_products, features, features.T, plan.precision)
    return d_features, d_weight


def _zeros(features, head):
    dtype = sum_dtype(features, head.weight)  # sums are float32 or wider
    return jax.tree.map(
        lambda x: jnp.zeros_like(x, dtype), (features, head.weight, head.bias, head.softcap)
    )


def _weighted(weights, losses):
    counted = jnp.where((weights == 0) & jnp.isnan(losses), 0, losses)
    return multiply_no_nan(weights, counted)


def _before_the_loop(plan, pairs, heads):
    """Give features and heads the type that what is computed from them has."""
    zero = varying_zero((pairs, heads), jnp.dtype(jnp.float32), plan.class_axis)
    heads = [h._replace(weight=sound_vectors(h.weight, h.sound), sound=None) for h in heads]
    features, per_class = vary((pairs.features, [h._replace(where=None) for h in heads]), zero)
    heads = tuple(h._replace(where=given.where) for h, given in zip(per_class, heads, strict=True))
    return pairs._replace(features=features), heads


def _products(plan, part, heads):
    given = zip(part.features, heads, strict=True)
    return tuple(matmul(x, head.weight, plan.precision) for x, head in given)


def _of_logits(heads):
    """Return what makes logits of products."""
    return tuple((head.bias, head.softcap) for head in heads)


def _logits(heads, products, of_logits):
    dtype = jnp.promote_types(*(x.dtype for x in products))
    found = []
    for head, product, (bias, softcap) in zip(heads, products, of_logits, strict=True):
        z = logits_of(product, None, bias, softcap).astype(dtype)
        found.append(z if head.where is None else jnp.where(head.where[None], z, -jnp.inf))
    return tuple(found)


def _columns(numbers):
    return [None if x is None else x[:, None] for x in numbers]
