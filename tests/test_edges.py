"""Each row of the table of edge cases, for every function that it applies to."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import (
    FORMULAS,
    GUMBEL,
    LOSSES,
    MAPS,
    distributions,
    hard_logits,
    labels_for,
    over,
    some_mask,
    weighted,
)
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

CLASSES = 5
UNSMOOTHED = [case for case in FORMULAS if "label_smoothing" not in case.options]
WITHOUT_WEIGHT = [case for case in FORMULAS if case.function != weighted]
# The loss of a label of probability 0, for no class at all.
BOUNDED = {"gce": 1 / 0.7, "mae": 2.0, "brier": 1.0, "bi_tempered": 1 / (1.2 * 0.2)}
CONTINUOUS_MAPS = [case for case in [*MAPS, *GUMBEL] if "num_samples" not in case.options]


def value_and_grad(function, logits, nans=True):
    """Return the values and the gradient of their sum, compiled, with no NaN on the way."""

    def total(z):
        out = function(z)
        return jnp.sum(jnp.where(jnp.isfinite(out), out, 0)), out

    with jax.debug_nans(nans):
        (_, out), bar = jax.jit(jax.value_and_grad(total, has_aux=True))(logits)
        return np.asarray(out), np.asarray(bar.astype(jnp.float32))


def pulled_back(function, logits):
    """Return the values and the pullback of ones, infinite values included, eager."""
    out, pullback = jax.vjp(function, logits)
    return np.asarray(out), np.asarray(pullback(jnp.ones_like(out))[0])


# --- dtypes ---


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@over([*MAPS, *GUMBEL, *LOSSES])
def test_dtypes_of_results(case, dtype):
    is_map = case not in LOSSES
    arguments = () if is_map else (labels_for(CLASSES),)

    def function(z):
        return case.function(z, *arguments, **case.options)

    out, _pullback = jax.eval_shape(lambda z: jax.vjp(function, z), hard_logits(CLASSES, dtype))
    assert out.dtype == (dtype if is_map else "float32")
    bar = jax.eval_shape(jax.grad(lambda z: jnp.sum(function(z))), hard_logits(CLASSES, dtype))
    assert bar.dtype == dtype


@pytest.mark.parametrize("dtype", ["int8", "uint32"])
def test_integer_logits(dtype):
    # As unsigned integers or in 8 bits, z - max z would wrap around.
    logits = jnp.asarray([[0, 120, 3, 127, 1]]).astype(dtype)

    @jax.jit
    def everything(z):
        maps = [case.function(z, **case.options) for case in MAPS]
        return maps + [case.function(z, jnp.array([1]), **case.options) for case in UNSMOOTHED]

    given, same = everything(logits), everything(logits.astype(float))
    for case, got, expected in zip([*MAPS, *UNSMOOTHED], given, same, strict=True):
        assert got.dtype == jnp.float32, case.name
        assert_array_equal(got, expected, err_msg=case.name)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "uint32"])
@pytest.mark.parametrize("classes", [10, 300])
def test_small_label_dtypes(dtype, classes):
    # With 300 classes, `iota < 300` or a negative check in the labels' own dtype would wrap.
    labels = jnp.array([0, 7, 9, 1, 2, 3, 4, 5]).astype(dtype)
    logits = hard_logits(classes)
    expected = oracles.cross_entropy(logits, oracles.one_hot(labels, classes))
    assert_allclose(jax.jit(js.cross_entropy)(logits, labels), expected, rtol=5e-6, atol=1e-37)
    losses = jax.jit(js.cross_entropy)(logits[:, :3], labels)
    assert_array_equal(np.isnan(losses), np.asarray(labels) >= 3)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_ignore_index_beyond_the_labels_dtype(dtype):
    labels = jnp.array([0, 1, 4]).astype(dtype)
    losses = jax.jit(partial(js.cross_entropy, ignore_index=-100))(jnp.zeros((3, 3)), labels)
    assert_array_equal(np.isnan(losses), [False, False, True])


@pytest.mark.parametrize("classes", [65_536, 100_000])
def test_many_classes_in_float16(classes):
    logits = jnp.zeros((1, classes), jnp.float16)
    p = jax.jit(js.softmax)(logits)
    assert_allclose(p.astype(jnp.float32), np.full((1, classes), 1 / classes), atol=2.0**-25)
    assert_allclose(jax.jit(js.log_softmax)(logits)[0, -1], -np.log(classes), rtol=2**-10)
    last = jnp.array([classes - 1])
    assert_allclose(jax.jit(js.cross_entropy)(logits, last), np.log(classes), rtol=1e-6)


# --- classes at -inf or masked ---


@pytest.mark.parametrize("how", ["-inf", "where"])
@over(CONTINUOUS_MAPS)
def test_map_without_a_class(case, how):
    logits = jax.random.normal(jax.random.key(0), (4, CLASSES))
    where = np.array([True, False, True, True, False])
    off = jnp.where(where, logits, -jnp.inf if how == "-inf" else 1e30)
    options = case.options | ({"where": where} if how == "where" else {})

    def function(z):  # different weights, since the sum of a softmax has no gradient
        out = case.function(z, **options)
        return out * jnp.linspace(0.5, 1.5, out.size).reshape(out.shape)

    out, bar = value_and_grad(function, off)
    expected = case.oracle(logits, where=where, **case.options)
    expected = expected * np.linspace(0.5, 1.5, expected.size).reshape(expected.shape)
    assert_allclose(out, expected, rtol=2e-5, atol=1e-6)
    assert_array_equal(bar[:, ~where], 0)
    assert np.all(np.isfinite(bar))


@pytest.mark.parametrize("how", ["-inf", "where", "where over NaN"])
@over(FORMULAS)
def test_loss_without_a_class(case, how):
    if how == "-inf" and case not in UNSMOOTHED:
        pytest.skip("smoothing puts probability on the class: see the next test")
    logits, where = hard_logits(CLASSES), some_mask(CLASSES)
    where[:, 0] = True
    labels = jnp.where(jnp.arange(8) % 2 == 0, CLASSES - 1, 0)
    off = jnp.where(where, logits, {"-inf": -jnp.inf, "where": 1e30}.get(how, jnp.nan))
    options = case.options | ({} if how == "-inf" else {"where": where})
    nans = how == "where over NaN"  # the search for NaN would find those of the input
    out, bar = value_and_grad(lambda z: case.function(z, labels, **options), off, nans=not nans)
    expected = case.oracle(logits, oracles.one_hot(labels, CLASSES), where=where, **case.options)
    assert_allclose(out, expected, rtol=5e-5, atol=1e-37 if case in UNSMOOTHED else 3e-5)
    assert_array_equal(bar[~where], 0)
    assert np.all(np.isfinite(bar))


def test_smoothed_loss_with_a_class_at_minus_infinity():
    logits = jnp.array([[1.0, -jnp.inf, 0.0]])
    out, bar = value_and_grad(
        lambda z: js.cross_entropy(z, jnp.array([0]), label_smoothing=0.1), logits
    )
    assert_array_equal(out, [np.inf])
    assert bar[0, 1] == 0


@pytest.mark.parametrize("how", ["-inf", "where"])
@over(FORMULAS)
def test_label_on_a_class_that_is_off(case, how):
    logits = jnp.array([[1.0, 2.0, 0.5, -1.0, 0.0]] * 2)
    where = np.array([[True] * 5, [True, True, False, True, True]])
    off = jnp.where(where, logits, -jnp.inf) if how == "-inf" else logits
    options = case.options | ({"where": where} if how == "where" else {})
    labels = jnp.array([2, 2])
    with jax.debug_nans(True):
        out, bar = pulled_back(jax.jit(lambda z: case.function(z, labels, **options)), off)
    plain = {k: v for k, v in case.options.items() if k != "label_smoothing"}
    bounded = case.name in BOUNDED
    expected = case.oracle(logits, oracles.one_hot(labels, 5), where=where, **plain)[1]
    assert_allclose(out[1], expected if bounded else np.inf, rtol=1e-6)
    assert np.isfinite(out[0])
    assert not np.isnan(bar).any()
    assert bar[1, 2] == 0


@pytest.mark.parametrize("how", ["-inf", "where"])
@over([*MAPS, *GUMBEL])
def test_map_of_no_class(case, how):
    logits = jnp.array([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    where = np.array([[True] * 3, [False] * 3])
    if "num_samples" in case.options and how == "-inf":
        pytest.skip("these maps have a floor: a logit of -inf still has a probability")
    off = jnp.where(where, logits, -jnp.inf) if how == "-inf" else logits
    options = case.options | ({"where": where} if how == "where" else {})
    out, bar = value_and_grad(lambda z: case.function(z, **options), off)
    assert_array_equal(out[1], -np.inf if case.name.startswith("log") else 0)
    assert_array_equal(bar[1], 0)


@pytest.mark.parametrize("how", ["-inf", "where"])
@over(FORMULAS)
def test_loss_of_no_class(case, how):
    where = np.array([[True] * 3, [False] * 3])
    off = jnp.where(where, 1.0, -jnp.inf if how == "-inf" else 1.0)
    options = case.options | ({"where": where} if how == "where" else {})
    labels = jnp.array([0, 1])
    with jax.debug_nans(True):
        out, bar = pulled_back(jax.jit(lambda z: case.function(z, labels, **options)), off)
    expected = BOUNDED.get(case.name, np.inf)
    assert_allclose(out[1], expected, rtol=1e-6)
    assert_array_equal(bar[1], 0)


def test_a_single_class_has_loss_zero():
    for case in UNSMOOTHED:
        if "z_loss" not in case.options and "temperature" not in case.options:
            out, bar = value_and_grad(
                lambda z, case=case: case.function(z, jnp.zeros(3, int), **case.options),
                jnp.array([[1e30], [0.0], [-5.0]]),
            )
            assert_array_equal(out, [0, 0, 0])
            assert_array_equal(bar, [[0], [0], [0]])


# --- labels ---


@over(FORMULAS)
def test_label_outside_is_nan_in_its_own_row_only(case):
    logits = hard_logits(CLASSES)
    good = labels_for(CLASSES)
    bad = jnp.array([-1, CLASSES, 10**6, -(2**31)])

    def total(z, labels):
        out = case.function(z, labels, **case.options)
        return jnp.sum(out), out

    run = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, out), bar = run(logits, good.at[1:5].set(bad))
    (_, expected), expected_bar = run(logits, good)
    row = (np.arange(8) >= 1) & (np.arange(8) < 5)
    assert np.all(np.isnan(out[row]))
    assert np.all(np.isnan(bar[row]))
    assert_array_equal(out[~row], expected[~row])
    assert_array_equal(bar[~row], expected_bar[~row])


@pytest.mark.parametrize("ignored", [-100, 2])
@over(WITHOUT_WEIGHT)
def test_ignored_examples(case, ignored):
    labels = jnp.array([0, 1, ignored, 3, 4, 0, ignored, 3])
    out_rows = np.asarray(labels) == ignored
    logits = jnp.where(out_rows[:, None], jnp.nan, hard_logits(CLASSES)).at[6].set(jnp.inf)
    options = case.options | {"ignore_index": ignored}

    def mean(z):
        out = case.function(z, labels, **options)
        return js.weighted_mean(out, labels != ignored), out

    run = jax.jit(jax.value_and_grad(mean, has_aux=True))
    with jax.debug_nans(True):
        (mean_loss, out), bar = run(logits)
    kept = np.where(out_rows, 0, labels)
    clean = jnp.where(out_rows[:, None], 0, logits)
    expected = case.oracle(clean, oracles.one_hot(kept, CLASSES), **case.options)
    assert_array_equal(out[out_rows], 0)
    assert_array_equal(bar[out_rows], 0)
    assert_allclose(out[~out_rows], expected[~out_rows], rtol=5e-5, atol=3e-5)
    assert_allclose(mean_loss, expected[~out_rows].mean(), rtol=1e-5)


def test_ignored_with_class_weight_and_mask():
    labels, where = jnp.array([-1, 1]), np.array([[False] * 3, [True] * 3])
    weight = jnp.array([1.0, 3.0, 0.0])
    out, bar = value_and_grad(
        lambda z: js.cross_entropy(z, labels, where=where, class_weight=weight, ignore_index=-1),
        jnp.zeros((2, 3)),
    )
    assert_allclose(out, [0, 3 * np.log(3)], rtol=1e-6)
    assert_array_equal(bar[0], 0)


def test_class_weight_zero_wins_over_an_infinite_loss():
    out, bar = value_and_grad(
        lambda z: js.cross_entropy(z, jnp.array([0]), class_weight=jnp.array([0.0, 1.0])),
        jnp.array([[-jnp.inf, 0.0]]),
    )
    assert_array_equal(out, [0])
    assert_array_equal(bar, [[0, 0]])


@over(WITHOUT_WEIGHT)
def test_no_example_left_and_empty_batch(case):
    def mean(z, labels):
        return js.weighted_mean(
            case.function(z, labels, **case.options), jnp.zeros(labels.shape, bool)
        )

    for rows in (0, 2):
        value, bar = jax.jit(jax.value_and_grad(mean))(jnp.zeros((rows, 3)), jnp.zeros(rows, int))
        assert value == 0
        assert_array_equal(bar, np.zeros((rows, 3)))


@over(UNSMOOTHED)
def test_distribution_with_zero_on_a_class_at_minus_infinity(case):
    logits = jnp.array([[0.5, -jnp.inf, 1.0], [-jnp.inf, 0.0, -jnp.inf]])
    q = jnp.array([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]])
    finite = jnp.where(jnp.isinf(logits), -1e4, logits)

    def function(z, q):
        return case.function(z, q, **case.options)

    out, bar = value_and_grad(lambda z: function(z, q), logits)
    with jax.debug_nans(True):
        _, moved = jax.jit(lambda z: jax.jvp(lambda z: function(z, q), (z,), (jnp.ones_like(z),)))(
            logits
        )
    # At -1e4 the oracle has rounding left, and heavy tails something more.
    atol = (
        1e-10 if "max_loss" in case.name or case.name in ("entmax15_loss", "bi_tempered") else 1e-37
    )
    assert_allclose(out, case.oracle(finite, q, **case.options), rtol=3e-6, atol=atol)
    assert_array_equal(bar[np.isinf(logits)], 0)
    assert np.all(np.isfinite(bar))
    assert_allclose(moved, bar.sum(-1), atol=2e-6)
    # Positive probability on it is an infinite loss, bounded losses apart, and never NaN.
    out, bar = jax.vjp(jax.jit(lambda z: function(z, jnp.roll(q, 1, -1))), logits)
    assert not np.isnan(out).any()
    bar = bar(jnp.ones_like(out))[0]
    assert not np.isnan(bar).any()
    assert_array_equal(bar[np.isinf(logits)], 0)


def test_kl_and_binary_cross_entropy_at_infinite_logits():
    logits, q = jnp.array([[0.5, -jnp.inf]]), jnp.array([[1.0, 0.0]])
    out, bar = value_and_grad(lambda z: js.kl_divergence(z, q), logits)
    assert_array_equal(out, [0])
    assert_array_equal(bar, [[0, 0]])
    assert_array_equal(js.kl_divergence(logits, 1 - q), [np.inf])
    inf = jnp.array([jnp.inf, -jnp.inf, jnp.inf, -jnp.inf])
    with jax.debug_nans(True):
        out = js.binary_cross_entropy(inf, jnp.array([1, 0, 0, 1]))
    assert_array_equal(out, [0, 0, np.inf, np.inf])
    assert np.isnan(js.binary_cross_entropy(jnp.zeros(2), jnp.array([2, -1]))).all()


# --- wrong shapes ---

WRONG = {
    "labels too long": ("labels", (3, 4), (4,), {}),
    "labels too short": ("labels", (3, 4), (1,), {}),
    "labels as a column": ("labels", (3, 4), (3, 1), {}),
    "a scalar label": ("labels", (3, 4), (), {}),
    "where too large": ("where", (3, 4), (3,), {"where": np.ones((2, 3, 4), bool)}),
    "where of other classes": ("where", (3, 4), (3,), {"where": np.ones((3, 5), bool)}),
    "axis": ("logits", (3, 4), (3,), {"axis": 2}),
    "no class": ("logits", (3, 0), (3,), {}),
}


@pytest.mark.parametrize("wrong", WRONG)
@over([case for case in WITHOUT_WEIGHT if case.options == {}])
def test_wrong_shapes_are_named(case, wrong):
    name, logits_shape, labels_shape, options = WRONG[wrong]
    expected, got = {
        "labels": (logits_shape[:-1], labels_shape),
        "where": (logits_shape, np.shape(options.get("where"))),
        "logits": ("", logits_shape),
    }[name]
    with pytest.raises(AssertionError) as error:
        jax.eval_shape(
            lambda z, y: case.function(z, y, **options),
            jnp.zeros(logits_shape),
            jnp.zeros(labels_shape, int),
        )
    message = str(error.value)
    assert f"`{name}`" in message
    assert f"expected shape {expected}" in message or name == "logits"
    assert str(got) in message


@pytest.mark.parametrize(
    ("name", "function", "shape"),
    [
        ("labels", lambda: js.cross_entropy(jnp.zeros((3, 4)), jnp.zeros((3, 5))), "(3, 5)"),
        (
            "class_weight",
            lambda: js.cross_entropy(
                jnp.zeros((3, 4)), jnp.zeros(3, int), class_weight=jnp.ones(3)
            ),
            "(3,)",
        ),
        ("target_probs", lambda: js.kl_divergence(jnp.zeros((3, 4)), jnp.zeros(4)), "(4,)"),
        ("labels", lambda: js.binary_cross_entropy(jnp.zeros((3, 4)), jnp.zeros((3, 1))), "(3, 1)"),
        (
            "pos_weight",
            lambda: js.binary_cross_entropy(
                jnp.zeros(3), jnp.zeros(3), pos_weight=jnp.ones((2, 3))
            ),
            "(2, 3)",
        ),
        ("sample_weight", lambda: js.weighted_mean(jnp.ones(3), jnp.ones((3, 1))), "(3, 1)"),
        ("temperature", lambda: js.softmax(jnp.ones((3, 4)), temperature=jnp.ones(4)), "(4,)"),
        ("sink", lambda: js.softmax(jnp.ones((3, 4)), sink=jnp.ones(4)), "(4,)"),
        ("hard", lambda: js.straight_through(jnp.ones(3), jnp.ones(4)), "(3,)"),
        ("labels", lambda: js.logit_stats(jnp.ones((3, 4)), jnp.zeros(4, int)), "(4,)"),
        ("weight", lambda: js.linear_logits(jnp.ones((3, 4)), jnp.ones((4, 3))), "(4, 3)"),
        (
            "labels",
            lambda: js.linear_logits(
                jnp.ones((3, 4)), jnp.ones((2, 4)), jnp.zeros((3, 1), int), margin=js.arcface()
            ),
            "(3, 1)",
        ),
        (
            "bias",
            lambda: js.linear_logits(jnp.ones((3, 4)), jnp.ones((2, 4)), bias=jnp.ones(1)),
            "(1,)",
        ),
        ("labels", lambda: js.top_k_accuracy(jnp.ones((3, 4)), jnp.zeros(2, int)), "(2,)"),
    ],
)
def test_other_wrong_shapes_are_named(name, function, shape):
    with pytest.raises(AssertionError) as error:
        function()
    assert f"`{name}`" in str(error.value)
    assert "expected shape" in str(error.value)
    assert shape in str(error.value)


@pytest.mark.parametrize("classes", [3])
def test_a_masked_distribution(classes):
    q, where = distributions(classes), some_mask(classes)
    logits = hard_logits(classes)
    out, bar = value_and_grad(
        lambda z: js.cross_entropy(z, jnp.where(where, q, 0), where=where), logits
    )
    assert np.all(np.isfinite(out))
    assert_array_equal(bar[~where], 0)
