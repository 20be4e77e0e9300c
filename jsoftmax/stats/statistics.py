r"""The statistics of the other classes: sums over j != y of an elementwise function of the logit.

    top = max_j z_j        d_j = z_j - top        S = sum_j f(d_j)

    sum       f            when the top rises by r
    exp       exp(d)       exp(-r) S
    linear    d            S - r count
    count     1            S
    weighted  w_j d        S - r weight        w: class weights
    weight    w_j          S
    rest      exp(d)       exp(-r) S                  without the class at the top
    spread    d exp(d)     exp(-r) (S - r rest)       without it

Sums of disjoint sets of classes merge: over blocks, over devices, with the classes that an example
lists. A field of `LogitStats` is made of them: others = top + log exp, mean = top + linear / count,
and the entropy of the others

    -sum_j q_j log q_j = log(1 + rest) - spread / (1 + rest)        q_j = exp(d_j) / (1 + rest)

in which both terms are positive, and small where one class has nearly all.

The top is found on the way. It is a constant to differentiation, because what is made of the sums
does not depend on it; where a loss reads `runner_up`, which is the top with its derivative, the
class that attains it is found, too, and gets the gradient. For the entropy it is, too: it is the
class that is left out. Of a part whose top is not that of the whole, that class is one of the rest.

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


class Classes(NamedTuple):
    """What a sum goes over: arrays `[..., c]`, or what broadcasts against that."""

    d: Array  # logits relative to the top, -inf where masked
    unmasked: Array  # booleans
    weights: Any = None  # of the classes, or None
    first: Any = None  # booleans, the class at the top; None if no sum leaves that out


class Sum(NamedTuple):
    """A sum over classes of an elementwise function of the logit."""

    term: Callable[[Classes], Array]  # 0 where masked
    rebase: Callable[[Sums, Array], Array]  # (sums, rise of the top)
    without_first: bool = False  # whether the class at the top is left out


class Parts(NamedTuple):
    """What a field is made of: arrays `[...]`."""

    sums: Sums
    top: Array  # to which the sums are relative
    moved: Array  # 0, with the derivative of the class at the top
    target: Array
    unmasked: Array  # booleans, whether the target is
    of_label: Any  # the class weight of the target, or None


class Field(NamedTuple):
    """A field of `LogitStats` made of sums over the other classes, and the target's part in it."""

    sums: tuple[str, ...]
    value: Callable[[Parts], Array]


def _linear(of):
    """Return d, 0 where masked; a logit of -inf counts, and has no gradient."""
    return jnp.where(of.unmasked, jnp.where(of.d == -jnp.inf, -jnp.inf, of.d), 0)


def _rest(of):
    return jnp.where(of.first, 0, exp_nonpositive(of.d))


SUMS = {
    "exp": Sum(
        lambda of: exp_nonpositive(of.d),
        lambda sums, rise: sums["exp"] * jnp.exp(-rise),
    ),
    "linear": Sum(_linear, lambda sums, rise: sums["linear"] - rise * sums["count"]),
    "count": Sum(lambda of: of.unmasked.astype(of.d.dtype), lambda sums, rise: sums["count"]),
    "weighted": Sum(
        lambda of: multiply_no_nan(of.weights, _linear(of)),
        lambda sums, rise: sums["weighted"] - rise * sums["weight"],
    ),
    "weight": Sum(
        lambda of: jnp.where(of.unmasked, of.weights, 0), lambda sums, rise: sums["weight"]
    ),
    "rest": Sum(_rest, lambda sums, rise: sums["rest"] * jnp.exp(-rise), without_first=True),
    "spread": Sum(
        lambda of: multiply_no_nan(_rest(of), neg_inf_to_zero(of.d)),
        lambda sums, rise: (
            sums["spread"] * jnp.exp(-rise) - multiply_no_nan(sums["rest"] * jnp.exp(-rise), rise)
        ),
        without_first=True,
    ),
}


