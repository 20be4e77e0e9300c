"""Measure which block sizes are best for a shape on this device, and how good the rule's are."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from rich.markup import escape
from rich.table import Table

from jsoftmax.bench.contestants import in_blocks, in_jax
from jsoftmax.bench.measure import Outcome, interleaved, milliseconds, size
from jsoftmax.bench.problem import Problem
from jsoftmax.bench.report import TIGHT, header, in_words
from jsoftmax.blockwise.block_sizes import BlockSizes, block_sizes
from jsoftmax.blockwise.machine import machine_for


class Point(NamedTuple):
    """The two arguments, and the blocks that they lead to."""

    row_block: int | None
    class_block: int | None
    blocks: BlockSizes

    @property
    def arguments(self) -> dict[str, int]:
        """What to write in the call: nothing for the rule."""
        given = {"row_block": self.row_block, "class_block": self.class_block}
        return {name: block for name, block in given.items() if block is not None}


class Tuned(NamedTuple):
    """The outcome of every point; the first is the rule's choice."""

    problem: Problem
    outcomes: dict[Point, Outcome]

    @property
    def best(self) -> Point | None:
        """The fastest point, or None if none was measured."""
        measured = {p: o.median for p, o in self.outcomes.items() if o.median is not None}
        return min(measured, key=measured.__getitem__) if measured else None


def grid(problem: Problem) -> list[Point]:
    """Return the rule's choice, then what else is worth a try, without what is the same.

    Blocks of rows are all rows and the three powers of two below; of classes, all and a few parts.
    """
    rows, classes = problem.rows, problem.classes
    power = 1 << max(0, (rows - 1).bit_length() - 1)  # the largest one below
    row_blocks = [rows, *(max(1, power >> i) for i in range(3))]

    def part(count: int) -> int:
        return -(-classes // count)

    wanted: list[tuple[int | None, int | None]] = [(None, None)]
    wanted += [(block, classes) for block in row_blocks]
    wanted += [(None, part(count)) for count in (4, 8, 16, 32)]
    wanted += [(block, part(count)) for block in row_blocks[:3] for count in (4, 16)]
    machine = machine_for(jnp.dtype(problem.dtype))
    found: dict[BlockSizes, Point] = {}
    for given in wanted:
        blocks = block_sizes(rows, classes, problem.features, *given, machine=machine)
        found.setdefault(blocks, Point(*given, blocks))
    return list(found.values())


def tuned(
    problem: Problem,
    rounds: int,
    advance: Callable[[str], None],
    *,
    deadline: float = math.inf,
    threads: int = 1,
    tell: Callable[[str], None] = lambda line: None,
    found: Tuned | None = None,
) -> Tuned:
    """Measure the grid, in turns; whoever interrupts this has in `found` what was measured."""
    found = Tuned(problem, {}) if found is None else found
    data = problem.data()
    points = {", ".join(_cells(point)[:2]): point for point in grid(problem)}
    prepare = {
        name: partial(in_jax, partial(in_blocks, **point.arguments), problem, data)
        for name, point in points.items()
    }
    outcomes: dict[str, Outcome] = {}
    given = {"deadline": deadline, "threads": threads, "tell": tell, "outcomes": outcomes}
    try:
        interleaved(prepare, rounds, advance, **given)
    finally:
        found.outcomes.update({points[name]: outcome for name, outcome in outcomes.items()})
    return found


def table(found: Tuned) -> Table:
    """Return the points as a table, fastest first; the best and the rule's choice are in bold."""
    problem, outcomes = found
    rule, best = next(iter(outcomes)), found.best
    shown = Table(
        title=in_words(problem),
        caption="block: rows × classes. products: kept for the gradients, or computed again."
        "\nms: the median. × best: the median divided by that of the best."
        "\nmemory: temporary, beside arguments and results.",
        caption_justify="left",
        **TIGHT,
    )
    for name in ("row_block", "class_block", "block", "products", "ms", "× best", "memory"):
        shown.add_column(name, justify="right", no_wrap=name != "ms")
    for point, outcome in sorted(outcomes.items(), key=lambda item: item[1].median or math.inf):
        median, ratio = outcome.median, outcome.ratio(outcomes[best] if best else None)
        memory = "–" if outcome.temporary is None else size(outcome.temporary)
        shown.add_row(
            *_cells(point),
            escape(outcome.failure or "") if median is None else milliseconds(median),
            "–" if ratio is None else f"{ratio:.2f}",
            memory,
            style="bold" if point in (rule, best) else None,
        )
    return shown


def advice(found: Tuned) -> list[str]:
    """Say what is best, how far the rule is from it, and what to write."""
    rule, best = next(iter(found.outcomes)), found.best
    if best is None:
        return ["Nothing could be measured."]
    chosen, other = found.outcomes[rule], found.outcomes[best]
    blocks = f"{rule.blocks.rows:,} × {rule.blocks.classes:,}"
    if best == rule:
        return [f"The rule's blocks, {blocks}, are the best: give no row_block or class_block."]
    arguments = ", ".join(f"{name}={value}" for name, value in best.arguments.items())
    ratio = chosen.ratio(other)
    far = f"failed: {chosen.failure}" if ratio is None else f"take {ratio:.2f} times the best"
    if chosen.times and min(chosen.times) <= max(other.times):
        far += ", though some of its rounds are as fast"
    memory = "" if other.temporary is None else f", with {size(other.temporary)} of memory"
    return [f"The rule's blocks, {blocks}, {far}.", f"To have the best{memory}: {arguments}"]


def _cells(point):
    rows, classes, kept = point.blocks
    given = ("–" if block is None else f"{block:,}" for block in point[:2])
    return *given, f"{rows:,} × {classes:,}", "kept" if kept else "again"


def entry(found: Tuned) -> dict[str, Any]:
    """Return what was found for JSON."""
    points = [
        point._asdict()
        | {"blocks": point.blocks._asdict(), "median": outcome.median}
        | outcome._asdict()
        for point, outcome in found.outcomes.items()
    ]
    return {
        "problem": found.problem._asdict(),
        "best": found.best and found.best.arguments,
        "points": points,
    }


def write_json(path: Path, runs: list[Tuned]) -> None:
    """Write every point and its times in milliseconds as JSON; the first is the rule's choice."""
    content = header() | {"runs": [entry(found) for found in runs]}
    path.write_text(json.dumps(content, indent=1) + "\n")
