"""Polynomials for all classes of a head, against numpy's functions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsoftmax.margins.angles import angle, cosine_of

TURNS = np.linspace(-20, 20, 400_001)
COSINES = np.concatenate([np.linspace(-1, 1, 200_001), 1 - 2.0 ** -np.arange(1, 24)])


@pytest.mark.parametrize(
    ("ours", "exact", "slope", "x", "far"),
    [
        (cosine_of, np.cos, lambda x: -np.sin(x), TURNS, 2e-6),
        (cosine_of, np.cos, lambda x: -np.sin(x), TURNS[np.abs(TURNS) < 4], 3e-7),
        (angle, np.arccos, None, COSINES, 4e-7),
    ],
    ids=["turns", "cosine", "angle"],
)
def test_is_right_to_rounding(ours, exact, slope, x, far):
    x = x.astype(np.float32)
    np.testing.assert_allclose(ours(jnp.asarray(x)), exact(x.astype(np.float64)), atol=far)
    if slope:
        found = jax.vmap(jax.grad(ours))(jnp.asarray(x))
        np.testing.assert_allclose(found, slope(x.astype(np.float64)), atol=far)
