"""A margin taken apart by what its parameters are, and put together again.

A margin is a frozen dataclass that is a pytree; see form.py. A parameter whose field is marked
`polynomial` stays a Python number where it is known and whole, since the formula then is a
polynomial; an array per class matters at the label only, where each example has its own number, as
it has with `PerExample`; every other parameter is passed on as an array, traced or not, so that
another value of it is not another program.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsoftmax.core.dtypes import to_compute_dtype
from jsoftmax.core.numbers import is_concrete, number
from jsoftmax.margins.per_example import PerExample, is_per_example


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
    structure, kinds, values = jax.tree.structure(margin, is_leaf=_is_number), [], []
    for _, value, polynomial in numbers_of(margin):
        if polynomial and (multiple := whole_number(value)):
            kind, value = "whole", multiple
        elif isinstance(value, PerExample):
            kind, value = "per_example", PerExample(to_compute_dtype(value.values))
        else:
            value = to_compute_dtype(value)
            kind = "per_class" if value.ndim else "scalars"
        kinds.append(kind)
        values.append(value)

    def part(wanted):
        pairs = zip(kinds, values, strict=True)
        return structure.unflatten(x if kind == wanted else None for kind, x in pairs)

    return Parts(*map(part, Parts._fields))


def numbers_of(margin: Any) -> list[tuple[str, Any, bool]]:
    """Return the numbers of a margin: name, value, and whether its field is marked `polynomial`."""

    def is_polynomial(path):
        owner = margin
        for key in path[:-1]:
            owner = getattr(owner, getattr(key, "name", ""), None)
        fields = getattr(owner, "__dataclass_fields__", {})
        field = fields.get(getattr(path[-1], "name", None))
        return field is not None and field.metadata.get("polynomial", False)

    leaves = jax.tree_util.tree_leaves_with_path(margin, is_leaf=_is_number)
    return [(jax.tree_util.keystr(path), x, is_polynomial(path)) for path, x in leaves]


def _is_number(x):
    """Say whether this is one, though JAX may see a tree in it, as in a parameter of Flax."""
    return is_per_example(x) or hasattr(x, "__jax_array__")


def combine(*parts: Any) -> Any:
    """Undo `partition`; parts may have been replaced or left out, and come in any order."""

    def first(*leaves):
        return next((x for x in leaves if x is not None), None)

    parts = tuple(part for part in parts if part is not None)
    if not parts:
        return None
    return jax.tree.map(first, *parts, is_leaf=lambda x: x is None or is_per_example(x))


def whole_number(x: Any) -> int | None:
    """Return a parameter that is known while tracing, whole and above 0 as an int; else None."""
    if isinstance(x, PerExample):
        return None
    x = number(x)
    if is_concrete(x) and jnp.ndim(x) == 0 and float(x).is_integer() and float(x) > 0:
        return int(x)
    return None
