r"""The list of statistics of the other classes: sums over j != y of a function of the logit.

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
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jsoftmax.core.numerics import (
    exp_nonpositive,
    log_or_neg_inf,
    multiply_no_nan,
    per,
    softplus,
    times_exp,
)

Sums = dict[str, Array]


class Classes(NamedTuple):
    """What a sum goes over: arrays `[..., c]`, or what broadcasts against that."""

    d: Array  # logits relative to the top, -inf where masked
    unmasked: Array  # booleans
    z: Any = None  # the logits themselves, if a sum is of them
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


def _square(of):
    """Return z squared, 0 where masked; a logit of -inf counts, and has no gradient."""
    finite = of.z != -jnp.inf
    square = jnp.square(jnp.where(of.unmasked & finite, of.z, 0))
    return jnp.where(of.unmasked & ~finite, jnp.inf, square)


def _without_first(of, terms):
    return jnp.where(of.first, 0, terms)


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
    "rest": Sum(
        lambda of: _without_first(of, exp_nonpositive(of.d)),
        lambda sums, rise: sums["rest"] * jnp.exp(-rise),
        without_first=True,
    ),
    "spread": Sum(
        lambda of: _without_first(of, times_exp(of.d)),
        lambda sums, rise: (
            sums["spread"] * jnp.exp(-rise) - multiply_no_nan(sums["rest"] * jnp.exp(-rise), rise)
        ),
        without_first=True,
    ),
    "softplus": Sum(lambda of: softplus(of.z), lambda sums, rise: sums["softplus"]),
    "square": Sum(_square, lambda sums, rise: sums["square"]),
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
    return per(total, weight)


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
    "others_softplus": Field(("softplus",), lambda of: of.sums["softplus"]),
    "others_square": Field(("square",), lambda of: of.sums["square"]),
}
# What is computed only where a loss reads it; `runner_up` always has its value, but then no class.
OPTIONAL = ("runner_up", "mean", "others_entropy", "others_softplus", "others_square")


def names_of_sums(fields: tuple[str, ...]) -> list[str]:
    """Return which sums the optional fields, and `others`, are made of."""
    wanted = {
        name for field in ("others", *fields) if field in FIELDS for name in FIELDS[field].sums
    }
    return [name for name in SUMS if name in wanted]


def need_top_class(fields: tuple[str, ...]) -> bool:
    """Say whether a field, or a sum that one is made of, needs the class at the top."""
    return "runner_up" in fields or any(SUMS[name].without_first for name in names_of_sums(fields))
