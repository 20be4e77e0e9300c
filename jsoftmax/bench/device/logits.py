"""Losses and softmax on logits that are there already, beside optax, `jax.nn` and torch."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from rich.console import Group
from rich.markup import escape
from rich.table import Table

import jsoftmax as js
from jsoftmax.bench import torch_contestants
from jsoftmax.bench.device.part import THREADS, Finding, Limits
from jsoftmax.bench.measure import Outcome, compiled, interleaved, milliseconds, size
from jsoftmax.bench.report import TIGHT, entries

SHAPES = [(2048, 32_000), (65_536, 1000), (8192, 128_256)]


class _Function(NamedTuple):
    """A function of (logits, labels); its ratio is to the time of `beside`, the first of a kind."""

    function: Callable
    beside: str
    in_torch: bool = False


def measured(limits: Limits) -> Iterator[Finding]:
    """Yield times and memory for each shape and dtype."""
    about = [
        "× ours: the median divided by that of js of the same kind; gradient: and value;",
        "memory: temporary, beside arguments and results.",
    ]
    cases = [(shape, dtype) for shape in SHAPES for dtype in ("bfloat16", "float32")]
    for i, ((rows, classes), dtype) in enumerate(cases):
        mine = limits.share(len(cases) - i)
        shape = tuple(max(1, round(limits.scale * n)) for n in (rows, classes))
        keys = jax.random.split(jax.random.key(0))
        logits = jax.random.normal(keys[0], shape, dtype)
        labels = jax.random.randint(keys[1], shape[:1], 0, shape[1])
        functions = _functions()
        outcomes = interleaved(
            {name: partial(_prepared, each, logits, labels) for name, each in functions.items()},
            limits.rounds,
            lambda name, shape=shape: limits.advance(f"{shape[0]:,} × {shape[1]:,}: {name}"),
            deadline=mine.deadline,
            threads=THREADS,
            alone=[name for name, each in functions.items() if each.in_torch],
        )
        entry = {"shape": shape, "dtype": dtype, "functions": entries(outcomes)}
        table = _table(shape, dtype, functions, outcomes)
        yield Finding(entry, Group(*(about if i == 0 else ()), table))


def _functions() -> dict[str, _Function]:
    def ours(z, labels):
        return js.cross_entropy(z, labels).mean()

    def of_optax(z, labels):
        return optax.softmax_cross_entropy_with_integer_labels(z, labels).mean()

    loss, gradient = "js.cross_entropy", "js.cross_entropy, gradient"
    found = {
        loss: _Function(ours, loss),
        "optax": _Function(of_optax, loss),
        gradient: _Function(jax.value_and_grad(ours), gradient),
        "optax, gradient": _Function(jax.value_and_grad(of_optax), gradient),
    }
    if find_spec("torch"):
        of_torch = import_module("torch").nn.functional.cross_entropy
        found["torch"] = _Function(of_torch, loss, in_torch=True)
        found["torch, gradient"] = _Function(of_torch, gradient, in_torch=True)
    for name in ("softmax", "log_softmax"):
        for module, library in (("js", js), ("jax.nn", jax.nn)):
            function = getattr(library, name)
            found[f"{module}.{name}"] = _Function(lambda z, _, f=function: f(z), f"js.{name}")
    return found


def _prepared(each: _Function, logits: Any, labels: Any):
    if not each.in_torch:
        return compiled(each.function, logits, labels)
    cotangent = jnp.ones((), logits.dtype) if each.beside.endswith("gradient") else None
    indices = torch_contestants.tensor(labels).long()
    return torch_contestants.on_logits(lambda z: each.function(z, indices), logits, cotangent)


def _table(shape, dtype, functions, outcomes: dict[str, Outcome]) -> Table:
    shown = Table(
        title=f"{shape[0]:,} × {shape[1]:,} logits, {dtype}",
        **TIGHT,
    )
    shown.add_column("", no_wrap=True)
    for name in ("ms", "× ours", "memory"):
        shown.add_column(name, justify="right")
    for name, outcome in outcomes.items():
        median, ratio = outcome.median, outcome.ratio(outcomes[functions[name].beside])
        shown.add_row(
            name,
            escape(outcome.failure or "–") if median is None else milliseconds(median),
            "–" if ratio is None else f"{ratio:.2f}",
            "–" if outcome.temporary is None else size(outcome.temporary),
        )
    return shown
