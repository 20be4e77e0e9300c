r"""The statistics of the other classes: sums over j != y of an elementwise function of the logit.

    top = max_j z_j        d_j = z_j - top        S = sum_j f(z_j, d_j)

    sum       f        when the top rises by r
    exp       exp(d)   exp(-r) S
    linear    d        S - r count
    count     1        S
    weighted  w_j d    S - r weight        w: class weights
    weight    w_j      S

Sums of disjoint sets of classes merge: over blocks, over devices, with the classes that an example
lists. A field of `LogitStats` is made of them: others = top + log exp, mean = top + linear / count.
The top is found on the way. It is a constant to differentiation, because what is made of the sums
does not depend on it; where a loss reads `runner_up`, which is the top with its derivative, the
class that attains it is found, too, and gets the gradient.

To add a statistic, add its sums to `SUMS`, each with its term and what becomes of it when the top
rises, and its field to `LogitStats` and to `FIELDS`, with the sums that it is made of. Everything
else follows: the passes over blocks and devices, derivatives (of the terms, by autodiff), and that
nothing is computed for a loss that does not read the field.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.core.arguments import with_rank_of
from jsoftmax.core.collectives import NO_CLASS, MeshAxes, packed_psum
from jsoftmax.core.numerics import (
    change,
    exp_nonpositive,
    log_or_neg_inf,
    multiply_no_nan,
    neg_inf_to_zero,
)
from jsoftmax.stats.labels import at_label, first_of_equals
from jsoftmax.stats.logit_stats import LogitStats

Sums = dict[str, Array]


class Sum(NamedTuple):
    """A sum over classes of an elementwise function of the logit."""

    # (z, d, unmasked, class weights or None), 0 where masked: z, d = -inf
    term: Callable[[Array, Array, Array, Any], Array]
    rebase: Callable[[Sums, Array], Array]  # (sums, rise of the top)


class Field(NamedTuple):
    """A field of `LogitStats` made of sums over the other classes, and the target's part in it."""

    sums: tuple[str, ...]
    # (sums, top, target, target is unmasked, its class weight or None)
    value: Callable[[Sums, Array, Array, Array, Any], Array]


def _linear(d, unmasked):
    """Return d, 0 where masked; a logit of -inf counts, and has no gradient."""
    return jnp.where(unmasked, jnp.where(d == -jnp.inf, -jnp.inf, d), 0)


SUMS = {
    "exp": Sum(
        lambda z, d, unmasked, weights: exp_nonpositive(d),
        lambda sums, rise: sums["exp"] * jnp.exp(-rise),
    ),
    "linear": Sum(
        lambda z, d, unmasked, weights: _linear(d, unmasked),
        lambda sums, rise: sums["linear"] - rise * sums["count"],
    ),
    "count": Sum(
        lambda z, d, unmasked, weights: unmasked.astype(d.dtype),
        lambda sums, rise: sums["count"],
    ),
    "weighted": Sum(
        lambda z, d, unmasked, weights: multiply_no_nan(weights, _linear(d, unmasked)),
        lambda sums, rise: sums["weighted"] - rise * sums["weight"],
    ),
    "weight": Sum(
        lambda z, d, unmasked, weights: jnp.where(unmasked, weights, 0),
        lambda sums, rise: sums["weight"],
    ),
}


def _others(sums, top, target, unmasked, of_label):
    return top + log_or_neg_inf(sums["exp"])


def _mean(sums, top, target, unmasked, of_label):
    total = sums["linear"] + sums["count"] * top + jnp.where(unmasked, target, 0)
    return total / jnp.maximum(sums["count"] + unmasked.astype(top.dtype), 1)


def _weighted_mean(sums, top, target, unmasked, of_label):
    of_label = jnp.where(unmasked, of_label, 0)
    total = sums["weighted"] + sums["weight"] * top + multiply_no_nan(of_label, target)
    weight = sums["weight"] + of_label
    return total / jnp.where(weight == 0, 1, weight)


FIELDS = {
    "others": Field(("exp",), _others),
    "mean": Field(("linear", "count"), _mean),
    # For a loss that takes class weights it is the mean: see losses/protocol.py.
    "weighted_mean": Field(("weighted", "weight"), _weighted_mean),
}
# What is computed only where a loss reads it; `runner_up` always has its value, but then no class.
OPTIONAL = ("runner_up", "mean")


class Others(NamedTuple):
    """Statistics of classes that an example does not list as labels: arrays `[...]`."""

    top: Array  # the largest logit, -inf without classes
    top_class: Array | None  # the first class that attains it, if a loss reads `runner_up`
    runner_up: Array | None  # then also the top with its derivative
    sums: Sums  # relative to the top


def names_of_sums(fields: tuple[str, ...]) -> list[str]:
    """Return which sums the optional fields, and `others`, are made of."""
    wanted = {
        name for field in ("others", *fields) if field in FIELDS for name in FIELDS[field].sums
    }
    return [name for name in SUMS if name in wanted]


