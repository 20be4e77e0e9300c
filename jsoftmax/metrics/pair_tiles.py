"""All pairs of two sets of vectors, or of one, in tiles: their cosines, counted and never held.

A tile is a block of rows against a block of columns. Where both are of one set, tile (i, i + s)
stands for the tile (i + s, i), too. So of n blocks, counted around a circle, each meets the n / 2
that follow it: every pair is there once, and over a mesh every device has equally many.

Rows are in the order of their labels. So in most tiles no pair is of the same class, which is seen
from the lowest and the highest label of a block.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.lax import PrecisionLike

from jsoftmax.blockwise.machine import platform
from jsoftmax.blockwise.matmul import matmul
from jsoftmax.core.collectives import NO_CLASS, MeshAxes
from jsoftmax.metrics.embeddings import Embeddings

SLICES = 16  # a block has a multiple of so many rows
_SIDE, _SIDE_ON_CPU = 4096, 512  # on a CPU, a tile stays in the cache


class Blocks(NamedTuple):
    """Vectors in blocks. Those that fill up a block, or are ignored, have the label NO_CLASS."""

    vectors: Array  # [blocks, side, D]
    factors: Array | None  # [blocks, side], what makes them unit vectors; None if they are
    labels: Array  # [blocks, side]


class Pairs(NamedTuple):
    """Which pairs there are, but for their number of tiles static."""

    rows: Blocks
    columns: Blocks  # over a mesh, those of this device; the devices pass them on in a ring
    where: Array | None  # [rows or 1, all columns or 1]
    one_set: bool
    axes: MeshAxes
    precision: PrecisionLike

    @property
    def steps(self) -> int:
        """How many times the columns are passed on, this device's own included."""
        devices = 1 if self.axes is None else lax.axis_size(self.axes)
        if not self.one_set:
            return devices
        return min(devices, devices // 2 + 1 + devices % 2)

    @property
    def tiles(self) -> tuple[int, int]:
        """How many blocks of rows and of columns there are in a step."""
        return self.rows.labels.shape[0], self.columns.labels.shape[0]


def side_for(rows: int) -> int:
    """Return how many rows a block has, so that a device has at most 256 blocks."""
    side = max(_SIDE_ON_CPU if platform() == "cpu" else _SIDE, rows // 256)
    count = max(1, -(-rows // side))
    return max(1, -(-rows // (count * SLICES))) * SLICES


def in_blocks(given: Embeddings, side: int) -> Blocks:
    """Return embeddings in blocks of this many."""
    vectors, factors, labels, _ = given
    missing = -len(labels) % side if len(labels) else side

    def cut(x, value=0):
        widths = [(0, missing)] + [(0, 0)] * (x.ndim - 1)
        blocks = (len(x) + missing) // side
        return jnp.pad(x, widths, constant_values=value).reshape(blocks, side, *x.shape[1:])

    return Blocks(cut(vectors), None if factors is None else cut(factors), cut(labels, NO_CLASS))


def over_tiles(pairs: Pairs, of_tile: Callable[..., Any], given: Any) -> Any:
    """Return a tree of arrays `[steps, tiles, ...]` of what a function makes of each tile.

    Args:
      pairs: the rows and columns.
      of_tile: a function of a `Tile` and of what is given for it.
      given: a tree of arrays `[steps, tiles, ...]`.
    """
    b, c = pairs.tiles
    devices = 1 if pairs.axes is None else lax.axis_size(pairs.axes)
    here = 0 if pairs.axes is None else lax.axis_index(pairs.axes)

    def step(columns, each):
        r, given = each
        there = (here + r) % devices

        def body(_, each):
            t, given = each
            return None, of_tile(Tile(pairs, columns, here, there, t // c, t % c), given)

        found = lax.scan(body, None, (jnp.arange(b * c, dtype=jnp.int32), given))[1]
        if devices > 1:
            back = [(i, (i - 1) % devices) for i in range(devices)]
            columns = jax.tree.map(partial(lax.ppermute, axis_name=pairs.axes, perm=back), columns)
        return columns, found

    return lax.scan(step, pairs.columns, (jnp.arange(pairs.steps, dtype=jnp.int32), given))[1]


class Tile(NamedTuple):
    """Block i of the rows of a device, `here`, against block j of the columns of another."""

    pairs: Pairs
    columns: Blocks
    here: Array | int
    there: Array | int
    i: Array
    j: Array

    def counted(self) -> Array:
        """Say whether the pairs are counted in this tile."""
        if not self.pairs.one_set:
            return jnp.asarray(True)
        return self._apart()[0]

    def _apart(self):
        b, c = self.pairs.tiles
        devices = 1 if self.pairs.axes is None else lax.axis_size(self.pairs.axes)
        row, column = self.here * b + self.i, self.there * c + self.j
        s = (column - row) % (devices * b)
        counted = (2 * s < devices * b) | ((2 * s == devices * b) & (row < column))
        return counted, s == 0

    def _labels(self):
        return self.pairs.rows.labels[self.i], self.columns.labels[self.j]

    def all_different(self) -> Array:
        """Say whether it is plain that every pair is counted, and of different classes."""
        x, y = self._labels()
        apart = (jnp.max(x) < jnp.min(y)) | (jnp.max(y) < jnp.min(x))
        plain = apart & (jnp.maximum(jnp.max(x), jnp.max(y)) < NO_CLASS)
        return plain if self.pairs.where is None else jnp.zeros_like(plain)

    def kinds(self) -> tuple[Array, Array]:
        """Return which pairs `[side, side]` are of the same class, and which of different ones."""
        x, y = self._labels()
        some = (x < NO_CLASS)[:, None] & (y < NO_CLASS)[None]
        if self.pairs.one_set:
            n = jnp.arange(len(x))
            some &= ~self._apart()[1] | (n[:, None] < n[None])
        if self.pairs.where is not None:
            some &= self._cut(self.pairs.where, len(x), len(y))
        same = x[:, None] == y[None]
        return some & same, some & ~same

    def _cut(self, where, rows, columns):
        starts = self.i * rows, (self.there * self.pairs.tiles[1] + self.j) * columns
        for axis, (start, size) in enumerate(zip(starts, (rows, columns), strict=True)):
            if where.shape[axis] > 1:
                where = lax.dynamic_slice_in_dim(where, start, size, axis)
        return where

    def scores(self) -> Array:
        """Return the cosines `[side, side]`."""
        rows, columns = self.pairs.rows, self.columns
        z = matmul(rows.vectors[self.i], columns.vectors[self.j], self.pairs.precision)
        if rows.factors is None or columns.factors is None:
            return z
        return z * rows.factors[self.i][:, None] * columns.factors[self.j][None]
