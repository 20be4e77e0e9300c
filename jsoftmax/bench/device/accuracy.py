"""The accuracy of a device: values and gradients of margins, by every route, against float64.

Tiny shapes, with blocks that do not divide them: what is looked for is a device, or a compiler,
that computes something else. float32 is asked for at the highest precision, since the products of
many devices keep fewer digits unless asked; a second table shows what that costs.
"""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table

import jsoftmax as js
from jsoftmax.bench.device.part import Finding, Limits
from jsoftmax.bench.measure import ahead, check_time, reason
from jsoftmax.bench.problem import EXACT, Data, Problem, error, exact
from jsoftmax.bench.report import TIGHT

LOSSES = {"nll": js.cross_entropy, "focal": js.focal_loss}  # by name of statistics: of logits
ROUTES = ("rows", "classes", "dense")
# The largest error, relative to the largest number: float32 has 24 bits, bfloat16, to which the
# gradients of the logits are rounded before the last two products, has 8.
BOUNDS = {"float32": 2e-5, "bfloat16": 2e-2}
PRECISIONS = (None, "high", "highest")
_SHAPE = (64, 32, 1000)
_BLOCKS: dict[str, dict[str, Any]] = {
    "rows": {"row_block": 24, "class_block": 350},
    "classes": {"class_block": 350},
}
_THREADS = min(8, os.cpu_count() or 1)  # the programs take no memory to speak of


class _Case(NamedTuple):
    """What is compared with float64: a margin by a route, with products of a precision."""

    margin: str
    dtype: str
    route: str
    precision: str | None

    def problem(self, loss: str = "nll") -> Problem:
        return Problem(*_SHAPE, self.dtype, loss, self.margin)


def checked(limits: Limits) -> Iterator[Finding]:
    """Yield the errors by margin, route and dtype, then float32's by the precision asked for."""
    asked = {"float32": "highest", "bfloat16": None}
    cases = [
        _Case(margin, dtype, route, asked[dtype])
        for margin in EXACT
        for dtype in BOUNDS
        for route in ROUTES
    ]
    errors = _errors(cases, limits.share(1.3))
    yield Finding({"bounds": BOUNDS, "errors": errors}, _by_margin(errors))
    cases = [_Case(m, "float32", "classes", p) for p in PRECISIONS for m in ("none", "arcface")]
    errors = _errors(cases, limits)
    yield Finding({"errors": errors}, _by_precision(errors))


def _errors(cases: list[_Case], limits: Limits) -> list[dict[str, Any]]:
    """Return the errors of each case and loss, or why there are none."""
    data = {dtype: Problem(*_SHAPE, dtype).data() for dtype in BOUNDS}
    # Margins that differ only in numbers share a program, which has both losses.
    kinds = {case: (*case[1:], _kind(case.problem().head_margin())) for case in cases}
    shared_by = collections.Counter(kind for *_, kind in kinds.values())
    cases = sorted(cases, key=lambda case: -shared_by[kinds[case][-1]])  # most margins first
    tasks = {kinds[case]: partial(_compiled, case, data[case.dtype]) for case in cases}
    found = []
    with ahead(tasks, _THREADS) as programs:
        for case in cases:
            limits.advance(f"{case.margin}, {case.dtype}, {case.route}")
            try:
                check_time(limits.deadline)
                program = programs[kinds[case]]()
                results = program(_numbers(case.problem().head_margin()), data[case.dtype])
            except Exception as failure:
                why = {"failure": reason(failure)}
                found += [case._asdict() | {"loss": loss} | why for loss in LOSSES]
                continue
            for loss, (value, gradients) in results.items():
                answer = exact(case.problem(loss), data[case.dtype])
                assert answer
                measured = {
                    "value": error(value, answer, transposed=False),
                    "gradients": error((value, gradients), answer, transposed=False),
                }
                found.append(case._asdict() | {"loss": loss} | measured)
    return found


