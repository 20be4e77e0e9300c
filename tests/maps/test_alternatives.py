"""The maps with a closed form: their Jacobians, and the logits that each is careful with."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import Case, over
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(16)

TAYLOR = Case("taylor", js.taylor_softmax, oracles.taylor_softmax)
TAYLOR_6 = Case("taylor 6", js.taylor_softmax, oracles.taylor_softmax, {"order": 6})
SPHERICAL = Case("spherical", js.spherical_softmax, oracles.spherical_softmax)
SIGSOFTMAX = Case("sigsoftmax", js.sigsoftmax, oracles.sigsoftmax)
EV = Case("ev", js.ev_softmax, oracles.ev_softmax)
EV_TRAINING = Case("ev, epsilon", js.ev_softmax, oracles.ev_softmax, {"epsilon": 1e-6})
SCALABLE = Case("scalable", js.scalable_softmax, oracles.scalable_softmax, {"scale": 0.43})
ALL = [TAYLOR, TAYLOR_6, SPHERICAL, SIGSOFTMAX, EV, EV_TRAINING, SCALABLE]

Z = np.array([0.7, -1.9, 2.1, -0.3, 1.2])
TAYLOR_SIXTH = np.polynomial.Polynomial([1, 1, 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720])
# Every Jacobian is (diag p - p p^T) diag(slope), the slope of the logarithm of what is normalised.
SLOPES = {
    "taylor": (1 + Z) / (1 + Z + Z**2 / 2),
    "taylor 6": TAYLOR_SIXTH.deriv()(Z) / TAYLOR_SIXTH(Z),
    "spherical": 2 / Z,
    "sigsoftmax": 2 - 1 / (1 + np.exp(-Z)),
    "ev": np.ones(5),
    "ev, epsilon": np.ones(5),
    "scalable": np.full(5, 0.43 * np.log(5)),
}


def with_jacobian(case, z, **options):
    """Return values and Jacobian, eager, so that a NaN in any single step is an error."""

    def function(z):
        return case.function(z, **case.options, **options)

    with jax.debug_nans(True):
        return np.asarray(function(z)), np.asarray(jax.jacobian(function)(z))


@over(ALL)
def test_closed_form_of_the_jacobian(case):
    with jax.enable_x64(True):
        got, jacobian = with_jacobian(case, jnp.asarray(Z))
    p = case.oracle(Z, **case.options)
    assert_allclose(got, p, rtol=1e-14)
    expected = (np.diag(p) - np.outer(p, p)) * SLOPES[case.name]
    assert_allclose(jacobian, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("how", ["-inf", "where"])
@over(ALL)
def test_masked_classes(case, how):
    on = np.array([[True, False, True, True, False], [False] * 4 + [True], [False] * 5])
    z = jnp.asarray(Z, jnp.float32)
    off = jnp.where(on, z, -jnp.inf if how == "-inf" else 1e30)
    got, jacobian = with_jacobian(case, off, **({} if how == "-inf" else {"where": on}))
    for row in range(2):
        expected = case.oracle(z, where=on[row], **case.options)
        assert_allclose(got[row], expected, rtol=2e-6)
    assert_array_equal(got[2], 0)
    assert_array_equal(jacobian[:, :, ~on], 0)
    assert_array_equal(jacobian[~on], 0)
    assert np.all(np.isfinite(jacobian))


@over(ALL)
def test_nan_and_infinity_are_nan_unless_masked(case):
    logits = jnp.array([[0.0, 1.0, np.nan], [0.0, 1.0, np.inf], [0.0, 1.0, 2.0]])
    got = case.function(logits, **case.options)
    assert_array_equal(np.isnan(got), [[True] * 3, [True] * 3, [False] * 3])

    def masked(z):
        return case.function(z, where=np.arange(3) < 2, **case.options)

    assert np.all(np.isfinite(masked(logits)))
    assert np.all(np.isfinite(jax.jacobian(masked)(logits)))


@over(ALL)
def test_logits_of_any_size(case):
    sizes = np.array([[1e-30], [1e5], [1e30]])
    logits = jnp.asarray(np.array([1.0, -2.0, 0.5, 0.0]) * sizes, jnp.float32)
    got, jacobian = with_jacobian(case, logits)
    assert_allclose(got, case.oracle(logits, **case.options), rtol=2e-6, atol=1e-37)
    assert np.all(np.isfinite(jacobian))


@over([EV, EV_TRAINING, SCALABLE])
def test_maps_of_differences_do_not_see_an_offset(case):
    z = jnp.array([0.25, 1.5, -3.0, 1.5, 0.75])  # exact beside the offset
    expected, expected_jacobian = with_jacobian(case, z)
    got, jacobian = with_jacobian(case, z + 1e6)
    assert_array_equal(got, expected)
    assert_array_equal(jacobian, expected_jacobian)


# --- each on its own ---


@pytest.mark.parametrize("order", [-2, 0, 1, 3])
def test_taylor_of_odd_order(order):
    with pytest.raises(ValueError, match=f"`order`: expected an .*, got {order}"):
        js.taylor_softmax(jnp.zeros(3), order=order)


@pytest.mark.parametrize(("order", "rtol"), [(2, 1e-6), (4, 2e-6), (10, 3e-5), (40, 1e-5)])
def test_taylor_of_high_order(order, rtol):
    # Order 40 for positive logits only, whose terms do not cancel; 40! is no float32 number.
    z = np.linspace(0 if order == 40 else -60, 60, 481)[:, None]
    logits = jnp.asarray(np.append(z, 0.1 * z, -1), jnp.float32)
    got = jax.jit(lambda z: js.taylor_softmax(z, order=order))(logits)
    assert_allclose(got, oracles.taylor_softmax(logits, order=order), rtol=rtol)


def test_taylor_prefers_the_smaller_logit_below_minus_one():
    p = js.taylor_softmax(jnp.array([-1.0, -3.0]))
    assert_allclose(p, [0.5 / 3, 2.5 / 3], rtol=1e-6)


def test_spherical_of_zeros():
    got, jacobian = with_jacobian(SPHERICAL, jnp.zeros(5), where=np.arange(5) < 4)
    assert_array_equal(got, [0.25] * 4 + [0])
    assert_array_equal(jacobian, np.zeros((5, 5)))


@pytest.mark.parametrize("offset", [0.0, 1e6, -0.1, 1e30])
def test_ev_of_equal_logits_keeps_all(offset):
    assert_array_equal(js.ev_softmax(jnp.full(5, offset)), np.full(5, 0.2, np.float32))


def test_ev_epsilon():
    z = jnp.array([0.4, 1.4, -0.8])
    weight = np.exp(np.array([0.4, 1.4, -0.8])) * [1.25, 1.25, 0.25]
    assert_allclose(js.ev_softmax(z, epsilon=0.25), weight / weight.sum(), rtol=1e-6)
    # A loss of a class below the mean is finite with it, and so is its gradient; per example, too.
    epsilon = jnp.array([[1e-6], [0.0]])
    log_p = jnp.log(js.ev_softmax(jnp.stack([z, z]), epsilon=epsilon))
    assert_array_equal(np.isfinite(log_p), [[True] * 3, [True, True, False]])
    assert np.all(np.isfinite(jax.grad(lambda z: jnp.log(js.ev_softmax(z, epsilon=1e-6))[2])(z)))
    # The derivative in epsilon is there at 0: where a class comes in.
    rate = jax.jacobian(lambda e: js.ev_softmax(z, epsilon=e))(0.0)
    p = np.exp(z) / np.exp(z[:2]).sum()
    assert_allclose(rate, [-p[0] * p[2], -p[1] * p[2], p[2]], rtol=1e-5)


def test_scalable_counts_the_classes_that_are_on():
    z = jnp.array([[0.5, 1.0, -1.0, 3.0], [0.5, 1.0, -1.0, -jnp.inf], [2.0] + [-jnp.inf] * 3])
    scale = jnp.array([[0.43], [1.0], [2.0]])
    got = js.scalable_softmax(z, scale=scale, where=np.arange(4) != 2)
    for row, n, s in zip(range(2), (3, 2), (0.43, 1.0), strict=True):
        power = np.exp(s * np.log(n) * np.array(z[row])) * (np.arange(4) != 2)
        assert_allclose(got[row], power / power.sum(), rtol=1e-6)
    assert_array_equal(got[2], [1, 0, 0, 0])
    assert_allclose(js.scalable_softmax(z[0], scale=0.0), np.full(4, 0.25))


@pytest.mark.parametrize(
    ("name", "function"),
    [("epsilon", js.ev_softmax), ("scale", js.scalable_softmax)],
)
def test_bad_hyperparameters(name, function):
    with pytest.raises(ValueError, match=f"`{name}`: expected >= 0, got -1"):
        function(jnp.zeros((2, 3)), **{name: -1.0})
    with pytest.raises(AssertionError, match=rf"`{name}`: .*got \(3,\)"):
        function(jnp.zeros((2, 3)), **{name: jnp.ones(3)})
