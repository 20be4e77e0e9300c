"""Sums over the classes, several of them in one pass over the logits.

Newton's method needs two sums or three in each step, of the function and of its slopes. XLA's CPU
backend reads the logits once for each of them, and adds along a row one number after another.
Adding eight parts of the row to each other instead uses vector instructions, and one reduction with
several operands reads the logits once: together two to three times as fast. The eight-fold shorter
row is summed in the same way, so that rounding errors do not add up along it. Elsewhere XLA does
all this itself.
"""

import jax.numpy as jnp
from jax import Array, lax

PARTS = 8  # as many as LLVM unrolls; with more the loop inside is no longer vectorised


def row_sums(*terms: Array) -> tuple[Array, ...]:
    """Return the sum of each of the arrays over the last axis, which is kept with size 1.

    They must have the same shape and dtype.
    """
    return lax.platform_dependent(*terms, cpu=_by_parts, default=_plain)


def row_parts(x: Array) -> tuple[Array, Array]:
    """Return a row's `PARTS` equal parts, `[..., PARTS, n]`, and the few classes that are left."""
    length = x.shape[-1] // PARTS
    whole = PARTS * length
    return x[..., :whole].reshape(*x.shape[:-1], PARTS, length), x[..., whole:]


def _plain(*terms):
    return tuple(jnp.sum(term, -1, keepdims=True) for term in terms)


def _by_parts(*terms):
    return tuple(total[..., None] for total in _sums(terms))


def _sums(terms):
    if terms[0].shape[-1] < 2 * PARTS:
        return _sum_together(terms, -1)
    parts, rest = zip(*map(row_parts, terms), strict=True)
    sums = _sums(_sum_together(parts, -2))
    if rest[0].shape[-1]:
        sums = map(jnp.add, sums, _sum_together(rest, -1))
    return tuple(sums)


def _sum_together(terms, axis):
    """Sum over one axis in one reduction."""
    zeros = tuple(jnp.zeros((), term.dtype) for term in terms)
    return lax.reduce(terms, zeros, _add, (terms[0].ndim + axis,))


def _add(totals, terms):
    return tuple(map(jnp.add, totals, terms))
