"""Losses that look at every class: values, gradients, tails and edges.

The oracles are in float64. A function of p = softmax(z) whose derivative to p_j is s_j has the
gradient sum_k p_j p_k (s_j - s_k), and that is how it is computed here: differences of slopes keep
their digits in both tails. Each oracle also says how large the terms are that its results are sums
of; an error is relative to these, so that a sum that happens to cancel asks for no more digits than
float32 has of its terms.
"""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import distributions, hard_logits, labels_for, some_mask
from numpy.testing import assert_allclose, assert_array_equal
from test_tails import BOUND, bound_of, confident_logits

import jsoftmax as js

BETA, TEMPERATURE, LOG_2 = 0.3, 4.0, np.log(2)


# --- oracles ---


class Expected(NamedTuple):
    value: np.ndarray  # [...]
    value_size: np.ndarray
    bar: np.ndarray  # [..., classes], the gradient of the logits
    bar_size: np.ndarray


def probabilities(logits, where=None, temperature=1.0):
    """Return p, 1 - p and a finite log p, each to full relative precision."""
    p, rest, nll = oracles.probabilities(logits, where, temperature)
    return p, rest, np.where(np.isinf(nll), 0, -nll)


def gradient(p, slope, size=None):
    """Return the gradient and the size of its terms, from slopes and their size in float32."""
    size = abs(slope) if size is None else size
    bar, bar_size = np.empty_like(p), np.empty_like(p)
    for j in range(p.shape[-1]):
        bar[:, j] = p[:, j] * (p * (slope[:, [j]] - slope)).sum(-1)
        bar_size[:, j] = p[:, j] * (p * np.maximum(size[:, [j]], size)).sum(-1)
    return bar, bar_size


def from_top(p, slope):
    """Return the size of slopes relative to that of the largest probability."""
    return abs(slope - np.take_along_axis(slope, p.argmax(-1)[:, None], -1))


def total(q):
    return q.sum(-1, keepdims=True)


def of_distribution(p, q):
    """Return the size of the terms of p - q, which is measured from the largest logit: where that
    is one of many, its p = 1 - (1 - p) is right to 1e-7, not to 1e-7 of p (see test_tails)."""
    return np.where(p == p.max(-1, keepdims=True), np.maximum(p + q, 0.05), p + q)


def kl_divergence(logits, q, where=None):
    p, _, log_p = probabilities(logits, where)
    log_q = np.log(np.where(q == 0, 1, q))
    value_size = oracles.expected(q, abs(log_q) + abs(log_p))
    bar_size = of_distribution(p, q)
    return Expected(oracles.expected(q, log_q - log_p), value_size, total(q) * p - q, bar_size)


def js_divergence(logits, q, where=None):
    p, _, log_p = probabilities(logits, where)
    both = (q > 0) & (p > 0)
    log_q = np.where(both, np.log(np.where(both, q, 1)), 0)
    # log(2q / (q + p)) and log(2p / (q + p)), accurate where p = q
    over_q, over_p = (
        np.where(both, -np.maximum(x, 0) - np.log1p(np.expm1(-abs(x)) / 2), LOG_2)
        for x in (log_p - log_q, log_q - log_p)
    )
    logs = np.where(both, abs(log_p) + abs(log_q), 0)  # float32 has their difference to 1e-7 of it
    value = (q * over_q + p * over_p).sum(-1) / 2
    value_size = value + (p * abs(over_p) * (1 + logs)).sum(-1) / 2
    slope = over_p / 2
    return Expected(value, value_size, *gradient(p, slope, from_top(p, slope) + logs / 4))


def brier(logits, q, where=None):
    p, rest, _ = probabilities(logits, where)
    residual = np.where(p > 0.5, (1 - q) - rest, p - q)
    value = (residual**2).sum(-1)
    value_size = value + 2 * (abs(residual) * np.minimum(p, rest)).sum(-1)
    size = abs(residual) + np.minimum(p, rest)
    return Expected(value, value_size, *gradient(p, 2 * residual, 2 * size))


def entropy(logits, q=None, where=None):
    p, _, log_p = probabilities(logits, where)
    value = -(p * log_p).sum(-1)
    return Expected(value, value, *gradient(p, -log_p, from_top(p, log_p)))


