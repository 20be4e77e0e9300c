"""What every margin is: a frozen dataclass that is a pytree, and can be compared and printed.

A dataclass compares and hashes its fields, of which arrays can do neither. Here two margins are
equal if they are of one kind, with the same options and the same numbers.
"""

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

Record = TypeVar("Record", bound=type)


def static(**options: Any) -> Any:
    """Return a field that is no number: it is known while JAX traces."""
    return field(metadata={"static": True}, **options)


def polynomial(**options: Any) -> Any:
    """Return a field for a number of which a known whole one makes a polynomial."""
    return field(metadata={"polynomial": True}, **options)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static, polynomial))
def record(cls: Record) -> Record:
    """Make a class a frozen dataclass, and a pytree of its fields that are not `static`."""
    methods: dict[str, Any] = {"__eq__": _equal, "__hash__": _hash}
    if cls.__repr__ is object.__repr__:
        methods["__repr__"] = _shown
    for name, method in methods.items():
        setattr(cls, name, method)
    made: Any = dataclass(frozen=True, eq=False, repr=False)(cls)
    return jax.tree_util.register_dataclass(made)


def _equal(self, other):
    if type(self) is not type(other):
        return NotImplemented
    (ours, mine), (others, theirs) = map(jax.tree.flatten, (self, other))
    return mine == theirs and all(map(_same, ours, others))


def _same(a, b):
    """Compare two numbers or arrays; of traced ones JAX says that they have no values."""
    return a is b or (np.shape(a) == np.shape(b) and bool(np.all(np.asarray(a) == np.asarray(b))))


def _hash(self):
    numbers, structure = jax.tree.flatten(self)
    try:
        return hash((structure, *numbers))
    except TypeError as wrong:
        raise TypeError(
            f"{self!r} has arrays, which cannot be hashed. A margin is a pytree: hand it to a "
            "jitted function as an argument that is not static."
        ) from wrong


def _shown(self):
    values = {each.name: getattr(self, each.name) for each in fields(self)}
    return as_call(type(self).__name__.lstrip("_"), values)


def as_call(name: str, values: dict[str, Any]) -> str:
    """Write what makes something, arrays as their dtype and shape."""
    return f"{name}({', '.join(f'{key}={_short(value)}' for key, value in values.items())})"


def not_by_default(margin: Any) -> dict[str, Any]:
    """Return the fields whose values are not the defaults, as far as these are known."""
    values = {each.name: (getattr(margin, each.name), each.default) for each in fields(margin)}
    return {k: x for k, (x, default) in values.items() if _is_array(x) or x != default}


def _short(value):
    if _is_array(value):
        if isinstance(value, jax.core.Tracer) or value.ndim:
            return f"{value.dtype}[{','.join(map(str, value.shape))}]"
        return repr(value.item())
    return repr(value)


def _is_array(x):
    return isinstance(x, (np.ndarray, np.generic, jax.Array))
