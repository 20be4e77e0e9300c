"""Second derivatives inside a scan, over the list in audit.py: as without one, in another order.

Here all arguments move at once. Further loops and orders, linear heads of every kind, and what
members are most likely to get wrong, are in test_loops.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from audit import FILES, HEAD, arrays_of, each, total
from members import direction, in_scan
from numpy.testing import assert_allclose

pytestmark = pytest.mark.slow


def moved(call):
    """Return a function of the arrays that move, and where these are."""
    arrays = arrays_of(call, lambda given: jnp.asarray(given.array))
    arrays = [x.astype(float) if x.dtype == jnp.float32 else x for x in arrays]
    moving, constant = tuple(arrays[: call.moving]), arrays[call.moving :]

    def function(moving):
        first, *others = moving
        if "entmax" in call.name:  # a loss of distributions only
            others = [q / jnp.sum(q, -1, keepdims=True) for q in others]
        return total(call, first, *others, *constant)[0]

    return function, moving


def inner(x, y):
    return sum(map(jnp.vdot, x, y))


def check(call):
    function, at = moved(call)
    along = tuple(map(direction, at))

    @jax.jit
    def run(at):
        inside = jax.grad(lambda at: inner(jax.grad(in_scan(function))(at), along))(at)
        return inside, jax.jvp(jax.grad(function), (at,), (along,))[1]

    for got, expected in zip(*run(at), strict=True):
        atol = 1e-9 * max(np.abs(expected).max(), 1e-3)
        assert_allclose(got, expected, rtol=0, atol=atol)


@pytest.mark.thorough
@pytest.mark.parametrize("part", [0, 1])
def test_in_a_scan(part):
    calls = [call for call in FILES if call.moving and " ".join(call.given) != HEAD]
    with jax.enable_x64(True):
        each(check, calls[part::2])
