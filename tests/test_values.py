"""Values against float64 oracles, in every dtype, and against numbers known from elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from cases import (
    CLASSES,
    CLASSES_AND_DTYPES,
    FLOAT16_STEP,
    FORMULAS,
    GUMBEL,
    KEY,
    LOSSES,
    MAPS,
    RTOL,
    SPARSE,
    STATS_LOSSES,
    distributions,
    hard_logits,
    labels_for,
    on_kept,
    over,
    some_mask,
)
from numpy.testing import assert_allclose

import jsoftmax as js

CLASSES_DTYPES = pytest.mark.parametrize(("classes", "dtype"), CLASSES_AND_DTYPES)
ALL_CLASSES = pytest.mark.parametrize("classes", CLASSES)


def all_of(cases, call, logits):
    """Return (case, result) for each of the cases, which are compiled as one program."""
    results = jax.jit(lambda z: [call(case, z) for case in cases])(logits)
    return zip(cases, results, strict=True)


def map_tolerance(case, dtype, expected):
    """Return (rtol, atol): a logarithm near 0 and a sum's logarithm are only good absolutely."""
    rtol = RTOL[dtype]
    size = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
    exponents = 50 if "cold" in case.name else 4  # exp(x) is as good as |x| eps
    if dtype in ("float32", "int32", "float64"):
        rtol = rtol * exponents
    # A sparse probability is a difference of logits, and so as good as they are.
    differs = case.name.startswith("log") or case.name in SPARSE
    return rtol, (RTOL["float64" if dtype == "float64" else "float32"] * size if differs else 0)


@CLASSES_DTYPES
def test_maps_match_oracles_in_every_dtype(classes, dtype):
    with jax.enable_x64(dtype == "float64"):
        logits = hard_logits(classes, dtype)
        for case, got in all_of(MAPS, lambda case, z: case.function(z, **case.options), logits):
            expected = case.oracle(logits, **case.options)
            assert got.dtype == ("float32" if dtype == "int32" else dtype), case.name
            rtol, atol = map_tolerance(case, dtype, expected)
            atol = max(atol, FLOAT16_STEP if dtype == "float16" else 1e-37)
            assert_allclose(oracles.float64(got), expected, rtol=rtol, atol=atol, err_msg=case.name)


def test_maps_along_another_axis_with_a_mask():
    rng = np.random.default_rng(1)
    logits = np.float32(rng.normal(size=(4, 3, 5)) * 3)
    where = rng.random((4, 3, 5)) < 0.6
    where[:, 1] = True

    def call(case, z):
        return case.function(z, -2, where=where, **case.options)

    for case, got in all_of([*MAPS, *GUMBEL], call, logits):
        expected = case.oracle(logits, -2, where=where, **case.options)
        assert_allclose(oracles.float64(got), expected, rtol=2e-5, atol=1e-6, err_msg=case.name)


def test_maps_over_several_axes():
    logits = np.float32(np.random.default_rng(3).normal(size=(4, 3, 5)) * 3)
    flat = np.moveaxis(logits, 1, 0).reshape(3, 20)
    cases = [c for c in MAPS if "num_samples" not in c.options and c.name != "hardmax"]
    for case, got in all_of(cases, lambda c, z: c.function(z, (0, 2), **c.options), logits):
        expected = case.oracle(flat, **case.options)
        if expected.ndim == 2:
            expected = np.moveaxis(expected.reshape(3, 4, 5), 0, 1)
        assert_allclose(got, expected, rtol=1e-5, atol=1e-6, err_msg=case.name)


def test_mask_broadcasts_and_temperature_and_sink_may_differ_by_example():
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


def loss_tolerance(case, expected):
    """Return (rtol, atol) for float32: smoothing and z-loss add terms that can cancel the first."""
    combined = {"label_smoothing", "z_loss", "epsilon"} & set(case.options)
    combined |= {case.name} & {"confidence penalty"}
    return 5e-6, 2e-6 * np.abs(expected).max() if combined else 1e-37


@CLASSES_DTYPES
def test_losses_match_oracles_in_every_dtype(classes, dtype):
    labels = labels_for(classes)
    q = oracles.one_hot(labels, classes)
    # Options are numbers, whatever the dtype of the logits.
    cases = LOSSES if dtype == "float32" else FORMULAS
    with jax.enable_x64(dtype == "float64"):
        logits = hard_logits(classes, dtype)
        for case, got in all_of(cases, lambda c, z: c.function(z, labels, **c.options), logits):
            assert got.dtype == ("float64" if dtype == "float64" else "float32"), case.name
            expected = case.oracle(logits, q, **case.options)
            rtol, atol = loss_tolerance(case, expected)
            if dtype == "float64":
                rtol, atol = rtol * 1e-7, atol * 1e-7
            if case.name == "focal, gamma 0.5" or case.name == "focal":
                rtol *= 10  # an exponential of up to 50
            assert_allclose(np.asarray(got), expected, rtol=rtol, atol=atol, err_msg=case.name)


