"""Each row of the table of edge cases, for every function that it applies to."""

from functools import cache, partial

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


def value_and_grad(function, logits):
    """Return the values and the gradient of the sum of the finite ones, with no NaN in them."""

    def total(z):
        out = function(z)
        return jnp.sum(jnp.where(jnp.isfinite(out), out, 0)), out

    with jax.debug_nans(True):
        (_, out), bar = jax.jit(jax.value_and_grad(total, has_aux=True))(logits)
        return np.asarray(out), np.asarray(bar)


@cache
def compiled(function, **options):
    """Return the values and a pullback, compiled once for all tests with the same shapes."""

    def run(logits, cotangent, *labels, **more):
        out, pullback = jax.vjp(lambda z: function(z, *labels, **options, **more), logits)
        return out, pullback(cotangent)[0]

    return jax.jit(run)


def pulled_back(case, logits, cotangent, *labels, **more):
    """Return the values and what becomes of the cotangent, infinite values included."""
    logits = jnp.asarray(logits, jnp.float32)
    labels = [jnp.asarray(x, jnp.int32) for x in labels]
    run = compiled(case.function, **case.options)
    return [np.asarray(x) for x in run(logits, np.float32(cotangent), *labels, **more)]


def how_off(how, logits, where):
    """Return logits and options that switch the same classes off, in one of two ways."""
    if how == "-inf":
        return jnp.where(where, logits, -jnp.inf), {}
    return logits, {"where": where}


# --- dtypes ---


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@over([*MAPS, *GUMBEL, *LOSSES])
def test_dtypes_of_results(case, dtype):
    is_map = case not in LOSSES
    arguments = () if is_map else (labels_for(CLASSES),)

    def function(z):
        return case.function(z, *arguments, **case.options)

    def run(z):
        out, pullback = jax.vjp(function, z)
        return out, pullback(jnp.ones_like(out))[0]

    out, bar = jax.eval_shape(run, jax.ShapeDtypeStruct((8, CLASSES), dtype))
    assert out.dtype == (dtype if is_map else "float32")
    assert bar.dtype == dtype


def test_integer_logits():
    # As unsigned integers or in 8 bits, z - max z would wrap around.
    logits = np.array([[0, 120, 3, 127, 1]])

    @jax.jit
    def everything(z):
        maps = [case.function(z, **case.options) for case in MAPS]
        return maps + [case.function(z, jnp.array([1]), **case.options) for case in UNSMOOTHED]

    same = everything(logits.astype("float32"))
    for dtype in ("int8", "uint32"):
        given = everything(logits.astype(dtype))
        for case, got, expected in zip([*MAPS, *UNSMOOTHED], given, same, strict=True):
            assert got.dtype == jnp.float32, case.name
            assert_array_equal(got, expected, err_msg=f"{case.name}, {dtype}")


@pytest.mark.parametrize("classes", [10, 300])
def test_small_label_dtypes(classes):
    # With 300 classes, `iota < 300` or a negative check in the labels' own dtype would wrap.
    labels, dtypes = np.array([0, 7, 9, 1, 2, 3, 4, 5]), ("int8", "uint8", "uint16", "uint32")
    logits = hard_logits(classes)
    expected = oracles.cross_entropy(logits, oracles.one_hot(labels, classes))

    @jax.jit
    def run(z, of_dtypes):
        return [(js.cross_entropy(z, y), js.cross_entropy(z[:, :3], y)) for y in of_dtypes]

    results = run(logits, [labels.astype(dtype) for dtype in dtypes])
    for dtype, (losses, of_three) in zip(dtypes, results, strict=True):
        assert_allclose(losses, expected, rtol=5e-6, atol=1e-37, err_msg=dtype)
        assert_array_equal(np.isnan(of_three), labels >= 3, err_msg=dtype)


def test_ignore_index_beyond_the_labels_dtype():
    run = jax.jit(partial(js.cross_entropy, ignore_index=-100))
    for dtype in ("int8", "uint8", "int32"):
        losses = run(np.zeros((3, 3), np.float32), np.array([0, 1, 4], dtype))
        assert_array_equal(np.isnan(losses), [False, False, True], err_msg=dtype)


