"""The rows of the tables of docs/coming_from: what they call equal is, and what differs does."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import DIFFERENTIABLE, NAMES, SIZES, Drawn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from libraries import LIBRARIES, in_jax
from tables import CALLS, RESULTS, names_in

import jsoftmax as js

OURS = SIZES | {"js": js, "jax": jax, "jnp": jnp}
ROUNDINGS = 32  # of the largest number, by sums over six classes, their exponentials and logarithms
examples = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


def read(row):
    """Return the names of the arrays that a row is about."""
    return (names_in(row.cells.theirs) | names_in(row.cells.ours)) & NAMES


def over(rows):
    return pytest.mark.parametrize("row", rows, ids=str)


@pytest.fixture(autouse=True)
def _as_a_reader():
    with jax.numpy_dtype_promotion("standard"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own
        yield


def both(row, arrays, moving=()):
    """Return what both calls give, and its gradients to the arrays that `moving` names."""
    library = LIBRARIES[row.library]
    ours = in_jax(row.cells.ours, OURS, arrays, moving)
    return ours, library.evaluate(row.cells.theirs, library.names(), arrays, moving)


def as_dtype(array, dtype):
    is_float = isinstance(array, np.ndarray) and array.dtype == float
    return array.astype(dtype) if is_float else array


def largest(arrays):
    """Return the largest finite number, or 1: what rounding is relative to.

    A library rounds logits before it subtracts them from each other.
    """
    floats = [np.abs(x[np.isfinite(x)]) for x in arrays if x.dtype.kind == "f"]
    return max(1, *(x.max(initial=1) for x in floats))


def check(ours, theirs, tolerance):
    """Compare numbers where theirs is not NaN: what is NaN there is mostly a number here."""
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    assert ours.shape == theirs.shape
    known = ~np.isnan(theirs)
    np.testing.assert_allclose(ours[known], theirs[known], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@over([row for row in CALLS if "key" not in read(row)])
def test_calls_are_equal(row, dtype):
    """Values and gradients, of the same arrays.

    What the last column says narrows what is drawn to where the two are equal: that they clip to
    logits that nothing clips, of ties to logits that all differ, of float32 to that dtype.
    """
    library, note = LIBRARIES[row.library], set(re.findall(r"\w+", row.cells.differs))
    library.names()  # or skip
    if dtype == "float64" and (library.single or "float32" in note):
        pytest.skip("the library computes in float32")
    moving = read(row) & DIFFERENTIABLE if library.moves else ()

    @examples
    @given(st.data())
    def run(data):
        drawn = Drawn(data.draw, mild="clips" in note, generic="ties" in note)
        arrays = {name: as_dtype(drawn[name], dtype) for name in sorted(read(row))}
        (ours, our_gradients), (theirs, their_gradients) = both(row, arrays, moving)
        size = largest([*arrays.values(), *map(np.asarray, theirs)])
        tolerance = ROUNDINGS * library.amplifies * np.finfo(dtype).eps * size
        for mine, other in zip(ours, theirs, strict=True):
            check(mine, other, tolerance)
        if all(np.all(np.isfinite(leaf)) for leaf in theirs):
            for name, gradient in their_gradients.items():
                check(our_gradients[name], gradient, tolerance)

    with jax.enable_x64(dtype == "float64"):
        run()


@over([row for row in CALLS if "key" in read(row)])
def test_draws_are_of_one_distribution(row):
    """The means of many draws are equal."""
    logits = np.array([[1, 0, -1, 3, 0, -np.inf]] * 20_000, np.float32)
    ((ours,), _), ((theirs,), _) = both(row, {"logits": logits, "key": jax.random.key(0)})
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    error = np.sqrt((ours.var(0) + theirs.var(0)) / len(logits))
    assert np.all(np.abs(ours.mean(0) - theirs.mean(0)) <= 5 * error)


@over(RESULTS)
def test_results_differ_as_told(row):
    (ours, _), (theirs, _) = both(row, {})
    told = {"nan": np.nan, "inf": np.inf}
    for (found,), text in ((ours, row.cells.ours_gives), (theirs, row.cells.gives)):
        np.testing.assert_allclose(np.squeeze(found), eval(text, told), rtol=5e-3)