def confidence_penalty(logits, q, where=None):
    p, rest, log_p = probabilities(logits, where)
    penalty = entropy(logits, None, where)
    of_label = (q == 1).any(-1).all()
    bar = np.where(q == 1, -rest, total(q) * p - q)
    size = abs(bar) if of_label else of_distribution(p, q)
    value = oracles.expected(q, -log_p)
    return Expected(
        value - BETA * penalty.value,
        value + BETA * penalty.value,
        bar - BETA * penalty.bar,
        size + BETA * penalty.bar_size,
    )


def distillation(logits, teacher, where=None, temperature=TEMPERATURE):
    p, _, log_p = probabilities(logits, where, temperature)
    q, _, log_q = probabilities(teacher, where, temperature)
    x = log_p - log_q
    value = temperature**2 * (q * (np.expm1(x) - x)).sum(-1)
    bar = temperature * q * np.expm1(x)
    return Expected(value, value, bar, abs(bar) + p * abs(bar).sum(-1, keepdims=True))


penalised = partial(js.confidence_penalty_loss, beta=BETA)
DIVERGENCES = {
    "kl": (js.kl_divergence, kl_divergence),
    "js": (js.js_divergence, js_divergence),
    "brier": (js.brier_loss, brier),
    "brier of labels": (js.brier_loss, brier),
    "entropy": (lambda z, q, **options: js.entropy(z, **options), entropy),
    "confidence penalty": (penalised, confidence_penalty),
    "confidence penalty of labels": (penalised, confidence_penalty),
    "distillation": (partial(js.distillation_loss, temperature=TEMPERATURE), distillation),
}


def second_arguments(classes, where=None):
    """Return what the library gets beside the logits, by name; nothing is put on a class off."""
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


def of_oracle(oracle, given, logits, where=None):
    """Return the oracle's results for the library's arguments."""
    if jnp.issubdtype(given.dtype, jnp.integer):
        given = oracles.one_hot(given, logits.shape[-1])
    return oracle(oracles.float64(logits), oracles.float64(given), where)


def pulled_back(function, *arguments):
    """Return values, and the gradient of their sum to the first argument."""
    out, pullback = jax.vjp(lambda z: function(z, *arguments[1:]), arguments[0])
    return out, pullback(jnp.ones_like(out))[0]


def errors(got, expected, least=1e-37):
    """Return the errors of values `[...]` and gradients `[..., classes]`, relative to the sizes."""
    out, bar = (np.asarray(x.astype(jnp.float32), np.float64) for x in got)
    return (
        abs(out - expected.value) / np.maximum(expected.value_size, least),
        abs(bar - expected.bar) / np.maximum(expected.bar_size, least),
    )


# --- values and gradients ---


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


def test_temperature_by_example_and_no_gradient_of_the_teacher():
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


# --- tails: relative accuracy, however sure the model is, right or wrong ---

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


# --- edges ---

INF, NAN, CLASSES = jnp.inf, jnp.nan, 4
bi_tempered = partial(js.bi_tempered_loss, t1=0.8, t2=1.3)
LABELLED = {
    "brier": js.brier_loss,
    "confidence penalty": penalised,
    "sparsemax": js.sparsemax_loss,
    "entmax": js.entmax_loss,
    "bi-tempered": bi_tempered,
}
over_labelled = pytest.mark.parametrize("loss", LABELLED.values(), ids=LABELLED)

# Each row of logits and a label is a row of the table of edge cases.
ROWS = {
    "ordinary": ([0.5, 1.0, -1.0, 2.0], 1),
    "without two": ([0.5, -INF, -1.0, -INF], 0),
    "the same with one": ([0.5, -INF, -1.0, -1e30], 0),
    "one class": ([-INF, -INF, 3.0, -INF], 2),
    "ignored": ([NAN, INF, -INF, 2.0], -100),
    "label off": ([0.5, -INF, -1.0, 2.0], 1),
    "all off": ([-INF] * 4, 2),
    "below": ([0.5, 1.0, -1.0, 2.0], -1),
    "beyond": ([0.5, 1.0, -1.0, 2.0], CLASSES),
    "far beyond": ([0.5, 1.0, -1.0, -INF], 2**31 - 1),
}
BAD = ("below", "beyond", "far beyond")


