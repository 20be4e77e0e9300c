"""The public surface: what is exported, with which signatures, and how it is documented."""

import importlib.metadata
import inspect
import re
import runpy
from pathlib import Path
from types import ModuleType

import pytest

import jsoftmax as js

CHECKS = ("checks.checked", "checks.looks_like_probabilities")
NAMES = [
    *[n for n in js.__all__ if n != "__version__" and not isinstance(getattr(js, n), ModuleType)],
    *CHECKS,
]
SIGNATURES = dict(
    line.replace("(", " (", 1).split(" ", 1)
    for line in (Path(__file__).parent / "signatures.txt").read_text().splitlines()
)


def resolve(name):
    found = js
    for part in name.split("."):
        found = getattr(found, part)
    return found


class Named:
    """A default that is written as its name."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name


def signature(name):
    """Return names, kinds and defaults of the arguments; annotations are for the type checker."""
    found = inspect.signature(resolve(name))
    bare = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    bare = [
        p.replace(default=Named(p.default.__name__)) if inspect.isfunction(p.default) else p
        for p in bare
    ]
    return str(found.replace(parameters=bare, return_annotation=found.empty))


def test_every_name_has_a_signature_on_record():
    assert len(js.__all__) == len(set(js.__all__))
    assert sorted(NAMES) == sorted(SIGNATURES)


@pytest.mark.parametrize("name", NAMES)
def test_signatures_do_not_change(name):
    """Users call by these names. A new line, or a changed one, in signatures.txt is a decision."""
    assert signature(name) == SIGNATURES[name]


@pytest.mark.parametrize("name", NAMES)
def test_docstrings(name):
    doc = inspect.getdoc(resolve(name))
    summary = doc.splitlines()[0]
    assert summary.endswith((".", ":")) or "." in doc.split("\n\n")[0]
    assert len(summary) < 100
    assert "Example:" in doc
    assert ">>>" in doc.split("Example:")[1]
    if not name.startswith("checks."):
        assert doc.count("$$") == 2
    if name != "checks.looks_like_probabilities":
        assert "Source:" in doc


def entries(doc):
    """Return what a docstring says of each argument."""
    listed = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", doc, re.MULTILINE | re.DOTALL)
    each = re.split(r"^  (?=\S)", listed[1], flags=re.MULTILINE)[1:] if listed else ()
    return dict(one.split(":", 1) for one in each)


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_has_words_of_its_own(name):
    """An editor shows this docstring alone, so none says "as in" another function."""
    found = resolve(name)
    # A protocol is not called.
    arguments = [
        n for n in inspect.signature(found).parameters if n not in ("self", "args", "kwargs")
    ]
    described = entries(inspect.getdoc(found))
    if name != "Margin":
        assert list(described) == arguments
    for text in described.values():
        assert re.search(r"[a-z]{3}", re.sub(r"`[^`]*`", "", text))
        others = re.findall(r"(?<!such )\b(?:as|see|in|like)\s+`(?:js\.)?([\w.]+)`", text)
        assert not {*others} & {*NAMES}


def test_runs_from_a_source_tree_that_is_not_installed(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = runpy.run_path(js.__file__)
    assert found["__version__"] == "0+unknown"
    assert set(js.__all__) <= set(found)
