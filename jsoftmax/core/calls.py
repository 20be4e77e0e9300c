"""What the error of a call says whose arguments do not fit: which there are."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


def explaining_calls(function: Function, use: str = "") -> Function:
    """Let the error of a call whose arguments do not fit say which there are."""

    @functools.wraps(function)
    def call(*args, **options):
        try:
            return function(*args, **options)
        except TypeError as wrong:
            if wrong.__traceback__ is None or wrong.__traceback__.tb_next is not None:
                raise  # from inside the function
            raise TypeError(f"{wrong}. It is {written(function)}.{use}") from None

    return cast(Function, call)


def written(function: Callable[..., Any]) -> str:
    """Write a call of a function: its name and those of its arguments."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
    named = [f"{p.name}=..." for p in parameters if p.kind == p.KEYWORD_ONLY]
    return f"{function.__name__}({', '.join(names + named)})"