@pytest.mark.parametrize(
    ("loss", "how"),
    [
        *[(loss, "-inf") for loss in LABELLED.values()],
        (js.brier_loss, "where"),
        (penalised, "where"),
    ],
    ids=[*LABELLED, "brier, where", "confidence penalty, where"],
)
def test_the_table_for_labels(loss, how):
    logits, labels = (np.array(column) for column in zip(*ROWS.values(), strict=True))
    off, options = logits == -INF, {"ignore_index": -100}
    if how == "where":
        logits, options["where"] = np.where(off, NAN, logits), ~off
    run = jax.jit(partial(pulled_back, lambda z: loss(z, labels, **options)))
    out, bar = (dict(zip(ROWS, np.asarray(x), strict=True)) for x in run(jnp.float32(logits)))
    for name, row in zip(ROWS, off, strict=True):
        bad = name in BAD
        assert np.isnan(out[name]) == bad, name
        assert_array_equal(np.isnan(bar[name][~row]), bad, err_msg=name)
        assert bad or np.all(bar[name][row] == 0), name
    for name in ("one class", "ignored"):
        assert out[name] == 0
        assert np.all(bar[name] == 0)
    assert np.all(bar["all off"] == 0)
    assert_allclose(out["without two"], out["the same with one"], rtol=1e-6)
    # A label that is off is an infinite loss, but for those that are bounded.
    at_off = [out["label off"], out["all off"]]
    if loss is js.brier_loss:
        p = oracles.softmax(np.array([0.5, -1.0, 2.0]))
        assert_allclose(at_off, [1 + (p**2).sum(), 1], rtol=1e-6)
    elif loss is bi_tempered:
        assert np.all(np.abs(at_off) <= 5)
    else:
        assert_array_equal(at_off, np.inf)


def test_the_table_for_distributions():
    logits = np.array(
        [[0.5, -INF, 1.0], [-INF, 0.0, -INF], [0.5, -INF, 1.0], [-INF] * 3, [NAN, 0, 1], [0, 1, 2]]
    )
    q = np.array(
        [[0.25, 0, 0.75], [0, 1, 0], [0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0.5, 0], [NAN, 0.5, 0.5]]
    )
    teacher = np.array(
        [[0.5, -INF, 2], [-INF, 3, -INF], [0.5, 0, 1], [-INF] * 3, [0, 1, 2], [NAN, 0, 1]]
    )
    given = {name: teacher if name == "distillation" else q for name in DIVERGENCES}

    @jax.jit
    def everything(logits, given):
        return {
            name: pulled_back(function, logits, given[name])
            for name, (function, _) in DIVERGENCES.items()
            if "labels" not in name
        }

    results = jax.tree.map(np.asarray, everything(logits, given))
    finite_logits = np.where(np.isinf(logits), -1e4, oracles.float64(logits))
    for name, (out, bar) in results.items():
        other = np.nan_to_num(oracles.float64(given[name]), neginf=-1e4)
        expected = DIVERGENCES[name][1](finite_logits[:2], other[:2])
        assert_allclose(out[:2], expected.value, rtol=BOUND, atol=1e-7, err_msg=name)
        assert_allclose(bar[:2], expected.bar, atol=5e-7, err_msg=name)
        assert_array_equal(bar[:4][np.isinf(logits[:4]) & (q[:4] == 0)], 0, err_msg=name)
        assert not np.isnan(bar[:4]).any(), name
        # Probability where the model has none is infinite, but for what is bounded.
        assert np.isinf(out[2]) == (name not in ("js", "brier", "entropy"))
        at_nothing = {"js": LOG_2 / 2, "brier": 0.5, "entropy": 0, "distillation": 0}
        assert_allclose(out[3], at_nothing.get(name, np.inf), rtol=1e-6, err_msg=name)
        # NaN in an argument is NaN in its own row, of the gradient as well.
        nan = np.array([True, name != "entropy"])
        assert_array_equal(np.isnan(out[4:]), nan, err_msg=name)
        assert_array_equal(np.isnan(bar[4:]).all(-1), nan, err_msg=name)


