"""The notebooks are short, executed, and say in words what their pictures show. Nothing is run."""

import ast
import json
import re
from pathlib import Path

import pytest

import jsoftmax as js

FOLDER = Path(js.__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
in_every_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
in_all_code = pytest.mark.parametrize(
    "file", NOTEBOOKS + sorted(FOLDER.glob("*.py")), ids=lambda file: file.name
)
OF_THE_NETWORK = {"http", "ftplib", "requests", "socket", "urllib", "urllib3"}


def cells_of(file, kind):
    """Return the cells of a notebook that are `code` or `markdown`, with their text."""
    cells = json.loads(file.read_text())["cells"]
    return [(cell, "".join(cell["source"])) for cell in cells if cell["cell_type"] == kind]


def trees_of(file):
    """Return the parsed code of a notebook, cell by cell, or of a module."""
    if file.suffix == ".py":
        return [ast.parse(file.read_text())]
    return [ast.parse(text) for _, text in cells_of(file, "code")]


def lines_of_idea(text):
    """Count the lines of code but for imports, docstrings, comments and empty lines."""
    left = {i for i, x in enumerate(text.splitlines(), 1) if x.strip() and x.strip()[0] != "#"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            left -= set(range(node.lineno, node.end_lineno + 1))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            left -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(left)


def test_lines_of_idea_are_counted():
    function = ["def f(x):", '    """Say so."""', "    # why", "    return (", "        x", "    )"]
    assert lines_of_idea("\n".join(["import os", "", *function])) == 4


@in_every_notebook
def test_at_most_a_hundred_lines_of_idea(file):
    assert sum(lines_of_idea(text) for _, text in cells_of(file, "code")) <= 100


@in_all_code
def test_only_public_names_and_no_network(file):
    for node in (node for tree in trees_of(file) for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "js":
                assert node.attr in js.__all__
            continue
        for module in modules:
            first, *parts = module.split(".")
            if first == "jsoftmax" and parts[:1] != ["demo"]:  # whose data and networks they share
                assert not parts, f"{module}: use the names of jsoftmax itself"
            assert not any(part.startswith("_") for part in (first, *parts)), module
            assert first not in OF_THE_NETWORK, module
            assert not (parts and parts[-1].startswith("fetch_")), f"{module} is downloaded"


@in_every_notebook
def test_executed_in_order_without_errors(file):
    cells = [cell for cell, _ in cells_of(file, "code")]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert "error" not in kinds
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell["outputs"])


@in_every_notebook
def test_pictures_are_described(file):
    outputs = (output for cell, _ in cells_of(file, "code") for output in cell["outputs"])
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    for output in pictures:
        assert len(output["metadata"].get("image/png", {}).get("alt", "")) > 40
    for _, text in cells_of(file, "markdown"):
        assert not re.search(r"!\[\s*\]\(", text)


@in_every_notebook
def test_links_lead_somewhere(file):
    for _, text in cells_of(file, "markdown"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            assert target.startswith("https://") or (FOLDER / target).exists(), target


@in_every_notebook
def test_small(file):
    assert file.stat().st_size < 700_000
