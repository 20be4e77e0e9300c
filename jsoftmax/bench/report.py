"""Show the results of the benchmark: a table, a JSON file, and a figure over the class count."""

import contextlib
import json
import os
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from jsoftmax.bench.contestants import FLOOR
from jsoftmax.bench.measure import Outcome, milliseconds, size
from jsoftmax.bench.problem import WITH_OWN_LOSS, Problem

# Okabe and Ito's colours, and three of Paul Tol's, which colour-blind readers can tell apart. One
# colour per library; lines are dotted for implementations that materialise the logits.
LOOKS = {
    FLOOR: ("0.45", "--", None),
    "jsoftmax": ("#0072B2", "-", "o"),
    "jsoftmax-rows": ("#56B4E9", "-", "<"),
    "jsoftmax-classes": ("#56B4E9", "-", "s"),
    "jsoftmax-dense": ("#0072B2", ":", "^"),
    "optax-dense": ("#E69F00", ":", "^"),
    "jax-cce": ("#009E73", "-", "D"),
    "tokamax": ("#CC79A7", ":", "^"),
    "tokamax-chunked": ("#CC79A7", "-", "v"),
    "torch-chunked": ("#D55E00", "-", "P"),
    "torch-dense": ("#D55E00", ":", "^"),
    "torch-metric-learning": ("#D55E00", ":", "X"),
    "liger": ("#882255", "-", "h"),
    "apple-cce": ("#117733", "-", "d"),
    "quack": ("#999933", "-", "p"),
}

# Tables narrow enough for the 80 columns of a terminal.
TIGHT: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}

STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.dpi": 160,
}


class Comparison(NamedTuple):
    """The outcomes of all contestants on one problem."""

    problem: Problem
    outcomes: dict[str, Outcome]


def machine() -> str:
    """Name the device, the number of cores and the version of JAX."""
    return f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}"


def table(comparison: Comparison) -> Table:
    """Return the outcomes as a table; the best time and memory, the floor aside, are in bold."""
    problem, outcomes = comparison
    of = (
        "gradients, the largest over the largest gradient" if problem.backward else "loss, relative"
    )
    with_error = any(outcome.error is not None for outcome in outcomes.values())
    about_error = (
        f"\nerror: of the {of}, against float64"
        f"\n       in {_shape(problem.reduced())} (ours by blocks of a quarter)."
    )
    about_error = about_error if with_error else ""
    rows = Table(
        title=in_words(problem),
        caption="ms: the median; min – max: of all rounds."
        f"\n× products: the median divided by that of {FLOOR}."
        f"\nmemory: temporary, beside arguments and results.{about_error}",
        caption_justify="left",
    )
    rows.add_column("", no_wrap=True)
    for name in ("ms", "min – max", "× products", "memory", *["error"] * with_error):
        rows.add_column(name, justify="right", no_wrap=name != "min – max")
    others = [outcome for name, outcome in outcomes.items() if name != FLOOR and outcome.times]
    fastest = min((statistics.median(o.times) for o in others), default=None)
    leanest = min((o.temporary for o in others if o.temporary is not None), default=None)
    for name, outcome in outcomes.items():
        median = outcome.median
        if median is None:
            rows.add_row(name, "", escape(outcome.failure or ""))
            continue
        low, high = (milliseconds(bound(outcome.times)) for bound in (min, max))
        ratio = outcome.ratio(outcomes[FLOOR])
        memory = "–" if outcome.temporary is None else size(outcome.temporary)
        rows.add_row(
            name,
            _bold(milliseconds(median), median == fastest and name != FLOOR),
            f"{low} – {high}",
            "–" if ratio is None else f"{ratio:.2f}",
            _bold(memory, outcome.temporary == leanest and name != FLOOR and memory != "–"),
            *["–" if outcome.error is None else f"{outcome.error:.1e}"] * with_error,
        )
    return rows


