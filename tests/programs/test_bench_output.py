"""What the benchmark shows while it runs, if it is interrupted, and without its extra."""

import json
import runpy
import sys

import jax
import pytest

pytest.importorskip("rich")

from jsoftmax.bench import contestants as bench_contestants
from jsoftmax.bench import measure as bench_measure
from jsoftmax.bench import run as bench
from jsoftmax.bench.problem import Problem

pytestmark = pytest.mark.slow

TINY = ["--rows", "8", "--features", "4", "--classes", "32"]


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax is not strict
        yield


def test_interrupted_it_keeps_what_was_measured(monkeypatch, capsys, tmp_path):
    def interrupting(problem, data):
        calls = iter(range(3))  # the warm-up and one round

        def step():
            if next(calls, None) == 2:
                raise KeyboardInterrupt

        return bench_measure.Runner(step, lambda: None)

    path = tmp_path / "found.json"
    added = bench_contestants.Contestant("interrupting", interrupting)
    floor, ours = (c for c in bench_contestants.CONTESTANTS if c.name in (bench.FLOOR, "jsoftmax"))
    monkeypatch.setattr(bench, "CONTESTANTS", [floor, added, ours])
    with pytest.raises(SystemExit) as exited:
        bench.main([*TINY, "--repeats", "9", "--json", str(path)])
    assert exited.value.code == 130
    written = json.loads(path.read_text())["runs"][0]["contestants"]
    assert [len(found["times"]) for found in written] == [2, 1, 1]
    printed = capsys.readouterr().out
    lines = [line.split(":")[0] for line in printed.splitlines()]
    assert [line for line in lines if line == "jsoftmax"] == ["jsoftmax"] * 2  # ready, first round
    assert "round 1 of 9 is done; about " in printed
    assert printed.index("× products") > printed.index("round 1 of 9")
    assert "Interrupted: this is what was measured." in printed


def test_interrupted_before_anything_was_measured(monkeypatch, capsys):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Problem, "data", interrupt)
    with pytest.raises(SystemExit) as exited:
        bench.main(TINY)
    assert exited.value.code == 130
    assert "8 rows × 4 features × 32 classes" in capsys.readouterr().out


def test_ratios_are_those_of_the_times_beside_them():
    floor, other = bench_measure.Outcome([1.0, 2.0, 9.0]), bench_measure.Outcome([3.0, 8.0])
    assert other.ratio(floor) == 5.5 / 2
    assert other.ratio(None) is None
    assert other.ratio(bench_measure.Outcome([])) is None


def test_help_needs_no_extra(monkeypatch, capsys):
    for name in list(sys.modules):
        if name.startswith(("jsoftmax.bench", "rich", "optax")):
            monkeypatch.delitem(sys.modules, name)
    for name in ("rich", "optax", "matplotlib", "flax"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit) as exited:
        run_with(monkeypatch, "--help")
    assert exited.value.code == 0
    assert "pip install 'jsoftmax[bench]'" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exited:
        run_with(monkeypatch, "--rows", "0")
    assert exited.value.code == 2
    with pytest.raises(SystemExit) as exited:
        run_with(monkeypatch)
    assert exited.value.code == "The benchmark needs 'optax': pip install 'jsoftmax[bench]'"


def run_with(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    runpy.run_module("jsoftmax.bench", run_name="__main__")
