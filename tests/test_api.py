"""The public surface: what is exported, how it is documented, and which way imports run."""

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import jsoftmax as js

MODULES = [
    "maps",
    "closed_maps",
    "entmax",
    "top_k",
    "linear",
    "parallel",
    "sampling",
    "margins",
    "stats",
    "rest",
    "losses",
    "logit_losses",
    "divergences",
    "entmax_losses",
    "long_tail",
    "metrics",
    "calibration",
]
ORDER = [
    "numerics",
    "spread",
    "tsallis",
    "checks",
    "maps",
    "closed_maps",
    "roots",
    "entmax",
    "top_k",
    "margins",
    "stats",
    "products",
    "scores",
    "rest",
    "blocks",
    "losses",
    "alignment",
    "logit_losses",
    "divergences",
    "entmax_losses",
    "long_tail",
    "row_block",
    "tiles",
    "evaluate",
    "linear",
    "parallel",
    "sampling",
    "metrics",
    "calibration",
]
LEVEL = {name: i for i, name in enumerate(ORDER)}
# rest.py has one public name; the others are for the modules above it, as is one of metrics.py.
INTERNAL = set(importlib.import_module("jsoftmax.rest").__all__) - {"SparseLabels"} | {"examples"}
DOCUMENTED = [
    *[n for n in js.__all__ if n != "__version__" and not isinstance(getattr(js, n), ModuleType)],
    *[f"checks.{name}" for name in js.checks.__all__],
]
LOSSES = [
    "binary_cross_entropy",
    "cross_entropy",
    "focal_loss",
    "generalized_cross_entropy",
    "kl_divergence",
    "mae_loss",
    "poly_loss",
    "symmetric_cross_entropy",
]
STATS_LOSSES = ["focal", "gce", "mae", "nll", "poly1", "sce"]
# name -> how many arguments are not keyword-only
POSITIONAL = (
    dict.fromkeys(importlib.import_module("jsoftmax.maps").__all__, 2)
    | dict.fromkeys(importlib.import_module("jsoftmax.closed_maps").__all__, 2)
    | {"gumbel_softmax": 3}
    | dict.fromkeys(LOSSES, 2)
    | dict.fromkeys(STATS_LOSSES, 1)
    | {"weighted_mean": 2, "logit_stats": 2, "angular_margin": 3}
    | {"linear_logits": 3, "linear_stats": 3, "linear_loss": 4, "linear_cross_entropy": 3}
    | {"sample_classes": 2}
    | dict.fromkeys(["top_k_accuracy", "perplexity", "reliability_curve", "fit_temperature"], 2)
    | {f"{kind}_calibration_error": 2 for kind in ("adaptive", "classwise", "expected")}
)


def resolve(name):
    found = js
    for part in name.split("."):
        found = getattr(found, part)
    return found


def test_all_is_complete_and_exists():
    exported = set(js.__all__) - {"checks", "__version__"}
    public = {n for m in MODULES for n in importlib.import_module(f"jsoftmax.{m}").__all__}
    public -= INTERNAL
    assert exported == public
    assert len(js.__all__) == len(set(js.__all__))
    for name in js.__all__:
        assert hasattr(js, name)


@pytest.mark.parametrize("name", [*MODULES, "checks", "numerics"])
def test_modules_list_what_they_define(name):
    module = importlib.import_module(f"jsoftmax.{name}")
    assert module.__doc__
    for public in module.__all__:
        assert resolve_in(module, public).__module__ == module.__name__


def resolve_in(module, name):
    found = getattr(module, name)
    return getattr(found, "fun", found)  # a custom_jvp wraps its function


@pytest.mark.parametrize("name", DOCUMENTED)
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


@pytest.mark.parametrize("name", POSITIONAL)
def test_options_are_keyword_only(name):
    parameters = inspect.signature(getattr(js, name)).parameters.values()
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert len(positional) == POSITIONAL[name]
    assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)


@pytest.mark.parametrize("name", sorted(set(js.__all__) - {"checks", "__version__"}))
def test_documented_arguments_are_the_arguments(name):
    found = getattr(js, name)
    arguments = [n for n in inspect.signature(found).parameters if n != "self"]
    doc = inspect.getdoc(found)
    if arguments:
        listed = doc.split("Args:")[1].split("Returns:")[0].split("Source:")[0]
        for argument in arguments:
            assert argument in listed


@pytest.mark.parametrize("name", ORDER)
def test_imports_run_one_way(name):
    tree = ast.parse((Path(js.__file__).parent / f"{name}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jsoftmax"):
            parts = node.module.split(".")
            imported = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            for module in imported:
                assert LEVEL[module] < LEVEL[name], f"{name} imports {module}"


def test_every_module_has_a_place_in_the_order():
    found = {path.stem for path in Path(js.__file__).parent.glob("*.py")}
    programs = {name for name in found if name.startswith(("_", "demo", "bench"))}
    assert found - programs == set(ORDER)