def in_words(problem: Problem) -> str:
    """Return the shape, what is computed, and where, in three lines."""
    shape = f"{problem.rows:,} rows × {problem.features:,} features × {problem.classes:,} classes"
    return f"{shape}, {problem.dtype}\n{_task(problem)}\n{machine()}"


def _shape(problem):
    return f"{problem.rows:,} × {problem.features:,} × {problem.classes:,}"


def _task(problem):
    margin = "no margin" if problem.margin == "none" else problem.margin
    loss = "own loss" if problem.margin in WITH_OWN_LOSS else problem.loss
    return f"{loss}, {margin}, {'loss and gradients' if problem.backward else 'loss only'}"


def _bold(text, best):
    return f"[bold]{text}[/bold]" if best else text


def header() -> dict[str, Any]:
    """Return the device, its driver or platform, and the versions of all libraries."""
    packages = ["jax", "jaxlib", "jsoftmax", "optax", "jax-cce", "tokamax", "torch", "entmax"]
    packages += ["pytorch-metric-learning", "liger-kernel", "cut-cross-entropy", "quack-kernels"]
    versions = {}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    device = jax.devices()[0]
    driver = Path("/proc/driver/nvidia/version")
    return {
        "device": device.device_kind,
        "platform": " ".join(device.client.platform_version.split()),
        "driver": driver.read_text().splitlines()[0] if driver.exists() else None,
        "cores": os.cpu_count(),
        "versions": versions,
    }


def write_json(path: Path, runs: list[Comparison]) -> None:
    """Write the problems, the device, the versions and every time in milliseconds as JSON."""
    found = [
        {
            "problem": problem._asdict(),
            "errors_at": problem.reduced()._asdict(),
            "contestants": entries(outcomes),
        }
        for problem, outcomes in runs
    ]
    path.write_text(json.dumps(header() | {"runs": found}, indent=1) + "\n")


def entries(outcomes: dict[str, Outcome]) -> list[dict[str, Any]]:
    """Return the outcomes for JSON."""
    return [{"name": k, "median": o.median} | o._asdict() for k, o in outcomes.items()]


def figure(path: Path, comparisons: list[Comparison]) -> None:
    """Draw time and temporary memory over the number of classes, one line per contestant."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    problem, largest = comparisons[-1]
    counts = [comparison.problem.classes for comparison in comparisons]
    # Slowest first, so that the legend is in the order of the lines; first those that failed.
    names = sorted(largest, key=lambda name: -(largest[name].median or float("inf")))
    names = [name for name in names if any(run.outcomes[name].times for run in comparisons)]
    panels = {
        "time, milliseconds": lambda outcome: outcome.median,
        "temporary memory, MB": lambda outcome: outcome.temporary and outcome.temporary / 1e6,
    }
    with plt.rc_context(STYLE):
        drawn, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
        for axis, (title, value) in zip(axes, panels.items(), strict=True):
            for name in names:
                colour, dashes, marker = LOOKS[name]
                found = [(run.problem.classes, value(run.outcomes[name])) for run in comparisons]
                points = np.array([point for point in found if point[1]]).reshape(-1, 2)
                axis.plot(
                    *points.T,
                    label=name,
                    color=colour,
                    linestyle=dashes,
                    linewidth=2.4 if name == "jsoftmax" else 1.5,
                    marker=marker,
                    markersize=6,
                    markeredgecolor="white",
                    markeredgewidth=0.6,
                )
            axis.set(xscale="log", yscale="log", xlabel="classes")
            axis.set_title(title, loc="left")
            axis.set_xticks(counts, [f"{count:,}" for count in counts])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.grid(axis="y", color="0.92", linewidth=0.8)
        handles, labels = axes[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside right center", frameon=False)
        rows, features = f"{problem.rows:,}", f"{problem.features:,}"
        drawn.suptitle(
            f"{_task(problem)}, {rows} rows of {features} {problem.dtype} features\n{machine()}",
            fontsize=10,
        )
        drawn.savefig(path)
        plt.close(drawn)