@pytest.mark.parametrize("classes", [3, 1000])
def test_losses_of_distributions_with_a_mask(classes):
    logits, q, where = hard_logits(classes), distributions(classes), some_mask(classes)
    q = on_kept(q, where)

    def call(case, z):
        return case.function(z, q, where=where, **case.options)

    for case, got in all_of(LOSSES, call, logits):
        expected = case.oracle(logits, q, where=where, **case.options)
        rtol, atol = loss_tolerance(case, expected)
        assert_allclose(got, expected, rtol=10 * rtol, atol=max(atol, 1e-37), err_msg=case.name)


@pytest.mark.parametrize(("axis", "soft"), [(0, False), (-2, True)])
def test_losses_along_any_axis_with_a_mask(axis, soft):
    rng = np.random.default_rng(1)
    logits = np.float32(rng.normal(size=(2, 4, 5)) * 3)
    where = np.arange(5) != 1
    labels = np.array([[0, 4, 2, 3], [4, 4, 0, 2]])
    q = on_kept(oracles.softmax(rng.normal(size=(2, 4, 5))).astype("float32"), where)
    labels_in = np.moveaxis(q, -1, axis) if soft else labels
    where_in = np.moveaxis(np.broadcast_to(where, (2, 4, 5)), -1, axis)
    target = q if soft else oracles.one_hot(labels, 5)

    def call(case, z):
        return case.function(z, labels_in, axis=axis, where=where_in, **case.options)

    for case, got in all_of(FORMULAS, call, np.moveaxis(logits, -1, axis)):
        expected = case.oracle(logits, target, where=where, **case.options)
        assert_allclose(got, expected, rtol=1e-5, atol=1e-6, err_msg=case.name)


@pytest.mark.parametrize("classes", [1, 3, 1000])
def test_losses_of_stats(classes):
    # Logits around 0: absolute stats of far logits can not keep all digits of a small loss.
    logits, labels = hard_logits(classes)[:6], labels_for(classes)[:6]

    def call(case, z):
        return case.function(js.logit_stats(z, labels), **case.options)

    for case, got in all_of(STATS_LOSSES, call, logits):
        expected = case.oracle(logits, oracles.one_hot(labels, classes), **case.options)
        atol = loss_tolerance(case, expected)[1]
        assert_allclose(got, expected, rtol=3e-5, atol=atol, err_msg=case.name)


@ALL_CLASSES
def test_logit_stats_fields(classes):
    logits, labels, where = hard_logits(classes), labels_for(classes), some_mask(classes)
    stats = js.logit_stats(logits, labels, where=where)
    z = oracles.switched_off(logits, where)
    true = oracles.one_hot(labels, classes).astype(bool)
    rest = np.where(true, -np.inf, z)
    assert_allclose(stats.target, z[true], rtol=0)
    assert_allclose(stats.runner_up, rest.max(-1), rtol=0)
    assert_allclose(stats.mean, np.nanmean(np.where(where, z, np.nan), -1), rtol=2e-6, atol=1e-6)
    assert_allclose(stats.others, np.logaddexp.reduce(rest, -1), rtol=2e-6, atol=1e-6)
    assert_allclose(stats.logsumexp, np.logaddexp.reduce(z, -1), rtol=2e-6, atol=1e-6)
    p = oracles.softmax(logits, where=where)[true]
    assert_allclose(stats.prob, p, rtol=6e-5, atol=1e-37)
    assert np.array_equal(stats.correct, z[true] > rest.max(-1))


@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_agrees_with_optax(soft):
    logits, labels, q = hard_logits(10), labels_for(10), distributions(10)
    if soft:
        expected = optax.softmax_cross_entropy(logits, q)
    else:
        expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    # optax is right to one rounding of its logsumexp, which is up to 300 here.
    assert_allclose(js.cross_entropy(logits, q if soft else labels), expected, atol=6e-5)


