"""The pages: their code runs from top to bottom, and the README names every public name."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jsoftmax as js

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = ["README.md", *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/*.md")))]


def code_of(page):
    """Return the page with everything but its Python code blanked: lines keep their numbers."""
    code, lines = False, []
    for line in (ROOT / page).read_text().splitlines():
        code = line.startswith("```python") or (code and line != "```")
        lines.append(line if code and not line.startswith("```") else "")
    return "\n".join(lines)


def readers_own():
    """Return what the first lines of the README take for granted."""
    features, labels = jnp.ones((4, 8)), jnp.array([0, 7, 999, 1])
    weight = jnp.eye(1000, 8)
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    return {
        "features": features,
        "labels": labels,
        "weight": weight,
        "logits": js.linear_logits(features, weight),
        "mesh": mesh,
    }


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if code_of(page).strip()])
def test_code_runs(page, capsys):
    names = readers_own() if page == "README.md" else {}
    with jax.numpy_dtype_promotion("standard"):  # what a reader has
        exec(compile(code_of(page), str(ROOT / page), "exec"), names)
    if page == "README.md":
        printed = capsys.readouterr().out
        number = {
            name: float(x) for name, x in re.findall(r"^ *([a-z ]+) ([\d.]+)$", printed, re.M)
        }
        assert number["accuracy"] > 0.85
        assert number["with a temperature"] < number["calibration error"]
        assert "look like probabilities" in printed


@pytest.mark.parametrize("name", [n for n in js.__all__ if not n.startswith("__")])
def test_names_every_public_name(name):
    assert re.search(rf"`{name}[`.]", README)


@pytest.mark.parametrize("page", PAGES)
def test_pictures_and_links_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target