def _others(of):
    return of.top + log_or_neg_inf(of.sums["exp"])


def _mean(of):
    total = of.sums["linear"] + of.sums["count"] * of.top + jnp.where(of.unmasked, of.target, 0)
    return total / jnp.maximum(of.sums["count"] + of.unmasked.astype(of.top.dtype), 1)


def _weighted_mean(of):
    of_label = jnp.where(of.unmasked, of.of_label, 0)
    total = of.sums["weighted"] + of.sums["weight"] * of.top + multiply_no_nan(of_label, of.target)
    weight = of.sums["weight"] + of_label
    return total / jnp.where(weight == 0, 1, weight)


def _entropy(of):
    # Relative to the top as the variable that it is: then its gradient, too, is exact where it is
    # small, as the negative sum of those of the rest.
    rest, spread = (SUMS[name].rebase(of.sums, of.moved) for name in ("rest", "spread"))
    return jnp.log1p(rest) - spread / (1 + rest)


FIELDS = {
    "others": Field(("exp",), _others),
    "mean": Field(("linear", "count"), _mean),
    # For a loss that takes class weights it is the mean: see losses/protocol.py.
    "weighted_mean": Field(("weighted", "weight"), _weighted_mean),
    "others_entropy": Field(("rest", "spread"), _entropy),
}
# What is computed only where a loss reads it; `runner_up` always has its value, but then no class.
OPTIONAL = ("runner_up", "mean", "others_entropy")


class Others(NamedTuple):
    """Statistics of classes that an example does not list as labels: arrays `[...]`."""

    top: Array  # the largest logit, -inf without classes
    top_class: Array | None  # the first class that attains it, if a field needs it
    runner_up: Array | None  # then also the top with its derivative
    sums: Sums  # relative to the top


def names_of_sums(fields: tuple[str, ...]) -> list[str]:
    """Return which sums the optional fields, and `others`, are made of."""
    wanted = {
        name for field in ("others", *fields) if field in FIELDS for name in FIELDS[field].sums
    }
    return [name for name in SUMS if name in wanted]


def _need_top_class(fields):
    return "runner_up" in fields or any(SUMS[name].without_first for name in names_of_sums(fields))


def no_others(shape: tuple[int, ...], dtype: jnp.dtype, index: jnp.dtype, fields) -> Others:
    """Return the statistics of no class."""
    top = jnp.full(shape, -jnp.inf, dtype)
    sums = {name: jnp.zeros(shape, dtype) for name in names_of_sums(fields)}
    if not _need_top_class(fields):
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
    if not _need_top_class(fields) or not len(classes):
        return Others(top, None, None, sums_below(top, z, unmasked, names, weights))
    top_class = _first_at_top(z, top, classes)
    # Of ties the first has the derivative, as in the backward pass, or the second one were of both.
    runner_up = top + change(at_label(z, top_class - classes[0]))
    first = classes == top_class[..., None]
    return Others(top, top_class, runner_up, sums_below(top, z, unmasked, names, weights, first))


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


def sums_below(
    top: Array, z: Array, unmasked: Array, names, weights: Any = None, first: Any = None
) -> Sums:
    """Return sums of logits relative to a given top: what the derivatives are taken of."""
    d = z - neg_inf_to_zero(top)[..., None]
    weights = None if weights is None else with_rank_of(d, weights)
    of = Classes(d, unmasked, weights, first)
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
        others = _with_listed(target, labels, unmasked, runner_up, others, fields, of_label)
        runner_up = others.top if others.runner_up is None else others.runner_up
    shift = jnp.zeros_like(target)
    if centred:
        shift = lax.stop_gradient(neg_inf_to_zero(jnp.maximum(target, others.top)))
    top = neg_inf_to_zero(others.top) - shift
    target, score = (jnp.where(x == -jnp.inf, -jnp.inf, x - shift) for x in (target, score))
    made: dict[str, Any] = {"target": target, "runner_up": runner_up - shift, "mean": None}
    made["score"] = score
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
