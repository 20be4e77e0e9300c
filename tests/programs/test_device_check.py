"""The device check from end to end on tiny problems, its limits of time, and what it reads."""

import json
import math
import sys
import threading
import time
from functools import partial

import jax
import numpy as np
import pytest

pytest.importorskip("rich")
from rich.console import Console

from jsoftmax.bench import contestants
from jsoftmax.bench import run as bench
from jsoftmax.bench.device import accumulate, accuracy, check, heads, logits, tuning
from jsoftmax.bench.device.part import Limits
from jsoftmax.bench.measure import Runner, interleaved
from jsoftmax.bench.problem import Problem

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

TINY = Problem(16, 8, 64)


@pytest.fixture(autouse=True)
def _standard_promotion():
    # Of the process and not of this thread alone: programs are traced in several.
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # optax is not strict
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def _tiny(monkeypatch):
    monkeypatch.setattr(accuracy, "EXACT", ["arcface"])
    monkeypatch.setattr(accuracy, "BOUNDS", {"float32": 2e-5})
    monkeypatch.setattr(accuracy, "PRECISIONS", (None,))
    monkeypatch.setattr(heads, "HEADS", {"tiny": TINY})
    monkeypatch.setattr(tuning, "HEADS", {"tiny": TINY})
    monkeypatch.setattr(accumulate, "HEAD", TINY)
    monkeypatch.setattr(logits, "SHAPES", [(4, 16)])


@pytest.mark.usefixtures("_tiny")
def test_writes_what_it_found(tmp_path, capsys):
    path = tmp_path / "found.json"
    found = bench.main(["--device-check", "--repeats", "1", "--json", str(path)])
    printed = capsys.readouterr().out
    assert json.loads(path.read_text()) == json.loads(json.dumps(found))
    assert found["versions"]["jax"] == jax.__version__
    assert list(found["parts"]) == list(check.PARTS)
    assert check.failures(found) == {}
    by_margin, by_precision = found["parts"]["accuracy"]["found"]
    assert len(by_margin["errors"]) == 3 * 2
    assert len(by_precision["errors"]) == 2 * 2
    for error in by_margin["errors"]:
        assert error["value"] < 2e-5
        assert error["gradients"] < 2e-5
    assert "0 of 6 beyond the bounds" in " ".join(printed.split())
    assert "median divided by that of optax-dense: jsoftmax: " in " ".join(printed.split())
    (head,) = found["parts"]["heads"]["found"]
    times = {contestant["name"]: len(contestant["times"]) for contestant in head["contestants"]}
    ours = ["jsoftmax", "jsoftmax, 16 rows", "jsoftmax, 8 rows", "jsoftmax-classes"]
    assert times.items() >= dict.fromkeys(["matrix-products", *ours, "optax-dense"], 1).items()
    assert {each["failure"] for each in head["contestants"]} == {None}
    (tuned,) = found["parts"]["tune"]["found"]
    assert all(point["failure"] is None for point in tuned["points"])
    (programs,) = found["parts"]["accumulate"]["found"]
    assert [p["products"] >= 4 for p in programs["programs"]] == [True] * 4
    assert [entry["dtype"] for entry in found["parts"]["logits"]["found"]] == [
        "bfloat16",
        "float32",
    ]
    for entry in found["parts"]["logits"]["found"]:
        assert all(function["times"] for function in entry["functions"])
    for name in check.PARTS:
        assert f"{name} took " in printed


def test_a_part_that_fails_says_why(monkeypatch, capsys, tmp_path):
    def failing(limits):
        raise ValueError("no such [/kernel]\nand a long story")
        yield

    parts = {"accuracy": failing, "heads": lambda limits: iter([])}
    monkeypatch.setattr(check, "PARTS", parts)
    monkeypatch.setattr(check, "SHARES", dict.fromkeys(parts, 1))
    path = tmp_path / "found.json"
    with pytest.raises(SystemExit) as exited:  # with this, the status is 1
        bench.main(["--device-check", "--skip", "logits", "--json", str(path)])
    assert exited.value.code == "Not done: accuracy (ValueError: no such [/kernel])"
    found = json.loads(path.read_text())["parts"]
    assert found["accuracy"]["failure"] == "ValueError: no such [/kernel]"
    assert found["accuracy"]["traceback"].rstrip().endswith("and a long story")
    assert found["heads"]["failure"] is None
    assert "accuracy: ValueError: no such [/kernel]" in capsys.readouterr().out


@pytest.mark.usefixtures("_tiny")
def test_no_time_left(capsys):
    with pytest.raises(SystemExit) as exited:
        bench.main(["--device-check", "--minutes", "1e-9", "--skip", "accuracy"])
    skipped = [f"{name} (skipped: no time left)" for name in check.PARTS if name != "accuracy"]
    assert exited.value.code == f"Not done: {', '.join(skipped)}"
    assert "heads: skipped: no time left" in capsys.readouterr().out
    limits = Limits(1.0, 1, time.perf_counter() - 1, lambda name: None)
    for finding in accuracy.checked(limits):
        assert {e["failure"] for e in finding.entry["errors"]} == {"skipped: no time left"}
    (finding,) = accumulate.inspected(limits)
    assert finding.entry["programs"][0]["failure"] == "skipped: no time left"


