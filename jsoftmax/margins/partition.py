"""A margin taken apart by what its parameters are, and put together again.

A margin is a frozen dataclass that is a pytree. A parameter whose field is marked `polynomial`
stays a Python number where it is known and whole, since the formula then is a polynomial; an array
per class matters at the label only, where each example has its own number; every other parameter is
passed on as an array, traced or not, so that another value of it is not another program.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jsoftmax.core.arguments import is_concrete
from jsoftmax.core.dtypes import to_compute_dtype


def partition(margin: Any) -> tuple[Any, Any, Any]:
    """Return (whole numbers, other scalars, arrays per class); each has None for the others'."""
    if margin is None:
        return None, None, None
    whole, scalars, per_class = {}, {}, {}
    for field in dataclasses.fields(margin):
        value = getattr(margin, field.name)
        if field.metadata.get("static"):
            continue
        if field.metadata.get("polynomial") and (multiple := whole_number(value)):
            whole[field.name] = multiple
        else:
            kind = per_class if jnp.ndim(value) else scalars
            kind[field.name] = to_compute_dtype(value)
    names = dict.fromkeys(whole | scalars | per_class)
    parts = [dataclasses.replace(margin, **names | kept) for kept in (whole, scalars, per_class)]
    return parts[0], parts[1], parts[2]


def combine(*parts: Any) -> Any:
    """Undo `partition`."""

    def first(*leaves):
        return next((x for x in leaves if x is not None), None)

    return jax.tree.map(first, *parts, is_leaf=lambda x: x is None)


def whole_number(x: Any) -> int | None:
    """Return a parameter that is known while tracing, whole and above 0 as an int; else None."""
    if is_concrete(x) and jnp.ndim(x) == 0 and float(x).is_integer() and float(x) > 0:
        return int(x)
    return None
