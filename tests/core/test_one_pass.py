"""The class of the largest logit, found by arithmetic, against argmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jsoftmax.core import by_rows
from jsoftmax.core.one_pass import first_of_largest

INF = np.inf
ROWS = np.array(
    [
        [0.5, 2.0, -1.0, 2.0],  # the first of equal ones
        [-INF, -INF, -3.0, -INF],
        [-INF, -INF, -INF, -INF],
        [0.0, 1e-38, 0.0, 1e-38],
        [0.0, -1e-45, 1e-30, 1e-45],
        [-3e38, 3e38, 3e38, 0.0],
        [-0.0, 0.0, 0.0, -0.0],
        [1.0, 1.0, 1.0, 1 + 2**-23],
        [-1e30, -1e30 - 1e23, -INF, -1e31],
    ]
)


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_is_argmax(dtype, blocks, monkeypatch):
    if blocks:
        monkeypatch.setattr(by_rows, "_LARGE", 0)
        monkeypatch.setattr(by_rows, "_MANY", 0)
        monkeypatch.setattr(by_rows, "_may_be_sharded", lambda: False)
    where = np.array([True, False, True, True])
    with jax.enable_x64(dtype == "float64"), np.errstate(over="ignore"):
        most = float(jnp.finfo(dtype).max)
        z = jnp.asarray(np.where(np.isfinite(ROWS), np.clip(ROWS, -most, most), ROWS)).astype(dtype)
        for mask in (None, where):
            masked = z if mask is None else jnp.where(mask, z, -jnp.inf)
            got = jax.jit(first_of_largest)(z, mask)
            assert_array_equal(got, jnp.argmax(masked, -1))
        assert_array_equal(first_of_largest(z[:, :1]), np.zeros(len(ROWS)))


def test_many_classes():
    z = np.random.default_rng(0).normal(size=(3, 5, 40_000)).round(1).astype(np.float32)
    assert_array_equal(jax.jit(first_of_largest)(z), np.argmax(z, -1))


def test_the_result_has_no_derivative():
    def total(z):
        return jnp.sum(first_of_largest(z).astype(float) * z[:, 0])

    got = jax.jit(jax.grad(total))(jnp.asarray(ROWS[:2], jnp.float32))
    assert_array_equal(got, [[1, 0, 0, 0], [2, 0, 0, 0]])
