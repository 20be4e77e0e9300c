"""Settings for every test and doctest: strict promotion, 8 CPU devices, short numbers, a cache.

What is compiled is kept in `~/.cache/jsoftmax-tests`, or where JAX_COMPILATION_CACHE_DIR says, so
that the tests compile only what is new. JAX finds a program by its code, its compile options and
its own version, so that nothing in there is ever out of date.

Two thirds of the time of the tests is compiling. With COMPILE_QUICKLY=1, as `make test` and `make
quick` have it, XLA optimises little, which takes a third of the time. What is about the program
that XLA makes, or about last digits, is marked `optimised`: `make test` runs it without.

The cases of a matrix overlap in the code that they run. `make test` takes some of each of the
large ones, in less than half of the time, and `make thorough` all others.
"""

import gc
import os
import subprocess
import sys
import zlib
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "agg")
# In the environment, so that the processes that tests start have them too.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path("~/.cache/jsoftmax-tests").expanduser())
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")

QUICKLY = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def _is_known(flags):
    """Return whether this version of XLA has the flags: an unknown one would end the process."""
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    environment = os.environ | {"XLA_FLAGS": flags}
    return not subprocess.run(command, env=environment, capture_output=True).returncode


if os.environ.get("COMPILE_QUICKLY"):
    jax.config.update("jax_disable_most_optimizations", True)
    if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers get the flags from here
        flags = f"{os.environ.get('XLA_FLAGS', '')} {QUICKLY}"
        if _is_known(flags):
            os.environ["XLA_FLAGS"] = flags


# Searching all that compiled programs hold for garbage took 19 s of the 270 s of four files.
gc.set_threshold(700, 10, 1000)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a matrix marked `one_in(n)`, mark all cases but each n-th `thorough`.

    The first of those that stay follows from the test's name, so that tests over the same list
    keep different members.
    """
    matrices = defaultdict(list)
    for item in items:
        if mark := item.get_closest_marker("one_in"):
            matrices[item.nodeid.split("[")[0], mark.args[0]].append(item)
    for (name, n), cases in matrices.items():
        first = zlib.crc32(name.encode()) % min(n, len(cases))
        for place, item in enumerate(cases):
            if place < first or (place - first) % n:
                item.add_marker("thorough")


@pytest.fixture(autouse=True, scope="module")
def _garbage():
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace.update(js=jsoftmax, jax=jax, jnp=jnp)
    with np.printoptions(precision=4, suppress=True):
        yield
