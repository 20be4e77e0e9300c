"""The matrix: every map, loss and margin x every transformation x dtype.

In float64 derivatives are compared with finite differences, up to the second order, forward and
reverse. In float32 and bfloat16 every transformation is compared with that float64 evaluation of
the same numbers.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import LOSSES, MAPS, MARGINS, STRAIGHT_THROUGH, over
from numpy.testing import assert_allclose

import jsoftmax as js


class Member(NamedTuple):
    name: str
    function: Any  # of one array [3, 5] or, for margins, features [3, 3]
    width: int = 5


ROWS = 3
LABELS = np.array([0, 4, 2], np.int32)
SOFT = np.array([[0.25, 0.5, 0.125, 0.125, 0], [0, 0, 0, 0, 1], [0.5, 0.25, 0, 0, 0.25]])
MIXED = 0.75 * SOFT + 0.05  # no zero, where a derivative to the labels may not be
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


def numbers(member):
    """Return `[3, width]` of which every number is exact in every dtype.

    They are multiples of 1/8: the seed is one for which no sparse map is at a kink.
    """
    normal = np.random.default_rng(10 + len(member.name)).normal(size=(ROWS, member.width))
    return np.round(normal * 16) / 8 + 1 / 16


def inputs(member, dtype):
    return jnp.asarray(numbers(member)).astype(dtype)


def direction(z):
    """Return a tangent whose numbers are exact in every dtype."""
    return ((jnp.arange(z.size) - z.size // 2) / 8).reshape(z.shape).astype(z.dtype)


def weighted_sum(function):
    """Return a scalar whose cotangents are not 1 and not equal, summed in float32 or wider."""

    def total(z):
        out = function(z)
        out = out.astype(jnp.float32) if out.dtype.itemsize < 4 else out
        return jnp.sum(out * (0.5 + jnp.arange(out.size) / 16).reshape(out.shape).astype(out.dtype))

    return total


def first_derivatives(function, z):
    return {
        "value": function(z),
        "grad": jax.grad(weighted_sum(function))(z),
        "jvp": jax.jvp(function, (z,), (direction(z),))[1],
    }


def second_derivatives(function, z):
    """Return them forward over reverse and reverse over reverse."""
    total, v = weighted_sum(function), direction(z)
    return {
        "hessian": jax.hessian(lambda z: total(z.reshape(v.shape)))(z.ravel()),
        "reverse over reverse": jax.grad(lambda z: jnp.vdot(jax.grad(total)(z), v))(z),
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


def total_of(value):
    """Return `weighted_sum` of a value."""
    return value.ravel() @ (0.5 + np.arange(value.size) / 16)


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


# --- hyper-parameters ---

CE = js.cross_entropy


def sce(h, z):
    return js.symmetric_cross_entropy(z, LABELS, alpha=h[0], beta=h[1], log_zero=h[2])


def of_labels(h, z):
    return CE(z, LABELS, label_smoothing=h[0], z_loss=h[1], class_weight=jnp.full(5, h[2]))


# name: (h, logits) -> array, and values of h; a tuple is of several numbers, traced together
HYPERPARAMETERS = {
    "softmax temperature": (lambda h, z: js.softmax(z, temperature=h), 0.7),
    "log_softmax temperature": (lambda h, z: js.log_softmax(z, temperature=h), 1.7),
    "sink and temperature": (
        lambda h, z: js.softmax(z, sink=h[0], temperature=h[1]),
        (0.3, 2.0),
    ),
    "log sink": (lambda h, z: js.log_softmax(z, sink=h), 0.3),
    "gumbel": (lambda h, z: js.gumbel_softmax(jax.random.key(1), z, temperature=h), 0.5),
    "range_limited": (lambda h, z: js.range_limited_softmax(z, num_samples=h), 50.0),
    "gaussian": (lambda h, z: js.gaussian_softmax(z, num_samples=h), 50.0),
    "log_gaussian": (lambda h, z: js.log_gaussian_softmax(z, num_samples=h), 50.0),
    "ev epsilon": (lambda h, z: js.ev_softmax(z, epsilon=h), 0.1),
    "scalable scale": (lambda h, z: js.scalable_softmax(z, scale=h), 0.43),
    "alpha of entmax": (lambda h, z: js.entmax(z, alpha=h), 1.3, 1.0, 2.0),
    "alpha of entmax_loss": (lambda h, z: js.entmax_loss(z, LABELS, alpha=h), 1.3),
    "alpha of entmax_loss, soft": (lambda h, z: js.entmax_loss(z, SOFT, alpha=h), 1.0),
    "t": (lambda h, z: js.tempered_softmax(z, t=h), 1.4),
    "t1 and t2": (lambda h, z: js.bi_tempered_loss(z, LABELS, t1=h[0], t2=h[1]), (0.8, 1.4)),
    "t1, soft": (lambda h, z: js.bi_tempered_loss(z, SOFT, t1=h, t2=1.0), 0.99),
    "soft_top_k temperature": (lambda h, z: js.soft_top_k(z, 2, temperature=h), 0.5),
    "distillation temperature": (
        lambda h, z: js.distillation_loss(z, 4 * SOFT, temperature=h),
        2.0,
    ),
    "beta of penalty": (lambda h, z: js.confidence_penalty_loss(z, LABELS, beta=h), 0.1),
    "labels of entmax15_loss": (
        lambda h, z: js.entmax15_loss(z, MIXED + h * (MIXED[::-1] - MIXED)),
        0.5,
    ),
    "labels of bi_tempered": (
        lambda h, z: js.bi_tempered_loss(z, MIXED * (1 + h), t1=0.8, t2=1.4),
        0.5,
    ),
    "temperature": (lambda h, z: CE(z, LABELS, temperature=h), 0.7),
    "temperature, soft": (lambda h, z: CE(z, SOFT, temperature=h), 0.7),
    "temperature and z_loss": (
        lambda h, z: CE(z, LABELS, temperature=h[0], z_loss=h[1]),
        (2.0, 0.1),
    ),
    "label_smoothing, z_loss and class_weight": (of_labels, (0.1, 0.01, 3.0)),
    "label_smoothing and z_loss, soft": (
        lambda h, z: CE(z, SOFT, label_smoothing=h[0], z_loss=h[1]),
        (0.1, 0.01),
    ),
    "gamma": (lambda h, z: js.focal_loss(z, LABELS, gamma=h), 2.0),
    "gamma, soft": (lambda h, z: js.focal_loss(z, SOFT, gamma=h), 0.5),
    "epsilon": (lambda h, z: js.poly_loss(z, LABELS, epsilon=h), 2.0),
    "q": (lambda h, z: js.generalized_cross_entropy(z, LABELS, q=h), 0.7, 1e-3),
    "alpha, beta and log_zero": (sce, (0.1, 1.0, -4.0)),
    "pos_weight": (lambda h, z: js.binary_cross_entropy(z, SOFT, pos_weight=h), 3.0),
    "labels": (lambda h, z: CE(z, SOFT * (1 + h)), 0.5),
}


def nudged(h, i, by):
    """Return the number, or the tuple with its i-th number, moved."""
    if not isinstance(h, tuple):
        return h + by
    return (*h[:i], h[i] + by, *h[i + 1 :])


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_traced_hyperparameters(name):
    function, *values = HYPERPARAMETERS[name]
    member, step, count = Member(name, None), 1e-5, np.size(values[0])
    with jax.enable_x64(True):
        z = inputs(member, "float64")

        @jax.jit
        def run(h):
            def of(h):
                return function(h, z)

            zero = jax.tree.map(jnp.zeros_like, h)
            moved = [jax.jvp(of, (h,), (nudged(zero, i, 1.0),))[1] for i in range(count)]
            known = [function(value, z) for value in values]  # the values are constants here
            return of(h), jax.grad(weighted_sum(of))(h), moved, known

        for which, value in enumerate(values):
            got, slopes, moved, known = jax.tree.map(np.asarray, run(value))
            assert_allclose(got, known[which], rtol=1e-11, atol=1e-12)
            for i, slope in enumerate(jax.tree.leaves(slopes)):
                up, down = (np.asarray(run(nudged(value, i, d))[0]) for d in (step, -step))
                change = (up - down) / (2 * step)
                scale = max(np.abs(change).max(), np.abs(got).max())
                assert_allclose(moved[i], change, rtol=0, atol=2e-7 * scale)
                assert_allclose(slope, total_of(moved[i]), rtol=1e-11, atol=1e-12)
    z32, ones = inputs(member, "float32"), jax.tree.map(lambda _: 1.0, values[0])
    assert jax.eval_shape(function, ones, z32).dtype == jnp.float32 or "labels" in name
