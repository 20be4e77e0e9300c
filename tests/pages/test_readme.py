"""The pages: their code runs from top to bottom, and docs/api.md names every public name."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib

import jax.numpy as jnp
import numpy as np
import pytest
from page_code import ROOT, code_of, imports_of, names_of

import jsoftmax as js

API = (ROOT / "docs/api.md").read_text()
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/**/*.md"))),
]


@pytest.mark.slow
@pytest.mark.one_in(24)
@pytest.mark.parametrize("page", [page for page in PAGES if code_of(page).strip()][1:])
def test_code_runs(page, capsys):
    names_of(page)
    printed = capsys.readouterr().out
    number = {name: float(x) for name, x in re.findall(r"^ *([a-z ]+) ([\d.]+)$", printed, re.M)}
    if "accuracy" in number:  # a classifier is trained
        assert number["accuracy"] > 0.85
        assert number["with a temperature"] < number["calibration error"]
        assert "look like probabilities" in printed


@pytest.mark.slow
def test_readme_runs_in_a_process_of_its_own():
    """In the order of the page, where nothing ran before it: as a reader runs it."""
    code = "from page_code import names_of; names_of('README.md')"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not ran.returncode, ran.stderr


def needs():
    """Return the packages that the library needs, by its extras; by "" those of all."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = {"": project["dependencies"], **project["optional-dependencies"]}

    def packages(extra):
        for requirement in listed[extra]:
            name, *extras = re.findall(r"[\w.-]+", re.split("[<>=]", requirement)[0])
            if name != "jsoftmax":
                yield name
                continue
            for inner in extras:
                yield from packages(inner)

    return {extra: set(packages(extra)) for extra in listed}


def test_readme_installs_what_it_imports():
    packages = importlib.metadata.packages_distributions()
    for module, installed in imports_of("README.md", needs()):
        if module not in sys.stdlib_module_names:
            assert {"jsoftmax"} & {module} or installed & set(packages[module]), module


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
