"""What a part of the device check is given, and what it yields."""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from rich.console import RenderableType

# Compiling takes most of the time, so programs are compiled side by side: not more, since a GPU's
# compiler tries products on operands of its own.
THREADS = min(4, os.cpu_count() or 1)


class Limits(NamedTuple):
    """How much a part may do.

    `scale` multiplies rows and classes, `rounds` are those of each timing, `deadline` is on the
    clock of `time.perf_counter`, and `advance` gets the name of what is done next.
    """

    scale: float
    rounds: int
    deadline: float
    advance: Callable[[str], None]

    def share(self, parts: float) -> "Limits":
        """Return the limits of the first of so many parts, which divide the time left evenly."""
        now = time.perf_counter()
        return self._replace(deadline=now + (self.deadline - now) / parts)


class Finding(NamedTuple):
    """Something that was found: an entry for the JSON file, and what to print."""

    entry: dict[str, Any]
    shown: RenderableType
