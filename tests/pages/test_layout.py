"""The folders are the flow: which way imports run, how long files are, what folders say."""

import ast
from pathlib import Path

import pytest

import jsoftmax as js

PACKAGE = Path(js.__file__).parent
# folder or file: what it may import besides itself
MAY = {
    "core": "",
    "checks": "core",
    "maps": "core",
    "margins": "core maps",
    "stats": "core checks maps",
    "losses": "core checks maps margins stats",
    "blockwise": "core margins stats",
    "linear": "core checks margins stats losses blockwise",
    "metrics": "core checks maps stats losses blockwise",
    "__init__": "checks maps margins stats losses linear metrics",
    "bench": "* blockwise",
    "demo": "*",
}
FILES = sorted(PACKAGE.rglob("*.py"))
in_every_file = pytest.mark.parametrize(
    "file", FILES, ids=[str(file.relative_to(PACKAGE)) for file in FILES]
)


def imports_of(file):
    """Return the first part below the package of what a file imports; `*` for the package."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "jsoftmax":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("jsoftmax."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            names = (alias.name.split(".") for alias in node.names)
            yield from (name[1] if name[1:] else "*" for name in names if name[0] == "jsoftmax")


@in_every_file
def test_imports_run_one_way(file):
    folder = file.relative_to(PACKAGE).with_suffix("").parts[0]
    assert set(imports_of(file)) <= {folder, *MAY[folder].split()}


@in_every_file
def test_files_are_short(file):
    assert len(file.read_text().splitlines()) <= 300


@pytest.mark.parametrize(
    "folder", sorted({file.parent for file in FILES} - {PACKAGE}), ids=lambda folder: folder.name
)
def test_a_folder_is_described_by_its_init_alone(folder):
    (only,) = ast.parse((folder / "__init__.py").read_text()).body
    assert "import" in ast.literal_eval(only.value).lower()
