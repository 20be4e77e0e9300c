"""The device check from end to end: the parts in turn, each with its share of the time.

What is found is printed, and written, as soon as there is anything: whoever has a machine for ten
minutes loses nothing when it goes. The most valuable parts come first. A part that ends early
leaves its time to the next ones; one that fails says why, and the others go on.
"""

import json
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

from rich.markup import escape
from rich.progress import Progress

from jsoftmax.bench.cli import SHARES
from jsoftmax.bench.device import accumulate, accuracy, heads, logits, tuning
from jsoftmax.bench.device.part import Finding, Limits
from jsoftmax.bench.measure import check_time, reason
from jsoftmax.bench.report import header

Part = Callable[[Limits], Iterator[Finding]]
PARTS: dict[str, Part] = {
    "accuracy": accuracy.checked,
    "heads": heads.compared,
    "tune": tuning.measured,
    "accumulate": accumulate.inspected,
    "logits": logits.measured,
}


def failures(report: dict[str, Any]) -> dict[str, str]:
    """Return why parts failed, or were not begun, by their names."""
    return {k: part["failure"] for k, part in report["parts"].items() if part["failure"]}


def run(chosen: Namespace, show: Callable[..., None], progress: Progress) -> dict[str, Any]:
    """Run the parts, show what they find, write it to `chosen.json`, and return it."""
    begun = end = time.perf_counter()
    minutes = chosen.minutes or 8
    parts = [name for name in SHARES if name not in chosen.skip]
    total = sum(SHARES[name] for name in parts)
    task = progress.add_task("", total=round(60 * minutes))
    report: dict[str, Any] = header() | {"scale": chosen.scale, "minutes": minutes, "parts": {}}

    def found_so_far(*shown: Any) -> None:
        show(*shown)
        if chosen.json:
            chosen.json.write_text(json.dumps(report, indent=1) + "\n")

    about = [name for name in ("device", "platform", "driver", "cores", "versions") if report[name]]
    found_so_far(*(escape(f"{name}: {report[name]}") for name in about))
    for name in parts:
        end += 60 * minutes * SHARES[name] / total
        entry: dict[str, Any] = {"found": [], "failure": None}
        report["parts"][name] = entry

        def advance(what: str, name=name) -> None:
            done = round(time.perf_counter() - begun)
            progress.update(task, description=f"{name}: {what}", completed=done)

        started = time.perf_counter()
        try:
            check_time(end)
            for found in PARTS[name](Limits(chosen.scale, chosen.repeats, end, advance)):
                entry["found"].append(found.entry)
                entry["seconds"] = time.perf_counter() - started
                found_so_far(found.shown)
        except Exception as failure:
            entry["failure"], entry["traceback"] = reason(failure), traceback.format_exc()
            found_so_far(escape(f"{name}: {reason(failure)}"))
        entry["seconds"] = time.perf_counter() - started
        found_so_far(f"{name} took {entry['seconds']:.0f} s.")
    return report