def _compiled(case: _Case, data: Data) -> Callable:
    """Compile the case's route for all margins of its kind, as a function of their numbers."""
    template = case.problem().head_margin()

    def gradients(numbers, data, name, of_logits):
        margin = None if template is None else dataclasses.replace(template, **numbers)

        def mean_loss(x, w):
            if case.route == "dense":
                logits = js.linear_logits(x, w, data.labels, margin=margin)
                return of_logits(logits, data.labels).mean()
            loss, blocks = getattr(js, name), _BLOCKS[case.route]
            return js.linear_loss(x, w, data.labels, loss, margin=margin, **blocks)

        return jax.value_and_grad(mean_loss, (0, 1))(data.features, data.weight)

    def every_loss(numbers, data):
        return {name: gradients(numbers, data, name, loss) for name, loss in LOSSES.items()}

    with jax.default_matmul_precision(case.precision):
        return jax.jit(every_loss).lower(_numbers(template), data).compile()


def _kind(margin):
    """Return what programs of different margins differ in; the rest is numbers."""
    if margin is None:
        return None
    return float(np.asarray(margin.m1)), margin.normalize_features, margin.normalize_weight


def _numbers(margin):
    names = () if margin is None else ("m2", "m3", "scale", "anneal")
    return {name: np.float32(getattr(margin, name)) for name in names}


def _by_margin(errors):
    cases = [(dtype, route) for dtype in BOUNDS for route in ROUTES]
    beyond = [e for e in errors if "failure" not in e and not _worst([e]) <= BOUNDS[e["dtype"]]]
    missing = [e for e in errors if "failure" in e]
    shape = " × ".join(f"{n:,}" for n in _SHAPE)
    shown = Table(
        title=f"Errors of values and gradients against float64, {shape}: "
        f"{len(beyond)} of {len(errors)} beyond the bounds, {len(missing)} not measured",
        caption="Of nll and focal, value and gradients, the largest, over the largest number."
        "\nfloat32 is at the highest precision. Bounds: "
        + ", ".join(f"{bound:.0e} for {dtype}" for dtype, bound in BOUNDS.items()),
        caption_justify="left",
        **TIGHT,
    )
    shown.add_column("", no_wrap=True)
    for dtype, route in cases:
        shown.add_column(f"{dtype}\n{route}", justify="right")
    for margin in EXACT:
        cells = []
        for dtype, route in cases:
            those = [
                e for e in errors if (e["margin"], e["dtype"], e["route"]) == (margin, dtype, route)
            ]
            cell = _cell(those)
            cells.append(f"[bold red]{cell} ![/]" if any(e in beyond for e in those) else cell)
        shown.add_row(margin, *cells)
    return Group(shown, *_reasons(missing))


def _by_precision(errors):
    shown = Table(title="float32, nll by classes: errors by jax_default_matmul_precision", **TIGHT)
    shown.add_column("")
    columns = [(margin, of) for margin in ("none", "arcface") for of in ("value", "gradients")]
    for margin, of in columns:
        shown.add_column(f"{margin}\n{of}", justify="right")
    for precision in PRECISIONS:
        cells = []
        for margin, of in columns:
            (found,) = (
                e
                for e in errors
                if (e["precision"], e["margin"], e["loss"]) == (precision, margin, "nll")
            )
            cells.append(f"{found[of]:.1e}" if of in found else "–")
        shown.add_row(str(precision), *cells)
    return Group(shown, *_reasons([e for e in errors if "failure" in e]))


def _worst(errors):
    return float(np.max([[e["value"], e["gradients"]] for e in errors]))  # NaN, if any is


def _cell(errors):
    measured = [e for e in errors if "failure" not in e]
    return f"{_worst(measured):.1e}" if measured else "–"


def _reasons(missing):
    """Say why there are no errors, each reason once."""
    reasons = dict.fromkeys(e["failure"] for e in missing)
    return [escape(f"– {why}") for why in reasons]
