"""The tables of docs/coming_from: their rows are what is tested."""

import ast
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[1] / "docs" / "coming_from"


class Call(NamedTuple):
    """A call of a library, ours that equals it, and where they differ."""

    theirs: str
    ours: str
    differs: str


class Result(NamedTuple):
    """What two calls give that one would take for equal."""

    theirs: str
    gives: str
    ours: str
    ours_gives: str


HEADS = {("jsoftmax", "differs"): Call, ("gives", "jsoftmax", "gives"): Result}


class Row(NamedTuple):
    place: str
    library: str
    cells: Call | Result

    def __str__(self):
        return f"{self.place} {self.cells.theirs}"


def rows_of(page):
    """Yield the rows of a page's tables whose heads are a library's name and ours."""
    library, kind = "", None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        head, *others = [cell.strip() for cell in line.split("|")[1:-1]] or [""]
        if tuple(others) in HEADS:
            library, kind = head, HEADS[tuple(others)]
        elif not head:
            kind = None
        elif kind and set(head) != {"-"}:
            cells = kind(head, *others)
            ticked = [cell for name, cell in cells._asdict().items() if name != "differs"]
            assert all(cell[0] == cell[-1] == "`" for cell in ticked), f"{page}:{number}"
            yield Row(f"{page.name}:{number}", library, kind(*(c.strip("`") for c in cells)))


ROWS = [row for page in sorted(FOLDER.glob("*.md")) for row in rows_of(page)]
CALLS, RESULTS = ([row for row in ROWS if isinstance(row.cells, kind)] for kind in (Call, Result))


def names_in(code: str) -> set[str]:
    """Return all names that an expression reads."""
    nodes = ast.walk(ast.parse(code, mode="eval"))
    return {node.id for node in nodes if isinstance(node, ast.Name)}
