"""Find out what is fastest, and what fits, on this device at your shape.

    python -m jsoftmax.bench [--preset P] [--rows N] [--features D] [--classes C] [--dtype T]
                             [--loss L] [--margin M] [--no-backward] [--scale F] [--repeats N]
                             [--only NAME ...] [--json FILE] [--plot FILE]
                             [--maps | --sparse | --tune]
    python -m jsoftmax.bench --device-check [--skip PART ...] [--minutes M] [--scale F]
                             [--repeats N] [--json FILE]
    python -m jsoftmax.bench --plan [--devices N ...] [--sample-rate R] [--preset P] [...]

Compares the loss of a linear head and its gradients, computed by this library and by others, with
the bare matrix products. A GPU or TPU needs no extra option. --tune measures our block sizes at
that shape. --device-check is for a machine that one has for ten minutes: all that is worth knowing
of a new device, within a limit of time. With --plan nothing is run: memory and communication of a
training step over many devices are read from the compiled program.
"""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

try:
    import optax  # noqa: F401
    from rich.console import Console, RenderableType
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    from jsoftmax.bench import maps as bench_maps
    from jsoftmax.bench import plan as bench_plan
    from jsoftmax.bench import plan_report, torch_contestants
    from jsoftmax.bench import report as bench_report
    from jsoftmax.bench import tune as bench_tune
    from jsoftmax.bench.cli import options
    from jsoftmax.bench.device import check as device_check
except ModuleNotFoundError as missing:
    sys.exit(f"The benchmark needs {missing.name!r}: pip install 'jsoftmax[bench]'")

from jsoftmax.bench.contestants import CONTESTANTS, FLOOR, Contestant, entrants
from jsoftmax.bench.measure import Outcome, duration, interleaved
from jsoftmax.bench.problem import Problem, error, exact

Advance = Callable[[str], None]
Tell = Callable[[str], None]


class Mode(NamedTuple):
    """Something to measure, which adds to a list what it finds, and returns notes.

    If it is interrupted, `table` shows and `write` writes what is in the list.
    """

    measure: Callable[..., list[str]]
    table: Callable[[list[Any]], RenderableType]
    write: Callable[[Path, list[Any]], None]


def compare(
    problem: Problem,
    contestants: list[Contestant],
    rounds: int,
    advance: Advance,
    tell: Tell,
    outcomes: dict[str, Outcome],
) -> None:
    """Time the contestants on a problem, and measure their errors on a smaller one."""
    data = problem.data()
    prepare = {c.name: partial(c.prepare, problem, data) for c in contestants}
    interleaved(prepare, rounds, advance, tell=tell, outcomes=outcomes)
    small = problem.reduced()
    data = small.data()
    if answer := exact(small, data):
        tell("the errors against float64, for which each is prepared once more:")
    for name, prepare_on, *_ in contestants:
        advance(name)
        if answer and name != FLOOR and not outcomes[name].failure:
            try:
                runner = prepare_on(small, data)
                found = error(runner.step(), answer, transposed=runner.transposed)
                outcomes[name] = outcomes[name]._replace(error=found)
                tell(f"{name}: {found:.1e}")
            except Exception:  # timed, but does not support the smaller shape
                continue


