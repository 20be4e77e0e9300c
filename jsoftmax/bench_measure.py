"""Compile, see whether it fits, and time in turns: what every comparison of the benchmark does.

All steps are timed round-robin, one call each a round, so that whatever else the machine does falls
on all of them alike.
"""

import os
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

__all__ = ["DoesNotFit", "Outcome", "Runner", "compiled", "free_memory", "interleaved", "size"]


class DoesNotFit(Exception):
    """What would need more memory than there is was not started."""


class Runner(NamedTuple):
    """Something ready to be timed: `step` runs it once, waits, and returns what it made.

    `temporary` is the memory in bytes that it needs beside its arguments and results, if that is
    known; `needed` is a bound on all it needs beside its arguments, 0 if there is none.
    """

    step: Callable[[], Any]
    temporary: Callable[[], int | None]
    needed: int = 0


class Outcome(NamedTuple):
    """What became of one contestant: its times in milliseconds, or why it has none."""

    times: list[float]
    temporary: int | None
    failure: str | None = None


def compiled(function: Callable, *arguments: Any) -> Runner:
    """Compile a JAX function for these arguments and ask the compiler how much memory it needs."""
    program = jax.jit(function).lower(*arguments).compile()
    memory = program.memory_analysis()
    temporary = None if memory is None else int(memory.temp_size_in_bytes)
    needed = 0 if memory is None else int(memory.temp_size_in_bytes + memory.output_size_in_bytes)
    return Runner(lambda: jax.block_until_ready(program(*arguments)), lambda: temporary, needed)


def interleaved(
    prepare: dict[str, Callable[[], Runner]], rounds: int, advance: Callable[[str], None]
) -> dict[str, Outcome]:
    """Prepare and warm up all contestants, then time them in turns; `advance` is told each name.

    What fails, or would not fit, gets an outcome that says why, and the others go on.
    """
    runners, outcomes = {}, {}
    for name, make in prepare.items():
        advance(name)
        try:
            runner = make()
            free = free_memory()
            if free is not None and runner.needed > free:
                raise DoesNotFit(f"needs {size(runner.needed)}")
            runner.step()
        except Exception as error:  # whatever it is, it must not end the other contestants
            outcomes[name] = Outcome([], None, reason(error))
        else:
            runners[name] = runner
            outcomes[name] = Outcome([], runner.temporary())
    for _ in range(rounds):
        for name, runner in runners.items():
            advance(name)
            if outcomes[name].failure:
                continue
            # Threads of the library before spin for a moment before they sleep: let them.
            time.sleep(0.01)
            started = time.perf_counter()
            try:
                runner.step()
            except Exception as error:
                outcomes[name] = Outcome([], None, reason(error))
            else:
                outcomes[name].times.append(1000 * (time.perf_counter() - started))
    return {name: outcomes[name] for name in prepare}


def free_memory() -> int | None:
    """Return how many bytes the default device has left, or None if that can not be found out."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        with open("/proc/meminfo") as lines:  # Linux: what the page cache would give back counts
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
    if isinstance(error, DoesNotFit):
        return text
    if isinstance(error, MemoryError) or any(
        sign in text.lower() for sign in ("resource_exhausted", "out of memory", "can't allocate")
    ):
        return "out of memory"
    first = text.splitlines()[0] if text else ""
    first = first if len(first) <= 60 else first[:57] + "..."
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def size(count: int | float) -> str:
    """Write a number of bytes as 16.8 GB or 268 MB."""
    for unit, bytes_of_it in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= bytes_of_it:
            number = count / bytes_of_it
            return f"{number:.0f} {unit}" if number >= 100 else f"{number:.1f} {unit}"
    return f"{count:.0f} B"


def count_of_calls(names: Iterable[str], rounds: int) -> int:
    """Return how often `interleaved` calls `advance`, if nothing fails."""
    return len(list(names)) * (1 + rounds)
