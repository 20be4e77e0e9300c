"""Whole numbers up to 2^64 against Python's integers, and float32 in the order of integers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jsoftmax.core import wide

NUMBERS = [0, 1, 2**16 - 1, 2**16, 2**31, 2**32 - 1, 2**32, 10**12, 2**48 + 7, 2**63, 2**64 - 1]
NUMBERS += [int(x) for x in np.random.default_rng(0).integers(0, 2**63, 20)]
PAIRS = list(itertools.product(NUMBERS, NUMBERS))
A, B = (np.stack([wide.constant(x) for x in column]) for column in zip(*PAIRS, strict=True))


def integers(digits):
    return [sum(int(d) << (16 * i) for i, d in enumerate(row)) for row in np.asarray(digits)]


def test_sums_and_differences():
    added, product = jax.jit(wide.add)(A, B), jax.jit(wide.multiply)(A, B)
    assert integers(added) == [(a + b) % 2**64 for a, b in PAIRS]
    assert integers(product) == [a * b for a, b in PAIRS]
    differences = integers(jax.jit(wide.subtract)(A, B))
    assert differences == [(a - b) % 2**64 for a, b in PAIRS]
    assert_array_equal(wide.at_most(A, B), [a <= b for a, b in PAIRS])


def test_other_forms():
    digits = jnp.stack([jnp.asarray(wide.constant(x)) for x in NUMBERS])
    assert [(int(h) << 32) + int(low) for h, low in np.asarray(wide.halves(digits))] == NUMBERS
    np.testing.assert_allclose(wide.as_float(digits), NUMBERS, rtol=3e-7)
    exact = np.float32([0, 1, 3e9, 2**40, 2**63])
    assert integers(wide.from_float(jnp.asarray(exact))) == [int(x) for x in exact]
    assert integers(wide.wide(jnp.arange(3))) == [0, 1, 2]


@pytest.mark.parametrize("count", [0, 1, 5, 70_000])
def test_total_passes_2_to_the_32(count):
    x = np.random.default_rng(1).integers(0, 2**31, (count, 2)).astype(np.int32)
    assert integers(jax.jit(wide.total)(x)) == [int(s) for s in x.sum(0, dtype=np.int64)]
    if count > 4:
        assert x.sum(0, dtype=np.int64).min() > 2**32


def test_order_of_floats():
    x = [-np.inf, -2, -1e-37, -0.0, 0.0, 1e-37, 0.5, np.nextafter(np.float32(0.5), np.float32(1))]
    x = np.asarray(x, np.float32)
    keys = np.asarray(wide.order_key(jnp.asarray(x)))
    assert_array_equal(np.sign(np.diff(keys)), [1, 1, 1, 0, 1, 1, 1])
    assert keys[-1] - keys[-2] == 1
    assert_array_equal(wide.from_order_key(jnp.asarray(keys)), x)
