"""The sample-limited maps: closed forms for few classes, and the bound on num_samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    MAPS,
    over,
)
from numpy.testing import assert_allclose

import jsoftmax as js


@pytest.mark.parametrize("n", [50, 1e4, 1e6])
def test_gaussian_softmax_of_eleven_classes(n):
    logits = jnp.array([-jnp.inf] + [0.0] * 10)  # softmax: 0 and ten times 0.1
    expected = 1 / (1 + 10 * (n - 1) ** 0.1)
    assert_allclose(js.gaussian_softmax(logits, num_samples=n)[0], expected, rtol=2e-6)
    got = js.log_gaussian_softmax(logits, num_samples=n)[0]
    assert_allclose(got, np.log(expected), rtol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 50, 1e6])
def test_two_classes_of_the_sample_limited_maps(n):
    z = np.array([-30.0, -2.0, -0.001, 0.0, 1.0, 7.0, 30.0], np.float32)
    logits = jnp.stack([jnp.asarray(z), jnp.zeros(7)], -1)
    s = 1 / (1 + np.exp(-z.astype(np.float64)))
    limited = js.range_limited_softmax(logits, num_samples=n)[:, 0]
    assert_allclose(limited, 1 / n + (1 - 2 / n) * s, rtol=2e-6)
    gaussian = js.gaussian_softmax(logits, num_samples=n)[:, 0]
    assert_allclose(gaussian, 1 / (1 + (n - 1) ** (1 - 2 * s)), rtol=6e-6)


@over([case for case in MAPS if "num_samples" in case.options])
def test_num_samples_below_two_and_traced(case):
    logits = jnp.array([0.3, -0.2])
    with pytest.raises(ValueError, match="num_samples"):
        case.function(logits, num_samples=1.9)

    def first(n):
        return case.function(logits, num_samples=n)[0]

    assert_allclose(jax.jit(first)(50.0), case.oracle(logits, num_samples=50)[0], rtol=1e-6)
    assert np.isnan(jax.jit(first)(1.9))
    high, low = (case.oracle(logits, num_samples=50 + h)[0] for h in (1e-3, -1e-3))
    assert_allclose(jax.grad(first)(50.0), (high - low) / 2e-3, rtol=1e-4)
