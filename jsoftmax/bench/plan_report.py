"""Show plans as tables, and write them as JSON."""

import itertools
import json
from pathlib import Path

import jax
from rich.console import Group
from rich.table import Table

from jsoftmax.bench.measure import size
from jsoftmax.bench.plan import Plan
from jsoftmax.bench.report import TIGHT

LEGEND = [
    "Of one device, as compiled for CPU devices:",
    "devices: data × model, the split that sends least with up to 1.5 times the least memory",
    "memory: arguments, results that are not in the place of arguments, and temporaries",
    "state: the weight and its two moments of Adam, which are float32",
    "sent: in a step, if collectives go round rings; calls: how many collectives",
    "÷: the number on its left, divided by what the formula in docs/scale.md gives",
]


def tables(plans: list[Plan]) -> Group:
    """Return the plans as tables, one per kind of problem."""
    shown = []
    for task, group in itertools.groupby(plans, _task):
        rows = Table(title=task, show_edge=False, **TIGHT)
        names = ("classes", "devices", "memory", "state", "temporary", "÷", "sent", "÷", "calls")
        for name in names:
            rows.add_column(name, justify="right", no_wrap=True)
        for plan in group:
            found, formula = plan.found, plan.formula
            rows.add_row(
                f"{plan.problem.classes:,}",
                f"{plan.data} × {plan.model}",
                *map(size, found[:3]),
                f"{found.temporary / formula.temporary:.2f}",
                size(found.sent),
                f"{found.sent / formula.sent:.2f}" if formula.sent else "–",
                f"{plan.messages:,}",
            )
        shown.append(rows)
    return Group(*shown)


def _task(plan):
    problem, rate = plan.problem, plan.sample_rate
    margin = "no margin" if problem.margin == "none" else problem.margin
    sampled = "" if rate is None else f", {rate:.4g} of the classes sampled"
    shape = f"{problem.rows:,} rows × {problem.features:,} features, {problem.dtype}"
    return f"{shape}, {problem.loss}, {margin}{sampled}"


def write_json(path: Path, plans: list[Plan]) -> None:
    """Write the plans as JSON; sizes are in bytes."""
    content = [
        plan._asdict()
        | {
            "problem": plan.problem._asdict(),
            "found": plan.found._asdict(),
            "formula": plan.formula._asdict(),
        }
        for plan in plans
    ]
    path.write_text(json.dumps({"jax": jax.__version__, "plans": content}, indent=1) + "\n")
