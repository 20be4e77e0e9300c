"""binary_cross_entropy against its formula."""

import jax
import jax.numpy as jnp
import oracles
import pytest
from numpy.testing import assert_allclose

import jsoftmax as js


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pos_weight", [None, 3.0])
def test_binary_cross_entropy(pos_weight, dtype):
    logits = jnp.linspace(-90, 90, 181).astype(dtype)
    options = {} if pos_weight is None else {"pos_weight": pos_weight}
    for labels in (jnp.arange(181) % 2, jnp.arange(181) % 2 == 1, jnp.linspace(0, 1, 181)):
        got = jax.jit(js.binary_cross_entropy)(logits, labels, **options)
        expected = oracles.binary_cross_entropy(logits, labels, **options)
        assert got.dtype == jnp.float32
        assert_allclose(got, expected, rtol=2e-6, atol=1e-37)