@pytest.mark.parametrize("classes", [65_536, 100_000])
def test_many_classes_in_float16(classes):
    last = jnp.array([classes - 1])

    @jax.jit
    def run(z):
        return js.softmax(z), js.log_softmax(z), js.cross_entropy(z, last)

    p, log_p, loss = run(jnp.zeros((1, classes), jnp.float16))
    assert_allclose(p.astype(jnp.float32), np.full((1, classes), 1 / classes), atol=2.0**-25)
    assert_allclose(log_p[0, -1], -np.log(classes), rtol=2**-10)
    assert_allclose(loss, np.log(classes), rtol=1e-6)


# --- classes at -inf or masked ---
# The tests of one function share their shapes, and so what is compiled: `compiled`.


def weights_like(expected):
    """Return different weights, since the sum of a softmax has no gradient; none for infinity."""
    weights = np.linspace(0.5, 1.5, expected.size).reshape(expected.shape)
    return np.where(np.isfinite(expected), weights, 0)


@pytest.mark.parametrize("how", ["-inf", "where"])
@over(CONTINUOUS_MAPS)
def test_map_without_a_class(case, how):
    logits = jax.random.normal(jax.random.key(0), (4, CLASSES))
    where = np.broadcast_to([True, False, True, True, False], (4, CLASSES))
    off, options = how_off(how, jnp.where(where, logits, 1e30), where)
    expected = case.oracle(logits, where=where, **case.options)
    out, bar = pulled_back(case, off, weights_like(expected), **options)
    assert_allclose(out, expected, rtol=2e-5, atol=1e-6)
    assert_array_equal(bar[~where], 0)
    assert np.all(np.isfinite(bar))


@pytest.mark.parametrize("how", ["-inf", "where", "where over NaN"])
@over(FORMULAS)
def test_loss_without_a_class(case, how):
    if how == "-inf" and case not in UNSMOOTHED:
        pytest.skip("smoothing puts probability on the class: see the next test")
    logits, where = hard_logits(CLASSES), some_mask(CLASSES)
    where[:, 0] = True
    labels = np.where(np.arange(8) % 2 == 0, CLASSES - 1, 0)
    hidden = jnp.where(where, logits, jnp.nan if "NaN" in how else 1e30)
    off, options = how_off(how, hidden, where)
    out, bar = pulled_back(case, off, np.ones(8), labels, **options)
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


ODD = np.arange(8) % 2 == 1  # the rows in which something is off


@pytest.mark.parametrize("how", ["-inf", "where"])
@over(FORMULAS)
def test_label_on_a_class_that_is_off(case, how):
    logits = np.tile(np.float32([1.0, 2.0, 0.5, -1.0, 0.0]), (8, 1))
    where = ~(ODD[:, None] & (np.arange(CLASSES) == 2))
    labels = np.full(8, 2)
    off, options = how_off(how, logits, where)
    out, bar = pulled_back(case, off, np.ones(8), labels, **options)
    plain = {k: v for k, v in case.options.items() if k != "label_smoothing"}
    bounded = case.name in BOUNDED
    expected = case.oracle(logits, oracles.one_hot(labels, CLASSES), where=where, **plain)[ODD]
    assert_allclose(out[ODD], expected if bounded else np.full(4, np.inf), rtol=1e-6)
    assert np.all(np.isfinite(out[~ODD]))
    assert not np.isnan(bar).any()
    assert_array_equal(bar[ODD, 2], 0)


@pytest.mark.parametrize("how", ["-inf", "where"])
@over([*MAPS, *GUMBEL])
def test_map_of_no_class(case, how):
    if "num_samples" in case.options and how == "-inf":
        pytest.skip("these maps have a floor: a logit of -inf still has a probability")
    logits = np.tile(np.float32([[1.0, 2.0, 0.0, 0.5, -1.0], [0.0] * CLASSES]), (2, 1))
    odd = ODD[:4]
    off, options = how_off(how, logits, np.broadcast_to(~odd[:, None], logits.shape))
    shape = (4,) if case.name == "logsumexp" else (4, CLASSES)
    none = np.full(shape, -np.inf if case.name.startswith("log") else 0.0)
    on_rows = (~odd).reshape(4, *[1] * (len(shape) - 1))
    out, bar = pulled_back(case, off, weights_like(np.where(on_rows, 1, none)), **options)
    assert_array_equal(out[odd], none[odd])
    assert not np.isnan(out).any()
    assert np.all(np.isfinite(bar))
    assert_array_equal(bar[odd], 0)


