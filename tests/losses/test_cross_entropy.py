"""cross_entropy against numbers known from elsewhere."""

import jax
import jax.numpy as jnp
import pytest
from numpy.testing import assert_allclose

import jsoftmax as js


def test_cross_entropy_of_two_classes():
    assert_allclose(js.cross_entropy(jnp.array([[0.0, 1.0]]), jnp.array([0])), [1.3133], atol=5e-5)


@pytest.mark.parametrize(
    ("x", "once", "twice"),
    [
        ([0, 0, 0, 0, 0, 0.05, 0.05, 0, 0.1, 0.8], 1.6365, 2.2084),
        ([0.1] * 10, 2.3026, 2.3026),
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.1, 0.2, 0.1], 2.3033, 2.3027),
    ],
)
def test_softmax_before_the_loss_flattens_it(x, once, twice):
    x = jnp.array(x)
    right, wrong = jax.jit(
        lambda x: [js.cross_entropy(m(x), 9) for m in (js.log_softmax, js.softmax)]
    )(x)
    assert_allclose(right, once, atol=5e-5)
    assert_allclose(wrong, twice, atol=5e-5)
