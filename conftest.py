"""Settings for every test and doctest: strict promotion, 8 CPU devices, short numbers, a cache.

What is compiled is kept in `~/.cache/jsoftmax-tests`, or where JAX_COMPILATION_CACHE_DIR says, so
that the tests compile only what is new. JAX finds a program by its code, its compile options and
its own version, so that nothing in there is ever out of date.
"""

import gc
import os
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


# Searching all that compiled programs hold for garbage took 19 s of the 270 s of four files.
gc.set_threshold(700, 10, 1000)


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
