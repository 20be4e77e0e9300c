"""The script that `make check` reads with type checkers does what its types say."""

import runpy
from pathlib import Path

import jax
import pytest

SCRIPT = Path(__file__).parents[1] / "typed_user.py"


@pytest.mark.slow
def test_runs():
    with jax.numpy_dtype_promotion("standard"):  # what a user has
        logged = runpy.run_path(str(SCRIPT))["main"]()
    assert logged[-1].loss < logged[0].loss
