"""Trials in the order of their scores: what is accepted at each threshold, by one sort.

A trial has a score and is of one of two kinds, such as a pair of images of the same person, or of
different ones. A threshold accepts the scores that are at least as large.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.checks import check_both_kinds, check_kinds
from jsoftmax.core.arguments import as_given_like, as_logits, check_no_tuple, check_shape, is_known
from jsoftmax.core.dtypes import at_least_16_bits, cast_like, to_compute_dtype, unnarrowed
from jsoftmax.core.numerics import share


class Trials(NamedTuple):
    """Checked trials `[n]`: NaN makes the result NaN, whatever has no weight is left out."""

    scores: Array
    same: Array  # booleans
    weight: Array  # integers if none were given, so that counts are exact
    valid: Array  # a boolean: no NaN, and no kind that is neither 0 nor 1


def checked_scores(name: str, scores: ArrayLike) -> Array:
    """Return a number by example in the compute dtype."""
    return to_compute_dtype(at_least_16_bits(as_logits(scores, name)))


def checked_kinds(name: str, kinds: ArrayLike, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return booleans `[n]`, and which of them were given as something other than 0, 1 or these."""
    check_no_tuple(name, kinds)
    given: Any = unnarrowed(kinds)
    is_bool = given.dtype == bool
    if not (is_bool or jnp.issubdtype(given.dtype, jnp.integer)):
        raise TypeError(f"`{name}`: expected booleans, or integers 0 and 1, got {given.dtype}.")
    check_shape(name, given, shape, "a boolean for every score")
    given = given.reshape(-1)
    if is_bool:
        return jnp.asarray(given), jnp.zeros(given.shape, bool)
    return jnp.asarray(given == 1), jnp.asarray((given != 0) & (given != 1))


def checked_weight(sample_weight: ArrayLike | None, like: Array) -> Array:
    """Return weights `[n]`, which are the integer 1 if none are given."""
    if sample_weight is None:
        return jnp.ones(like.size, jnp.int32)
    weight = as_given_like("sample_weight", sample_weight, like)
    check_shape("sample_weight", weight, like.shape, "a weight for every score")
    return weight.reshape(-1)


def counted(x: Array, weight: Array) -> tuple[Array, Array]:
    """Return numbers `[n]`, and which of them count.

    In place of those of weight 0 stands the least that counts, so that they are no threshold.
    """
    x, counts = x.reshape(-1), weight != 0
    least = jnp.min(jnp.where(counts, x, jnp.inf), initial=jnp.inf)
    return jnp.where(counts, x, least), counts


def checked_trials(scores: ArrayLike, same: ArrayLike, sample_weight: ArrayLike | None) -> Trials:
    """Return checked trials."""
    x = checked_scores("scores", scores)
    same, wrong = checked_kinds("same", same, x.shape)
    weight = checked_weight(sample_weight, x)
    x, counts = counted(x, weight)
    check_kinds("same", counts & wrong)
    valid = ~jnp.any(counts & (jnp.isnan(x) | wrong))
    check_both_kinds(jnp.any(counts & same), jnp.any(counts & ~same))
    return Trials(x, same, weight, valid)


class Accepted(NamedTuple):
    """What each score accepts as a threshold: sums of weights `[n]` in descending order of score.

    Equal scores have the same sums.
    """

    threshold: Array
    sums: tuple[Array, ...]


def accepted(scores: Array, *weights: Array) -> Accepted:
    """Return the sums of weights of all scores that are at least as large as each."""
    order: Any = lax.sort((-scores, *weights), is_stable=False)
    place = jnp.arange(scores.shape[0], dtype=jnp.int32)
    last = jnp.where(last_of_equals(order[0]), place, jnp.iinfo(jnp.int32).max)
    last = lax.cummin(last, reverse=True)  # of the equals of each
    return Accepted(-order[0], tuple(jnp.cumsum(w, dtype=w.dtype)[last] for w in order[1:]))


def last_of_equals(x: Array) -> Array:
    """Return which of sorted values `[n]` are followed by another one."""
    n = x.shape[0]  # which `jax.export` may leave open
    return (x != jnp.roll(x, -1)) | (jnp.arange(n) == n - 1)


def num_at_most(values: Array, ascending: Array) -> Array:
    """Return how many of sorted numbers `[n]` are at most as large as each value."""
    if is_known(ascending.shape[0]):
        return jnp.searchsorted(ascending, values, side="right")
    return jnp.sum(ascending <= values[..., None], -1)


def slack(rate: Array, weight: Array) -> Array:
    """Return by how much a rate that is meant to be equal may be rounded, as 3 / 10 and 0.3.

    It is less than half of the smallest of the weights of which it is a rate.
    """
    eps = float(jnp.finfo(rate.dtype).eps)
    weight = cast_like(weight, rate)
    least = jnp.min(jnp.where(weight > 0, weight, jnp.inf), initial=jnp.inf)
    return jnp.minimum(4 * eps * rate, least / jnp.sum(weight) / 2)


def from_nothing(sums: Array, total: Array) -> Array:
    """Return shares of a total that is accepted `[n + 1]`, of which the first is 0."""
    sums = lax.cummax(sums.astype(total.dtype))  # of floats they may be rounded otherwise
    return share(jnp.concatenate([jnp.zeros(1, total.dtype), sums]), total)


def shares(trials: Trials) -> tuple[Array, Array, Array]:
    """Return thresholds, and the shares of different and of same pairs accepted there `[n + 1]`.

    The first threshold is inf and accepts nothing. The shares are NaN if there is none of a kind.
    """
    x, same, weight, valid = trials
    none = cast_like(0, weight)
    threshold, sums = accepted(x, jnp.where(same, none, weight), jnp.where(same, weight, none))
    far, tar = (from_nothing(kind, total_of(kind, valid, x)) for kind in sums)
    return with_nothing(threshold), far, tar


def total_of(sums: Array, valid: Array, x: Array) -> Array:
    """Return all that is accepted in the dtype of `x`, NaN if it is not valid."""
    return jnp.where(valid, cast_like(jnp.max(sums, initial=0), x), jnp.nan)


def with_nothing(threshold: Array) -> Array:
    """Return thresholds after one that accepts nothing."""
    return jnp.concatenate([jnp.full(1, jnp.inf, threshold.dtype), threshold])
