"""Build the API pages: `python docs/build.py FOLDER`, or `make docs`.

The pages are made of the docstrings by pdoc; MathJax draws their formulas in the browser.
"""

import inspect
import sys
from pathlib import Path

import pdoc
from jax import Array
from jax.typing import ArrayLike
from pdoc.render_helpers import format_signature

PAGES = ["jsoftmax"]

# pdoc spells out what the names of types stand for.
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
    """An annotation that is written as it stands."""

    __repr__ = str.__str__


def named(annotation):
    """Return an annotation with the names that the source uses."""
    if annotation is inspect.Parameter.empty:
        return annotation
    text = inspect.formatannotation(annotation)
    for long, short in NAMES.items():
        text = text.replace(long, short)
    return Name(text.removeprefix("'").removesuffix("'"))


def with_names(signature, colon):
    """Format a signature as pdoc does, with shorter types."""
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