def heads(problem: Problem, chosen, progress: Progress, tell: Tell, runs: list) -> list[str]:
    """Measure a linear head, with --plot for several class counts."""
    wanted = [c for c in CONTESTANTS if not chosen.only or c.name in (*chosen.only, FLOOR)]
    contestants, notes = entrants(problem, wanted)
    if any(contestant.in_torch for contestant in contestants):
        notes.append(torch_contestants.device_in_words())
    counts = [problem.classes]
    if chosen.plot:
        counts = sorted({max(1, problem.classes // part) for part in (16, 8, 4, 2, 1)})
    calls = len(counts) * len(contestants) * (2 + chosen.repeats)
    task = progress.add_task("", total=calls)
    for classes in counts:
        part = problem._replace(classes=classes)

        def advance(name: str, classes=classes) -> None:
            progress.update(task, description=f"{name}, {classes:,} classes", advance=1)

        runs.append(bench_report.Comparison(part, {}))
        tell(bench_report.in_words(part))
        compare(part, contestants, chosen.repeats, advance, tell, runs[-1].outcomes)
    return notes


def maps(problem: Problem, chosen, progress: Progress, tell: Tell, runs: list) -> list[str]:
    """Measure maps of logits."""
    compared, notes = bench_maps.dense_maps(10 * problem.classes), []
    if chosen.sparse:
        compared, notes = bench_maps.sparse_maps()
    calls = sum(1 + each.differentiable for each in compared) * (1 + chosen.repeats)
    task = progress.add_task("", total=calls)

    def advance(name: str) -> None:
        progress.update(task, description=name, advance=1)

    run = bench_report.Comparison(problem, {})
    runs.append(run)
    tell(bench_maps.in_words(problem))
    given = {"tell": tell, "outcomes": run.outcomes}
    bench_maps.measured(compared, problem, chosen.repeats, advance, **given)
    return notes


def tunings(problem: Problem, chosen, progress: Progress, tell: Tell, runs: list) -> list[str]:
    """Measure block sizes; the notes are what to do."""
    task = progress.add_task("", total=len(bench_tune.grid(problem)) * (1 + chosen.repeats))

    def advance(blocks: str) -> None:
        progress.update(task, description=f"blocks of {blocks}", advance=1)

    found = bench_tune.Tuned(problem, {})
    runs.append(found)
    tell(bench_report.in_words(problem))
    bench_tune.tuned(problem, chosen.repeats, advance, tell=tell, found=found)
    return bench_tune.advice(found)


def plans(problem: Problem, chosen, progress: Progress, tell: Tell, runs: list) -> list[str]:
    """Compile training steps over many devices."""
    asked = ("preset", "rows", "features", "classes", "dtype", "loss", "margin", "sample_rate")
    steps = bench_plan.STANDARD
    if chosen.scale != 1 or any(getattr(chosen, name) is not None for name in asked):
        steps = [(problem, chosen.sample_rate)]
    try:
        devices = bench_plan.cpu_devices(max(chosen.devices))
    except RuntimeError as error:
        sys.exit(str(error))
    started, total = time.perf_counter(), len(steps) * len(chosen.devices)
    task = progress.add_task("", total=total)
    tell(f"{total} training steps to compile")
    for problem, rate in steps:
        for count in chosen.devices:
            label = f"{problem.classes:,} classes, {count} devices"
            progress.update(task, description=label, advance=1)
            mesh = bench_plan.best_mesh(problem, rate, devices[:count])
            runs.append(bench_plan.planned(problem, rate, mesh))
            left = (time.perf_counter() - started) / len(runs) * (total - len(runs))
            tell(f"{label}: compiled" + (f"; about {duration(left)} to go" if left else ""))
    seconds = time.perf_counter() - started
    return [*plan_report.LEGEND, f"jax {jax.__version__}; compiled in {duration(seconds)}"]


MODES = {
    "maps": Mode(maps, lambda runs: bench_maps.table(runs[-1]), bench_report.write_json),
    "sparse": Mode(maps, lambda runs: bench_maps.table(runs[-1]), bench_report.write_json),
    "tune": Mode(tunings, lambda runs: bench_tune.table(runs[-1]), bench_tune.write_json),
    "plan": Mode(plans, plan_report.tables, plan_report.write_json),
}
HEADS = Mode(heads, lambda runs: bench_report.table(runs[-1]), bench_report.write_json)


def main(arguments: list[str] | None = None) -> Any:
    """Run the benchmark and return its results.

    One `Comparison` per class count; with --tune one `Tuned`; with --plan one `Plan` per problem
    and device count; with --device-check what it writes as JSON, unless a part failed: then
    it exits with status 1, and says which. Interrupted, it shows and writes what was measured, and
    exits with status 130.
    """
    chosen, problem = options(arguments)
    # Without preallocation, so that torch can use the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    console, progress_console = Console(), Console(stderr=True)  # so the table can be piped
    progress = Progress(
        TextColumn("{task.description:<38}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=progress_console,
        transient=True,
        disable=not progress_console.is_terminal,
    )

    def show(*shown: Any) -> None:
        progress.stop()  # or the line of progress would be printed among them
        for each in shown:
            console.print(each, highlight=False, soft_wrap=isinstance(each, str))
        progress.start()

    if chosen.device_check:
        try:
            with progress:
                found = device_check.run(chosen, show, progress)
        except KeyboardInterrupt:
            sys.exit(130)  # all that was found is shown and written
        if failed := device_check.failures(found):
            sys.exit(f"Not done: {', '.join(f'{name} ({why})' for name, why in failed.items())}")
        return found
    mode = next((mode for name, mode in MODES.items() if getattr(chosen, name)), HEADS)
    runs, interrupted = [], False
    try:
        with progress:
            notes = mode.measure(problem, chosen, progress, lambda line: show(escape(line)), runs)
    except KeyboardInterrupt:
        interrupted, notes = True, ["Interrupted: this is what was measured."]
    if runs:
        console.print("", mode.table(runs), sep="\n")
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True)
    if chosen.json and runs:
        mode.write(chosen.json, runs)
        console.print(f"wrote {chosen.json}", soft_wrap=True)
    if interrupted:
        sys.exit(130)
    if chosen.plot:
        bench_report.figure(chosen.plot, runs)
        console.print(f"wrote {chosen.plot}", soft_wrap=True)
    return runs
