"""The benchmark of block sizes: what is tried, and what is advised."""

import json

import jax
import pytest

pytest.importorskip("rich")

from machines import chosen_for

from jsoftmax.bench import run as bench
from jsoftmax.bench import tune
from jsoftmax.bench.measure import Outcome
from jsoftmax.bench.problem import PRESETS, Problem

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

TINY = ["--rows", "8", "--features", "4", "--classes", "32", "--repeats", "2"]


def test_writes_what_it_measured(tmp_path, capsys):
    path = tmp_path / "found.json"
    (found,) = bench.main(["--tune", *TINY, "--margin", "arcface", "--json", str(path)])
    printed = capsys.readouterr().out
    assert found.problem == Problem(8, 4, 32, margin="arcface")
    assert all(len(outcome.times) == 2 for outcome in found.outcomes.values())
    assert "The rule's blocks, 8 × 32, " in printed
    written = json.loads(path.read_text())
    assert written["versions"]["jax"] == jax.__version__
    (written,) = written["runs"]
    assert written["problem"] == found.problem._asdict()
    assert written["best"] == found.best.arguments
    points = written["points"]
    assert [(p["row_block"], p["class_block"]) for p in points] == [p[:2] for p in found.outcomes]
    assert all(p["temporary"] >= 0 and p["failure"] is None for p in points)


@pytest.mark.parametrize("problem", [*PRESETS.values(), Problem(1, 1, 1), Problem(7, 4, 13)])
def test_the_grid_has_every_order_once(problem):
    points = tune.grid(problem)
    assert points[0][:2] == (None, None)
    assert len({point.blocks for point in points}) == len(points) <= 16
    if problem in PRESETS.values():
        assert len(points) >= 12
        blocks = [point.blocks for point in points]
        assert (problem.rows, problem.classes, True) in blocks
        assert any(rows == problem.rows and not saved for rows, _, saved in blocks)
        assert any(rows < problem.rows and classes < problem.classes for rows, classes, _ in blocks)


def test_advice():
    with chosen_for("cpu"):
        rule, other, *_ = tune.grid(PRESETS["llama-3-8b"])
    found = {rule: Outcome([3.0, 4.0]), other: Outcome([2.0, 2.0], temporary=10**9)}
    problem = PRESETS["llama-3-8b"]
    assert tune.advice(tune.Tuned(problem, found)) == [
        "The rule's blocks, 2,731 × 1,002, take 1.75 times the best.",
        "To have the best, with 1.0 GB of memory: row_block=8192, class_block=128256",
    ]
    found[rule] = Outcome([2.0, 4.0])
    (said, _) = tune.advice(tune.Tuned(problem, found))
    assert said.endswith("take 1.50 times the best, though some of its rounds are as fast.")
    found[rule] = Outcome([], failure="out of memory")
    (said, _) = tune.advice(tune.Tuned(problem, found))
    assert said == "The rule's blocks, 2,731 × 1,002, failed: out of memory."
    found = {rule: Outcome([1.0]), other: Outcome([2.0])}
    (said,) = tune.advice(tune.Tuned(problem, found))
    assert said.endswith("are the best: give no row_block or class_block.")
    found = {rule: Outcome([], failure="needs 9 GB")}
    assert tune.advice(tune.Tuned(problem, found)) == ["Nothing could be measured."]
