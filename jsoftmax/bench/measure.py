"""Compile, check that it fits in memory, and time in turns: used by every comparison.

Contestants are timed round-robin, one call each per round, so that other load on the machine
affects all of them alike.
"""

import contextlib
import math
import os
import statistics
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax


class Runner(NamedTuple):
    """Something ready to be timed: `step` runs it once, waits for it, and returns the result.

    `temporary`, called after a step, returns the bytes needed besides arguments and results, or
    None if unknown; `needed` is what is needed besides arguments, as far as it is known before
    running. `transposed` is True if the gradient of the weight is `[features, classes]`.
    """

    step: Callable[[], Any]
    temporary: Callable[[], int | None]
    needed: int = 0
    transposed: bool = False


class Outcome(NamedTuple):
    """The result of a contestant: its times in milliseconds, or in a few words why it failed."""

    times: list[float]
    temporary: int | None = None
    error: float | None = None
    failure: str | None = None

    @property
    def median(self) -> float | None:
        """The median time."""
        return statistics.median(self.times) if self.times else None

    def ratio(self, floor: "Outcome | None") -> float | None:
        """Return the median divided by the floor's: what the times in a table say, too."""
        if self.median is None or floor is None or floor.median is None:
            return None
        return self.median / floor.median


def compiled(function: Callable, *arguments: Any) -> Runner:
    """Compile a JAX function for these arguments; its memory is what the compiler reports."""
    program = jax.jit(function).lower(*arguments).compile()
    memory = program.memory_analysis()
    temporary = None if memory is None else int(memory.temp_size_in_bytes)
    needed = 0 if memory is None else int(memory.temp_size_in_bytes + memory.output_size_in_bytes)
    return Runner(lambda: jax.block_until_ready(program(*arguments)), lambda: temporary, needed)


def interleaved(
    prepare: dict[str, Callable[[], Runner]],
    rounds: int,
    advance: Callable[[str], None],
    *,
    deadline: float = math.inf,
    threads: int = 1,
    alone: Collection[str] = (),
    tell: Callable[[str], None] = lambda line: None,
    outcomes: dict[str, Outcome] | None = None,
) -> dict[str, Outcome]:
    """Prepare and warm up all contestants, then time them in turns; `advance` gets the next name.

    `tell` gets a line for what is known as soon as it is, `outcomes` what was measured: whoever
    interrupts this has them.

    One that fails, or would not fit in memory, gets an outcome that says why; the others go on.
    With several `threads` they compile side by side, except those named in `alone`, which the
    calling thread prepares. At three quarters of the time to `deadline`, on the clock of
    `time.perf_counter`, no other is prepared; those that are take part in a round at least, and
    after the deadline none begins.
    """
    started = time.perf_counter()
    prepared_by = started + 0.75 * (deadline - started)
    outcomes = {} if outcomes is None else outcomes
    outcomes.update({name: Outcome([], failure="not reached") for name in prepare})
    runners: dict[str, Runner] = {}

    def failed(name, error):
        runners.pop(name, None)
        outcomes[name] = Outcome([], failure=reason(error))
        tell(f"{name}: {outcomes[name].failure}")

    side_by_side = {name: make for name, make in prepare.items() if name not in alone}
    with ahead(side_by_side, threads) as prepared:
        for name, make in (prepare | prepared).items():
            advance(name)
            begun = time.perf_counter()
            try:
                check_time(prepared_by)
                runners[name] = make()
                ready = f"{len(runners)} of {len(prepare)}"
                tell(f"{name}: ready after {duration(time.perf_counter() - begun)}, {ready}")
            except Exception as error:
                failed(name, error)
    # None runs before all are compiled: a GPU's compiler times its products on the device.
    for name, runner in list(runners.items()):
        try:
            free = free_memory()
            if free is not None and runner.needed > free:
                raise NotRunError(f"needs {size(runner.needed)}")
            runner.step()
            outcomes[name] = Outcome([], runner.temporary(), failure="not reached")
        except Exception as error:
            failed(name, error)
    told = 0.0
    for i in range(rounds):
        begun = time.perf_counter()
        if i and begun > deadline:
            break
        for name, runner in list(runners.items()):
            advance(name)
            time.sleep(0.01)  # let the threads of the previous library stop spinning
            started = time.perf_counter()
            try:
                runner.step()
            except Exception as error:
                failed(name, error)
                continue
            outcome, taken = outcomes[name], 1000 * (time.perf_counter() - started)
            outcomes[name] = outcome._replace(times=[*outcome.times, taken], failure=None)
            if not i:
                tell(f"{name}: {milliseconds(taken)} ms")
        now = time.perf_counter()
        if (left := rounds - 1 - i) and (not i or now - told > 10):
            told, left = now, left * (now - begun)
            tell(f"round {i + 1} of {rounds} is done; about {duration(left)} of rounds to go")
    return outcomes


@contextlib.contextmanager
def ahead(tasks: dict[Any, Callable], threads: int) -> Iterator[dict[Any, Callable]]:
    """Start the tasks in several threads; calling what is returned waits for the result.

    What has not begun when the block ends is not begun any more.
    """
    if threads == 1:
        yield tasks
        return
    pool = ThreadPoolExecutor(threads)
    try:
        yield {name: pool.submit(task).result for name, task in tasks.items()}
    finally:
        pool.shutdown(cancel_futures=True)


def check_time(deadline: float) -> None:
    """Raise an error if the deadline is over."""
    if time.perf_counter() > deadline:
        raise NotRunError("skipped: no time left")


class NotRunError(Exception):
    """Something was not tried, and why: more memory is needed than is free, or more time."""


def free_memory() -> int | None:
    """Return the free memory of the default device in bytes, or None if unknown."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        with open("/proc/meminfo") as lines:  # on Linux; counts reclaimable page cache as free
            (kilobytes,) = (line.split()[1] for line in lines if line.startswith("MemAvailable"))
        return 1024 * int(kilobytes)
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def reason(error: Exception) -> str:
    """Say in a few words why something failed."""
    text = str(error).strip()
    if isinstance(error, NotRunError):
        return text
    exhausted = any(sign in text.lower() for sign in ("resource_exhausted", "out of memory"))
    if exhausted or isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "out of memory"
    first = (text.splitlines() or [""])[0]
    first = first if len(first) <= 60 else first[:59] + "…"
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def milliseconds(value: float) -> str:
    """Format a time with about three digits."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def duration(seconds: float) -> str:
    """Write how long something takes as 4.2 s, 42 s or 7 min."""
    if seconds >= 99.5:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.{0 if seconds >= 9.95 else 1}f} s"


def size(count: float) -> str:
    """Write a number of bytes as 16.8 GB or 268 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * factor:
            return f"{count / factor:,.{1 if count < 99.95 * factor else 0}f} {unit}"
    return f"{count:.0f} B"
