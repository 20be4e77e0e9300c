"""The demo from end to end on few letters, Ctrl-C, its data, and what it says to bad options."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from page_code import ROOT

pytest.importorskip("flax")

from jsoftmax.bench.problem import MARGINS
from jsoftmax.demo import characters, cli, run
from jsoftmax.demo.heads import DEFAULT, HEADS
from jsoftmax.demo.measure import FARS, Result, Run, finding

pytestmark = pytest.mark.slow

# Without margin, drawn at random, following the batch, with a penalty, several centers, and a loss
# and a bias of its own.
LOSSES = ["softmax", "elasticface", "adaface", "magface", "sub-center", "uniface"]
SMALL = ["--classes", "60", "--epochs", "1", "--seeds", "1"]


@pytest.fixture(autouse=True)
def _flax_is_not_strict():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.thorough
@pytest.mark.filterwarnings("default")  # the warnings of flax, rich and matplotlib are theirs
def test_runs(tmp_path, capsys):
    results = cli.main([*SMALL, "--losses", *LOSSES, "--out", str(tmp_path / "new")])
    printed = capsys.readouterr().out
    assert [result.title for result in results] == [HEADS[name].title for name in LOSSES]
    for result in results:
        (only,) = result.runs
        # One epoch of 11 steps: far better than the 2.5% of guessing, in every head.
        assert only.accuracy > 10
        assert only.eer < 45
        assert only.tar[0] > only.tar[1] > 0
    for figure in ("verification.png", "plane.png"):
        assert (tmp_path / "new" / figure).read_bytes().startswith(b"\x89PNG")
        assert figure in printed.replace("\n", "")
    assert "EER %" in printed
    assert finding(results).split()[0] in printed


@pytest.mark.thorough
@pytest.mark.filterwarnings("default")
def test_ctrl_c_shows_what_is_done(tmp_path, capsys, monkeypatch):
    def trained(task, head, **options):
        if head is HEADS["arcface"]:
            raise KeyboardInterrupt
        return real(task, head, **options)

    real = run.train
    monkeypatch.setattr(run, "train", trained)
    with pytest.raises(SystemExit) as stopped:
        cli.main([*SMALL, "--losses", "softmax", "arcface", "--out", str(tmp_path)])
    assert stopped.value.code == 130
    assert "│ softmax" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["verification.png"]


def result_of(title, *tars):
    runs = [Run(90.0, 5.0, np.array([90.0, tar]), 0.5, np.ones(2), np.ones(2)) for tar in tars]
    return Result(title, runs, 1.0)


@pytest.mark.parametrize(
    ("of_a", "of_b", "said"),
    [
        ((50, 52), (60, 61), "b accepts 60% of the genuine pairs, a 51%"),
        ((50, 62), (60, 61), "b accepts 60% of the genuine pairs, a 56%, but not with every seed"),
        ((50,), (40,), "no head accepts more genuine pairs than a: 50%"),
    ],
)
def test_what_was_found_depends_on_the_numbers(of_a, of_b, said):
    found = finding([result_of("a", *of_a), result_of("b", *of_b)])
    assert found == f"At one false accept in {1 / FARS[-1]:,.0f}, {said}"


def test_characters_differ_and_none_is_in_two_parts():
    drawn = characters.load(most=40, copies=2)
    assert drawn.images.shape == (40, len(characters.FACES), 2, 24, 24, 1)
    assert len(set(drawn.names)) == 40
    assert all(image.max() > 0.5 for image in drawn.images.reshape(-1, 24, 24))
    assert {"A", "Α", "А"} & set(characters.load(copies=1, size=8).names) == {"A"}
    task = characters.split(drawn, 0)
    assert sorted(task.seen_names + task.unseen_names) == sorted(drawn.names)
    assert len(task.images) == len(task.seen_images) == 27 * 12
    assert task.unseen_labels.max() == len(task.unseen_names) - 1 == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--losses", "hinge"], "choose from 'softmax'"),
        (["--epochs", "0"], "--epochs: expected 1 or more, got 0"),
        (["--seeds", "0"], "--seeds: expected 1 or more, got 0"),
        (["--classes", "5"], "--classes: expected 30 or more, got 5"),
        (["--epochs", "x"], "invalid int value: 'x'"),
    ],
)
def test_bad_options_are_explained(arguments, said, capsys):
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert said in capsys.readouterr().err.replace("choose from softmax", "choose from 'softmax'")


def test_unwritable_folder_is_refused_before_training(tmp_path, capsys):
    taken = tmp_path / "file"
    taken.write_text("")
    with pytest.raises(SystemExit):
        cli.main(["--out", str(taken)])
    assert "--out: can not write to" in capsys.readouterr().err


def test_help_needs_no_extras():
    extras = ["flax", "optax", "matplotlib", "rich", "PIL", "fontTools"]
    lines = [
        "import sys",
        f"sys.modules.update(dict.fromkeys({extras}))",  # None: as if they were not installed
        "from jsoftmax.demo.cli import main",
        "main(sys.argv[1:])",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    options = {"capture_output": True, "text": True, "cwd": ROOT}
    helped = subprocess.run([*command, "--help"], check=True, **options)
    assert "--losses" in helped.stdout
    tried = subprocess.run([*command, "--out", "/tmp"], check=False, **options)
    assert "pip install 'jsoftmax[demo]'" in tried.stderr
    assert "Traceback" not in tried.stderr


def test_every_head_of_the_bench_is_there():
    names = {name.replace("-", "_") for name in HEADS}
    named = {"modified": "modified_softmax", "softmax": "none", "combined": "combined_margin"}
    names = {named.get(name, name) for name in names} - {"elasticface", "adacos"}
    assert names == set(MARGINS) - {"cosface", "angular_margin"}
    assert list(HEADS)[:5] == DEFAULT