def test_packages_are_imported_before_threads_start(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import half_there_too, no_such_module")
    (tmp_path / "half_there_too.py").write_text("")
    (tmp_path / "all_there.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)

    def prepared(problem, data):
        return Runner(lambda: None, lambda: 0)

    added = [
        contestants.Contestant(name, prepared, packages=(name,))
        for name in ("half-there", "all-there", "not-there")
    ]
    monkeypatch.setattr(heads, "CONTESTANTS", [*contestants.CONTESTANTS[:1], *added])
    monkeypatch.setattr(heads, "HEADS", {"tiny": TINY, "small": TINY._replace(rows=8)})
    for finding in heads.compared(Limits(1.0, 1, time.perf_counter() + 60, lambda name: None)):
        failures = {each["name"]: each["failure"] for each in finding.entry["contestants"]}
        why = "ModuleNotFoundError: No module named 'no_such_module'"
        assert failures.items() >= {"half-there": why, "all-there": None}.items()
        assert "not-there" not in failures
    assert "all_there" in sys.modules


def test_some_are_prepared_by_the_calling_thread():
    threads = {}

    def prepare(name):
        threads[name] = threading.current_thread()
        return Runner(lambda: None, lambda: 0)

    names = ["first", "torch", "last"]
    tasks = {name: partial(prepare, name) for name in names}
    found = interleaved(tasks, 1, lambda name: None, threads=2, alone=["torch"])
    assert list(found) == names
    assert {outcome.failure for outcome in found.values()} == {None}
    here = threading.current_thread()
    assert [threads[name] is here for name in names] == [False, True, False]


@pytest.mark.parametrize("threads", [1, 2])
def test_timing_ends_at_the_deadline(threads):
    def slow():
        time.sleep(0.2)
        return Runner(lambda: None, lambda: 0)

    names = ["first", "second", "third", "fourth", "fifth"]
    deadline = time.perf_counter() + 0.3
    prepare = dict.fromkeys(names, slow)
    found = interleaved(prepare, 1000, lambda name: None, deadline=deadline, threads=threads)
    assert found["fifth"].failure == "skipped: no time left"
    assert 1 <= len(found["first"].times) < 1000
    assert found["first"].temporary == 0


def test_errors_beyond_the_bounds_are_counted(capsys):
    case = {"margin": "arcface", "dtype": "float32", "route": "rows", "precision": None}
    errors = [
        case | {"loss": "nll", "value": 1e-7, "gradients": math.nan},
        case | {"loss": "focal", "value": 1e-7, "gradients": 1e-7},
        case | {"loss": "nll", "route": "dense", "failure": "ValueError: no"},
    ]
    Console().print(accuracy._by_margin(errors))
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 of 3 beyond the bounds" in printed
    assert "nan !" in printed
    assert "ValueError: no" in printed


CUBLAS = """HloModule m
%body (p: (s32[], f32[64,8])) -> (s32[], f32[64,8]) {
  %p = (s32[], f32[64,8]{1,0}) parameter(0)
  %total = f32[64,8]{1,0} get-tuple-element(%p), index=1
  %gemm = (f32[64,8]{1,0}, s8[4096]{0}) custom-call(%dz, %x, %total), custom_call_target=\
"__cublas$gemm", output_to_operand_aliasing={{0}: (2, {})}, backend_config=\
{"gemm_backend_config":{"alpha_real":1,"beta":BETA,"epilogue":"DEFAULT"}}
  %new = f32[64,8]{1,0} get-tuple-element(%gemm), index=0
  %other = f32[4,8]{1,0} dot(%dz, %w)
  ROOT %t = (s32[], f32[64,8]{1,0}) tuple(%i, %new)
}
ENTRY %main (a: f32[64,8]) -> f32[64,8] {
  %loop = (s32[], f32[64,8]{1,0}) while(%init), condition=%cond, body=%body, backend_config=\
{"known_trip_count":{"n":"4"}}
  ROOT %copy = f32[64,8]{1,0} copy(%done)
}
"""
TRITON = """HloModule m
%gemm_computation (a: bf16[4,64], b: bf16[4,8], c: f32[64,8]) -> f32[64,8] {
  %dot = f32[64,8]{1,0} dot(%a, %b), lhs_contracting_dims={0}, rhs_contracting_dims={0}
  ROOT %add = f32[64,8]{1,0} add(%dot, %c)
}
%add_computation (a: f32[64,8], b: f32[64,8]) -> f32[64,8] {
  ROOT %add.1 = f32[64,8]{1,0} add(%a, %b)
}
ENTRY %main (a: f32[64,8]) -> f32[64,8] {
  %fused = f32[64,8]{1,0} fusion(%x, %y, %z), kind=kCustom, calls=%gemm_computation
  ROOT %sum = f32[64,8]{1,0} fusion(%fused, %z), kind=kLoop, calls=%add_computation
}
"""


def test_accumulation_in_programs_of_a_gpu():
    def found(text):
        counts, lines = accumulate.accumulation(text, Problem(4, 8, 64), 16)
        assert len(lines) >= counts.products / 4 + counts.adds
        return counts

    adding = found(CUBLAS.replace("BETA", "1"))
    assert adding == (4, 4, 4, 0, 1)
    assert adding.in_words() == "the products add, in place"
    assert found(CUBLAS.replace("BETA", "0")) == (4, 0, 0, 0, 1)
    (line, _) = accumulate.accumulation(TRITON, Problem(4, 8, 64), 16)[1]
    assert line == (
        "1 times, of dot, add: fused = f32[64,8]{1,0} "
        "fusion(%x, %y, %z), kind=kCustom, calls=%gemm_computation"
    )
    assert found(TRITON) == (1, 1, 0, 1, 0)
    assert found(TRITON).in_words() == "the products add"
    assert found("HloModule m").in_words() == "no product of that size was recognised"


def test_published_figures_are_of_heads():
    assert set(heads.PUBLISHED) <= set(heads.HEADS)
    assert np.all([head.backward for head in heads.HEADS.values()])
