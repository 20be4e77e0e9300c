"""The statistics of the other classes: found in a block, merged, and made into `LogitStats`."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.core.arguments import with_rank_of
from jsoftmax.core.collectives import NO_CLASS, MeshAxes, packed_psum
from jsoftmax.core.numerics import change, neg_inf_to_zero
from jsoftmax.stats.labels import at_label, first_of_equals
from jsoftmax.stats.logit_stats import LogitStats
from jsoftmax.stats.statistics import (
    FIELDS,
    SUMS,
    Classes,
    Parts,
    Sums,
    names_of_sums,
    need_top_class,
)

_NEARLY = 1 << 30  # above all classes


class Others(NamedTuple):
    """Statistics of classes that an example does not list as labels: arrays `[...]`."""

    top: Array  # the largest logit, -inf without classes
    top_class: Array | None  # the first class that attains it, if a field needs it
    runner_up: Array | None  # then also the top with its derivative
    sums: Sums  # relative to the top


def no_others(shape: tuple[int, ...], dtype: jnp.dtype, index: jnp.dtype, fields) -> Others:
    """Return the statistics of no class."""
    top = jnp.full(shape, -jnp.inf, dtype)
    sums = {name: jnp.zeros(shape, dtype) for name in names_of_sums(fields)}
    if not need_top_class(fields):
        return Others(top, None, None, sums)
    return Others(top, jnp.full(shape, NO_CLASS, index), top, sums)


def others_of(
    z: Array, unmasked: Array, classes: Array, fields: tuple[str, ...], weights: Any = None
) -> Others:
    """Return the statistics of logits `[..., c]`, which are -inf where they are masked.

    Args:
      z: logits without those of the labels, which count as masked.
      unmasked: booleans of that shape.
      classes: integers `[c]`, which classes these are, one after another.
      fields: which of the `OPTIONAL` ones are wanted, and perhaps `weighted_mean`.
      weights: of the classes, `[c]`, for the latter.
    """
    top = jnp.max(lax.stop_gradient(z), -1, initial=-jnp.inf)
    names = names_of_sums(fields)
    if not need_top_class(fields) or not len(classes):
        return Others(top, None, None, sums_below(top, z, unmasked, names, weights))
    top_class = _first_at_top(z, top, classes)
    # Of ties the first has the derivative, as in the backward pass, or the second one were of both.
    runner_up = top + change(at_label(z, top_class - classes[0]))
    first = is_class(classes, top_class)
    return Others(top, top_class, runner_up, sums_below(top, z, unmasked, names, weights, first))


def is_class(classes: Array, index: Array) -> Array:
    """Return booleans `[..., c]`: which of the classes `[c]` is the one of each example."""
    index = index[..., None]
    return with_rank_of(index, classes) == index


def _first_at_top(z, top, classes):
    """Return the first class that attains the top, as a minimum: XLA's argmax is slow on a CPU.

    Where the logits are computed again here, and rounded differently, none may attain it: then the
    first within a few roundings.
    """
    nearly = top - 8 * float(jnp.finfo(top.dtype).eps) * jnp.abs(neg_inf_to_zero(top))
    instead = jnp.where(z >= nearly[..., None], classes + _NEARLY, NO_CLASS)
    found = jnp.min(jnp.where(z >= top[..., None], classes, instead), -1, initial=NO_CLASS)
    is_nearly = (found >= _NEARLY) & (found < NO_CLASS)
    return jnp.where(is_nearly, found - _NEARLY, found).astype(classes.dtype)


def sums_below(
    top: Array, z: Array, unmasked: Array, names, weights: Any = None, first: Any = None
) -> Sums:
    """Return sums of logits relative to a given top: what the derivatives are taken of."""
    d = z - neg_inf_to_zero(top)[..., None]
    weights = None if weights is None else with_rank_of(d, weights)
    of = Classes(d, unmasked, z, weights, first)
    return {name: jnp.sum(SUMS[name].term(of), -1) for name in names}


def merge(a: Others, b: Others) -> Others:
    """Return the statistics of two disjoint sets of classes."""
    top, of_b = jnp.maximum(a.top, b.top), b.top > a.top
    sums = jax.tree.map(jnp.add, _at(top, a, ~of_b), _at(top, b, of_b))
    top_class, runner_up = jax.tree.map(
        partial(jnp.where, of_b), (b.top_class, b.runner_up), (a.top_class, a.runner_up)
    )
    return Others(top, top_class, runner_up, sums)


def _at(top, part, has_top):
    """Return the sums of a part relative to a higher top; an empty part has sums of 0 anyway.

    If it is not the part that has that top, its own is one of the rest.
    """
    empty = part.top == -jnp.inf
    rise = jnp.where(empty, 0, neg_inf_to_zero(top) - part.top)
    sums = {name: SUMS[name].rebase(part.sums, rise) for name in part.sums}
    if part.runner_up is None:
        return sums
    one_more = ~(has_top | empty)
    d = jnp.where(one_more, change(part.runner_up) - rise, -jnp.inf)
    of = Classes(d, one_more, first=~one_more)
    return {
        name: total + SUMS[name].term(of) if SUMS[name].without_first else total
        for name, total in sums.items()
    }


def all_reduce(
    at_labels: Array, inside: Array, unmasked: Array, others: Others, axes: MeshAxes
) -> tuple[Array, Array, Others]:
    """Combine what the devices have found: at the labels, whether unmasked, and of the others.

    Args:
      at_labels: `[N]` or `[N, K]`, any number per label.
      inside: booleans of that shape, whether the label is a class of this device.
      unmasked: booleans of that shape, whether `where` keeps it, too.
      others: `[N]`, of this device's classes.
      axes: the mesh axes over which the classes are sharded.

    An out-of-range label is on no device: it counts as unmasked, and what is at it is NaN.
    """
    if axes is None:
        return at_labels, unmasked | ~inside, others
    top = lax.pmax(lax.stop_gradient(others.top), axes)
    top_class, runner_up = others.top_class, others.runner_up
    mine = (others.top == top) & (top > -jnp.inf)
    if top_class is not None and runner_up is not None:
        top_class = lax.pmin(jnp.where(mine, top_class, NO_CLASS), axes)
        mine &= others.top_class == top_class
        runner_up = jnp.where(mine, change(runner_up), 0)
    parts = jnp.where(inside, at_labels, 0), inside, unmasked, runner_up, _at(top, others, mine)
    at_labels, found, unmasked, runner_up, sums = packed_psum(parts, axes)
    at_labels = jnp.where(found > 0, at_labels, jnp.nan)
    runner_up = None if runner_up is None else top + runner_up
    others = Others(top, top_class, runner_up, sums)
    return at_labels, (unmasked > 0) | (found == 0), others


def to_stats(
    target: Array,
    labels: Array,
    unmasked: Array,
    runner_up: Array,
    others: Others,
    fields: tuple[str, ...],
    *,
    centred: bool,
    score: Array | None = None,
    rival: Array | None = None,
    of_label: Array | None = None,
) -> tuple[LogitStats, Array]:
    """Return the stats of logits minus a shift, and the shift, which has no gradient.

    Of lists of labels each class in its turn is the true one, and the stats have their shape.

    Args:
      target: `[...]` or `[..., K]`, the logits of the labels, with margin and all.
      labels: integers of that shape; a class may be listed twice.
      unmasked: booleans of that shape, whether `where` keeps the class.
      runner_up: `[...]`, the top of the others, with its gradient if it is read.
      others: `[...]`, of all classes that are no label.
      fields: the optional ones that are wanted; `mean` is None without.
      centred: whether to shift by the largest logit. Else the shift is 0.
      score: the logits of the labels without a margin, if there is one.
      rival: the largest of the others without a margin, if that changes them.
      of_label: the class weights of the labels, for the stats of which `mean` is the weighted one.
    """
    target = jnp.where(unmasked, target, -jnp.inf)
    score = target if score is None else jnp.where(unmasked, score, -jnp.inf)
    if labels.ndim > others.top.ndim:
        others = _with_listed(target, labels, unmasked, runner_up, others, fields, of_label)
        runner_up = others.top if others.runner_up is None else others.runner_up
    shift = jnp.zeros_like(target)
    if centred:
        shift = lax.stop_gradient(neg_inf_to_zero(jnp.maximum(target, others.top)))
    top = neg_inf_to_zero(others.top) - shift
    target, score = (jnp.where(x == -jnp.inf, -jnp.inf, x - shift) for x in (target, score))
    made: dict[str, Any] = {"target": target, "runner_up": runner_up - shift, "mean": None}
    rival = others.top if rival is None else rival
    made |= {"score": score, "rival": lax.stop_gradient(rival) - shift}
    parts = Parts(others.sums, top, change(runner_up), target, unmasked, of_label)
    other_mean = "weighted_mean" if of_label is None else "mean"
    for name in ("others", *fields):
        if name in FIELDS and name != other_mean:
            made["mean" if name == "weighted_mean" else name] = FIELDS[name].value(parts)
    return LogitStats(**made), shift


def _with_listed(target, labels, unmasked, runner_up, others, fields, of_label):
    """Add to the others of each listed class `[..., K]` all different classes of its list."""
    apart = first_of_equals(labels)[..., None, :] & (labels[..., None, :] != labels[..., None])
    apart &= unmasked[..., None, :]
    z = jnp.where(apart, target[..., None, :], -jnp.inf)
    weights = None if of_label is None else of_label[..., None, :]
    fields = tuple(name for name in fields if name != "weighted_mean" or weights is not None)
    listed = others_of(z, apart, jnp.arange(z.shape[-1], dtype=labels.dtype), fields, weights)
    unlisted = others._replace(sums={name: others.sums[name] for name in listed.sums})
    if listed.top_class is not None:
        unlisted = unlisted._replace(runner_up=runner_up)
    return merge(jax.tree.map(lambda x: x[..., None], unlisted), listed)
