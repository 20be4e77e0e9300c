"""The benchmark from end to end on tiny shapes, and what it says of bad options and of failures."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close

pytest.importorskip("rich")

import jsoftmax as js
from jsoftmax.bench import contestants as bench_contestants
from jsoftmax.bench import maps as bench_maps
from jsoftmax.bench import measure as bench_measure
from jsoftmax.bench import report as bench_report
from jsoftmax.bench import run as bench
from jsoftmax.bench import torch_contestants as bench_torch
from jsoftmax.bench.cli import SHARES, options
from jsoftmax.bench.problem import (
    DISTILLATION,
    EXACT,
    LOSSES,
    MARGINS,
    OWN_LOSSES,
    PRESETS,
    WITH_OWN_LOSS,
    Problem,
    exact,
)

pytestmark = [pytest.mark.slow, pytest.mark.one_in(5)]

TINY = ["--rows", "8", "--features", "4", "--classes", "32", "--repeats", "2"]
OURS = ["jsoftmax", "jsoftmax-rows", "jsoftmax-classes", "jsoftmax-dense"]


@pytest.fixture(autouse=True)
def _standard_promotion():
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # optax is not strict
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


def problem(*arguments):
    return options(list(arguments))[1]


@pytest.mark.parametrize(
    ("margin", "only"),
    [("none", OURS), ("arcface", ["jsoftmax-rows"]), ("cosface", ["optax-dense"])],
)
def test_writes_what_it_measured(margin, only, tmp_path, capsys):
    path = tmp_path / "new" / "found.json"
    (run,) = bench.main([*TINY, "--margin", margin, "--json", str(path), "--only", *only])
    printed = capsys.readouterr().out
    written = json.loads(path.read_text())
    assert written["versions"]["jax"] == jax.__version__
    (written,) = written["runs"]
    assert written["problem"]["margin"] == margin
    assert [found["name"] for found in written["contestants"]] == list(run.outcomes)
    for found in written["contestants"]:
        assert found["name"] in printed
        assert found["failure"] is None
        assert len(found["times"]) == 2
        assert all(0 < time < math.inf for time in found["times"])
        assert found["temporary"] >= 0
        if found["name"] != bench_contestants.FLOOR:
            assert found["error"] < 1e-5


def test_any_loss_and_margin_without_gradients(capsys):
    (run,) = bench.main([*TINY, "--loss", "focal", "--margin", "l_softmax", "--no-backward"])
    assert list(run.outcomes) == [bench_contestants.FLOOR, *OURS]
    assert not any(outcome.failure for outcome in run.outcomes.values())
    assert "Not for this loss and margin: optax-dense" in capsys.readouterr().out


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(bench_contestants, "find_spec", lambda name: None)
    names = ["jax-cce", "jsoftmax-rows", "quack"]
    wanted = [c for c in bench_contestants.CONTESTANTS if c.name in names]
    there, notes = bench_contestants.entrants(Problem(8, 4, 32), wanted)
    assert [contestant.name for contestant in there] == ["jsoftmax-rows"]
    only_on_cuda = "Only on a CUDA device: quack"
    assert notes == [only_on_cuda, "Not installed: jax-cce (pip install jax-cce)"]
    monkeypatch.setattr(bench_contestants.jax, "default_backend", lambda: "gpu")
    _, (note,) = bench_contestants.entrants(Problem(8, 4, 32), wanted)
    packages = "jax-cce, torch, quack-kernels (pip install jax-cce torch quack-kernels)"
    assert note == f"Not installed: {packages}"


def test_presets_options_and_scale():
    assert problem() == PRESETS["small"]
    assert problem("--preset", "gemma-2-2b") == Problem(8192, 2304, 256000, "bfloat16")
    face = problem("--preset", "face-1m", "--scale", "0.01", "--features", "64", "--no-backward")
    assert face == Problem(5, 64, 10_000, margin="arcface", backward=False)
    assert problem("--rows", "3", "--scale", "2").rows == 6
    assert problem("--scale", "1e-9")[:3] == (1, 512, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "hinge"], "invalid choice: 'hinge'"),
        (["--preset", "gpt"], "invalid choice: 'gpt'"),
        (["--rows", "0"], "--rows: expected 1 or more, got 0"),
        (["--repeats", "-1"], "--repeats: expected 1 or more, got -1"),
        (["--scale", "0"], "--scale: expected a number above 0, got 0.0"),
        (["--plot", "a.txt"], "--plot: expected .png, .pdf or .svg, got 'a.txt'"),
        (["--maps", "--plot", "a.png"], "--plot and --only do not go with --maps"),
        (["--tune", "--only", "jsoftmax"], "--plot and --only do not go with --tune"),
        (["--skip", "heads"], "--skip and --minutes only go with --device-check"),
        (["--device-check", "--skip", "feet"], "invalid choice: 'feet'"),
        (["--device-check", "--minutes", "0"], "--minutes: expected a number above 0, got 0.0"),
        (["--device-check", "--rows", "8"], "--rows: --device-check has its own problems"),
        (["--device-check", "--preset", "small"], "--preset: --device-check has its own"),
        (["--device-check", "--skip", *SHARES], "--skip: no part is left"),
        (["--maps", "--sparse"], "not allowed with argument"),
        (["--margin", "uniface", "--loss", "focal"], "--loss: uniface has its own; leave it out"),
        (["--plan", "--margin", "uniface"], "--margin: --plan is for heads of cross-entropy"),
        (["--plan", "--margin", "sub_center"], "--margin: --plan is for heads with one vector"),
        (["--json", "."], "--json: can not write '.': Is a directory"),
    ],
)
def test_bad_options_are_explained(arguments, said, capsys):
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert said in capsys.readouterr().err


def test_failures_become_rows(monkeypatch, capsys):
    def failing(problem, data):
        raise ValueError("no such [/kernel]\nand a long story")

    def exhausted(problem, data):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")

    def failing_later(problem, data):
        calls = iter([None])

        def step():
            next(calls)

        return bench_measure.Runner(step, lambda: None)

    def too_large(problem, data):
        return bench_measure.Runner(lambda: None, lambda: None, needed=10**15)

    added = {f.__name__: f for f in (failing, exhausted, failing_later, too_large)}
    added = [bench_contestants.Contestant(*item) for item in added.items()]
    kept = [c for c in bench_contestants.CONTESTANTS if c.name in (bench.FLOOR, *OURS)]
    monkeypatch.setattr(bench, "CONTESTANTS", kept[:1] + added + kept[1:2])
    (run,) = bench.main([*TINY, "--no-backward"])
    assert {name: outcome.failure for name, outcome in run.outcomes.items()} == {
        "matrix-products": None,
        "failing": "ValueError: no such [/kernel]",
        "exhausted": "out of memory",
        "failing_later": "StopIteration",
        "too_large": "needs 1,000,000 GB",
        "jsoftmax": None,
    }
    printed = capsys.readouterr().out
    assert "no such" in printed
    assert "out of memory" in printed
    assert len(run.outcomes["jsoftmax"].times) == 2


def test_figure_is_written(tmp_path, capsys):
    path = tmp_path / "figure.png"
    runs = bench.main([*TINY, "--no-backward", "--only", "optax-dense", "--plot", str(path)])
    assert [run.problem.classes for run in runs] == [2, 4, 8, 16, 32]
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.name in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("kind", ["--maps", "--sparse"])
def test_maps(kind, monkeypatch, capsys):
    all_maps = bench_maps.dense_maps(320)
    some = [each for each in all_maps if each.name in ("jnp.exp", "js.softmax", "js.hardmax")]
    monkeypatch.setattr(bench_maps, "dense_maps", lambda samples: some)
    (run,) = bench.main([*TINY, kind])
    printed = capsys.readouterr().out
    assert not any(outcome.failure for outcome in run.outcomes.values())
    name = "js.softmax" if kind == "--maps" else "optax projection_simplex"
    assert name in printed
    assert run.outcomes[bench_maps.gradient_of(name)].times


@pytest.mark.parametrize("loss", ["nll", "focal"])
@pytest.mark.parametrize("margin", EXACT)
def test_exact_gradients_are_those_of_the_exact_loss(margin, loss):
    # By central differences along a direction; that the loss is ours, the device check says.
    small = Problem(8, 16, 32, loss=loss, margin=margin)
    data = small.data()
    _, dx, dw = exact(small, data)
    rng = np.random.default_rng(0)
    x, w = (np.asarray(array, np.float64) for array in data[:2])
    step_x, step_w = (1e-5 * rng.standard_normal(array.shape) for array in (x, w))
    ahead, behind = (
        exact(small, data._replace(features=x + sign * step_x, weight=w + sign * step_w))[0]
        for sign in (1, -1)
    )
    change = 2 * (np.sum(dx * step_x) + np.sum(dw * step_w))
    assert ahead - behind == pytest.approx(change, rel=1e-6)


@pytest.mark.parametrize("loss", [*OWN_LOSSES, DISTILLATION])
def test_losses_that_are_not_the_library_s(loss):
    in_blocks_as_held(Problem(6, 4, 11, loss=loss, blocks=2))


@pytest.mark.thorough
@pytest.mark.one_in(4)
@pytest.mark.parametrize("margin", [name for name in MARGINS if name not in EXACT])
def test_heads_without_an_exact_answer(margin):
    problem = Problem(6, 4, 11, margin=margin, blocks=2)
    assert problem.data().weight.ndim == (3 if margin == "sub_center" else 2)
    assert exact(problem, problem.data()) is None
    in_blocks_as_held(problem)


def in_blocks_as_held(problem):
    """In blocks and with logits held: the same loss and gradients."""
    data = problem.data()
    held, blocks = (
        jax.jit(jax.value_and_grad(make(problem), (0, 1)))(*data)
        for make in (bench_contestants.jsoftmax_dense, bench_contestants.jsoftmax_blocks)
    )
    for got, expected in zip(jax.tree.leaves(blocks), jax.tree.leaves(held), strict=True):
        close(got, expected, atol=2e-6 * float(jnp.max(jnp.abs(expected))))
    assert any(jnp.any(gradient) for gradient in held[1])


@pytest.mark.parametrize("margin", ["sub_center", *WITH_OWN_LOSS])
def test_heads_with_a_loss_or_a_weight_of_their_own(margin, capsys):
    (run,) = bench.main([*TINY, "--margin", margin, "--only", "jsoftmax", "jsoftmax-dense"])
    assert list(run.outcomes) == [bench_contestants.FLOOR, "jsoftmax", "jsoftmax-dense"]
    assert not any(outcome.failure for outcome in run.outcomes.values())
    said = "own loss" if margin in WITH_OWN_LOSS else "nll"
    assert f"{said}, {margin}, loss and gradients" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # theirs
@pytest.mark.parametrize("margin", bench_torch.METRIC_LEARNING)
def test_pytorch_metric_learning_has_the_same_loss(margin):
    pytest.importorskip("torch")
    pytest.importorskip("pytorch_metric_learning")
    problem = Problem(6, 4, 11, margin=margin)
    data = problem.data()
    theirs = bench_torch.metric_learning(problem, data).step()
    factor = 11 if margin == "p2sgrad" else 1  # a mean over classes
    ours = bench_contestants.jsoftmax_dense(problem)(*data) / factor
    np.testing.assert_allclose(theirs[0], ours, rtol=1e-4)


def test_the_lists_are_complete():
    assert set(bench_report.LOOKS) == {c.name for c in bench_contestants.CONTESTANTS}
    assert set(LOSSES) - {*OWN_LOSSES, DISTILLATION} <= set(js.__all__)
    home = {name: getattr(getattr(js, name), "__module__", "") for name in js.__all__}
    where = "jsoftmax.margins", "jsoftmax.losses.of_cosines"
    margins = {name for name in js.__all__ if home[name].startswith(where)}
    margins -= {name for name in margins if isinstance(getattr(js, name), type)}
    # These make numbers for a margin, and take the time of cosface or arcface.
    margins -= {"ldam", "dynamic_margins", "elastic_margin", "adacos_scale"}
    # These go with one.
    margins -= {"magface_regularizer", "nearest_center", "sphereface2_bias", "uniface_bias"}
    assert set(MARGINS) == {"none", *(name for name in margins if not name.endswith("_update"))}


def test_free_memory_and_sizes(monkeypatch):
    assert 10**8 < bench_measure.free_memory() < 10**14
    sizes = {16.84e9: "16.8 GB", 268e6: "268 MB", 99.96e6: "100 MB", 999.9e6: "1.0 GB", 12: "12 B"}
    assert {count: bench_measure.size(count) for count in sizes} == sizes
    assert bench_measure.compiled(jnp.sin, jnp.ones(4)).needed >= 16
