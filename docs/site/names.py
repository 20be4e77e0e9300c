"""The public names by the sections of docs/api.md, and links to them."""

import re
from pathlib import Path

_TEXT = (Path(__file__).parents[1] / "api.md").read_text()
_ROW = re.compile(r"^\| (.+?) \| (.*`.*) \|$", re.MULTILINE)


def _rows(section):
    return [(row[0], re.findall(r"`([\w.]+)`", row[1])) for row in _ROW.findall(section)]


# title of a section -> its rows: what they are for, and the names
API = {part.splitlines()[0]: _rows(part) for part in re.split(r"(?m)^## ", _TEXT)[1:]}
NAMES = {name for rows in API.values() for _, names in rows for name in names}

# Where no link is made: blocks of code, headings, links.
_APART = re.compile(r"(^```.*?^```|^#.*?$|\[[^\]]*\]\([^)]*\))", re.MULTILINE | re.DOTALL)


def linked_names(markdown, *, bare=False, but=()):
    """Return a text in which `js.name`, and if `bare` also `name`, are links to the API."""

    def link(match):
        if match[2] not in NAMES or match[2] in but or not (match[1] or bare):
            return match[0]
        return f"[{match[0]}][jsoftmax.{match[2]}]"

    parts = _APART.split(markdown)
    parts[::2] = (re.sub(r"`(js\.)?([\w.]+)(?:\([^`]*\))?`", link, part) for part in parts[::2])
    return "".join(parts)
