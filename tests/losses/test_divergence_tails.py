"""Losses that look at every class, for models that are sure or that agree with their teacher."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import hard_logits, labels_for
from divergence_oracles import DIVERGENCES, LOG_2, distillation, errors, of_oracle, pulled_back
from numpy.testing import assert_allclose, assert_array_equal
from tails import BOUND, bound_of, confident_logits

import jsoftmax as js

pytestmark = [pytest.mark.optimised, pytest.mark.one_in(10)]

U = np.linspace(-40, 40, 161)
SURE = {
    name: DIVERGENCES[name]
    for name in ("js", "brier of labels", "entropy", "confidence penalty of labels")
} | {"distillation": (js.distillation_loss, partial(distillation, temperature=1.0))}


@cache
def sure(classes):
    """Return the arguments and results for log-odds U of the last class."""
    u = U if classes == 2 else U[::8]
    logits, teacher = confident_logits(u, classes), confident_logits(u / 2, classes)
    labels = jnp.full(len(u), classes - 1)
    given = dict.fromkeys(SURE, labels)
    given |= {"js": jax.nn.one_hot(labels, classes), "distillation": teacher}
    return logits, given, compiled_tails(logits, given)


@jax.jit
def compiled_tails(logits, given):
    return {name: pulled_back(SURE[name][0], logits, given[name]) for name in SURE}


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("name", SURE)
def test_sure_models(name, classes):
    logits, given, results = sure(classes)
    expected = of_oracle(SURE[name][1], given[name], logits)
    # Squares of numbers below 1e-19 are 0, and a sum over the classes may be of these only.
    least = 1e-37 if name != "brier of labels" else classes * 1e-38 / BOUND
    value_error, bar_error = errors(results[name], expected, least)
    z = oracles.float64(logits)
    bound = bound_of(z[:, -1] - np.logaddexp.reduce(z[:, :-1], -1), classes)
    if name == "distillation" and classes > 2:
        bound = 2 * bound  # a sum of 1000 terms that are alike is rounded 1000 times to one side
    assert np.all(value_error < bound)
    assert np.all(bar_error < np.reshape(bound, (-1, 1)))


def nearby(classes, offset):
    """Return a student that differs from its teacher by 1e-3 and an offset, and the teacher."""
    rng = np.random.default_rng(0)
    teacher = jnp.asarray(rng.normal(size=(6, classes)) * 2, jnp.float32)
    return teacher + jnp.asarray(rng.normal(size=(6, classes)) * 1e-3 + offset), teacher


distilled = jax.jit(partial(pulled_back, partial(js.distillation_loss, temperature=20.0)))


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_distillation_of_a_student_that_agrees(classes, offset):
    student, teacher = nearby(classes, offset)
    expected = distillation(oracles.float64(student), oracles.float64(teacher), None, 20.0)
    value_error, bar_error = errors(distilled(student, teacher), expected)
    assert value_error.max() < BOUND
    assert bar_error.max() < BOUND


def test_the_usual_form_fails_the_same_bound():
    student, teacher = nearby(10, 0.0)

    def naive(z, t):
        log_p, log_q = jax.nn.log_softmax(z / 20), jax.nn.log_softmax(t / 20)
        return 400 * jnp.sum(jnp.exp(log_q) * (log_q - log_p), -1)

    expected = distillation(oracles.float64(student), oracles.float64(teacher), None, 20.0)
    got = jax.jit(partial(pulled_back, naive))(student, teacher)
    for error in errors(got, expected):
        assert error.max() > 100 * BOUND


def test_ranges():
    classes = 1000
    hard = [np.asarray(hard_logits(classes, seed=seed)) for seed in range(4)]
    z, t = np.concatenate([hard[0], 30 * hard[1]]), np.concatenate([hard[2], 30 * hard[3]])
    labels = np.tile(labels_for(classes), 2)

    @jax.jit
    def everything(z, t):
        p, q = js.softmax(z), js.softmax(t)
        return {
            "js": js.js_divergence(z, q),
            "js, swapped": js.js_divergence(t, p),
            "js, equal": js.js_divergence(z, p),
            "entropy": js.entropy(z),
            "entropy, equal logits": js.entropy(0 * z),
            "brier": js.brier_loss(z, labels),
            "distillation": js.distillation_loss(z, t),
            "distillation, equal": js.distillation_loss(z, z, temperature=3.0),
            "distillation, close": js.distillation_loss(z, z + 1e-4 * t / 30),
        }

    got = everything(z, t)
    rounding = 1 + 1e-6
    for name, most in [
        ("js", LOG_2 * rounding),
        ("js, equal", 1e-12),
        ("entropy", np.log(classes) * rounding),
        ("brier", 2 * rounding),
        ("distillation", np.inf),
        ("distillation, close", np.inf),
    ]:
        assert np.all(got[name] >= 0), name
        assert np.all(got[name] <= most), name
    assert_array_equal(got["distillation, equal"], 0)
    assert_allclose(got["entropy, equal logits"], np.log(classes), rtol=3e-7)
    # The probabilities are rounded in one order, and the logits exact in the other.
    assert_allclose(got["js"], got["js, swapped"], rtol=1e-6, atol=1e-7)
