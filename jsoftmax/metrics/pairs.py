"""Verification of all pairs of embeddings, whose scores are counted and never held."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from jsoftmax.checks import check_both_kinds
from jsoftmax.core import wide
from jsoftmax.core.arguments import booleans, check_broadcasts, check_shape
from jsoftmax.core.collectives import MeshAxes, check_bound_axis, num_global, psum
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numerics import share
from jsoftmax.metrics.embeddings import by_label, checked_embeddings
from jsoftmax.metrics.pair_search import Found, count_pairs, search
from jsoftmax.metrics.pair_tiles import Pairs, in_blocks, side_for
from jsoftmax.metrics.rates import allowed, exact_rates

_SAMPLE = 1024  # rows on which the thresholds are looked for first
_ROUGHLY = 1 << 12  # float32 numbers between which the threshold of a sample lies
_RUN = 4  # rows of a sample that follow one another, so that some are of the same class


class VerificationRates(NamedTuple):
    r"""Rates of all pairs; returned by `verification_rates`.

    $$\mathrm{far} = \frac{\mathrm{false\;accepts}}{\mathrm{different\;pairs}}, \qquad
    \mathrm{tar} = \frac{\mathrm{true\;accepts}}{\mathrm{same\;pairs}}$$

    Numbers of pairs are exact, and pass 2^32: two uint32, of which the first counts 2^32, as a
    Python integer `int(high) << 32 | int(low)`. Without different pairs, thresholds and rates are
    NaN; without same pairs, `tar` and the equal error rate are.

    Args:
      threshold: for each far that was asked for, the lowest at which no more is accepted: a score
        is accepted if it is at least as large. -1.5, below all cosines, if all may be.
      far: the share of the different pairs that it accepts.
      tar: the share of the same pairs that it accepts.
      eer: the equal error rate, interpolated between two thresholds; None if not asked for.
      eer_threshold: a threshold at which false accepts are at most as frequent as false rejects,
        and below the next lower score of a same pair more frequent.
      false_accepts: `[..., 2]`, how many of the different pairs the threshold accepts.
      true_accepts: `[..., 2]`, how many of the same pairs.
      different_pairs: `[2]`, how many pairs are of different classes.
      same_pairs: `[2]`, how many are of the same.

    Source: the definitions.

    Example:
      >>> rates = js.verification_rates(jnp.eye(4), jnp.array([0, 0, 1, 1]), far=0.1)
      >>> rates.same_pairs, rates.different_pairs
      (Array([0, 2], dtype=uint32), Array([0, 4], dtype=uint32))
    """

    threshold: Array
    far: Array
    tar: Array
    eer: Array | None
    eer_threshold: Array | None
    false_accepts: Array
    true_accepts: Array
    different_pairs: Array
    same_pairs: Array


@on_any_mesh(same_everywhere)
def verification_rates(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    far: float | tuple[float, ...] = (1e-2, 1e-3, 1e-4),
    other: ArrayLike | None = None,
    other_labels: ArrayLike | None = None,
    eer: bool = False,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    batch_axis: MeshAxes = None,
    precision: PrecisionLike = None,
    progress: Callable[..., Any] | None = None,
) -> VerificationRates:
    r"""True accept rates at false accept rates, of the cosines of all pairs, exact to the pair.

    $$t_f = \min\;\{t : \mathrm{far}(t) \le f\}, \qquad \mathrm{far}(t) =
    P\Bigl(\frac{x_i \cdot x_j}{|x_i|\,|x_j|} \ge t \Bigm| y_i \ne y_j\Bigr)$$

    The cosines are computed in tiles and counted, several times, with fewer tiles each time. Memory
    is that of the embeddings and of a few tiles. Each pair counts once, and none with itself.

    Args:
      features: `[n, features]`, embeddings, any real dtype.
      labels: `[n]`, integers: which embeddings are of the same class.
      far: rates from 0 to 1, a number or several; static. They count as the decimals that they are
        written as. Where less than one of the pairs may be accepted, the threshold is above all.
      other: `[m, features]`, for the pairs of one of `features` and one of these. None for all
        pairs of `features`.
      other_labels: `[m]`, integers.
      eer: whether to search the equal error rate, too: twice the time; static.
      where: booleans that broadcast against the pairs `[n, m]`: False for one that is left out. For
        the pairs of one set it has to be symmetric.
      ignore_index: a label whose embeddings are left out.
      batch_axis: mesh axes of a surrounding `shard_map` over which the embeddings, both sets, are
        sharded; the columns of `where` are not. Devices pass one another their embeddings.
      precision: of the products, as `jax.lax.dot_general` takes it; "highest" is float32 on any
        device. None follows `jax.default_matmul_precision`, by which a GPU rounds float32 operands
        to TF32, and a TPU to bfloat16.
      progress: a function of a pass, a block of rows, and the number of such blocks, called when it
        is begun, on each device; static. A pass counts all tiles that can still hold the threshold:
        the first two all, then few.

    Returns:
      `VerificationRates`, for each far in its shape. Cosines are float32: those of bfloat16 are of
      its exact numbers. An embedding of zeros has the cosine 0. All is NaN if an embedding that
      counts is not finite, or its label does not fit into 32 bits. Rates are NaN if there is no
      pair of that kind, and the EER if there is none of either.

    Source: the definitions, those of `tar_at_far` and `equal_error_rate` on all pairs.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
      >>> js.verification_rates(x, jnp.array([0, 0, 1, 1]), far=(0.0, 0.3)).tar
      Array([0., 1.], dtype=float32)
    """
    check_bound_axis("batch_axis", batch_axis)
    asked = exact_rates(far)
    if not (asked or eer):
        raise ValueError("`far`: expected a rate where no equal error rate is asked for, got none.")
    given = checked_embeddings("features", features, labels, ignore_index)
    others = given
    if (other is None) != (other_labels is None):
        raise ValueError("`other` and `other_labels`: expected both or neither.")
    if other is not None and other_labels is not None:
        others = checked_embeddings("other", other, other_labels, ignore_index, "other_labels")
        check_shape("other", others.x, (len(others.x), given.x.shape[1]), "as many features")
    if where is not None:
        where = booleans("where", where, "True for a pair to keep")
        columns = num_global(len(others.x), batch_axis)
        check_broadcasts("where", where, (len(given.x), columns), "a boolean for every pair")
        where = where.reshape((1,) * (2 - where.ndim) + where.shape)
    found, totals = _searched(
        given, others, where, (asked, eer), other is None, batch_axis, precision, progress
    )
    bad = jnp.any(given.bad) | jnp.any(others.bad)
    bad = psum(bad.astype(jnp.int32), batch_axis) > 0
    return _reported(found, totals, bad, np.shape(far), eer)


@partial(jax.jit, static_argnums=(3, 4, 5, 6, 7))
def _searched(given, others, where, static, one_set, axes, precision, progress):
    """Return what `search` finds, and the numbers of pairs, the same and the different ones."""
    asked, eer = static
    if where is None:
        given, others = by_label(given), by_label(others)

    def pairs_of(rows, columns, where):
        sides = side_for(len(rows.x)), side_for(len(columns.x))
        of_rows, of_columns = map(in_blocks, (rows, columns), sides)
        if where is not None:
            where = _filled(where, of_rows, of_columns, len(columns.x))
        return Pairs(of_rows, of_columns, where, one_set, axes, precision)

    def found(pairs, near=None, tolerance=1, progress=None):
        in_tiles, totals = count_pairs(pairs)
        limits = [allowed(totals[1], rate) for rate in asked]
        limits = jnp.stack(limits) if limits else jnp.zeros((0, wide.DIGITS), jnp.uint32)
        enough = partial(_enough, limits)
        options = by_both, near, tolerance, progress
        return search(pairs, in_tiles, totals, enough, *options), totals

    by_both = np.arange(len(asked) + eer) == len(asked)  # the EER comes last
    near = None
    if where is None and max(len(given.x), len(others.x)) >= 4 * _SAMPLE:
        near = found(pairs_of(_sample(given), _sample(others), None), tolerance=_ROUGHLY)[0].high
    return found(pairs_of(given, others, where), near, progress=progress)


def _sample(given):
    """Return runs of neighbouring rows, spread over all."""
    n = len(given.x)
    every = max(1, n // _SAMPLE)
    runs = n // (_RUN * every)
    if not runs or every == 1:
        return given

    def cut(x):
        whole = x[: runs * every * _RUN].reshape(runs, every, _RUN, *x.shape[1:])
        return whole[:, 0].reshape(runs * _RUN, *x.shape[1:])

    return jax.tree.map(cut, given)


def _filled(where, rows, columns, num_columns):
    """Return a mask of pairs with the rows that fill up the blocks."""
    size = rows.labels.size
    if where.shape[0] > 1:
        where = jnp.pad(where, [(0, size - where.shape[0]), (0, 0)])
    if where.shape[1] > 1:
        of_devices = where.reshape(where.shape[0], -1, num_columns)
        missing = columns.labels.size - num_columns
        where = jnp.pad(of_devices, [(0, 0), (0, 0), (0, missing)]).reshape(where.shape[0], -1)
    return where


def _enough(limits, accepted, totals):
    """Say whether few enough are accepted: for each far, and where there is one more, the EER."""
    same, different = accepted[..., 0, :], accepted[..., 1, :]
    k = len(limits)
    by_far = wide.at_most(different[:k], jnp.broadcast_to(limits[:, None], different[:k].shape))
    rejected = wide.subtract(jnp.broadcast_to(totals[0], same[k:].shape), same[k:])
    by_eer = wide.at_most(
        wide.multiply(different[k:], totals[0]), wide.multiply(rejected, totals[1])
    )
    return jnp.concatenate([by_far, by_eer])


def _reported(found: Found, totals, bad, shape, with_eer):
    same, different = totals[0], totals[1]
    check_both_kinds(jnp.any(same > 0), jnp.any(different > 0))

    def rate(accepted, kind):
        total = jnp.where(bad, jnp.nan, wide.as_float(totals[kind]))
        return share(wide.as_float(accepted[:, kind]), total)

    # Without different pairs nothing says what to accept.
    bad |= ~jnp.any(different > 0)
    threshold = jnp.where(bad, jnp.nan, wide.from_order_key(found.high))
    k = math.prod(shape)
    tar, far = rate(found.at_high[:k], 0), rate(found.at_high[:k], 1)
    eer = of_eer = None
    if with_eer:
        # The point of equal rates lies between the two neighbours.
        low, high = found.at_low[k:], found.at_high[k:]
        before, after = (rate(x, 1) - (1 - rate(x, 0)) for x in (low, high))
        part = before / jnp.where(before == after, 1, before - after)
        eer = rate(low, 1) + part * (rate(high, 1) - rate(low, 1))
        eer, of_eer = eer[0], jnp.where(jnp.isnan(eer[0]), jnp.nan, threshold[k])
    accepts = wide.halves(found.at_high[:k]).reshape(*shape, 2, 2)
    return VerificationRates(
        threshold[:k].reshape(shape),
        far.reshape(shape),
        tar.reshape(shape),
        eer,
        of_eer,
        accepts[..., 1, :],
        accepts[..., 0, :],
        wide.halves(different),
        wide.halves(same),
    )
