"""weighted_mean: weights, masks, NaN left out, and the same number over any axis of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("weight_dtype", ["float32", "int32", "bool", "bfloat16"])
def test_against_numpy(weight_dtype, dtype):
    losses = jnp.asarray(np.arange(12.0).reshape(3, 4)).astype(dtype)
    weight = jnp.asarray(np.arange(12).reshape(3, 4) % 3).astype(weight_dtype)
    got = jax.jit(js.weighted_mean)(losses, weight)
    assert got.dtype == jnp.float32
    expected = np.average(np.arange(12.0).reshape(3, 4), weights=np.asarray(weight, np.float64))
    assert_allclose(got, expected, rtol=1e-6)
    assert_allclose(js.weighted_mean(losses), 5.5, rtol=1e-6)


@pytest.mark.parametrize("left_out", [np.nan, np.inf, -np.inf])
def test_weight_zero_leaves_out_any_loss(left_out):
    losses, weight = jnp.array([2.0, left_out, 4.0]), jnp.array([1.0, 0.0, 3.0])
    with jax.debug_nans(not np.isnan(left_out)):
        value, bar = jax.value_and_grad(js.weighted_mean)(losses, weight)
    assert_allclose(value, 3.5, rtol=1e-6)
    assert_allclose(bar, [0.25, 0, 0.75], rtol=1e-6)


def test_a_loss_that_counts_is_not_hidden():
    assert np.isnan(js.weighted_mean(jnp.array([1.0, jnp.nan])))
    assert js.weighted_mean(jnp.array([1.0, jnp.inf]), jnp.array([1, 2])) == np.inf


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 0)])
def test_weights_that_sum_to_zero(shape):
    value, bar = jax.value_and_grad(js.weighted_mean)(jnp.ones(shape), jnp.zeros(shape))
    assert value == 0
    assert_array_equal(bar, np.zeros(shape))


def test_gradient_with_respect_to_weights():
    losses, weight = jnp.array([1.0, 2.0, 6.0]), jnp.array([1.0, 2.0, 1.0])
    bar = jax.grad(js.weighted_mean, 1)(losses, weight)
    assert_allclose(bar, (np.array([1, 2, 6]) - 11 / 4) / 4, rtol=1e-6)


LOSSES = np.arange(16, dtype=np.float32)
WEIGHTS = {
    "uneven": (np.arange(16) % 5).astype(np.float32),
    "on one device": (np.arange(16) == 7).astype(np.float32),
    "none": np.zeros(16, np.float32),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("how", ["vmap", "shard_map"])
def test_over_an_axis(how, name):
    weight = WEIGHTS[name]
    expected = (LOSSES * weight).sum() / max(weight.sum(), 1)

    def mean(losses, weight):
        return js.weighted_mean(losses, weight, axis_name="data")

    if how == "vmap":
        run = jax.vmap(mean, axis_name="data")
        got = run(LOSSES.reshape(8, 2), weight.reshape(8, 2))
    else:
        mesh, spec = Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data")
        assert mesh.size == 8
        run = jax.shard_map(mean, mesh=mesh, in_specs=(spec, spec), out_specs=PartitionSpec())
        got = jax.jit(run)(LOSSES, weight)
        bar = jax.jit(jax.grad(run))(LOSSES, weight)
        assert_allclose(bar, weight / max(weight.sum(), 1), rtol=1e-6)
    assert_allclose(got, np.full(np.shape(got), expected), rtol=1e-6)
