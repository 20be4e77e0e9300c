"""The Python code of a page, run from top to bottom."""

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
