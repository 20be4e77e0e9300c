"""row_sums: the values, for rows with and without a rest, and what accumulates along a long row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jsoftmax.core.numerics import log1p
from jsoftmax.core.row_sums import row_sums


@pytest.mark.parametrize("classes", [0, 1, 7, 16, 67, 1000])
@pytest.mark.parametrize("lead", [(), (0,), (2, 3)])
def test_the_sums_are_those_of_numpy(lead, classes):
    x = np.random.default_rng(classes).normal(size=(*lead, classes)).astype(np.float32)
    total, square = jax.jit(lambda x: row_sums(x, x * x))(x)
    assert_allclose(total, np.sum(x, -1, keepdims=True), atol=1e-5 * max(classes, 1) ** 0.5)
    assert_allclose(square, np.sum(x * x, -1, keepdims=True), rtol=1e-6)


def test_rounding_errors_do_not_add_up_along_the_row():
    x = jnp.full(32_000, 1e-7).at[0].set(1.0)  # one after another, each would be rounded to 1.2e-7
    assert_allclose(jax.jit(row_sums)(x)[0], [1 + 31_999e-7], rtol=2e-6)


def test_log1p_keeps_its_digits():
    x = np.concatenate([-np.geomspace(1e-30, 0.9999, 500), np.geomspace(1e-30, 1e20, 500)])
    x = x.astype(np.float32)
    assert_allclose(jax.jit(log1p)(x), np.log1p(x.astype(np.float64)), rtol=4e-7)
    ends = jnp.array([-1.0, 0.0, jnp.inf, jnp.nan])
    assert_array_equal(jax.jit(log1p)(ends), [-jnp.inf, 0.0, jnp.inf, jnp.nan])
