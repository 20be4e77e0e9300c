"""cross_entropy against optax and against numbers known from elsewhere."""

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import (
    distributions,
    hard_logits,
    labels_for,
)
from numpy.testing import assert_allclose

import jsoftmax as js


@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_agrees_with_optax(soft):
    logits, labels, q = hard_logits(10), labels_for(10), distributions(10)
    if soft:
        expected = optax.softmax_cross_entropy(logits, q)
    else:
        expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    # optax is right to one rounding of its logsumexp, which is up to 300 here.
    assert_allclose(js.cross_entropy(logits, q if soft else labels), expected, atol=6e-5)


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