def test_a_class_that_only_the_student_has():
    student, teacher = np.zeros(3, np.float32), np.array([-np.inf, 0, 1], np.float32)
    out, bar = jax.jit(partial(pulled_back, js.distillation_loss))(student, teacher)
    p = np.array([0, 1, np.e]) / (1 + np.e)
    assert_allclose(out, (p[1:] * np.log(3 * p[1:])).sum(), rtol=1e-6)
    assert_allclose(bar, 1 / 3 - p, rtol=1e-6)


LISTS = np.array([[0, 3, 2], [2, 2, 1], [3, 0, 3], [1, 1, 1]])
PROBS = np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [1, 0, 0]], np.float32)


@over_labelled
def test_sparse_labels_are_the_distribution_they_stand_for(loss):
    logits = hard_logits(CLASSES)[2:6]
    # The probs' own gradient is made in one place, for all losses.
    wrt = (0, 1) if loss is js.brier_loss else (0,)

    def of_lists(z, probs, lists):
        return loss(z, js.SparseLabels(lists, probs))

    def of_dense(z, probs, lists):
        return loss(z, jnp.sum(jax.nn.one_hot(lists, CLASSES) * probs[..., None], -2))

    def results(function, *arguments):
        def total(*arguments):
            out = function(*arguments)
            return jnp.sum(out), out

        (_, out), bars = jax.value_and_grad(total, wrt, has_aux=True)(*arguments)
        return out, *bars

    @jax.jit
    def both(*arguments):
        return results(of_lists, *arguments), results(of_dense, *arguments)

    for got, expected in zip(*both(logits, PROBS, LISTS), strict=True):
        assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    bad = LISTS.copy()
    bad[1, 2], bad[3, 1] = CLASSES, -1
    for found in both(logits, PROBS, bad)[0][:2]:
        by_row = np.isnan(found).reshape(4, -1)
        assert_array_equal(by_row.all(-1), [False, True, False, True])
        assert_array_equal(by_row.any(-1), by_row.all(-1))


Z, Y = np.zeros((2, 3), np.float32), np.zeros(2, int)


@pytest.mark.parametrize(
    ("call", "error", "name"),
    [
        (lambda: js.kl_divergence(Z, Z[:1]), AssertionError, "target_probs"),
        (lambda: js.js_divergence(Z, Z[:, :2]), AssertionError, "target_probs"),
        (lambda: js.js_divergence(Z, Z[0]), AssertionError, "target_probs"),
        (lambda: js.kl_divergence(Z, Y), TypeError, "target_probs"),
        (lambda: js.js_divergence(Z, Z.astype(int)), TypeError, "target_probs"),
        (lambda: js.distillation_loss(Z, Z[:1]), AssertionError, "teacher_logits"),
        (lambda: js.distillation_loss(Z, Z[:, :1]), AssertionError, "teacher_logits"),
        (lambda: js.distillation_loss(Z, Z > 0), TypeError, "teacher_logits"),
        (lambda: js.distillation_loss(Z > 0, Z), TypeError, "student_logits"),
        (lambda: js.distillation_loss(Z, Z, temperature=0.0), ValueError, "temperature"),
        (lambda: js.distillation_loss(Z, Z, temperature=np.ones(2)), AssertionError, "temperature"),
        (lambda: js.brier_loss(Z, Y[:1]), AssertionError, "labels"),
        (lambda: js.brier_loss(Z, Z[:, :2]), AssertionError, "labels"),
        (lambda: js.brier_loss(Z, Z, ignore_index=0), ValueError, "ignore_index"),
        (lambda: js.confidence_penalty_loss(Z, Z[0]), AssertionError, "labels"),
        (lambda: js.entropy(Z, axis=2), AssertionError, "logits"),
        (lambda: js.entropy(Z, where=np.ones(2, bool)), AssertionError, "where"),
        (lambda: js.entropy(Z > 0), TypeError, "logits"),
    ],
)
def test_wrong_arguments(call, error, name):
    with pytest.raises(error, match=f"`{name}`"):
        call()
