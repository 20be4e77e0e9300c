"""Known heads on a device: value and gradients by this library's routes, and by others."""

from collections.abc import Iterator
from functools import partial

from rich.console import Group

from jsoftmax.bench.contestants import CONTESTANTS, Contestant, entrants, in_blocks, in_jax
from jsoftmax.bench.device.part import THREADS, Finding, Limits
from jsoftmax.bench.measure import Outcome, interleaved
from jsoftmax.bench.problem import PRESETS, Problem
from jsoftmax.bench.report import Comparison, entries, table

_LLAMA = PRESETS["llama-3-8b"]
HEADS = {
    "llama-3-8b, 4,096 rows": _LLAMA._replace(rows=4096),
    "llama-3-8b, 8,192 rows": _LLAMA,
    "llama-3-8b, 1,024 rows": _LLAMA._replace(rows=1024),
    "gemma-2-2b": PRESETS["gemma-2-2b"],
    "face-1m": PRESETS["face-1m"],
}
# What others have published for one of these heads, in milliseconds, to read beside the table.
PUBLISHED = {
    "llama-3-8b, 1,024 rows": "H200: QuACK 4.1, Liger 4.8 (¹); H100: XLA 5.3 (²)",
    "llama-3-8b, 4,096 rows": "H200: Liger 16.7, QuACK 16.8 (¹); H100: XLA 18.7 (²)",
    "llama-3-8b, 8,192 rows": "H200: Liger 34.4, QuACK 35.5 (¹)",
}
SOURCES = "¹ linkedin/Liger-Kernel#1356. ² Tokamax's autotuning data, logits materialised."


def compared(limits: Limits) -> Iterator[Finding]:
    """Yield the comparison of each head."""
    for i, (name, head) in enumerate(HEADS.items()):
        problem, mine = head.scaled(limits.scale), limits.share(len(HEADS) - i)
        wanted = [c for c in CONTESTANTS if c.name not in ("jsoftmax-rows", "jsoftmax-dense")]
        wanted[2:2] = _row_blocks(problem)
        entering, notes = entrants(problem, wanted)
        contestants = [contestant.imported() for contestant in entering]
        data = problem.data()
        prepare = {c.name: partial(c.prepare, problem, data) for c in contestants}
        outcomes = interleaved(
            prepare,
            limits.rounds,
            lambda each, name=name: limits.advance(f"{name}: {each}"),
            deadline=mine.deadline,
            threads=THREADS,
            alone=[c.name for c in contestants if c.in_torch],
        )
        notes += _beside_optax(outcomes)
        if limits.scale == 1 and name in PUBLISHED:
            notes.append(f"published, ms: {PUBLISHED[name]}; {SOURCES}")
        entry = {"head": name, "problem": problem._asdict(), "contestants": entries(outcomes)}
        yield Finding(entry, Group(table(Comparison(problem, outcomes)), *notes))


def _beside_optax(outcomes: dict[str, Outcome]) -> list[str]:
    """Return a line with the ratios of our times to those of optax on materialised logits."""
    dense = outcomes.get("optax-dense")
    ratios = {name: outcome.ratio(dense) for name, outcome in outcomes.items()}
    ours = [
        f"{name}: {ratio:.2f}"
        for name, ratio in ratios.items()
        if ratio is not None and name.startswith("jsoftmax")
    ]
    return [f"median divided by that of optax-dense: {'; '.join(ours)}"] if ours else []


def _row_blocks(problem: Problem) -> list[Contestant]:
    """Return our loss by blocks of rows, each with all classes at once."""
    sizes = sorted({problem.rows, -(-problem.rows // 2), min(1024, problem.rows)}, reverse=True)
    return [
        Contestant(
            f"jsoftmax, {rows:,} rows",
            partial(in_jax, partial(in_blocks, row_block=rows, class_block=problem.classes)),
        )
        for rows in sizes
    ]
