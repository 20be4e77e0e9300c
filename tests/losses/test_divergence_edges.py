"""Losses that look at every class: masked classes, bad labels, sparse labels, wrong arguments."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import hard_logits
from divergence_oracles import DIVERGENCES, LOG_2, penalised, pulled_back
from numpy.testing import assert_allclose, assert_array_equal
from tails import BOUND

import jsoftmax as js

pytestmark = pytest.mark.one_in(4)

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
    "masked label": ([0.5, -INF, -1.0, 2.0], 1),
    "all masked": ([-INF] * 4, 2),
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
    masked, options = logits == -INF, {"ignore_index": -100}
    if how == "where":
        logits, options["where"] = np.where(masked, NAN, logits), ~masked
    run = jax.jit(partial(pulled_back, lambda z: loss(z, labels, **options)))
    out, bar = (dict(zip(ROWS, np.asarray(x), strict=True)) for x in run(jnp.float32(logits)))
    for name, row in zip(ROWS, masked, strict=True):
        bad = name in BAD
        assert np.isnan(out[name]) == bad, name
        assert_array_equal(np.isnan(bar[name][~row]), bad, err_msg=name)
        assert bad or np.all(bar[name][row] == 0), name
    for name in ("one class", "ignored"):
        assert out[name] == 0
        assert np.all(bar[name] == 0)
    assert np.all(bar["all masked"] == 0)
    assert_allclose(out["without two"], out["the same with one"], rtol=1e-6)
    # A masked label is an infinite loss, unless the loss is bounded.
    at_masked = [out["masked label"], out["all masked"]]
    if loss is js.brier_loss:
        p = oracles.softmax(np.array([0.5, -1.0, 2.0]))
        assert_allclose(at_masked, [1 + (p**2).sum(), 1], rtol=1e-6)
    elif loss is bi_tempered:
        assert np.all(np.abs(at_masked) <= 5)
    else:
        assert_array_equal(at_masked, np.inf)


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


WITH_SOFT_LABELS = {name: function for name, (function, _) in DIVERGENCES.items()}
WITH_SOFT_LABELS |= {
    "cross_entropy": js.cross_entropy,
    "smoothed": partial(js.cross_entropy, label_smoothing=0.1),
    "focal": js.focal_loss,
    "bi_tempered": partial(js.bi_tempered_loss, t1=0.7, t2=1.4),
    "bi_tempered at 1": partial(js.bi_tempered_loss, t1=1.0, t2=1.0),
    "entmax at 1": partial(js.entmax_loss, alpha=1.0),
    "entmax": partial(js.entmax_loss, alpha=1.3),
    "brier_loss": js.brier_loss,
    "poly": js.poly_loss,
    "gce": js.generalized_cross_entropy,
    "mae": js.mae_loss,
    "sce": js.symmetric_cross_entropy,
    "penalty": js.confidence_penalty_loss,
    "sparsemax": js.sparsemax_loss,
    "entmax15": js.entmax15_loss,
}


@pytest.mark.parametrize("name", WITH_SOFT_LABELS)
def test_probabilities_below_the_normal_numbers(name):
    """As constants XLA keeps them, as arguments it counts them as 0."""
    z = np.array([[9.7, -35.0, -80.0, -84.0, 30.0, 59.0]], np.float32)
    q = np.array([[2.5e-22, 9e-42, 0, 0, 2e-13, 1]], np.float32)
    loss = WITH_SOFT_LABELS[name]

    def run(z, q):
        return jax.value_and_grad(lambda z, q: loss(z, q).sum(), (0, 1))(z, q)

    constant = jax.jit(lambda z: run(z, jnp.asarray(q)))(z)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(constant))
    (value, (of_z, _)), (again, (of_z_again, _)) = constant, jax.jit(run)(z, q)
    assert_allclose(value, again, rtol=1e-5, atol=1e-12)
    assert_allclose(of_z, of_z_again, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", ["cross_entropy", "smoothed", "kl", "focal", "poly", "penalty"])
def test_a_label_of_zero_where_a_class_is_at_minus_infinity(name):
    z, q = jnp.array([0.0, 1.0, -jnp.inf]), jnp.array([0.5, 0.5, 0.0])
    # Smoothed, an unmasked logit of -inf costs infinitely much.
    options = {"where": z > -jnp.inf} if name == "smoothed" else {}
    loss = partial(WITH_SOFT_LABELS[name], z, **options)
    *_, bar = jax.jit(jax.grad(loss))(q)
    assert bar == 0
    assert jax.jvp(loss, (q,), (jnp.eye(3)[2],))[1] == 0


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
        (lambda: js.distillation_loss(Z, Z, temperature=np.ones(4)), AssertionError, "temperature"),
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
