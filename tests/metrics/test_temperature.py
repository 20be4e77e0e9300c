"""fit_temperature against bisection in float64, its bounds, and what it does without a minimum."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import Mesh, PartitionSpec
from numpy.testing import assert_allclose

import jsoftmax as js

pytestmark = pytest.mark.one_in(5)

RNG = np.random.default_rng(0)
LOGITS = (RNG.normal(size=(200, 10)) * 2).astype(np.float32)
LABELS = RNG.integers(0, 10, 200)
LOGITS[np.arange(200), LABELS] += 1
WEIGHT = RNG.integers(0, 4, 200).astype(np.float32)
MASK = np.arange(10) != 3
LABELS[LABELS == 3] = 2  # so that the mask never takes a label


def slope(logits, labels, temperature, weight):
    """Return the derivative of the mean cross-entropy by 1/T in float64."""
    d = logits.astype(np.float64) - logits.max(-1, keepdims=True).astype(np.float64)
    p = oracles.softmax(d / temperature)
    expected = (p * np.where(np.isinf(d), 0, d)).sum(-1)
    return np.average(expected - d[np.arange(len(d)), labels], weights=weight)


def temperature_oracle(logits, labels, weight=None):
    """Return the temperature at which the slope is 0, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        falling = slope(logits, labels, np.exp(middle), weight) > 0
        low, high = (middle, high) if falling else (low, middle)
    return np.exp(middle)


def sampled(examples, classes, sharpness, temperature, seed=0):
    """Return logits that are right after division by the temperature, and labels drawn from it."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(examples, classes)) * sharpness
    labels = (oracles.softmax(z).cumsum(-1) < rng.random((examples, 1))).sum(-1)
    return (z * temperature).astype(np.float32), np.minimum(labels, classes - 1)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("sharpness", [0.5, 3])
def test_fit_temperature_finds_the_temperature(sharpness, scale):
    logits, labels = sampled(5000, 10, sharpness, 2.5)
    got = js.fit_temperature(logits * np.float32(scale), labels)
    assert_allclose(got / scale, temperature_oracle(logits, labels), rtol=3e-6)
    assert_allclose(got / scale, 2.5, rtol=0.1)  # the labels are a sample


def test_fit_temperature_with_many_classes():
    logits, labels = sampled(500, 1000, 2, 0.3)
    expected = temperature_oracle(logits, labels)
    assert_allclose(js.fit_temperature(logits, labels), expected, rtol=3e-6)


def test_fit_temperature_is_a_minimum_of_what_it_is_for():
    temperature = js.fit_temperature(LOGITS, LABELS, sample_weight=WEIGHT)
    assert_allclose(temperature, temperature_oracle(LOGITS, LABELS, WEIGHT), rtol=1e-6)

    def loss(factor):
        losses = js.cross_entropy(LOGITS, LABELS, temperature=temperature * factor)
        return js.weighted_mean(losses, WEIGHT)

    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(loss)))(jnp.array([0.95, 1.0, 1.05]))
    assert values[1] < min(values[0], values[2])
    assert_allclose(slopes[1], 0, atol=1e-6)
    p = js.softmax(LOGITS, temperature=temperature)
    assert_allclose(p, oracles.softmax(LOGITS / float(temperature)), rtol=1e-5)


def test_fit_temperature_without_digits_lost_to_an_offset():
    logits = np.round(LOGITS * 16) / 16
    assert js.fit_temperature(logits + 1e6, LABELS) == js.fit_temperature(logits, LABELS)


@pytest.mark.parametrize("off", [-np.inf, -1e9])
def test_fit_temperature_of_classes_that_are_out_of_reach(off):
    logits = np.where(MASK, LOGITS, np.float32(off))
    logits[:10, 1:], labels = off, np.where(np.arange(200) < 10, 0, LABELS)
    got = js.fit_temperature(logits, labels)
    assert_allclose(got, js.fit_temperature(LOGITS[10:], LABELS[10:], where=MASK), rtol=1e-5)


def test_fit_temperature_is_bounded():
    gap = np.diff(np.sort(LOGITS)[:, -2:])
    typical = np.exp(np.log(gap).mean())
    fit = js.fit_temperature
    assert_allclose(fit(LOGITS, LOGITS.argmax(-1)), typical / 1000, rtol=1e-5)
    assert_allclose(fit(LOGITS, LOGITS.argmin(-1)), typical * 1000, rtol=1e-5)
    one_wrong = np.where(np.arange(200) == 5, LOGITS.argsort()[:, -2], LOGITS.argmax(-1))
    assert_allclose(fit(LOGITS, one_wrong), temperature_oracle(LOGITS, one_wrong), rtol=1e-5)


def test_fit_temperature_where_there_is_nothing_to_fit():
    assert js.fit_temperature(jnp.full((4, 3), 7.0), jnp.array([0, 1, 2, 0])) == 1
    assert js.fit_temperature(jnp.array([[1.0], [5.0]]), jnp.array([0, 0])) == 1
    assert np.isnan(js.fit_temperature(LOGITS, LABELS, where=np.arange(10) != LABELS[0]))
    logits = np.where(np.arange(200)[:, None] == 7, np.nan, LOGITS)
    assert np.isnan(js.fit_temperature(logits, LABELS))


def test_fit_temperature_is_a_constant_to_differentiation():
    def loss(logits, weight):
        temperature = js.fit_temperature(logits, LABELS, sample_weight=weight)
        return js.weighted_mean(js.cross_entropy(logits, LABELS, temperature=temperature), weight)

    fixed = js.fit_temperature(LOGITS, LABELS)
    of_fixed = jax.grad(lambda z: js.cross_entropy(z, LABELS, temperature=fixed).mean())
    expected = jax.jit(of_fixed)(LOGITS)
    got, _ = jax.jit(jax.grad(loss, (0, 1)))(LOGITS, jnp.ones(200))
    assert_allclose(got, expected, rtol=1e-5, atol=1e-9)


def test_fit_temperature_of_a_batch_and_over_devices():
    logits, labels = LOGITS.reshape(8, 25, 10), LABELS.reshape(8, 25)
    each = jax.vmap(js.fit_temperature)(logits, labels)
    alone = [js.fit_temperature(z, y) for z, y in zip(logits, labels, strict=True)]
    assert_allclose(each, alone, rtol=1e-5)

    def fit(logits, labels):
        return js.fit_temperature(logits, labels, axis_name="i")

    expected = js.fit_temperature(LOGITS, LABELS)
    together = jax.vmap(fit, axis_name="i")(logits, labels)
    assert_allclose(together, np.full(8, expected), rtol=1e-6)
    mesh, spec = Mesh(np.array(jax.devices()), ("i",)), PartitionSpec("i")
    sharded = jax.shard_map(fit, mesh=mesh, in_specs=(spec, spec), out_specs=PartitionSpec())
    assert_allclose(jax.jit(sharded)(LOGITS, LABELS), expected, rtol=1e-6)
