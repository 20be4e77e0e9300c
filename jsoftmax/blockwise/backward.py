"""The backward pass of a block of rows: over all blocks of classes once more.

    dz = Σ_k S_k' f_k'(z),  dc and da by autodiff of `ClassBlock.reduce`;  dx += da w,  dw += daᵀ x

S_k' are the derivatives of the loss with respect to the sums, `[n]`. A cosine does not change with
the length of a vector: of the gradients the part along the vectors is taken out at the end, which
spares the passes over a block that differentiating the norms would need.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.blockwise.block_loop import add_rows, over_blocks
from jsoftmax.blockwise.class_block import ClassBlock
from jsoftmax.blockwise.matmul import features_gradient, matmul, weight_gradient
from jsoftmax.blockwise.scores import features_inverse_norm, unfold
from jsoftmax.blockwise.types import Examples, Forward, Head, Numbers, Plan
from jsoftmax.core.collectives import to_local_labels
from jsoftmax.core.dtypes import sum_dtype
from jsoftmax.core.varying import vary, varying_zero


def backward(
    plan: Plan,
    shard: Examples,
    head: Head,
    found: Forward,
    products: Array | None,
    cotangents: Any,
    gradients: Head,
    *,
    of_rows: tuple[bool, Numbers],
) -> tuple[Array | None, Numbers, Head]:
    """Return the gradients of the features and of numbers by example, and of the head.

    Args:
      plan: the plan.
      shard, head: what `local_shard` makes, of a block of rows.
      found, products: what `forward` returned; without products they are computed again.
      cotangents: of cosines, runner-up and sums.
      gradients: of the head so far, None where not asked for.
      of_rows: whether the gradients of the features, and of the numbers, are asked for. Where not,
        they are None.

    Those of the head are `gradients` plus those of these rows.
    """
    features, size = shard.features, plan.blocks.classes
    num_local = head.weight.shape[0]
    inverse_norm = features_inverse_norm(features, plan.margin)
    transpose = features.T
    top_class = found.others.top_class
    if top_class is not None:
        top_class = to_local_labels(top_class, num_local, plan.class_axis)
    zero = varying_zero(features, sum_dtype(features, head.weight))
    per_row = vary((cotangents, (found.others.top, top_class, found.summary)), zero)

    @partial(jax.checkpoint, prevent_cse=False)
    def body(carry, start, new, products):
        d_features, d_numbers, gradients = carry
        block = ClassBlock.of(plan, head, shard.labels, start, new)
        if products is None:
            products = matmul(features, block.head.weight, plan.precision)
        # As the labels in the block: not computed once for all blocks.
        _, (slopes, constants) = lax.optimization_barrier((start, per_row))

        def reduce(products, numbers, per_class, softcap, margin):
            bias, class_weight = per_class
            given = head._replace(bias=bias, class_weight=class_weight)
            given = given._replace(softcap=softcap, margin=margin)
            return block.reduce(plan, products, inverse_norm, numbers, given, constants)

        per_class = block.head.bias, block.head.class_weight
        given = products, shard.numbers, per_class, head.softcap, head.margin
        d_products, added, d_per_class, d_softcap, d_margin = jax.vjp(reduce, *given)[1](slopes)
        d_numbers = add_wanted(d_numbers, added)
        if d_features is not None:
            added = features_gradient(d_products, block.head.weight, plan.precision)
            d_features = d_features + added
        if gradients.weight is not None:
            added = weight_gradient(d_products, features, transpose, plan.precision)
            added = project_out(added, block.head.weight, block.head.inverse_norm)
            added = unfold(added, plan.margin)
            gradients = gradients._replace(weight=add_rows(gradients.weight, start, added))
        bias, class_weight = (
            total if total is None else add_rows(total, start, added)
            for total, added in zip(
                (gradients.bias, gradients.class_weight), d_per_class, strict=True
            )
        )
        gradients = gradients._replace(bias=bias, class_weight=class_weight)
        scalars = gradients.softcap, gradients.margin
        softcap, margin = add_wanted(scalars, (d_softcap, d_margin))
        gradients = gradients._replace(softcap=softcap, margin=margin)
        return (d_features, d_numbers, gradients), None

    dtype = sum_dtype(features, head.weight)
    zeros = jax.tree.map(lambda x: jnp.zeros_like(x, dtype), (features, shard.numbers))
    carry = *keep(of_rows, zeros), gradients
    (d_features, d_numbers, gradients), _ = over_blocks(body, carry, num_local, size, products)
    if d_features is not None:
        d_features = project_out(d_features, features, inverse_norm)
    return d_features, d_numbers, gradients


def add_wanted(totals: Any, added: Any) -> Any:
    """Return the sums of the leaves that are wanted; a total of None stays None."""

    def add(total, x):
        return None if total is None else total + x.astype(total.dtype)

    return jax.tree.map(add, totals, added, is_leaf=lambda x: x is None)


def keep(wanted: Any, tree: Any) -> Any:
    """Return the leaves that are wanted, and None for the others."""
    return jax.tree.map(lambda yes, x: x if yes else None, wanted, tree)


def project_out(gradient: Array, vectors: Array, inverse_norm: Array | None) -> Array:
    """Take out the part of gradients along vectors of which only the direction counts."""
    if inverse_norm is None:
        return gradient
    # Not by unit vectors, which are used twice: XLA would write them to memory. Nor by the square
    # of the inverse norm, which may underflow: its factors are on either side of the vectors.
    vectors = vectors.astype(gradient.dtype)
    along = jnp.sum(gradient * vectors, -1) * inverse_norm
    return gradient - along[:, None] * vectors * inverse_norm[:, None]
