"""Thresholds on the scores of all pairs, exact to the pair, by counting.

What is asked for is the lowest threshold at which the false accepts are few enough. Float32 numbers
are searched as integers in their order. Each pass counts the scores from several thresholds on,
between one that accepts too many and one that does not, until the two are neighbours.

The scores are made anew by each pass: by the same program from the same blocks, so that they are
the same. A pass leaves out all tiles that have no score between the two thresholds.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax.core import wide
from jsoftmax.metrics.pair_tiles import SLICES, Pairs, over_tiles

_BOUND = np.float32(1.5).view(np.int32)  # the key of a number that no cosine reaches
# Where thresholds are tried, in spreads: around a sample's, then around the expected one, then with
# two far from it, by which a pass leaves at most half of the numbers whatever the scores are.
_FIRST = np.array([[-4, -1, 1, 4]], np.float32)
_SECOND = np.array([[-2, -0.5, 0.5, 2]], np.float32)
_LATER = np.array([[-0.5, 0.5]], np.float32)
_FAR = np.array([[0.25, 0.75]], np.float32)
_TRIED = 4
# By how much a sample's threshold is off, as a first guess: 1e-3 around 0.3, or 1e-2.
_SPREAD, _SPREAD_BY_BOTH = 1 << 15, 1 << 18


class Found(NamedTuple):
    """Neighbouring thresholds, as keys `[searches]`, and accepted pairs: same, and different ones.

    `high` is the lowest at which few enough are accepted, `low` the number before it.
    """

    low: Array
    high: Array
    at_low: Array  # wide [searches, 2]
    at_high: Array


class _State(NamedTuple):
    found: Found
    tiles_low: Array  # int32 [steps, tiles, searches, 2]
    tiles_high: Array
    passes: Array


Enough = Callable[[Array, Array], Array]  # accepted pairs [searches, n, 2], all -> few enough


def count_pairs(pairs: Pairs) -> tuple[Array, Array]:
    """Return the number of pairs, same and different, in each tile, and in all: a wide number."""
    b, c = pairs.tiles

    def of_tile(tile, _):
        def mixed():
            return jnp.stack([jnp.sum(kind, dtype=jnp.int32) for kind in tile.kinds()])

        def different():
            side = jnp.int32(pairs.rows.labels.shape[1] * tile.columns.labels.shape[1])
            return jnp.stack([0 * side, side])

        return _branch(tile, tile.counted(), jnp.zeros(2, jnp.int32), different, mixed)

    found = over_tiles(pairs, of_tile, jnp.zeros((pairs.steps, b * c, 0), jnp.int32))
    return found, wide.total(found.reshape(-1, 2), pairs.axes)


def _branch(tile, visited, left_out, different, mixed):
    # Inside shard_map all three have the type of what is made of the labels.
    zero = 0 * tile.columns.labels[0, 0].astype(jnp.int32)
    index = jnp.where(visited, jnp.where(tile.all_different(), 1, 2), 0)
    return lax.switch(
        index, [lambda: left_out + zero, lambda: different() + zero, lambda: mixed() + zero]
    )


def search(
    pairs: Pairs,
    in_tiles: Array,
    totals: Array,
    enough: Enough,
    by_both: np.ndarray,
    near: Array | None = None,
    tolerance: int = 1,
    progress: Callable[..., Any] | None = None,
) -> Found:
    """Return the lowest thresholds at which few enough pairs are accepted.

    Args:
      pairs: the pairs.
      in_tiles: their number by tile, from `count_pairs`.
      totals: their number, wide `[2]`.
      enough: says for how many accepted pairs `[searches, n, 2]`, wide numbers, that is so. It must
        be so for none, and once it is so for a threshold, also for all higher ones.
      by_both: `[searches]`, True for one that depends on the true accepts, too. It ends as soon as
        no same pair is left between the thresholds: then the rates are known.
      near: keys `[searches]` that they may be near to.
      tolerance: how far apart the two thresholds may be at the end.
      progress: is called with the number of the pass, of the row block, and of all row blocks.
    """
    (b, c), searches = pairs.tiles, len(by_both)
    start = Found(
        jnp.full(searches, -_BOUND - 1),
        jnp.full(searches, _BOUND),
        jnp.broadcast_to(totals, (searches, 2, wide.DIGITS)),
        jnp.zeros((searches, 2, wide.DIGITS), jnp.uint32),
    )
    some = jnp.broadcast_to(in_tiles[:, :, None], (pairs.steps, b * c, searches, 2))

    def unfinished(found):
        same_between = jnp.any(found.at_low[:, 0] != found.at_high[:, 0], -1)
        return (found.high - found.low > tolerance) & (same_between | ~by_both)

    def count(keys, state):
        thresholds = lax.optimization_barrier(wide.from_order_key(keys))  # made once

        def of_tile(tile, given):
            low, high = given
            if progress is not None:
                _report(progress, state.passes, tile)
            known = jnp.broadcast_to(high[:, None], (*keys.shape, 2))

            def different():
                accepted = _at_least(tile.scores(), thresholds)
                return jnp.stack([jnp.zeros_like(accepted), accepted], -1)

            def mixed():
                z = tile.scores()
                # Each made once; otherwise every slice of it would be for each threshold.
                of_kinds = [jnp.where(kind, z, -jnp.inf) for kind in tile.kinds()]
                of_kinds = lax.optimization_barrier(of_kinds)
                return jnp.stack([_at_least(x, thresholds) for x in of_kinds], -1)

            open_here = jnp.any(low != high, -1) & unfinished(state.found)
            return _branch(tile, jnp.any(open_here), known, different, mixed)

        return over_tiles(pairs, of_tile, (state.tiles_low, state.tiles_high))

    def step(state):
        found = state.found
        keys = _tried(found, enough, totals, by_both, near, state.passes)
        counts = count(keys, state)
        sums = wide.total(counts.reshape(-1, *counts.shape[2:]), pairs.axes)
        index = jnp.sum(~enough(sums, totals), -1, dtype=jnp.int32)

        def between(low, tried, high, axis):
            """Return what belongs to the last threshold that is too low, and to the next."""
            low, high = (jnp.expand_dims(x, axis) for x in (low, high))
            joined = jnp.concatenate([low, tried, high], axis)
            at = index.reshape([-1 if i == axis - 1 else 1 for i in range(joined.ndim)])
            return [jnp.squeeze(jnp.take_along_axis(joined, at + i, axis), axis) for i in range(2)]

        low, high = between(found.low, keys, found.high, 1)
        at_low, at_high = between(found.at_low, sums, found.at_high, 1)
        tiles_low, tiles_high = between(state.tiles_low, counts, state.tiles_high, 3)
        moved = Found(low, high, at_low, at_high)
        open_ = unfinished(found)  # of the others not all tiles were counted
        found = jax.tree.map(
            lambda new, old: jnp.where(open_.reshape(-1, *[1] * (new.ndim - 1)), new, old),
            moved,
            found,
        )
        return _State(found, tiles_low, tiles_high, state.passes + 1)

    state = _State(start, some, jnp.zeros_like(some), jnp.int32(0))
    return lax.while_loop(lambda state: jnp.any(unfinished(state.found)), step, state).found


def _tried(found, enough, totals, by_both, near, passes):
    """Return thresholds `[searches, tried]` in ascending order, between the bounds."""
    width = (found.high - found.low).astype(jnp.float32)
    expected = width * _share_below(found, enough, totals)
    # The fewer pairs of a kind there are between the bounds, the less is known of where they lie.
    inside = wide.as_float(wide.subtract(found.at_low, found.at_high)).astype(jnp.float32)
    inside = jnp.where(by_both, jnp.min(inside, -1), inside[:, 1])
    spread = width / jnp.sqrt(jnp.maximum(inside, 16))
    expected, spread, width = (x[:, None] for x in (expected, spread, width))
    tried = jnp.concatenate([expected + spread * _LATER, width * _FAR], -1)
    if near is not None:
        first = np.where(by_both, _SPREAD_BY_BOTH, _SPREAD).astype(np.float32)[:, None] * _FIRST
        first += (near - found.low).astype(jnp.float32)[:, None]
        second = expected + spread * _SECOND
        tried = jnp.where(passes == 0, first, jnp.where(passes == 1, second, tried))
    tried = found.low[:, None] + jnp.clip(tried, 0, width).astype(jnp.int32)
    every = found.low[:, None] + 1 + jnp.arange(_TRIED, dtype=jnp.int32)[None]
    tried = jnp.where(width <= _TRIED + 1, every, tried)
    return jnp.sort(jnp.clip(tried, found.low[:, None] + 1, found.high[:, None] - 1), -1)


def _share_below(found, enough, totals):
    """Return where between the bounds the threshold is expected, from 0 to 1.

    By bisection between the numbers that are accepted at the two bounds, whose logarithms are
    nearly linear where there are few.
    """
    accepted = (wide.as_float(x).astype(jnp.float32) for x in (found.at_low, found.at_high))
    low, high = (jnp.maximum(x, 0.5) for x in accepted)

    def halve(_, bounds):
        left, right = bounds
        middle = (left + right) / 2
        accepted = low * (high / low) ** middle[:, None]
        fits = enough(wide.from_float(accepted[:, None]), totals)[:, 0]
        return jnp.where(fits, left, middle), jnp.where(fits, middle, right)

    zero = jnp.zeros(len(low), jnp.float32)
    return lax.fori_loop(0, 20, halve, (zero, zero + 1))[1]


def _at_least(z, thresholds):
    """Return how many scores are at least as large as each of the thresholds.

    On a CPU, only what is written as a sum of few slices runs as one loop over the scores.
    """
    found = [part >= thresholds[..., None] for part in z.reshape(SLICES, 1, 1, -1)]
    return jnp.sum(sum(x.astype(jnp.int32) for x in found), -1, dtype=jnp.int32)


def _report(progress, passes, tile):
    b, _ = tile.pairs.tiles

    def call():
        jax.debug.callback(progress, passes, tile.i, b)

    lax.cond(tile.j == 0, call, lambda: None)
