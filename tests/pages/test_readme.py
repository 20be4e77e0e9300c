"""The pages: their code runs from top to bottom, and docs/api.md names every public name."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from page_code import ROOT, code_of, names_of

import jsoftmax as js

API = (ROOT / "docs/api.md").read_text()
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/**/*.md"))),
]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if code_of(page).strip()])
def test_code_runs(page, capsys):
    names_of(page)
    printed = capsys.readouterr().out
    number = {name: float(x) for name, x in re.findall(r"^ *([a-z ]+) ([\d.]+)$", printed, re.M)}
    if "accuracy" in number:  # a classifier is trained
        assert number["accuracy"] > 0.85
        assert number["with a temperature"] < number["calibration error"]
        assert "look like probabilities" in printed


def test_the_numbers_of_the_maps_are_theirs():
    page = (ROOT / "docs/maps.md").read_text()
    rows = re.findall(r"^\| `(js\..*)` \| ([\d.\s]+) \|", page, re.M)
    assert len(rows) == 11
    for call, numbers in rows:
        found = eval(call, {"js": js, "z": jnp.array([2.0, 1.5, 0.1, -3.0])})
        np.testing.assert_allclose(found, [float(n) for n in numbers.split()], atol=0.0051)


@pytest.mark.parametrize("name", [n for n in js.__all__ if not n.startswith("__")])
def test_names_every_public_name(name):
    assert re.search(rf"`{name}[`.]", API)


@pytest.mark.parametrize("page", PAGES)
def test_pictures_and_links_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target
