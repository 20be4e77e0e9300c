"""Compile, check that it fits in memory, and time in turns: used by every comparison.

Contestants are timed round-robin, one call each per round, so that other load on the machine
affects all of them alike.
"""

import os
import statistics
import time
from collections.abc import Callable
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
        """Return the median over rounds of the time divided by the floor's in the same round."""
        if not self.times or floor is None or not floor.times:
            return None
        return statistics.median(a / b for a, b in zip(self.times, floor.times, strict=True))


def compiled(function: Callable, *arguments: Any) -> Runner:
    """Compile a JAX function for these arguments; its memory is what the compiler reports."""
    program = jax.jit(function).lower(*arguments).compile()
    memory = program.memory_analysis()
    temporary = None if memory is None else int(memory.temp_size_in_bytes)
    needed = 0 if memory is None else int(memory.temp_size_in_bytes + memory.output_size_in_bytes)
    return Runner(lambda: jax.block_until_ready(program(*arguments)), lambda: temporary, needed)


def interleaved(
    prepare: dict[str, Callable[[], Runner]], rounds: int, advance: Callable[[str], None]
) -> dict[str, Outcome]:
    """Prepare and warm up all contestants, then time them in turns; `advance` gets the next name.

    One that fails, or would not fit in memory, gets an outcome that says why; the others go on.
    """
    runners, outcomes = {}, {}
    for name, make in prepare.items():
        advance(name)
        try:
            runner = make()
            free = free_memory()
            if free is not None and runner.needed > free:
                raise _DoesNotFitError(f"needs {size(runner.needed)}")
            runner.step()
            runners[name], outcomes[name] = runner, Outcome([], runner.temporary())
        except Exception as error:
            outcomes[name] = Outcome([], failure=reason(error))
    for _ in range(rounds):
        for name, runner in list(runners.items()):
            advance(name)
            time.sleep(0.01)  # let the threads of the previous library stop spinning
            started = time.perf_counter()
            try:
                runner.step()
                outcomes[name].times.append(1000 * (time.perf_counter() - started))
            except Exception as error:
                del runners[name]
                outcomes[name] = Outcome([], failure=reason(error))
    return outcomes


class _DoesNotFitError(Exception):
    """More memory is needed than is free."""


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
    if isinstance(error, _DoesNotFitError):
        return text
    exhausted = any(sign in text.lower() for sign in ("resource_exhausted", "out of memory"))
    if exhausted or isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "out of memory"
    first = (text.splitlines() or [""])[0]
    first = first if len(first) <= 60 else first[:59] + "…"
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def size(count: float) -> str:
    """Write a number of bytes as 16.8 GB or 268 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * factor:
            return f"{count / factor:,.{1 if count < 99.95 * factor else 0}f} {unit}"
    return f"{count:.0f} B"
