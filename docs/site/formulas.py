"""Formulas as MathML, which browsers show by themselves: a page needs no script and no network."""

import html
import re

from markdown import Extension
from markdown.postprocessors import Postprocessor
from math_core import LatexError, LatexToMathML

# What pymdownx.arithmatex makes of $...$ and $$...$$.
_FOUND = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_CONVERTER = LatexToMathML()


def mathml(match):
    """Return the MathML of a formula; one that cannot be read fails the build."""
    latex = html.unescape(match[3]).strip()
    try:
        return _CONVERTER.convert_with_local_state(latex, displaystyle=match[2] == "[")
    except LatexError as error:
        raise ValueError(f"{error}\nin the formula {latex}") from error


class _Formulas(Postprocessor):
    def run(self, text):
        return _FOUND.sub(mathml, text)


class _Extension(Extension):
    def extendMarkdown(self, md):  # noqa: N802
        md.postprocessors.register(_Formulas(md), "formulas", 0)  # the last one


def makeExtension(**options):  # noqa: N802
    """What Markdown calls."""
    return _Extension(**options)
