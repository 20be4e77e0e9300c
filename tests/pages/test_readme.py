"""The pages: their code runs from top to bottom, and docs/api.md names every public name."""

import re

import pytest
from page_code import ROOT, code_of, names_of

import jsoftmax as js

API = (ROOT / "docs/api.md").read_text()
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/*.md"))),
]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if code_of(page).strip()])
def test_code_runs(page, capsys):
    names_of(page)
    if page == "docs/start.md":
        printed = capsys.readouterr().out
        number = {
            name: float(x) for name, x in re.findall(r"^ *([a-z ]+) ([\d.]+)$", printed, re.M)
        }
        assert number["accuracy"] > 0.85
        assert number["with a temperature"] < number["calibration error"]
        assert "look like probabilities" in printed


@pytest.mark.parametrize("name", [n for n in js.__all__ if not n.startswith("__")])
def test_names_every_public_name(name):
    assert re.search(rf"`{name}[`.]", API)


@pytest.mark.parametrize("page", PAGES)
def test_pictures_and_links_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target
