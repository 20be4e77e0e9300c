"""Two linear heads against the definitions of the divergences on logits that are held, in float64.

The numbers of the inputs are exact in every dtype, and so are their products.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close, head
from jax import lax
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(19)

N, C = 6, 7
STUDENT, TEACHER = (head(seed=i, examples=N, size=i + 2, classes=C)[:2] for i in (1, 2))
KEEP = np.array([True, True, False, True, True, False, True])
BIAS = np.linspace(-1, 1, C, dtype=np.float32)
FACTORS = np.arange(1, N + 1, dtype=np.float32) / 4  # different cotangents of the examples
DIVERGENCES = ("forward", "reverse", "js")
over_divergences = pytest.mark.parametrize("divergence", DIVERGENCES)
BLOCKS = {"one": {}, "rows": {"row_block": 4}, "classes": {"class_block": 3}}

# Arrays that get gradients, beside features and weights.
OPTIONS = {
    "plain": {},
    "temperature": {"temperature": np.float32(2), "beta": np.float32(0.25)},
    "by example": {"temperature": 1 + FACTORS, "beta": FACTORS / 2},
    "bias": {"student_bias": BIAS, "teacher_bias": BIAS[::-1] / 2},
    "cap": {"student_softcap": np.float32(1.5), "teacher_softcap": np.float32(2)},
    "weights": {"sample_weight": FACTORS - 0.5},
    "everything": {
        "temperature": 1 + FACTORS,
        "beta": np.float32(0.75),
        "student_bias": BIAS,
        "teacher_bias": BIAS[::-1] / 2,
        "student_softcap": np.float32(1.5),
        "teacher_softcap": np.float32(2),
        "sample_weight": np.maximum(FACTORS - 0.5, 0),
        "where": KEEP,
    },
}


def divergence_of(z, t, divergence, beta=0.5):
    """Return the divergences of logits `[..., classes]` by definition."""
    p, q = (jax.nn.softmax(x) for x in (z, t))
    m = jnp.expand_dims(beta, -1) * q + (1 - jnp.expand_dims(beta, -1)) * p

    def kl(r, s):
        on = r > 0
        ratio = jnp.where(on, r, 1) / jnp.where(on, s, 1)
        return jnp.sum(r * jnp.log(ratio), -1)

    if divergence == "js":
        return beta * kl(q, m) + (1 - beta) * kl(p, m)
    return kl(q, p) if divergence == "forward" else kl(p, q)


def held(x, w, y, v, *, divergence, temperature=1.0, beta=0.5, reduction="mean", **options):
    """Return the loss of logits that are held, by definition."""
    weights = options.get("sample_weight", jnp.ones(x.shape[:-1], x.dtype))
    logits = []
    for features, weight, whose in ((x, w, "student"), (y, v, "teacher")):
        z = features @ weight.T
        bias, cap = options.get(f"{whose}_bias"), options.get(f"{whose}_softcap")
        z = z if bias is None else z + bias
        z = z if cap is None else cap * jnp.tanh(z / cap)
        z = z / jnp.expand_dims(temperature, -1)
        logits.append(jnp.where(options["where"], z, -jnp.inf) if "where" in options else z)
    temperature = jnp.asarray(temperature)
    losses = weights * temperature**2 * divergence_of(*logits, divergence, jnp.asarray(beta))
    if reduction is None:
        return losses
    return jnp.sum(losses) / (jnp.sum(weights) if reduction == "mean" else 1)


def total(function, moving, **options):
    """Return a scalar of whatever the function returns."""
    *given, numbers = moving
    out = function(*given, **numbers, **options)
    return jnp.sum(out * FACTORS.astype(out.dtype)) if out.ndim else out


def in_float64(function, *arrays):
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x if x.dtype == bool else np.asarray(x, np.float64), arrays)
        return jax.tree.map(np.asarray, jax.jit(function)(*wide))


def given(name, dtype=np.float32):
    """Return what is differentiated, and the other options."""
    options = dict(OPTIONS[name])
    where = {"where": options.pop("where")} if "where" in options else {}
    arrays = [np.asarray(x).astype(dtype) for x in (*STUDENT, *TEACHER)]
    return (*arrays, options), where


# What makes the logits is the same for all divergences, which meet it in "everything".
LOGITS_OF = {"bias": "js", "cap": "reverse", "weights": "forward"}
CASES = [(n, d) for n in OPTIONS for d in DIVERGENCES if LOGITS_OF.get(n, d) == d]


@pytest.mark.parametrize(("name", "divergence"), CASES)
def test_value_and_gradients(name, divergence):
    moving, where = given(name)
    reductions = ("mean", "sum", None)

    def of(function, reduction, **blocks):
        options = {"divergence": divergence, "reduction": reduction, **where, **blocks}
        return jax.value_and_grad(partial(total, function, **options))

    expected = in_float64(lambda m: [of(held, r)(m) for r in reductions], moving)
    for k, blocks in BLOCKS.items():
        for reduction, of_reduction in zip(reductions, expected, strict=True):
            if reduction != "sum" or k == "one":  # the mean is that sum, divided
                got = jax.jit(of(js.linear_distillation_loss, reduction, **blocks))(moving)
                close(got, of_reduction, f"{reduction}, {k}", rtol=1e-5, atol=2e-6)


@over_divergences
@pytest.mark.parametrize("size", [1e3, 1e7, 1e8, 1e30])
def test_slope_in_the_temperature_of_large_logits(divergence, size):
    """T² D(z / T) grows as T where D is the distance of two classes, as T² where it is bounded."""
    student, teacher = (np.array([x], np.float32) for x in ([1.0, 0.0], [0.0, 1.0]))
    w = np.eye(2, dtype=np.float32)

    def loss(temperature):
        return js.linear_distillation_loss(
            size * student, w, size * teacher, w, divergence=divergence, temperature=temperature
        )

    value, slope = jax.jit(jax.value_and_grad(loss))(np.float32(2))
    degree = 2 if divergence == "js" else 1
    assert_allclose(slope, degree * value / 2, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum", None])
def test_the_same_as_on_logits(reduction):
    z, t = (jnp.matmul(x, w.T) for x, w in (STUDENT, TEACHER))
    options = {"temperature": 1 + FACTORS, "sample_weight": FACTORS, "reduction": reduction}
    got = js.linear_distillation_loss(*STUDENT, *TEACHER, **options)
    close(got, js.distillation_loss(z, t, **options))


@over_divergences
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits(dtype, divergence):
    """Logits are float32, gradients have the dtype of what they are of."""
    (*arrays, _), _ = given("plain")
    narrow = [jnp.asarray(x).astype(dtype) for x in arrays]
    for reduction in ("mean", None):
        options = {"divergence": divergence, "reduction": reduction, "temperature": 2.0}
        run = jax.jit(
            jax.value_and_grad(
                lambda *a, o=options: total(js.linear_distillation_loss, (*a, {}), **o),
                (0, 1, 2, 3),
            )
        )
        value, bars = run(*narrow)
        expected, expected_bars = run(*arrays)
        assert value.dtype == jnp.float32
        close(value, expected)
        for bar, wide, x in zip(bars, expected_bars, narrow, strict=True):
            assert bar.dtype == x.dtype
            size = float(abs(wide).max())
            assert_allclose(np.float32(bar), wide, rtol=0, atol=size * 2.0**-7)


def test_heads_of_different_dtypes():
    (x, w, y, v, _), _ = given("plain")
    narrow = [jnp.asarray(a).astype(jnp.bfloat16) for a in (y, v)]
    close(js.linear_distillation_loss(x, w, *narrow), js.linear_distillation_loss(x, w, y, v))


@pytest.mark.optimised
@over_divergences
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_student_that_agrees(divergence, offset):
    """At T = 20, 1e-3 from its teacher: six digits, where the usual form has none."""
    rng = np.random.default_rng(0)
    t = np.float32(rng.normal(size=(N, 200)) * 2)
    z = np.float32(t + rng.normal(size=t.shape) * 1e-3 + offset)
    one = np.eye(200, dtype=np.float32)  # whose products are exact
    options = {"divergence": divergence, "temperature": 20.0, "beta": 0.25}

    def run(z, t):
        loss = partial(js.linear_distillation_loss, reduction=None, **options)
        return jnp.sum(loss(z, one, t, one)), loss(z, one, t, one)

    bars, got = jax.jit(jax.grad(run, (0, 1), has_aux=True))(z, t)

    def oracle(z, t):
        losses = 400 * divergence_of(z / 20, t / 20, divergence, jnp.asarray(0.25))
        return jnp.sum(losses), losses

    expected_bars, expected = in_float64(jax.grad(oracle, (0, 1), has_aux=True), z, t)
    assert_allclose(got, expected, rtol=1e-6)
    for bar, wanted in zip(bars, expected_bars, strict=True):
        size = abs(wanted).max(-1, keepdims=True)
        assert np.max(abs(bar - wanted) / size) < 2e-6


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("divergence", "reduction"), [*[(d, "sum") for d in DIVERGENCES], ("js", None)]
)
def test_derivatives_of_both_orders(divergence, reduction):
    """Forward mode, Hessian times vector, and both inside of a scan."""
    moving, where = given("everything")
    flat, unravel = ravel_pytree(moving)
    along = np.cos(np.arange(flat.size))

    def of(function, **blocks):
        options = {"divergence": divergence, "reduction": reduction, **where, **blocks}
        return lambda x: total(function, unravel(x), **options)

    def scanned(function):
        return lambda x: lax.scan(lambda x, _: (2 * x, function(x)), x, None, length=1)[1][0]

    def products(function, of_second):
        return (
            lambda x, v: jax.jvp(function, (x,), (v,))[1],
            lambda x, v: jax.jvp(jax.grad(function), (x,), (v,))[1],
            lambda x, v: jax.grad(lambda x: jnp.vdot(jax.grad(of_second(function))(x), v))(x),
        )

    ours = of(js.linear_distillation_loss, row_block=4)
    with jax.enable_x64(True):
        unravel = ravel_pytree(jax.tree.map(np.float64, moving))[1]
        for pair in zip(products(ours, scanned), products(of(held), lambda f: f), strict=True):
            got, expected = (jax.jit(each)(np.float64(flat), along) for each in pair)
            close(got, expected, rtol=1e-9, atol=1e-9)


def test_vmap():
    (x, w, y, v, _), _ = given("plain")
    options = {"temperature": 2.0, "divergence": "js", "row_block": 4}

    def loss(x, w, beta):
        return js.linear_distillation_loss(x, w, y, v, beta=beta, **options)

    each = jnp.stack([x, x / 2]), jnp.stack([w, w + 1]), jnp.array([0.25, 0.5])
    run = jax.value_and_grad(loss, (0, 1, 2))
    close(jax.jit(jax.vmap(run))(*each), jax.lax.map(lambda a: run(*a), each))


def value_and_bars(*arrays, **options):
    """Return the losses, and gradients of features and weights; numbers are traced."""
    numbers = {k: v for k, v in options.items() if not isinstance(v, str | int)}
    static = {k: v for k, v in options.items() if k not in numbers}

    def loss(x, w, y, v, numbers):
        loss = partial(js.linear_distillation_loss, x, w, y, v, **static, **numbers)
        losses = loss(reduction=None)
        return jnp.sum(jnp.where(jnp.isfinite(losses), losses, 0)) + loss(), losses

    bars, losses = jax.jit(jax.grad(loss, (0, 1, 2, 3), has_aux=True))(*arrays, numbers)
    return losses, bars


@over_divergences
def test_masked_classes(divergence):
    """They are no class, whatever is in their vectors; with all masked there is no loss."""
    (x, w, y, v, _), _ = given("plain")
    spoilt = [np.where(KEEP[:, None], weight, np.nan) for weight in (w, v)]
    options = {"divergence": divergence, "temperature": 2.0}
    got, bars = value_and_bars(x, spoilt[0], y, spoilt[1], where=KEEP, **options)
    expected, expected_bars = value_and_bars(x, w[KEEP], y, v[KEEP], **options)
    close(got, expected)
    for bar, wanted, per_class in zip(bars, expected_bars, (0, 1, 0, 1), strict=True):
        close(bar[KEEP] if per_class else bar, wanted)
        assert not per_class or not np.any(bar[~KEEP])
    losses, bars = value_and_bars(x, w, y, v, where=np.zeros(C, bool), **options)
    assert_array_equal(losses, 0)
    assert not any(map(np.any, bars))


@over_divergences
@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_a_class_at_minus_infinity_in_one_head(whose, divergence):
    (x, w, y, v, _), _ = given("plain")
    off = np.where(KEEP, 0, -np.inf).astype(np.float32)
    losses, bars = value_and_bars(x, w, y, v, divergence=divergence, **{f"{whose}_bias": off})
    assert all(map(np.all, map(np.isfinite, bars)))
    if divergence == {"student": "forward", "teacher": "reverse"}[whose]:
        assert_array_equal(losses, np.inf)
        return
    z, t = x @ w.T, y @ v.T
    both = (z + off, t) if whose == "student" else (z, t + off)
    close(losses, divergence_of(*both, divergence), rtol=1e-5)


@over_divergences
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_large_gaps(size, divergence):
    """Finite, and what the two hard choices give; where one excludes a class the gap itself."""
    x, y = (np.eye(N, C, k=k, dtype=np.float32) * np.float32(size) for k in (0, 1))
    y[0] = x[0]  # one example of which both are sure, of the same class
    one = np.eye(C, dtype=np.float32)
    losses, bars = value_and_bars(x, one, y, one, divergence=divergence)
    assert losses[0] == 0
    expected = np.log(2) if divergence == "js" else size
    assert_allclose(losses[1:], np.full(N - 1, expected), rtol=1e-6)
    assert all(map(np.all, map(np.isfinite, bars)))


@over_divergences
def test_the_limits_of_beta(divergence):
    (x, w, y, v, _), _ = given("plain")
    for beta, limit in ((0.0, "forward"), (1.0, "reverse")):
        options = {"reduction": None, "divergence": "js"}
        assert_allclose(js.linear_distillation_loss(x, w, y, v, beta=beta, **options), 0, atol=1e-7)
        near = jnp.abs(beta - 1e-6)
        scaled = js.linear_distillation_loss(x, w, y, v, beta=near, **options) / 1e-6
        of_limit = js.linear_distillation_loss(x, w, y, v, divergence=limit, reduction=None)
        assert_allclose(scaled, of_limit, rtol=0.05)


@pytest.mark.thorough
@over_divergences
def test_examples_of_weight_0_and_no_example(divergence):
    (x, w, y, v, _), _ = given("plain")
    options = {"divergence": divergence, "temperature": 1 + FACTORS}
    weights = np.float32([1, 2, 0, 0, 0, 0.5])
    left = weights > 0
    x[2], y[3], options["temperature"][4] = np.nan, np.inf, np.nan
    every = {"sample_weight": weights, **options}
    some = {"sample_weight": weights[left], **options, "temperature": options["temperature"][left]}
    got, bars = value_and_bars(x, w, y, v, row_block=4, **every)
    expected, expected_bars = value_and_bars(x[left], w, y[left], v, **some)
    close(got[left], expected)
    assert not np.any(got[~left])
    for bar, wanted, per_class in zip(bars, expected_bars, (0, 1, 0, 1), strict=True):
        close(bar if per_class else bar[left], wanted)
        assert per_class or not np.any(bar[~left])
    nothing = value_and_bars(x[:0], w, y[:0], v, divergence=divergence)
    assert nothing[0].shape == (0,)
    assert not any(map(np.any, nothing[1]))
    zeros = np.zeros(N, np.float32)
    assert js.linear_distillation_loss(x, w, y, v, sample_weight=zeros) == 0


def test_leading_axes():
    (x, w, y, v, _), _ = given("plain")
    x, y = x.reshape(2, 3, -1), y.reshape(2, 3, -1)
    options = {"temperature": 1 + FACTORS.reshape(2, 3), "reduction": None}
    losses = js.linear_distillation_loss(x, w, y, v, **options)
    assert losses.shape == (2, 3)
    one = js.linear_distillation_loss(x[1, 2], w, y[1, 2], v, temperature=2.5, reduction=None)
    close(losses[1, 2], one)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"student_weight": np.zeros((C, 9))}, AssertionError, "student_weight"),
        ({"teacher_weight": np.zeros((C, 9))}, AssertionError, "teacher_weight"),
        ({"teacher_weight": np.zeros((C + 1, 4))}, AssertionError, "teacher_weight"),
        ({"teacher_features": np.zeros((N + 1, 4))}, AssertionError, "teacher_features"),
        ({"student_features": np.zeros((N, 3), bool)}, TypeError, "student_features"),
        ({"student_bias": np.zeros(C + 1)}, AssertionError, "student_bias"),
        ({"teacher_softcap": -1.0}, ValueError, "teacher_softcap"),
        ({"where": np.ones((N, C), bool)}, AssertionError, "where"),
        ({"temperature": 0.0}, ValueError, "temperature"),
        ({"temperature": np.ones(N - 1)}, AssertionError, "temperature"),
        ({"beta": 1.5, "divergence": "js"}, ValueError, "beta"),
        ({"divergence": "jeffreys"}, ValueError, '`divergence`: expected one of "forward"'),
        ({"reduction": "none"}, ValueError, "reduction"),
        ({"sample_weight": np.ones(1)}, AssertionError, "sample_weight"),
        ({"row_block": 0}, ValueError, "row_block"),
        ({"class_block": 0}, ValueError, "class_block"),
        ({"class_axis": "model"}, NameError, "class_axis"),
    ],
)
def test_wrong_arguments(change, error, message):
    names = "student_features", "student_weight", "teacher_features", "teacher_weight"
    (*arrays, _), _ = given("plain")
    with pytest.raises(error, match=message):
        js.linear_distillation_loss(**(dict(zip(names, arrays, strict=True)) | change))
