"""Derivatives of second and third order inside of loops: the same as outside of them.

Reverse mode over a loop drops the `custom_jvp` rules of what stays in its body, and differentiates
values, and the rules themselves, as they are written. So the derivatives of what is written must be
right without any rule. The members of test_transformations.py are inside a scan there, against
finite differences; here are the other ones, and the other loops and orders.
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LOSSES, MAPS, STATS_LOSSES, STRAIGHT_THROUGH, over
from jax import lax
from members import LABELS, SOFT, Member, direction, in_scan, numbers, weighted_sum
from numpy.testing import assert_allclose

import jsoftmax as js

pytestmark = [pytest.mark.slow, pytest.mark.one_in(26)]

WEIGHT = np.array([[1, 0.5, -1], [0.25, -1, 1], [-1, 1, 0.5], [1.5, 0.75, 0.25], [-0.5, 0.5, 1]])
LISTS = np.array([[1, 4], [0, 0], [2, 3]], np.int32), np.array([[0.75, 0.25], [0.5, 0.5], [0.1, 1]])
KEEP = np.array([True, True, False, True, True])
MAP = {case.name: case for case in MAPS}
LOSS = {case.name: case for case in LOSSES}
STATS_LOSS = {case.name: case for case in STATS_LOSSES}


def like(array, z):
    return jnp.asarray(array).astype(z.dtype)


def listed(z):
    return js.SparseLabels(LISTS[0], like(LISTS[1], z))


def of_map(case, **options):
    return Member(case.name, lambda z: case.function(z, **case.options, **options))


def of_lists(case):
    return Member(f"{case.name}, lists", lambda z: case.function(z, listed(z), **case.options))


def of_distribution(case):
    return Member(f"{case.name}, soft", lambda z: case.function(z, like(SOFT, z), **case.options))


def of_stats(name, function):
    return Member(f"{name}, stats", lambda z: function(js.logit_stats(z, LABELS, where=KEEP)))


def hinge(stats):
    """Return a loss that reads every field, and is not linear in any."""
    return jnp.square(stats.runner_up - stats.target + 3) + stats.others * stats.mean


def linear(name, loss, *, lists=False, **options):
    def function(x):
        weight = like(WEIGHT, x) * (1 + x[0, 0] / 8)
        labels = listed(x) if lists else LABELS
        return jnp.atleast_1d(js.linear_loss(x, weight, labels, loss, **options))

    return Member(name, function, 3)


def distilled(name, divergence, **options):
    """Two heads of which all depends on x."""

    def function(x):
        weight = like(WEIGHT, x) * (1 + x[0, 0] / 8)
        teacher = jnp.sin(x), jnp.cos(weight)
        loss = js.linear_distillation_loss(
            *(x, weight, *teacher),
            temperature=2 + x[:, 0] / 4,
            divergence=divergence,
            beta=0.5 + x[0, 1] / 16,
            where=KEEP,
            **options,
        )
        return jnp.atleast_1d(loss)

    return Member(f"distillation, {name}", function, 3)


def straight_through(x):
    return js.linear_logits(x, like(WEIGHT, x), LABELS, margin=STRAIGHT_THROUGH) ** 2 / 16


def statistics(x):
    stats = js.linear_stats(x, like(WEIGHT, x), LABELS, class_block=2)
    return jnp.square(stats.target) + stats.others + stats.runner_up * stats.mean


BLOCKS = {
    "by rows": {"row_block": 2, "class_block": 2},
    "by classes": {"class_block": 2},
    "each": {"reduction": None, "class_block": 2},
    "each, by rows": {"reduction": None, "row_block": 2, "class_block": 2},
}
ARCFACE = js.arcface(scale=4.0)
MEMBERS = [
    of_map(MAP["sparsemax"]),
    of_map(MAP["sigsoftmax"]),
    of_map(MAP["softmax, sink"], where=KEEP),
    Member("entmax15, where", lambda z: js.entmax15(z, where=KEEP)),
    Member("entmax, alpha 3", lambda z: js.entmax(z, alpha=3.0, where=KEEP)),
    Member("entmax of alpha 1", lambda z: js.entmax(z, alpha=1 + z[:, :1] - z[:, :1])),
    of_distribution(LOSS["entmax15_loss"]),
    of_distribution(LOSS["entmax_loss"]),
    of_lists(LOSS["cross_entropy, everything"]),
    of_stats("nll, z_loss", partial(js.nll, z_loss=0.01)),
    of_stats("hinge", hinge),
    Member("perplexity", lambda z: js.perplexity(z, LABELS)[None]),
    Member("straight_through margin", straight_through, 3),
    *[linear(f"nll, {name}", js.nll, **blocks) for name, blocks in BLOCKS.items()],
    linear("hinge, by rows", hinge, margin=ARCFACE, **BLOCKS["by rows"]),
    linear("lists, each, by rows", js.focal, lists=True, **BLOCKS["each, by rows"]),
    Member("linear_stats", statistics, 3),
    distilled("forward", "forward", row_block=2),
    distilled("js", "js", row_block=2),
    distilled("reverse, each", "reverse", row_block=2, reduction=None),
]
ONE_OF_EACH = [
    of_map(MAP["softmax"]),
    of_map(MAP["entmax15"]),
    of_stats("hinge", hinge),
    linear("nll, by rows", js.nll, **BLOCKS["by rows"]),
]


def twice(function):
    """Return the sum at z and at another point, without a loop."""
    return lambda z: function(z) + function(0.875 * z)


def both(z):
    return jnp.stack([z, 0.875 * z])


def scan(function):
    return lambda z: jnp.sum(lax.scan(lambda _, z: (None, function(z)), None, both(z))[1])


def over_carry(loop):
    """Return a loop of two steps with z in its carry."""

    def made(function):
        def step(carry):
            z, total = carry
            return 0.875 * z, total + function(z)

        return lambda z: loop(step, (z, jnp.zeros((), z.dtype)))[1]

    return made


scan_carry = over_carry(
    lambda f, init: lax.scan(lambda c, _: (f(c), None), init, None, length=2)[0]
)
LOOPS = {
    "scan": scan,
    "scan, carry": scan_carry,
    "map": lambda function: lambda z: jnp.sum(lax.map(function, both(z))),
    "fori_loop": over_carry(lambda f, init: lax.fori_loop(0, 2, lambda _, c: f(c), init)),
    "remat of scan": lambda function: jax.checkpoint(scan_carry(function)),
    "scan of remat": lambda function: scan_carry(jax.checkpoint(function)),
}


def along(orders, function):
    """Return a derivative along a direction, reverse or forward at each order, outermost first."""

    def derivative(order, function):
        if order == "r":
            return jax.grad(function)
        return lambda t: jax.jvp(function, (t,), (jnp.ones_like(t),))[1]

    def found(z):
        def line(t):
            return function(z + t * direction(z))

        of = line
        for order in reversed(orders):
            of = derivative(order, of)
        return of(jnp.zeros((), z.dtype))

    return found


def hessian_times_vector(order, function):
    def found(z):
        v = direction(z)
        if order == "fr":
            return jax.jvp(jax.grad(function), (z,), (v,))[1]
        if order == "rf":
            return jax.grad(lambda z: jax.jvp(function, (z,), (v,))[1])(z)
        return jax.grad(lambda z: jnp.vdot(jax.grad(function)(z), v))(z)

    return found


def in_float64(run, *inputs):
    """Compile and run one program in float64."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(run)(*inputs))