@pytest.mark.parametrize("how", ["-inf", "where"])
@over(FORMULAS)
def test_loss_of_no_class(case, how):
    where = np.broadcast_to(~ODD[:, None], (8, CLASSES))
    off, options = how_off(how, np.ones((8, CLASSES), np.float32), where)
    out, bar = pulled_back(case, off, np.ones(8), ODD, **options)
    assert_allclose(out[ODD], np.full(4, BOUNDED.get(case.name, np.inf)), rtol=1e-6)
    assert not np.isnan(out).any()
    assert not np.isnan(bar).any()
    assert_array_equal(bar[ODD], 0)


def test_a_single_class_has_loss_zero():
    cases = [
        case
        for case in UNSMOOTHED
        if "z_loss" not in case.options and "temperature" not in case.options
    ]

    @jax.jit
    def everything(z):
        labels = jnp.zeros(3, int)
        pullbacks = [jax.vjp(lambda z, c=c: c.function(z, labels, **c.options), z) for c in cases]
        return [(out, pullback(jnp.ones_like(out))[0]) for out, pullback in pullbacks]

    results = everything(jnp.array([[1e30], [0.0], [-5.0]]))
    for case, (out, bar) in zip(cases, results, strict=True):
        assert_array_equal(out, [0, 0, 0], err_msg=case.name)
        assert_array_equal(bar, [[0], [0], [0]], err_msg=case.name)


# --- labels ---


@over(FORMULAS)
def test_label_outside_is_nan_in_its_own_row_only(case):
    logits = hard_logits(CLASSES)
    good = labels_for(CLASSES)
    bad = jnp.array([-1, CLASSES, 10**6, -(2**31)])
    out, bar = pulled_back(case, logits, np.ones(8), good.at[1:5].set(bad))
    expected, expected_bar = pulled_back(case, logits, np.ones(8), good)
    row = (np.arange(8) >= 1) & (np.arange(8) < 5)
    assert np.all(np.isnan(out[row]))
    assert np.all(np.isnan(bar[row]))
    assert_array_equal(out[~row], expected[~row])
    assert_array_equal(bar[~row], expected_bar[~row])


@over(WITHOUT_WEIGHT)
def test_ignored_examples_and_no_example_left(case):
    @jax.jit
    def run(logits, labels, ignored, weight):
        def mean(z):
            out = case.function(z, labels, **case.options, ignore_index=ignored)
            return js.weighted_mean(out, weight), out

        return jax.value_and_grad(mean, has_aux=True)(logits)

    for ignored in (-100, 2):
        labels = jnp.array([0, 1, ignored, 3, 4, 0, ignored, 3])
        out_rows = np.asarray(labels) == ignored
        logits = jnp.where(out_rows[:, None], jnp.nan, hard_logits(CLASSES)).at[6].set(jnp.inf)
        (mean_loss, out), bar = run(logits, labels, ignored, ~out_rows)
        kept = np.where(out_rows, 0, labels)
        clean = jnp.where(out_rows[:, None], 0, logits)
        expected = case.oracle(clean, oracles.one_hot(kept, CLASSES), **case.options)
        assert_array_equal(out[out_rows], 0)
        assert_array_equal(bar[out_rows], 0)
        assert np.all(np.isfinite(bar))
        assert_allclose(out[~out_rows], expected[~out_rows], rtol=5e-5, atol=3e-5)
        assert_allclose(mean_loss, expected[~out_rows].mean(), rtol=1e-5)
    for rows in (0, 8):
        no_labels, none = jnp.zeros(rows, labels.dtype), np.zeros(rows, bool)
        (value, _), bar = run(jnp.zeros((rows, CLASSES)), no_labels, -100, none)
        assert value == 0
        assert_array_equal(bar, np.zeros((rows, CLASSES)))


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