@pytest.mark.parametrize("classes", [1, 2, 3, 10])
def test_kl_divergence(classes):
    logits, q, where = hard_logits(classes), distributions(classes), some_mask(classes)
    kept = jnp.where(where, q, 0)
    masked = kept / jnp.sum(kept, -1, keepdims=True).clip(1e-9)
    for mask in (None, where):
        target = q if mask is None else masked
        expected = oracles.kl_divergence(logits, target, where=mask)
        got = jax.jit(js.kl_divergence)(logits, target, where=mask)
        # The terms of KL have both signs: it is as good as the largest of them.
        size = np.abs(oracles.cross_entropy(logits, target, where=mask)).max()
        assert_allclose(got, expected, rtol=2e-6, atol=2e-6 * max(size, 1))
    assert_allclose(js.kl_divergence(jnp.log(q[3:]), q[3:]), np.zeros(5), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pos_weight", [None, 3.0])
def test_binary_cross_entropy(pos_weight, dtype):
    logits = jnp.linspace(-90, 90, 181).astype(dtype)
    options = {} if pos_weight is None else {"pos_weight": pos_weight}
    for labels in (jnp.arange(181) % 2, jnp.arange(181) % 2 == 1, jnp.linspace(0, 1, 181)):
        got = jax.jit(js.binary_cross_entropy)(logits, labels, **options)
        expected = oracles.binary_cross_entropy(logits, labels, **options)
        assert got.dtype == jnp.float32
        assert_allclose(got, expected, rtol=2e-6, atol=1e-37)
    optaxs = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), jnp.linspace(0, 1, 181))
    assert_allclose(js.binary_cross_entropy(logits, jnp.linspace(0, 1, 181)), optaxs, rtol=1e-5)


# --- numbers known from elsewhere ---


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


@pytest.mark.parametrize("n", [50, 1e4, 1e6])
def test_gaussian_softmax_of_eleven_classes(n):
    logits = jnp.array([-jnp.inf] + [0.0] * 10)  # softmax: 0 and ten times 0.1
    expected = 1 / (1 + 10 * (n - 1) ** 0.1)
    assert_allclose(js.gaussian_softmax(logits, num_samples=n)[0], expected, rtol=2e-6)
    got = js.log_gaussian_softmax(logits, num_samples=n)[0]
    assert_allclose(got, np.log(expected), rtol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 50, 1e6])
def test_two_classes_of_the_sample_limited_maps(n):
    z = np.array([-30.0, -2.0, -0.001, 0.0, 1.0, 7.0, 30.0], np.float32)
    logits = jnp.stack([jnp.asarray(z), jnp.zeros(7)], -1)
    s = 1 / (1 + np.exp(-z.astype(np.float64)))
    limited = js.range_limited_softmax(logits, num_samples=n)[:, 0]
    assert_allclose(limited, 1 / n + (1 - 2 / n) * s, rtol=2e-6)
    gaussian = js.gaussian_softmax(logits, num_samples=n)[:, 0]
    assert_allclose(gaussian, 1 / (1 + (n - 1) ** (1 - 2 * s)), rtol=6e-6)


@over([case for case in MAPS if "num_samples" in case.options])
def test_num_samples_below_two_and_traced(case):
    logits = jnp.array([0.3, -0.2])
    with pytest.raises(ValueError, match="num_samples"):
        case.function(logits, num_samples=1.9)

    def first(n):
        return case.function(logits, num_samples=n)[0]

    assert_allclose(jax.jit(first)(50.0), case.oracle(logits, num_samples=50)[0], rtol=1e-6)
    assert np.isnan(jax.jit(first)(1.9))
    high, low = (case.oracle(logits, num_samples=50 + h)[0] for h in (1e-3, -1e-3))
    assert_allclose(jax.grad(first)(50.0), (high - low) / 2e-3, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32"])
def test_gumbel_softmax_in_other_dtypes(dtype):
    logits = hard_logits(3, dtype)
    rtol = max(RTOL[dtype], 2e-5)
    for case, got in all_of(GUMBEL, lambda c, z: c.function(z, **c.options), logits):
        assert got.dtype == ("float32" if dtype == "int32" else dtype)
        expected = case.oracle(logits, **case.options)
        assert_allclose(oracles.float64(got), expected, rtol=rtol, atol=FLOAT16_STEP)


def test_gumbel_samples_have_the_frequencies_of_softmax():
    logits = jnp.array([0.0, 1.0, 2.0, -1.0])
    samples = js.gumbel_softmax(KEY, jnp.broadcast_to(logits, (20_000, 4)), hard=True)
    p = oracles.softmax(logits)
    assert_allclose(samples.mean(0), p, atol=4 * np.sqrt(p * (1 - p) / 20_000).max())


def test_straight_through_keeps_the_bits_of_hard():
    hard, soft = jnp.float32([1 / 3, 1e-9]), jnp.float32([1e6, 0.1])
    assert np.array_equal(js.straight_through(hard, soft), hard)
    hard_bar, soft_bar = jax.grad(lambda h, s: js.straight_through(h, s) @ hard, (0, 1))(hard, soft)
    assert np.array_equal(hard_bar, [0, 0])
    assert np.array_equal(soft_bar, hard)
