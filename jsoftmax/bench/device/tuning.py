"""The best block sizes of two known heads on a device, and the rule's."""

from collections.abc import Iterator

from rich.console import Group

from jsoftmax.bench.device.part import THREADS, Finding, Limits
from jsoftmax.bench.problem import PRESETS
from jsoftmax.bench.tune import advice, entry, table, tuned

HEADS = {
    "llama-3-8b, 4,096 rows": PRESETS["llama-3-8b"]._replace(rows=4096),
    "gemma-2-2b": PRESETS["gemma-2-2b"],
}


def measured(limits: Limits) -> Iterator[Finding]:
    """Yield the grid of each head."""
    for i, (name, head) in enumerate(HEADS.items()):
        found = tuned(
            head.scaled(limits.scale),
            limits.rounds,
            lambda point, name=name: limits.advance(f"{name}: {point}"),
            deadline=limits.share(len(HEADS) - i).deadline,
            threads=THREADS,
        )
        yield Finding({"head": name} | entry(found), Group(table(found), *advice(found)))
