"""softmax, log_softmax and logsumexp: options per example, and numbers known from elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from cases import (
    hard_logits,
)
from numpy.testing import assert_allclose

import jsoftmax as js


def test_mask_broadcasts_and_temperature_and_sink_may_differ_per_example():
    logits = hard_logits(10)
    where = np.arange(10) < 7
    temperature = np.linspace(0.5, 4, 8, dtype=np.float32)[:, None]
    sink = np.linspace(-3, 3, 8, dtype=np.float32)[:, None]
    options = {"where": where, "temperature": temperature, "sink": sink}
    got = js.softmax(logits, **options)
    assert_allclose(got, oracles.softmax(logits, **options), rtol=4e-5, atol=1e-37)


def test_logsumexp_keepdims():
    logits = hard_logits(10)
    got = js.logsumexp(logits, keepdims=True)
    assert got.shape == (8, 1)
    assert_allclose(got[:, 0], oracles.logsumexp(logits), rtol=1e-6)


# --- numbers known from elsewhere ---


def test_second_derivatives_where_the_sum_is_1_to_rounding():
    z = jnp.array([30.0, 1.0, -80.0, 29.0])
    alone = z.at[3].set(0.0)  # exp(z - 30) of the others is below the rounding of 1

    @jax.jit
    def hessians(z):
        functions = js.logsumexp, lambda z: js.log_softmax(z)[1]
        return [jax.hessian(function)(z) for function in functions]

    for logits in (z, alone):
        x = np.asarray(logits, np.float64)
        p = oracles.softmax(x)
        of_sum = np.diag(p) - np.outer(p, p)
        found, of_log = hessians(logits)
        assert_allclose(found, of_sum, rtol=1e-5, atol=1e-12)
        assert_allclose(of_log, -of_sum, rtol=1e-5, atol=1e-12)


def test_softmax_of_one_two_three():
    assert_allclose(js.softmax(jnp.array([1, 2, 3])), [0.0900, 0.2447, 0.6652], atol=5e-5)


def test_softmax_of_forty():
    x = jnp.array([38.0, 20.0, 40.0, 39.0])
    p = [9.00305730e-02, 1.37116380e-09, 6.65240955e-01, 2.44728471e-01]
    log_p = [-2.40760597, -20.40760597, -0.40760597, -1.40760597]
    warm = [0.25869729, 0.21608214, 0.26392332, 0.26129724]
    assert_allclose(js.softmax(x), p, rtol=1e-6)
    assert_allclose(js.log_softmax(x), log_p, rtol=1e-6)
    assert_allclose(js.softmax(x, temperature=100.0), warm, rtol=1e-6)
