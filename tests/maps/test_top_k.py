"""soft_top_k: values against bisection, extremes, and the Jacobian in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import hard_logits
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js


@pytest.mark.parametrize(
    ("classes", "k"), [(2, 1), (3, 2), (10, 1), (10, 9), (1000, 3), (1000, 999)]
)
def test_soft_top_k(classes, k):
    logits = jnp.concatenate([hard_logits(classes), jnp.zeros((1, classes))])
    for temperature in (1.0, 0.01):
        p = jax.jit(lambda z, t=temperature: js.soft_top_k(z, k, temperature=t))(logits)
        expected = oracles.soft_top_k(logits, k=k, temperature=temperature)
        # Logits of size 300 are good to 3e-5, and their differences relative to T.
        assert_allclose(p, expected, atol=3e-6)
        assert_allclose(p.sum(-1), k, rtol=1e-6, atol=3e-6)


def test_soft_top_k_far_apart_and_cold():
    z = jnp.array([[1e30, -1e30, 0.0, 1e29], [3.0, 2.0, 1.0, 0.0]])
    assert_array_equal(js.soft_top_k(z, 2, temperature=1e-3), [[1, 0, 0, 1], [1, 1, 0, 0]])
    assert_array_equal(js.soft_top_k(z, 4), jnp.ones((2, 4)))
    where = np.array([True, False, True, False])
    assert_array_equal(js.soft_top_k(z, 2, where=where), [[1, 0, 1, 0]] * 2)
    for bad in (0, 1.5, True, None):
        with pytest.raises(ValueError, match="`k`"):
            js.soft_top_k(z, bad)


def test_soft_top_k_jacobian():
    with jax.enable_x64(True):
        z, t = jnp.array([0.7, 0.5, 0.2, -0.1, -3.0]), 0.4
        p, jacobian = (
            js.soft_top_k(z, 2, temperature=t),
            jax.jacobian(lambda z: js.soft_top_k(z, 2, temperature=t))(z),
        )
        v = np.asarray(p * (1 - p) / t)
        assert_allclose(jacobian, np.diag(v) - np.outer(v, v) / v.sum(), atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_soft_top_k_of_all_classes_checks_what_it_is_given(classes):
    z = jnp.array([1.0, jnp.nan, -jnp.inf])[:classes]
    assert np.isnan(js.soft_top_k(z, 2)).all()
    with pytest.raises(ValueError, match="`temperature`"):
        js.soft_top_k(jnp.zeros(classes), 2, temperature=-1.0)
