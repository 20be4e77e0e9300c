"""The run of the demo: train every head with every seed, then in the plane; print, and draw."""

import argparse
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jsoftmax.demo import figures
from jsoftmax.demo.characters import Characters, Task, load, split
from jsoftmax.demo.heads import HEADS
from jsoftmax.demo.measure import Plane, Result, Run, finding, measure, measure_in_plane, table
from jsoftmax.demo.train import steps_for, train

DIMENSIONS = 32
LETTERS = "BDOPQR"  # for the plane, which has no room for more
PLANE_EPOCHS = 5  # as many times those of the others: it has few images


class Demo:
    """What is trained so far, so that it can be shown at any time."""

    def __init__(self, chosen: argparse.Namespace):
        """Draw the letters."""
        self.chosen, self.console = chosen, Console()
        self.letters: Characters = load(most=chosen.classes)
        six = load(wanted=LETTERS.__contains__, copies=40)
        self.six: Task = split(six, 0, share=1.0, held=10)
        self.runs: dict[str, list[Run]] = {name: [] for name in chosen.losses}
        self.seconds = dict.fromkeys(chosen.losses, 0.0)
        self.planes: list[Plane] = []

    def train(self) -> None:
        """Train all heads, seed by seed, so that those of a seed have the same classes."""
        chosen = self.chosen
        tasks = [split(self.letters, seed) for seed in range(chosen.seeds)]
        steps, flat_steps = steps_for(tasks[0], chosen.epochs), steps_for(self.six, self.flat)
        self.console.print(
            f"{len(tasks[0].seen_names)} letters to train on, with {len(tasks[0].images)} images,"
            f" and {len(tasks[0].unseen_names)} others to verify on.\n{len(chosen.losses)} heads of"
            f" {DIMENSIONS} dimensions, {chosen.seeds} seeds for each, {chosen.epochs} epochs."
        )
        with Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  loss {task.fields[loss]:.3f}"),
            TimeRemainingColumn(),
            console=self.console,
        ) as bar:

            def reported(task):
                def advance(loss):
                    # Reading the loss waits for the device, so only do it every 20 steps.
                    if bar.tasks[task].completed % 20 == 0:
                        bar.update(task, loss=float(loss))
                    bar.advance(task)

                return advance

            def add(title, total):
                return reported(bar.add_task(title, total=total, loss=float("nan")))

            advances = {n: add(HEADS[n].title, len(tasks) * steps) for n in chosen.losses}
            flat_advance = add("in the plane", len(chosen.losses) * flat_steps)
            wide = {"dimensions": DIMENSIONS, "epochs": chosen.epochs}
            flat = {"dimensions": 2, "epochs": self.flat, "advance": flat_advance, "seed": 0}
            for seed, task in enumerate(tasks):
                for name in chosen.losses:
                    started = time.perf_counter()
                    found = train(task, HEADS[name], seed=seed, advance=advances[name], **wide)
                    self.runs[name].append(measure(*found, task))
                    self.seconds[name] += time.perf_counter() - started
            for name in chosen.losses:
                found = train(self.six, HEADS[name], **flat)
                self.planes.append(measure_in_plane(*found, self.six, HEADS[name].title))

    @property
    def flat(self) -> int:
        """Return for how many epochs the plane is trained."""
        return PLANE_EPOCHS * self.chosen.epochs

    def report(self) -> list[Result]:
        """Print and draw what is trained."""
        results = [
            Result(HEADS[name].title, runs, self.seconds[name])
            for name, runs in self.runs.items()
            if runs
        ]
        out = self.chosen.out
        if results:
            self.console.print(table(results))
            self.console.print(f"{finding(results)}.")
            self.console.print(f"wrote {figures.scores(results, out / 'verification.png')}")
        if self.planes:
            path = figures.plane(self.planes, self.six.seen_names, out / "plane.png")
            self.console.print(f"wrote {path}")
        return results
