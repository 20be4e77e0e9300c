"""The Python code of a page, run from top to bottom, and what a reader installed before."""

import re
from pathlib import Path

import jax

ROOT = Path(__file__).parents[1]


def code_of(page):
    """Return the page with everything but its Python code blanked: lines keep their numbers."""
    code, lines = False, []
    for line in (ROOT / page).read_text().splitlines():
        code = line.startswith("```python") or (code and line != "```")
        lines.append(line if code and not line.startswith("```") else "")
    return "\n".join(lines)


def names_of(page, names=()):
    """Run the code of a page, which may use `names`, and return all that it defines."""
    names = dict(names)
    with jax.numpy_dtype_promotion("standard"):  # what a reader has
        exec(compile(code_of(page), str(ROOT / page), "exec"), names)
    return names


def imports_of(page, needs):
    """Yield each module that the code of a page imports, and the packages installed by then.

    `needs` are the packages that the library needs by its extras; by "" those of all.
    """
    installed = set()
    lines = (ROOT / page).read_text().splitlines()
    for line, code in zip(lines, code_of(page).splitlines(), strict=False):
        for word in " ".join(re.findall(r"pip install ([^#]*)", line)).split():
            name, *extras = re.findall(r"[\w.-]+", word)
            installed.add(name)
            if name in (".", "jsoftmax"):
                installed.update(["jsoftmax"], *(needs[extra] for extra in ["", *extras]))
        for modules in re.findall(r"^\s*(?:from (\S+) import|import (.+))", code):
            for module in "".join(modules).split(","):
                yield module.split()[0].split(".")[0], frozenset(installed)
