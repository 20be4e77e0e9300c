"""gumbel_softmax and straight_through: dtypes, frequencies, and the bits that are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import (
    FLOAT16_STEP,
    GUMBEL,
    KEY,
    RTOL,
    all_of,
    hard_logits,
)
from numpy.testing import assert_allclose

import jsoftmax as js


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32"])
def test_gumbel_softmax_in_other_dtypes(dtype):
    logits = hard_logits(3, dtype)
    rtol = max(RTOL[dtype], 2e-5)
    for case, got in all_of(GUMBEL, lambda c, z: c.function(z, **c.options), logits):
        assert got.dtype == ("float32" if dtype == "int32" else dtype)
        expected = case.oracle(logits, **case.options)
        assert_allclose(oracles.float64(got), expected, rtol=rtol, atol=FLOAT16_STEP)


def test_gumbel_samples_have_the_frequencies_of_softmax():
    logits = jnp.array([0.0, 1.0, 2.0, -1.0])
    samples = js.gumbel_softmax(KEY, jnp.broadcast_to(logits, (20_000, 4)), hard=True)
    p = oracles.softmax(logits)
    assert_allclose(samples.mean(0), p, atol=4 * np.sqrt(p * (1 - p) / 20_000).max())


def test_straight_through_keeps_the_bits_of_hard():
    hard, soft = jnp.float32([1 / 3, 1e-9]), jnp.float32([1e6, 0.1])
    assert np.array_equal(js.straight_through(hard, soft), hard)
    hard_bar, soft_bar = jax.grad(lambda h, s: js.straight_through(h, s) @ hard, (0, 1))(hard, soft)
    assert np.array_equal(hard_bar, [0, 0])
    assert np.array_equal(soft_bar, hard)
