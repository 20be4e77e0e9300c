"""Settings for every test and doctest: strict promotion, 8 CPU devices, short numbers."""

import gc
import os

os.environ.setdefault("MPLBACKEND", "agg")

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
