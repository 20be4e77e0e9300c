"""Values of every map and loss against float64 oracles, in every dtype, axis and mask."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import (
    CLASSES_AND_DTYPES,
    FLOAT16_STEP,
    FORMULAS,
    GUMBEL,
    LOSSES,
    MAPS,
    RTOL,
    SPARSE,
    STATS_LOSSES,
    all_of,
    distributions,
    hard_logits,
    labels_for,
    on_kept,
    some_mask,
)
from numpy.testing import assert_allclose

import jsoftmax as js

pytestmark = [pytest.mark.optimised, pytest.mark.one_in(5)]

CLASSES_DTYPES = pytest.mark.parametrize(("classes", "dtype"), CLASSES_AND_DTYPES)


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
