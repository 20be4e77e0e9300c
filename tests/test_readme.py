"""The README: its code runs from top to bottom, and it names every public name."""

import re
from pathlib import Path

import jax
import pytest

import jsoftmax as js

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_code_runs(capsys):
    names = {}
    with jax.numpy_dtype_promotion("standard"):  # what a reader has
        for block in BLOCKS:
            exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    accuracy = float(re.search(r"accuracy ([\d.]+)", printed)[1])
    assert accuracy > 0.95
    assert "look like probabilities" in printed
    assert BLOCKS


@pytest.mark.parametrize("name", [n for n in js.__all__ if not n.startswith("__")])
def test_names_every_public_name(name):
    assert re.search(rf"`{name}[`.]", README)


def test_pictures_and_links_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target
