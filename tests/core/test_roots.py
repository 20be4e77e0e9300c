"""increasing_root: cubics with known roots, by Newton's method, by bisection, and with a NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jsoftmax.core.roots import increasing_root

ROOTS = jnp.array([-3.0, -1e-3, 0.5, 2.0, 30.0])


def newton(x):
    value = x**3 - ROOTS**3
    return value, x - value / (3 * x**2 + 1e-30)


def useless(x):
    """Propose what is always outside the bracket, so that it is halved."""
    return x**3 - ROOTS**3, jnp.full_like(x, 1e9)


@pytest.mark.parametrize("evaluate", [newton, useless])
def test_finds_every_root(evaluate):
    low, high = jnp.full(5, -40.0), jnp.full(5, 50.0)

    @jax.jit
    def run(start):
        return increasing_root(evaluate, low, high, start, 0.0)

    assert_allclose(run(high), ROOTS, rtol=1e-6, atol=1e-8)


def test_the_tolerance_ends_the_search():
    found = jax.jit(lambda: increasing_root(newton, -ROOTS, 2 * ROOTS, ROOTS + 0.1, 1e9))()
    assert_array_equal(found, ROOTS + 0.1)


def test_a_bound_of_the_next_value_saves_the_last_step():
    calls = []

    def evaluate(x):
        jax.debug.callback(lambda: calls.append(0), ordered=True)
        return x - ROOTS, ROOTS, jnp.zeros(5)

    low, high = jnp.full(5, -40.0), jnp.full(5, 50.0)
    found = jax.jit(lambda: increasing_root(evaluate, low, high, high - 1, 0.0))()
    jax.effects_barrier()
    assert_array_equal(found, ROOTS)
    assert len(calls) == 1


def test_nan_stays_in_its_own_place():
    def evaluate(x):
        value, proposal = newton(x)
        return jnp.where(jnp.arange(5) == 2, jnp.nan, value), proposal

    low, high = jnp.full(5, -40.0), jnp.full(5, 50.0)
    found = np.asarray(jax.jit(lambda: increasing_root(evaluate, low, high, high, 0.0))())
    assert_array_equal(np.isnan(found), np.arange(5) == 2)
    assert_allclose(found[[0, 3, 4]], ROOTS[jnp.array([0, 3, 4])], rtol=1e-6)
