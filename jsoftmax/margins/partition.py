"""A margin taken apart by what its parameters are, and put together again.

A margin is a frozen dataclass that is a pytree. A parameter whose field is marked `polynomial`
stays a Python number where it is known and whole, since the formula then is a polynomial; an array
per class matters at the label only, where each example has its own number, as it has with
`PerExample`; every other parameter is passed on as an array, traced or not, so that another value
of it is not another program.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsoftmax.core.dtypes import to_compute_dtype
from jsoftmax.core.numbers import is_concrete, number
from jsoftmax.margins.per_example import PerExample


class Parts(NamedTuple):
    """Margins, or None; in each the parameters of the other parts are None."""

    whole: Any  # numbers that make polynomials
    scalars: Any
    per_class: Any  # arrays [classes]
    per_example: Any  # PerExample


def partition(margin: Any) -> Parts:
    """Return the parts of a margin."""
    if margin is None:
        return Parts(None, None, None, None)
    whole, scalars, per_class, per_example = {}, {}, {}, {}
    for field in dataclasses.fields(margin):
        value = getattr(margin, field.name)
        if field.metadata.get("static"):
            continue
        if field.metadata.get("polynomial") and (multiple := whole_number(value)):
            whole[field.name] = multiple
        elif isinstance(value, PerExample):
            per_example[field.name] = PerExample(to_compute_dtype(value.values))
        else:
            value = to_compute_dtype(value)
            kind = per_class if value.ndim else scalars
            kind[field.name] = value
    parts = whole, scalars, per_class, per_example
    none = dict.fromkeys(name for part in parts for name in part)
    return Parts(*[dataclasses.replace(margin, **none | part) for part in parts])


def combine(*parts: Any) -> Any:
    """Undo `partition`; parts may have been replaced, and come in any order."""

    def first(*leaves):
        return next((x for x in leaves if x is not None), None)

    return jax.tree.map(first, *parts, is_leaf=lambda x: x is None or isinstance(x, PerExample))


def whole_number(x: Any) -> int | None:
    """Return a parameter that is known while tracing, whole and above 0 as an int; else None."""
    if isinstance(x, PerExample):
        return None
    x = number(x)
    if is_concrete(x) and jnp.ndim(x) == 0 and float(x).is_integer() and float(x) > 0:
        return int(x)
    return None
