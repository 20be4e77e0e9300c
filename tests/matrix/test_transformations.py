"""The matrix: every map, loss and margin x every transformation x dtype.

In float64 derivatives are compared with finite differences, up to the second order, forward and
reverse. In float32 and bfloat16 every transformation is compared with that float64 evaluation of
the same numbers.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import LOSSES, MAPS, MARGINS, STRAIGHT_THROUGH, over
from members import (
    LABELS,
    SOFT,
    Member,
    direction,
    in_scan,
    inputs,
    numbers,
    total_of,
    weighted_sum,
)
from numpy.testing import assert_allclose

import jsoftmax as js

pytestmark = [pytest.mark.slow, pytest.mark.one_in(26)]

WEIGHT = np.array([[1, 0.5, -1], [0.25, -1, 1], [-1, 1, 0.5], [1.5, 0.75, 0.25], [-0.5, 0.5, 1]])


def margin_loss(margin):
    def function(features):
        weight = jnp.asarray(WEIGHT).astype(features.dtype)
        labels = LABELS[: len(features)]
        return js.cross_entropy(js.linear_logits(features, weight, labels, margin=margin), labels)

    return function


def loss_of_labels(case):
    return lambda z: case.function(z, LABELS[: len(z)], **case.options)


def loss_of_distribution(case):
    return lambda z: case.function(z, jnp.asarray(SOFT[: len(z)]).astype(z.dtype), **case.options)


def of_distribution(loss):
    return lambda z: loss(z, jnp.asarray(SOFT[: len(z)]).astype(z.dtype))


# Members that differ in their options only are left to the other files: compiling is what costs.
KEPT = (
    *(
        "cross_entropy",
        "cross_entropy, everything",
        "focal",
        "gce",
        "gce, q 0",
        "sce",
        "brier",
        "confidence penalty",
        "entmax15_loss",
        "entmax_loss",
        "bi_tempered",
    ),
    *("a_softmax", "arcface", "angular_margin 1.35"),
)
# Made of other maps, or with the rule of another.
LIKE_OTHERS = (
    *("softmax, hot", "log_softmax, cold", "gaussian_softmax", "scalable_softmax", "sigsoftmax"),
    *("spherical_softmax", "ev_softmax", "sparsemax", "tempered_softmax"),
)
EXPECTED_LOSSES = ("cross_entropy, everything", "focal", "sparsemax_loss")
MEMBERS = [
    *[
        Member(c.name, lambda z, c=c: c.function(z, **c.options))
        for c in MAPS
        if c.name not in LIKE_OTHERS
    ],
    *[Member(c.name, loss_of_labels(c)) for c in LOSSES if c.name in KEPT],
    *[
        Member(f"{c.name}, soft", loss_of_distribution(c))
        for c in LOSSES
        if c.name in EXPECTED_LOSSES
    ],
    Member("kl_divergence", of_distribution(js.kl_divergence)),
    Member("js_divergence", of_distribution(js.js_divergence)),
    Member("distillation", of_distribution(lambda z, q: js.distillation_loss(z, 4 * q))),
    Member("binary_cross_entropy", of_distribution(js.binary_cross_entropy)),
    *[Member(c.name, margin_loss(c.function), 3) for c in MARGINS if c.name in KEPT],
]
# Their derivative is not that of their value, by definition.
ESTIMATORS = [
    Member("straight_through margin", margin_loss(STRAIGHT_THROUGH), 3),
    Member("straight_through", lambda z: js.straight_through(js.hardmax(z), js.softmax(z))),
    Member("gumbel_softmax", lambda z: js.gumbel_softmax(jax.random.key(0), z)),
]


def first_derivatives(function, z):
    return {
        "value": function(z),
        "grad": jax.grad(weighted_sum(function))(z),
        "jvp": jax.jvp(function, (z,), (direction(z),))[1],
    }


def second_derivatives(function, z):
    """Return them forward over reverse, and reverse over reverse, also inside a scan."""
    total, v = weighted_sum(function), direction(z)

    def reverse_over_reverse(total):
        return jax.grad(lambda z: jnp.vdot(jax.grad(total)(z), v))(z)

    return {
        "hessian": jax.hessian(lambda z: total(z.reshape(v.shape)))(z.ravel()),
        "reverse over reverse": reverse_over_reverse(total),
        "in a scan": reverse_over_reverse(in_scan(total)),
    }


def forward_over_reverse(function, z):
    return {
        "forward over reverse": jax.jvp(jax.grad(weighted_sum(function)), (z,), (direction(z),))[1]
    }


def derivatives(function, z):
    return first_derivatives(function, z) | second_derivatives(function, z)


def batches_and_loops(function, z):
    """Return what vmap, and remat inside of scan, make of the same numbers."""
    total = weighted_sum(function)
    stacked = jnp.stack([z, z[::-1]])
    of_remat = jax.value_and_grad(jax.checkpoint(total))
    _, (totals, grads) = jax.lax.scan(lambda _, z: (0, of_remat(z)), 0, stacked)
    values, vmapped = jax.vmap(lambda z: (function(z), jax.grad(total)(z)))(stacked)
    return {
        "vmap": values[0],
        "vmap of grad": vmapped[0],
        "scan of remat": totals[0],
        "scan of grad of remat": grads[0],
    }


@cache
def in_float64(member):
    """Return the derivatives in float64 as a function of the input, compiled once."""
    run = jax.jit(lambda z: derivatives(member.function, z))

    def found(z):
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, run(z))

    return found


@cache
def reference(member):
    """Return the derivatives in float64 at the input, and the weighted sum."""
    found = in_float64(member)(numbers(member))
    return found | {"total": total_of(found["value"])}


@over(MEMBERS, "member")
def test_derivatives_against_finite_differences(member):
    step, got = 1e-5, reference(member)
    z, run = numbers(member), in_float64(member)
    columns = []
    for d in step * np.eye(z.size).reshape(z.size, *z.shape):
        up, down = run(z + d), run(z - d)
        change = {k: (up[k] - down[k]) / (2 * step) for k in ("value", "grad")}
        columns.append((total_of(change["value"]), change["grad"], change["value"]))
    grad = np.array([column[0] for column in columns]).reshape(z.shape)
    hessian = np.array([column[1] for column in columns]).reshape(z.size, z.size)
    v = oracles.float64(direction(inputs(member, "float32")))
    jvp = sum(column[2] * x for column, x in zip(columns, v.ravel(), strict=True))
    expected = {
        "grad": grad,
        "jvp": jvp,
        "hessian": hessian,
        "reverse over reverse": (hessian @ v.ravel()).reshape(z.shape),
        "in a scan": (hessian @ v.ravel()).reshape(z.shape),
    }
    for name, value in expected.items():
        # Central differences: step² times the third derivative, and 1e-16 / step of rounding.
        size = max(np.abs(value).max(), np.abs(got["value"]).max(), 1)
        assert_allclose(got[name], value, rtol=0, atol=1e-6 * size, err_msg=name)
    assert_allclose(got["hessian"], got["hessian"].T, atol=1e-12 * np.abs(hessian).max())


# One of every derivative rule, since that is what transformations could break.
RULES = (
    *("softmax", "log_softmax, sink", "logsumexp", "taylor_softmax", "entmax15", "entmax"),
    *("soft_top_k", "cross_entropy", "cross_entropy, everything, soft", "gce", "brier"),
    *("entmax_loss", "bi_tempered", "js_divergence", "distillation", "arcface"),
    "straight_through",
)
IN_BFLOAT16 = ("softmax", "entmax", "soft_top_k", "cross_entropy", "gce", "brier", "arcface")
DTYPES = [
    (member, dtype)
    for dtype, names in (("float32", RULES), ("bfloat16", IN_BFLOAT16))
    for member in [*MEMBERS, *ESTIMATORS]
    if member.name in names
]


@pytest.mark.parametrize(("member", "dtype"), DTYPES, ids=[f"{m.name}-{d}" for m, d in DTYPES])
def test_transformations_against_float64(member, dtype):
    z = inputs(member, dtype)
    expected = dict(reference(member))
    expected |= dict.fromkeys(("vmap of grad", "scan of grad of remat"), expected["grad"])
    expected |= {"vmap": expected["value"], "scan of remat": expected["total"]}
    # In float32 second derivatives are taken one way; the ways are compared in float64.
    expected["forward over reverse"] = expected["reverse over reverse"]
    parts = [first_derivatives]
    if dtype == "float32":
        parts += [forward_over_reverse, batches_and_loops]

    def all_parts(z):
        return {k: v for part in parts for k, v in part(member.function, z).items()}

    got = jax.jit(all_parts)(z)
    assert got["grad"].dtype == dtype
    for name, value in got.items():
        # Second derivatives are differences of terms of the size of the first.
        size = np.abs(expected[name]).max()
        if name == "forward over reverse":
            size = max(size, np.abs(expected["grad"]).max())
        bound = {"float32": 2e-5, "bfloat16": 2**-6}[dtype] * max(size, 1e-2)
        assert_allclose(oracles.float64(value), expected[name], rtol=0, atol=bound, err_msg=name)


@over(ESTIMATORS[1:], "member")
def test_estimators_under_transformations(member):
    z = inputs(member, "float32")
    eager = jax.grad(weighted_sum(member.function))(z)
    assert_allclose(
        jax.jit(jax.grad(weighted_sum(member.function)))(z), eager, rtol=2e-5, atol=1e-6
    )
    assert np.abs(eager).max() > 1e-3