def check(got, expected, name):
    size = max(np.abs(expected).max(), 1e-3)
    assert_allclose(got, expected, rtol=0, atol=1e-9 * size, err_msg=name)


@over(MEMBERS, "member")
def test_second_derivatives_in_a_scan(member):
    def run(z):
        def of(order, loop):
            return hessian_times_vector(order, loop(weighted_sum(member.function)))(z)

        return of("rr", in_scan), of("fr", lambda function: function)

    check(*in_float64(run, numbers(member)), member.name)


@pytest.mark.parametrize("member", ONE_OF_EACH, ids=[member.name for member in ONE_OF_EACH])
def test_second_derivatives_in_every_loop(member):
    def run(z):
        def of(order, loop):
            return hessian_times_vector(order, loop(weighted_sum(member.function)))(z)

        loops = {(order, "scan, carry"): scan_carry for order in ("fr", "rf")}
        loops |= {("rr", name): loop for name, loop in LOOPS.items()}
        return {k: of(k[0], loop) for k, loop in loops.items()}, of("fr", twice)

    found, expected = in_float64(run, numbers(member))
    for name, got in found.items():
        check(got, expected, str(name))


@pytest.mark.parametrize("blocks", ["by rows", "each, by rows"])
def test_slices_of_16_bits_have_derivatives(blocks):
    function = weighted_sum(linear("", js.nll, **BLOCKS[blocks]).function)
    z = jnp.asarray(numbers(Member("", None, 3)), jnp.bfloat16)

    @jax.jit
    def run(z):
        return [hessian_times_vector("rr", f)(z) for f in (in_scan(function), function)]

    got, expected = (np.asarray(found, np.float32) for found in run(z))
    assert_allclose(got, expected, rtol=0, atol=2**-5 * np.abs(expected).max())


@pytest.mark.parametrize("margin", [ARCFACE, js.l_softmax(4), js.angular_margin(1.35, 0.2)])
def test_features_along_a_class_vector(margin):
    weight, labels = jnp.array([[1.0, 0], [0, 1], [-1, 0]]), jnp.array([0, 0, 1])

    def function(x):
        logits = js.linear_logits(x, weight, labels, margin=margin)
        return jnp.sum(js.focal_loss(logits, labels))

    @jax.jit
    def run(x):
        return [hessian_times_vector("rr", f)(x) for f in (in_scan(function), function)]

    got, expected = run(jnp.array([[2.0, 0], [-3, 0], [0.3, 0.4]]))
    assert_allclose(got, expected, rtol=1e-4, atol=1e-3)


THIRD = [
    linear("nll, by classes", js.nll, class_block=2),
    linear("hinge, by rows", hinge, **BLOCKS["by rows"]),
    of_map(MAP["entmax15"]),
]


@pytest.mark.thorough
@pytest.mark.parametrize("member", THIRD, ids=[member.name for member in THIRD])
def test_third_derivatives(member):
    orders = ["".join(order) for order in product("rf", repeat=3)]

    def run(z):
        total = weighted_sum(member.function)
        found = {order: along(order, total)(z) for order in orders}
        return found | {f"{o} in a scan": along(o, in_scan(total))(z) for o in ("rrr", "rfr")}

    def second(z, step):
        return along("ff", weighted_sum(member.function))(z + step * direction(z))

    z, step = numbers(member), 1e-4
    found = in_float64(run, z)
    up, down = (in_float64(second, z, s) for s in (step, -step))
    assert_allclose(found["fff"], (up - down) / (2 * step), rtol=1e-5)
    for order, got in found.items():
        check(got, found["fff"], order)
