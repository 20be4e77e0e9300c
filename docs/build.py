"""Build the API pages: `python docs/build.py FOLDER`, or `make docs`.

pdoc makes the pages from the docstrings; MathJax renders their formulas in the browser.
"""

import inspect
import sys
from pathlib import Path

import pdoc
from jax import Array
from jax.typing import ArrayLike
from pdoc.render_helpers import format_signature

PAGES = ["jsoftmax"]

# pdoc writes type aliases in full; these are their short names.
NAMES = {
    inspect.formatannotation(ArrayLike | None): "ArrayLike | None",
    inspect.formatannotation(ArrayLike): "ArrayLike",
    inspect.formatannotation(Array): "Array",
    "collections.abc.": "",
    "typing.": "",
    "jsoftmax.": "",
    "jax._src.mesh.": "jax.sharding.",
}


class Name(str):
    """An annotation that is printed without quotes."""

    __repr__ = str.__str__


def named(annotation):
    """Return an annotation with the type names that the source uses."""
    if annotation is inspect.Parameter.empty:
        return annotation
    text = inspect.formatannotation(annotation)
    for long, short in NAMES.items():
        text = text.replace(long, short)
    return Name(text.removeprefix("'").removesuffix("'"))


def with_names(signature, colon):
    """Format a signature as pdoc does, with shorter type names."""
    parameters = [
        each.replace(annotation=named(each.annotation)) for each in signature.parameters.values()
    ]
    result = named(signature.return_annotation)
    return format_signature(
        signature.replace(parameters=parameters, return_annotation=result), colon
    )


if __name__ == "__main__":
    pdoc.render.configure(docformat="google", math=True, footer_text="jsoftmax")
    pdoc.render.env.filters["format_signature"] = with_names
    folder = Path(sys.argv[1])
    pdoc.pdoc(*PAGES, output_directory=folder)
    print(f"wrote {folder / 'jsoftmax.html'}")
