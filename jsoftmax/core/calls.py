"""What the error of a call says whose arguments do not fit: which there are."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

# Names of options elsewhere, and what to write where a function has the options named first.
_WEIGHTS = {"class_weight"}, "Weights of classes are `class_weight`, of examples `sample_weight`."
_LOSS = {"loss", "margin"}, "It is an option of the loss: loss=functools.partial(js.nll, {}=...)."
_INSTEAD = {
    "mask": ({"sample_weight"}, "A mask of examples is `sample_weight`, of classes `where`."),
    "weight": _WEIGHTS,
    "weights": _WEIGHTS,
    "dim": ({"axis"}, "The axis of the classes is `axis`."),
    "label_smoothing": _LOSS,
    "z_loss": _LOSS,
}


def explaining_calls(function: Function, use: str = "") -> Function:
    """Let the error of a call whose arguments do not fit say which there are."""

    @functools.wraps(function)
    def call(*args, **options):
        try:
            return function(*args, **options)
        except TypeError as wrong:
            if wrong.__traceback__ is None or wrong.__traceback__.tb_next is not None:
                raise  # from inside the function
            message = f"{wrong}. It is {written(function)}.{use}{_instead(function, options)}"
            raise TypeError(message) from None

    return cast(Function, call)


def _instead(function, options):
    """Say what to write for options that have other names here."""
    names = inspect.signature(function).parameters
    unknown = [name for name in options if name in _INSTEAD and name not in names]
    found = [(name, *_INSTEAD[name]) for name in unknown]
    return "".join(f" {use.format(name)}" for name, needed, use in found if needed <= names.keys())


def written(function: Callable[..., Any]) -> str:
    """Write a call of a function: its name and those of its arguments."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
    named = [f"{p.name}=..." for p in parameters if p.kind == p.KEYWORD_ONLY]
    return f"{function.__name__}({', '.join(names + named)})"
