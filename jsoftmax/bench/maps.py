"""The benchmark of the maps: softmax and its alternatives on logits, compared with `jnp.exp`."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.markup import escape
from rich.table import Table

import jsoftmax as js
from jsoftmax.bench import torch_contestants
from jsoftmax.bench.measure import Outcome, Runner, compiled, interleaved, milliseconds, size
from jsoftmax.bench.problem import Problem
from jsoftmax.bench.report import Comparison, machine

FLOOR = "jnp.exp"


class Map(NamedTuple):
    """A function of logits `[rows, classes]`; its gradient is not timed where it is zero."""

    name: str
    function: Callable[[Any], Any]
    differentiable: bool = True
    in_torch: bool = False


def dense_maps(samples: int) -> list[Map]:
    """Return our maps, with the equivalents in `jax.nn` where there are any."""

    def largest(z):
        return jax.nn.one_hot(jnp.argmax(z, -1), z.shape[-1], dtype=z.dtype)

    plain = ["taylor_softmax", "spherical_softmax", "sigsoftmax", "ev_softmax"]
    limited = ["range_limited_softmax", "gaussian_softmax", "log_gaussian_softmax"]
    return [
        Map(FLOOR, jnp.exp),
        Map("js.softmax", js.softmax),
        Map("jax.nn.softmax", jax.nn.softmax),
        Map("js.log_softmax", js.log_softmax),
        Map("jax.nn.log_softmax", jax.nn.log_softmax),
        Map("js.logsumexp", js.logsumexp),
        Map("jax.nn.logsumexp", partial(jax.nn.logsumexp, axis=-1)),
        Map("js.hardmax", js.hardmax, differentiable=False),
        Map("jax.nn.one_hot(argmax)", largest, differentiable=False),
        *[Map(f"js.{name}", getattr(js, name)) for name in plain],
        Map("js.scalable_softmax", partial(js.scalable_softmax, scale=0.43)),
        *[Map(f"js.{name}", partial(getattr(js, name), num_samples=samples)) for name in limited],
    ]


def sparse_maps() -> tuple[list[Map], list[str]]:
    """Return the maps that solve for a threshold, ours and others', and notes on missing ones."""
    simplex = import_module("optax").projections.projection_simplex
    maps = [
        Map(FLOOR, jnp.exp),
        Map("jax.nn.softmax", jax.nn.softmax),
        Map("js.sparsemax", js.sparsemax),
        Map("js.entmax15", js.entmax15),
        Map("js.entmax(1.3)", partial(js.entmax, alpha=1.3)),
        Map("js.tempered_softmax(1.4)", partial(js.tempered_softmax, t=1.4)),
        Map("js.soft_top_k(1)", partial(js.soft_top_k, k=1)),
        Map("optax projection_simplex", jax.vmap(simplex)),
    ]
    notes = []
    if find_spec("torch") and find_spec("entmax"):
        found = import_module("entmax")
        theirs = {
            "sparsemax": found.sparsemax,
            "entmax15": found.entmax15,
            "entmax_bisect(1.3)": partial(found.entmax_bisect, alpha=1.3),
        }
        for name, function in theirs.items():
            maps.append(Map(f"torch entmax.{name}", partial(function, dim=-1), in_torch=True))
    else:
        notes.append("Not installed: entmax (pip install entmax)")
    return maps, notes


def gradient_of(name: str) -> str:
    """Return the name under which the gradient of a map is measured."""
    return f"{name}, gradient"


def measured(
    maps: list[Map], problem: Problem, rounds: int, advance: Callable[[str], None], **given: Any
) -> dict[str, Outcome]:
    """Time the maps and their vector-Jacobian products, on the problem's rows and classes.

    What else is given goes to `interleaved`.
    """
    rows, _, classes, dtype, *_ = problem
    keys = jax.random.split(jax.random.key(0))
    logits = jax.random.normal(keys[0], (rows, classes), dtype)

    def prepare(each: Map, *, gradient: bool) -> Runner:
        cotangent = None
        if gradient:
            out = (rows,) if each.name.endswith("logsumexp") else (rows, classes)
            cotangent = jax.random.normal(keys[1], out, dtype)
        if each.in_torch:
            return torch_contestants.on_logits(each.function, logits, cotangent)
        if cotangent is None:
            return compiled(each.function, logits)

        def pullback(z, g):
            out, back = jax.vjp(each.function, z)
            return back(g.astype(out.dtype))

        return compiled(pullback, logits, cotangent)

    steps = {}
    for each in maps:
        steps[each.name] = partial(prepare, each, gradient=False)
        if each.differentiable:
            steps[gradient_of(each.name)] = partial(prepare, each, gradient=True)
    return interleaved(steps, rounds, advance, **given)


def in_words(problem: Problem) -> str:
    """Return the shape, and where it is computed, in two lines."""
    return f"{problem.rows:,} × {problem.classes:,} logits, {problem.dtype}\n{machine()}"


def table(comparison: Comparison) -> Table:
    """Return the outcomes as a table."""
    problem, outcomes = comparison
    found = Table(
        title=in_words(problem),
        caption="ms: the median. gradient ms: of the logits for a given cotangent, alone."
        f"\n× exp: the median divided by that of {FLOOR} of the same array, or of its gradient."
        "\nmemory: temporary, for the gradient, beside arguments and results.",
        caption_justify="left",
    )
    found.add_column("", no_wrap=True)
    for name in ("ms", "× exp", "gradient ms", "× exp", "memory"):
        found.add_column(name, justify="right")
    gradients = {gradient_of(name) for name in outcomes}
    for each in outcomes:
        if each in gradients:
            continue
        cells = []
        for name, floor in ((each, FLOOR), (gradient_of(each), gradient_of(FLOOR))):
            outcome = outcomes.get(name, Outcome([]))
            median, ratio = outcome.median, outcome.ratio(outcomes[floor])
            failure = escape(outcome.failure or "–")
            cells.append(failure if median is None else milliseconds(median))
            cells.append("–" if ratio is None else f"{ratio:.1f}")
        shown = outcomes.get(gradient_of(each), outcomes[each]).temporary
        found.add_row(each, *cells, "–" if shown is None else size(shown))
    return found