@over(UNSMOOTHED)
def test_distribution_with_zero_on_a_class_at_minus_infinity(case):
    logits = jnp.array([[0.5, -jnp.inf, 1.0], [-jnp.inf, 0.0, -jnp.inf]])
    q = jnp.array([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]])
    finite = jnp.where(jnp.isinf(logits), -1e4, logits)

    @jax.jit
    def run(z, q):
        def function(z):
            return case.function(z, q, **case.options)

        out, pullback = jax.vjp(function, z)
        moved = jax.jvp(function, (z,), (jnp.ones_like(z),))[1]
        return out, pullback(jnp.ones_like(out))[0], moved

    out, bar, moved = run(logits, q)
    # At -1e4 the oracle has rounding left, and heavy tails something more.
    atol = (
        1e-10 if "max_loss" in case.name or case.name in ("entmax15_loss", "bi_tempered") else 1e-37
    )
    assert_allclose(out, case.oracle(finite, q, **case.options), rtol=3e-6, atol=atol)
    assert_array_equal(bar[np.isinf(logits)], 0)
    assert np.all(np.isfinite(bar))
    assert_allclose(moved, bar.sum(-1), atol=2e-6)
    # Positive probability on it is an infinite loss, bounded losses apart, and never NaN.
    out, bar, _ = run(logits, jnp.roll(q, 1, -1))
    assert not np.isnan(out).any()
    assert not np.isnan(bar).any()
    assert_array_equal(bar[np.isinf(logits)], 0)


def test_kl_and_binary_cross_entropy_at_infinite_logits():
    q = np.array([[1.0, 0.0]], np.float32)

    @jax.jit
    def of_kl(z, q):
        out, pullback = jax.vjp(lambda z: js.kl_divergence(z, q), z)
        return out, pullback(jnp.ones_like(out))[0]

    logits = np.array([[0.5, -np.inf]], np.float32)
    out, bar = of_kl(logits, q)
    assert_array_equal(out, [0])
    assert_array_equal(bar, [[0, 0]])
    assert_array_equal(of_kl(logits, 1 - q)[0], [np.inf])
    inf = np.array([np.inf, -np.inf, np.inf, -np.inf], np.float32)
    with jax.debug_nans(True):  # eager, so that a NaN in any single step is an error
        out = js.binary_cross_entropy(inf, np.array([1, 0, 0, 1]))
    assert_array_equal(out, [0, 0, np.inf, np.inf])
    bad = js.binary_cross_entropy(np.zeros(4, np.float32), np.array([2, -1, 2, -1]))
    assert np.isnan(bad).all()


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


def zeros(shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def ones(shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("name", "function", "shape"),
    [
        ("labels", lambda: js.cross_entropy(zeros((3, 4)), zeros((3, 5))), "(3, 5)"),
        (
            "class_weight",
            lambda: js.cross_entropy(zeros((3, 4)), zeros(3, int), class_weight=ones(3)),
            "(3,)",
        ),
        ("target_probs", lambda: js.kl_divergence(zeros((3, 4)), zeros(4)), "(4,)"),
        ("labels", lambda: js.binary_cross_entropy(zeros((3, 4)), zeros((3, 1))), "(3, 1)"),
        (
            "pos_weight",
            lambda: js.binary_cross_entropy(zeros(3), zeros(3), pos_weight=ones((2, 3))),
            "(2, 3)",
        ),
        ("sample_weight", lambda: js.weighted_mean(ones(3), ones((3, 1))), "(3, 1)"),
        ("temperature", lambda: js.softmax(ones((3, 4)), temperature=ones(4)), "(4,)"),
        ("sink", lambda: js.softmax(ones((3, 4)), sink=ones(4)), "(4,)"),
        ("hard", lambda: js.straight_through(ones(3), ones(4)), "(3,)"),
        ("labels", lambda: js.logit_stats(ones((3, 4)), zeros(4, int)), "(4,)"),
        ("weight", lambda: js.linear_logits(ones((3, 4)), ones((4, 3))), "(4, 3)"),
        (
            "labels",
            lambda: js.linear_logits(
                ones((3, 4)), ones((2, 4)), zeros((3, 1), int), margin=js.arcface()
            ),
            "(3, 1)",
        ),
        (
            "bias",
            lambda: js.linear_logits(ones((3, 4)), ones((2, 4)), bias=ones(1)),
            "(1,)",
        ),
        ("labels", lambda: js.top_k_accuracy(ones((3, 4)), zeros(2, int)), "(2,)"),
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
