r"""Labels and the rest: statistics of a part of the classes, merged, and completed to `LogitStats`.

An example lists one class, its label, or the K classes of `SparseLabels`. `Rest` describes any set
of the classes that it does not list. Sets are merged over blocks of classes; at the end the listed
classes join them, each with its own log-odds.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.core.collectives import MeshAxes
from jsoftmax.core.dtypes import to_compute_dtype
from jsoftmax.core.numerics import exp_nonpositive, neg_inf_to_zero
from jsoftmax.stats.labels import at_labels, is_listed
from jsoftmax.stats.logit_stats import LogitStats


class Rest(NamedTuple):
    """Classes that an example does not list: four numbers per example, `[...]`.

    The reference is `top`, to which the others are relative, so that a common offset of the logits
    costs no digits; it is a constant to differentiation.
    """

    top: Array  # the largest logit, -inf without classes
    total: Array  # sum of exp(z - top)
    below: Array  # sum of z - top
    count: Array  # how many classes


def no_rest(shape: tuple[int, ...], dtype: jnp.dtype) -> Rest:
    """Return the `Rest` of no class."""
    zero = jnp.zeros(shape, dtype)
    return Rest(jnp.full(shape, -jnp.inf, dtype), zero, zero, zero)


def rest_of(logits: Array, off: Array, *, mean: bool = True) -> Rest:
    """Return the `Rest` of the logits `[..., classes]` that are not `off`, where they are -inf.

    Without `mean`, what only the mean needs is left at 0, which saves passes over the logits.
    """
    top = lax.stop_gradient(jnp.max(logits, -1, initial=-jnp.inf))
    relative = logits - neg_inf_to_zero(top)[..., None]
    total = jnp.sum(exp_nonpositive(relative), -1)
    if not mean:
        return Rest(top, total, jnp.zeros_like(top), jnp.zeros_like(top))
    below = jnp.sum(jnp.where(off, 0, relative), -1)
    return Rest(top, total, below, jnp.sum(~off, -1, dtype=top.dtype))


def merge(a: Rest, b: Rest) -> Rest:
    """Return the `Rest` of two sets of classes that have none in common."""
    top = jnp.maximum(a.top, b.top)
    parts = [_relative_to(top, part) for part in (a, b)]
    return Rest(top, *(x + y for x, y in zip(*parts, strict=True)))


def _relative_to(top, part):
    # Of an empty set `total`, `below` and `count` are 0, and its top is not to be subtracted.
    down = jnp.where(part.top == -jnp.inf, 0, part.top - neg_inf_to_zero(top))
    return part.total * jnp.exp(down), part.below + part.count * down, part.count


def of_all_devices(
    label_scores: Array, inside: Array, on: Array, rest: Rest, axis: MeshAxes, *, mean: bool
) -> tuple[Array, Array, Rest]:
    """Return the scores of the labels, whether they are on, and the rest, of all devices' classes.

    Args:
      label_scores: `[N]` or `[N, K]`.
      inside: booleans of that shape, whether this device has the class.
      on: booleans of that shape, whether it has it and `where` keeps it.
      rest: `[N]`, of this device's classes.
      axis: the mesh axis over which the classes are spread.
      mean: whether the mean logit is needed.

    A label that no device has is on, and its score NaN.
    """
    if axis is None:
        return label_scores, on | ~inside, rest
    top = lax.pmax(lax.stop_gradient(rest.top), axis)
    own = jnp.where(inside, label_scores, 0)
    sums = [own, inside, on, *_relative_to(top, rest)[: 3 if mean else 1]]
    # In one array, so that it is one exchange.
    columns = [x.reshape(top.shape[0], -1).astype(top.dtype) for x in sums]
    packed = lax.psum(jnp.concatenate(columns, -1), axis)
    ends = list(itertools.accumulate(x.shape[-1] for x in columns))
    parts = zip(jnp.split(packed, ends[:-1], -1), sums, strict=True)
    scores, found, on, total, *others = [part.reshape(x.shape) for part, x in parts]
    below, count = others or (jnp.zeros_like(top), jnp.zeros_like(top))
    scores = jnp.where(found > 0, scores, jnp.nan)
    return scores, (on > 0) | (found == 0), Rest(top, total, below, count)


def complete(target: Array, labels: Array, on: Array, rest: Rest) -> tuple[LogitStats, Array]:
    """Return the stats of logits minus a shift, and the shift, which has no gradient.

    The stats have the shape of `target`: each listed class in its turn is the true one.

    Args:
      target: `[...]` or `[..., K]`, the logits of the listed classes, after margin and scale.
      labels: integers of that shape, the listed classes; one may be listed twice.
      on: booleans of that shape, whether `where` keeps the class.
      rest: `[...]`, of all classes that are not listed.
    """
    target = jnp.where(on, target, -jnp.inf)
    if labels.ndim > rest.top.ndim:
        apart = _first(labels)[..., None, :] & (labels[..., None, :] != labels[..., None])
        apart &= on[..., None, :]
        listed = rest_of(jnp.where(apart, target[..., None, :], -jnp.inf), ~apart)
        rest = merge(Rest(*(x[..., None] for x in rest)), listed)
    shift = lax.stop_gradient(neg_inf_to_zero(jnp.maximum(target, rest.top)))
    top = neg_inf_to_zero(rest.top) - shift
    target = jnp.where(target == -jnp.inf, -jnp.inf, target - shift)
    # The rest and the listed class itself are all classes.
    sum_of_all = rest.below + rest.count * top + jnp.where(on, target, 0)
    stats = LogitStats(
        target=target,
        others=top + _log(rest.total),
        runner_up=rest.top - shift,
        mean=sum_of_all / jnp.maximum(rest.count + on.astype(rest.count.dtype), 1),
    )
    return stats, shift


def listed_stats(logits: Array, labels: Array, where: Array | None) -> tuple[LogitStats, Array]:
    """Return `complete` of logits `[..., classes]` with lists `[..., K]`, all classes at once."""
    shape, classes = labels.shape, logits.shape[-1]
    z, labels = to_compute_dtype(logits).reshape(-1, classes), labels.reshape(-1, shape[-1])
    off = is_listed(jnp.arange(classes, dtype=labels.dtype), labels)
    on = jnp.ones(labels.shape, bool)
    if where is not None:
        where = where.reshape(z.shape)
        off |= ~where
        on = jnp.take_along_axis(where, jnp.clip(labels, 0, classes - 1), -1)
    rest = rest_of(jnp.where(off, -jnp.inf, z), off)
    completed = complete(at_labels(z, labels), labels, on, rest)
    return jax.tree.map(lambda x: x.reshape(shape), completed)


def _log(total):
    """Return the logarithm, -inf with gradient 0 at 0."""
    empty = total == 0
    return jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1, total)))


def _first(labels):
    """Say which entries of lists `[..., K]` do not repeat an earlier one."""
    same = labels[..., None, :] == labels[..., None]
    return ~jnp.any(jnp.tril(same, -1), -1)
