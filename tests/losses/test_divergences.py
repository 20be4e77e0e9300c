"""Losses that look at every class: values and gradients, to the second order, against oracles."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import distributions, hard_logits, labels_for, some_mask
from divergence_oracles import DIVERGENCES, distillation, errors, of_oracle, pulled_back
from numpy.testing import assert_allclose, assert_array_equal
from tails import BOUND

import jsoftmax as js

pytestmark = pytest.mark.one_in(13)


def second_arguments(classes, where=None):
    """Return what the library gets beside the logits, by name; none on a masked class."""
    labels, q, teacher = labels_for(classes), distributions(classes), hard_logits(classes, seed=7)
    if where is not None:
        q = jnp.where(where, q, 0)
        q = q / jnp.maximum(jnp.sum(q, -1, keepdims=True), 1e-9)
        teacher = jnp.where(where, teacher, jnp.nan)
    given = dict.fromkeys(DIVERGENCES, q)
    return given | {
        "brier of labels": labels,
        "confidence penalty of labels": labels,
        "distillation": teacher,
    }


@cache
def compiled(*, masked):
    """Return a function of (logits, the second arguments, where) that computes all of them."""

    def everything(logits, given, where):
        options = {"where": where} if masked else {}
        return {
            name: pulled_back(partial(DIVERGENCES[name][0], **options), logits, other)
            for name, other in given.items()
        }

    return jax.jit(everything)


@cache
def found(classes, how):
    """Return arguments and results of all of them."""
    logits, where = hard_logits(classes), None
    if how == "bfloat16":
        logits = logits.astype(how)
    elif how == "offset":
        # The logits keep only 1/16 of resolution; what is left of them counts exactly.
        logits = 1e6 + jnp.round(logits * 16) / 16
    elif how == "where":
        where = some_mask(classes) | (oracles.one_hot(labels_for(classes), classes) > 0)
    given = second_arguments(classes, where)
    if how == "bfloat16":
        given = {name: given[name] for name in IN_16_BITS}
    hidden = logits if where is None else jnp.where(where, logits, jnp.nan)
    # With 10 classes all are compiled with a mask, which the others do without.
    masked = classes == 10 and how != "bfloat16"
    everywhere = np.ones((8, classes), bool) if where is None else where
    return logits, given, where, compiled(masked=masked)(hidden, given, everywhere)


IN_FLOAT32 = [*[(c, "plain") for c in (2, 10, 1000)], (10, "offset"), (10, "where")]
IN_16_BITS = ("kl", "js", "brier of labels", "entropy", "confidence penalty", "distillation")


@pytest.mark.parametrize(
    ("classes", "how", "name"),
    [
        *[(*inputs, name) for inputs in IN_FLOAT32 for name in DIVERGENCES],
        *[(10, "bfloat16", name) for name in IN_16_BITS],
    ],
)
def test_values_and_gradients(classes, how, name):
    logits, given, where, results = found(classes, how)
    got = results[name]
    assert got[0].dtype == jnp.float32
    assert got[1].dtype == logits.dtype
    expected = of_oracle(DIVERGENCES[name][1], given[name], logits, where)
    value_error, bar_error = errors(got, expected)
    assert value_error.max() < BOUND
    # A bfloat16 gradient is rounded once more.
    assert bar_error.max() < (2**-8 if how == "bfloat16" else BOUND)
    if where is not None:
        assert_array_equal(got[1][~where], 0)


def test_any_axis():
    logits, given, _, results = found(10, "plain")

    @jax.jit
    def along_first(logits, given):
        moved = {name: x.T if x.ndim == 2 else x for name, x in given.items()}
        return {
            name: function(logits.T, moved[name], axis=0)
            for name, (function, _) in DIVERGENCES.items()
        }

    for name, got in along_first(logits, given).items():
        assert_allclose(got, results[name][0], rtol=1e-6, atol=1e-7, err_msg=name)


def test_temperature_per_example_and_no_gradient_of_the_teacher():
    z, t = hard_logits(10), hard_logits(10, seed=7)
    temperature = jnp.linspace(0.5, 20, 8)[:, None]

    @jax.jit
    def run(z, t, temperature):
        out, pullback = jax.vjp(partial(js.distillation_loss, temperature=temperature), z, t)
        return out, *pullback(jnp.ones_like(out))

    out, bar, teacher_bar = run(z, t, temperature)
    assert_array_equal(teacher_bar, 0)
    for i, one in enumerate(oracles.float64(temperature)[:, 0]):
        expected = distillation(oracles.float64(z), oracles.float64(t), None, one)
        assert_allclose(out[i], expected.value[i], rtol=BOUND)
        assert_allclose(bar[i], expected.bar[i], rtol=BOUND, atol=BOUND * one)


@pytest.mark.thorough
def test_derivatives_of_both_orders():
    """Of all arguments that have one, both modes; the teacher agrees with the student in one row.

    The other two are made of these and of cross-entropy, and are in test_transformations.
    `check_grads` would compile six times as much.
    """
    rng = np.random.default_rng(0)
    z, t, v = rng.normal(size=(3, 2, 3)) * 2
    t[0] = z[0] + 0.01 * t[0]
    q = 0.75 * rng.dirichlet(np.ones(3), 2) + 0.05
    weight = rng.normal(size=(4, 2))

    def total(z, q, temperature):
        losses = [
            js.js_divergence(z, q),
            js.brier_loss(z, q),
            js.entropy(z),
            js.distillation_loss(z, t, temperature=temperature),
        ]
        return jnp.sum(jnp.stack(losses) * weight)

    gradient = jax.grad(total, range(3))

    @jax.jit
    def derivatives(at, along):
        bars, pullback = jax.vjp(gradient, *at)
        return {
            "value": total(*at),
            "gradient": bars,
            "jvp": jax.jvp(total, at, along)[1],
            "forward over reverse": jax.jvp(gradient, at, along)[1],
            "reverse over reverse": pullback(along),
        }

    with jax.enable_x64(True):
        at, along = (z, q, 1.5), (v, rng.normal(size=(2, 3)), 0.7)
        step = 1e-5
        high, low, got = (
            jax.tree.map(np.asarray, derivatives(moved, along))
            for moved in (
                jax.tree.map(lambda x, d, s=s: x + s * d, at, along) for s in (step, -step, 0)
            )
        )
    slope = (high["value"] - low["value"]) / (2 * step)
    assert_allclose(got["jvp"], slope, rtol=1e-8)
    product = sum(np.sum(g * d) for g, d in zip(got["gradient"], along, strict=True))
    assert_allclose(product, slope, rtol=1e-8)
    for mode in ("forward over reverse", "reverse over reverse"):
        for i, second in enumerate(got[mode]):
            expected = (high["gradient"][i] - low["gradient"][i]) / (2 * step)
            assert_allclose(second, expected, rtol=1e-7, atol=1e-8, err_msg=f"{mode}, {i}")