def no_others(shape: tuple[int, ...], dtype: jnp.dtype, index: jnp.dtype, fields) -> Others:
    """Return the statistics of no class."""
    top = jnp.full(shape, -jnp.inf, dtype)
    sums = {name: jnp.zeros(shape, dtype) for name in names_of_sums(fields)}
    if "runner_up" not in fields:
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
    top = lax.stop_gradient(jnp.max(z, -1, initial=-jnp.inf))
    sums = sums_below(top, z, unmasked, names_of_sums(fields), weights)
    if "runner_up" not in fields:
        return Others(top, None, None, sums)
    top_class = _first_at_top(z, top, classes)
    # Of ties the first has the derivative, as in the backward pass, or the second one were of both.
    runner_up = top + change(at_label(z, top_class - classes[0]))
    return Others(top, top_class, runner_up, sums)


def _first_at_top(z, top, classes):
    """Return the first class that attains the top, as a minimum: XLA's argmax is slow on a CPU.

    Where the logits are computed again here, and rounded differently, none may attain it: then the
    first within a few roundings.
    """

    def first(bound):
        return jnp.min(jnp.where(z >= bound[..., None], classes, NO_CLASS), -1, initial=NO_CLASS)

    exact = first(top)
    nearly = first(top - 8 * float(jnp.finfo(top.dtype).eps) * jnp.abs(neg_inf_to_zero(top)))
    return jnp.where(exact == NO_CLASS, nearly, exact).astype(classes.dtype)


def sums_below(top: Array, z: Array, unmasked: Array, names, weights: Any = None) -> Sums:
    """Return sums of logits relative to a given top: what the derivatives are taken of."""
    d = z - neg_inf_to_zero(top)[..., None]
    weights = None if weights is None else with_rank_of(d, weights)
    return {name: jnp.sum(SUMS[name].term(z, d, unmasked, weights), -1) for name in names}


def merge(a: Others, b: Others) -> Others:
    """Return the statistics of two disjoint sets of classes."""
    top = jnp.maximum(a.top, b.top)
    sums = jax.tree.map(jnp.add, _at(top, a), _at(top, b))
    top_class, runner_up = jax.tree.map(
        partial(jnp.where, b.top > a.top), (b.top_class, b.runner_up), (a.top_class, a.runner_up)
    )
    return Others(top, top_class, runner_up, sums)


def _at(top, part):
    """Return the sums of a part relative to a higher top; an empty part has sums of 0 anyway."""
    rise = jnp.where(part.top == -jnp.inf, 0, neg_inf_to_zero(top) - part.top)
    return {name: SUMS[name].rebase(part.sums, rise) for name in part.sums}


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
    if top_class is not None and runner_up is not None:
        mine = (others.top == top) & (top > -jnp.inf)
        top_class = lax.pmin(jnp.where(mine, top_class, NO_CLASS), axes)
        runner_up = jnp.where(mine & (others.top_class == top_class), change(runner_up), 0)
    parts = jnp.where(inside, at_labels, 0), inside, unmasked, runner_up, _at(top, others)
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
      of_label: the class weights of the labels, for the stats of which `mean` is the weighted one.
    """
    target = jnp.where(unmasked, target, -jnp.inf)
    score = target if score is None else jnp.where(unmasked, score, -jnp.inf)
    if labels.ndim > others.top.ndim:
        runner_up, others = _with_listed(target, labels, unmasked, runner_up, others, of_label)
    shift = jnp.zeros_like(target)
    if centred:
        shift = lax.stop_gradient(neg_inf_to_zero(jnp.maximum(target, others.top)))
    top = neg_inf_to_zero(others.top) - shift
    target, score = (jnp.where(x == -jnp.inf, -jnp.inf, x - shift) for x in (target, score))
    made: dict[str, Any] = {"target": target, "runner_up": runner_up - shift, "mean": None}
    made["score"] = score
    other_mean = "weighted_mean" if of_label is None else "mean"
    for name in ("others", *fields):
        if name in FIELDS and name != other_mean:
            value = FIELDS[name].value(others.sums, top, target, unmasked, of_label)
            made["mean" if name == "weighted_mean" else name] = value
    return LogitStats(**made), shift


def _with_listed(target, labels, unmasked, runner_up, others, of_label):
    """Add to the others of each listed class `[..., K]` all different classes of its list."""
    apart = first_of_equals(labels)[..., None, :] & (labels[..., None, :] != labels[..., None])
    apart &= unmasked[..., None, :]
    z = jnp.where(apart, target[..., None, :], -jnp.inf)
    largest = jnp.max(z, -1, initial=-jnp.inf)  # its gradient is shared evenly among ties
    weights = None if of_label is None else of_label[..., None, :]
    names = [name for name in others.sums if weights is not None or not name.startswith("weight")]
    sums = sums_below(lax.stop_gradient(largest), z, apart, names, weights)
    listed = Others(lax.stop_gradient(largest), None, None, sums)
    unlisted = Others(
        others.top[..., None], None, None, {k: others.sums[k][..., None] for k in names}
    )
    return jnp.maximum(runner_up[..., None], largest), merge(unlisted, listed)
