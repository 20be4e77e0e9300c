"""The k largest by groups are those of `lax.top_k`, in its order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from numpy.testing import assert_array_equal

from jsoftmax.core.top_k import top_k


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n", "k"), [(1300, 1), (1408, 5), (1301, 3), (300, 2), (50, 0)])
def test_by_groups(n, k, ties):
    x = np.random.default_rng(n).normal(size=(3, 2, n)).astype(np.float32)
    x = np.round(x) if ties else x
    x[0, 0] = -np.inf
    x[0, 1, : n - 1] = -np.inf
    x[1, 0] = 1
    got, expected = jax.jit(lambda x: (top_k(x, k), lax.top_k(x, k)))(x)
    for a, b in zip(got, expected, strict=True):
        assert_array_equal(a, b)


def test_gradient_goes_to_what_was_found():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 1000)).astype(np.float32))

    def gradient(of):
        return jax.grad(lambda x: jnp.sum(of(x, 3)[0] * jnp.arange(1.0, 4.0)))(x)

    assert_array_equal(gradient(top_k), gradient(lax.top_k))
