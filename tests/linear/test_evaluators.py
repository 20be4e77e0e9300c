"""The matrix of the evaluators: every margin x every loss x {rows, classes, per example, sharded} x
{value, grad, jvp, Hessian-vector product}, against finite differences of the float64 numpy oracle.

The losses are mixed by traced coefficients, so that one compilation serves them all; the values
that a loss closes over are tested by the way.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import MARGINS, STATS_LOSSES, Case, head, over
from numpy.testing import assert_allclose

import jsoftmax as js

pytestmark = [pytest.mark.slow, pytest.mark.one_in(19)]

N, D, C = 5, 3, 7
WEIGHTS = np.array([1.0, 0.5, 2.0, 0.0, 1.5], np.float32)
# Neither divides anything: the last block of rows overlaps, the last block of classes is smaller.
# Nor does the mesh: both are filled up.
BLOCKS = {"rows": {"row_block": 2, "class_block": 3}, "classes": {"class_block": 3}}
PLAIN = Case("no margin", None, None)
# The others differ from these in their parameters only; without a margin, see test_options.py.
THOROUGHLY = ("l_softmax, anneal", "arcface")
# Of each normalisation, and of each kind of m1: with parameters that are known while tracing, a
# whole m1 is a polynomial, and terms that do nothing are left out.
KNOWN = (*THOROUGHLY, "no margin", "l_softmax 3", "a_softmax", "combined_margin 2")
CASES = [
    *[(case, "known") for case in [PLAIN, *MARGINS] if case.name in KNOWN],
    *[(case, "traced") for case in MARGINS],
]


def logits_oracle(case, x, w, labels):
    if case.oracle is None:
        return x @ w.T
    return case.oracle(x, w, labels, **case.options)


def oracle_total(case, loss, labels, shape):
    """Return the weighted mean of a loss as a function of features and weight in one vector."""
    q = oracles.one_hot(labels, C)

    def total(p):
        x, w = p[: shape[0]].reshape(N, D), p[shape[0] :].reshape(C, D)
        losses = loss.oracle(logits_oracle(case, x, w, labels), q, **loss.options)
        return (WEIGHTS * losses).sum() / WEIGHTS.sum()

    return total


def numeric_gradient(function, p, step=1e-6):
    return np.array([function(p + d) - function(p - d) for d in step * np.eye(p.size)]) / (2 * step)


def mixture(coefficients):
    """Return the sum of all losses of stats with traced coefficients."""

    def loss(stats):
        parts = [case.function(stats, **case.options) for case in STATS_LOSSES]
        return sum(c * part for c, part in zip(coefficients, parts, strict=True))

    return loss


def evaluators(margin, labels, names):
    def scalar(x, w, c, **blocks):
        options = {"margin": margin, "sample_weight": WEIGHTS, **blocks}
        return js.linear_loss(x, w, labels, mixture(c), **options)

    def per_example(x, w, c):
        blocks = BLOCKS["rows"]
        losses = js.linear_loss(x, w, labels, mixture(c), margin=margin, reduction=None, **blocks)
        return js.weighted_mean(losses, WEIGHTS)

    def sharded(x, w, c):
        evaluate = js.sharded_linear_loss(
            jax.make_mesh((2, 4), ("data", "model")),
            batch_axis="data",
            class_axis="model",
            num_classes=C,
            loss=mixture(c),
            margin=margin,
            row_block=2,
            class_block=1,
        )
        return evaluate(x, w, labels, sample_weight=WEIGHTS)

    found = {name: partial(scalar, **blocks) for name, blocks in BLOCKS.items()}
    found |= {"per example": per_example, "sharded": sharded}
    return {name: found[name] for name in names}


def flat(pair):
    return jnp.concatenate([part.astype(jnp.float32).ravel() for part in pair])


HEAD = head(examples=N, size=D, classes=C)
DX, DW = (jnp.arange(a.size, dtype=a.dtype).reshape(a.shape) / a.size - 0.4 for a in HEAD[:2])


def derivatives(function, x, w, c, *, thorough, second):
    gradient = jax.grad(function, (0, 1))
    value, bars = jax.value_and_grad(function, (0, 1))(x, w, c)
    found = {"value": value, "grad": flat(bars)}
    if thorough:
        found["alone"] = function(x, w, c)  # not differentiated, it takes another way
        found["jvp"] = jax.jvp(partial(function, c=c), (x, w), (DX, DW))[1]
    if second:
        found["hvp"] = flat(jax.jvp(lambda x, w: gradient(x, w, c), (x, w), (DX, DW))[1])
    return found


def of_evaluator(name, x, w, c, margin, thorough=False):
    function = evaluators(margin, HEAD[2], [name])[name]
    second = thorough and name != "per example"
    return derivatives(function, x, w, c, thorough=thorough, second=second)


# Compiled once for all margins of the same normalisation.
traced = jax.jit(of_evaluator, static_argnums=0)


@pytest.mark.parametrize(("case", "how"), CASES, ids=[f"{c.name}, {how}" for c, how in CASES])
def test_every_margin_and_loss(case, how):
    x, w, labels = HEAD
    thorough = how == "known" and case.name in THOROUGHLY
    if how == "traced":
        run = partial(traced, margin=jax.tree.map(float, case.function))
    else:
        known = partial(of_evaluator, margin=case.function, thorough=thorough)
        run = jax.jit(known, static_argnums=0)
    names = ["rows", "classes", "per example", "sharded"] if thorough else ["rows", "sharded"]

    p, v = np.asarray(flat((x, w)), np.float64), np.asarray(flat((DX, DW)), np.float64)
    for i, loss in enumerate(STATS_LOSSES):
        total = oracle_total(case, loss, labels, (x.size, w.size))
        grad = numeric_gradient(total, p)
        expected = {"value": total(p), "alone": total(p), "grad": grad, "jvp": grad @ v}
        if thorough:
            around = [numeric_gradient(total, p + step * v) for step in (1e-4, -1e-4)]
            expected["hvp"] = (around[0] - around[1]) / 2e-4
        got = {name: run(name, x, w, jnp.eye(len(STATS_LOSSES))[i]) for name in names}
        size = max(np.abs(grad).max(), np.abs(expected["value"]), 0.1)
        for name, found in got.items():
            for what, value in found.items():
                # Second derivatives are differences of terms of their own size.
                bound = 1e-5 * max(size, np.abs(expected[what]).max())
                bound *= 10 if what == "hvp" else 1
                message = f"{loss.name}, {name}, {what}"
                assert_allclose(value, expected[what], rtol=0, atol=bound, err_msg=message)


@pytest.mark.parametrize("blocks", BLOCKS)
@over([case for case in [PLAIN, *MARGINS] if case.name in ("no margin", "l_softmax 3", "arcface")])
def test_bfloat16(case, blocks):
    """Operands are multiplied as they are: what is lost is one rounding of each gradient."""
    x, w, labels = head("bfloat16", examples=N, size=D, classes=C)
    function = evaluators(case.function, labels, [blocks])[blocks]
    run = jax.jit(jax.value_and_grad(function, (0, 1)))
    p = np.concatenate([oracles.float64(x).ravel(), oracles.float64(w).ravel()])
    for i in (0, 1, 3):
        total = oracle_total(case, STATS_LOSSES[i], labels, (x.size, w.size))
        value, grads = run(x, w, jnp.eye(len(STATS_LOSSES))[i])
        assert value.dtype == jnp.float32
        assert [g.dtype for g in grads] == ["bfloat16", "bfloat16"]
        assert_allclose(value, total(p), rtol=1e-5, atol=1e-6)
        expected = numeric_gradient(total, p)
        # Products take the gradient with respect to a logit in bfloat16, and add up a few of them.
        assert_allclose(flat(grads), expected, rtol=0, atol=2**-7 * np.abs(expected).max())


def dense(x, w, labels, loss, **options):
    stats = js.logit_stats(js.linear_logits(x, w, labels, **options), labels)
    return js.weighted_mean(loss(stats), WEIGHTS)


PARAMETERS = {"m1": 1.2, "m2": 0.3, "m3": 0.1, "scale": 4.0, "anneal": 0.5}


@pytest.mark.parametrize("reduction", ["mean", None])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_traced_numbers_get_gradients(blocks, reduction):
    x, w, labels = head(examples=N, size=D, classes=C)
    bias = jnp.linspace(-1, 1, C)
    parameters = PARAMETERS | {"softcap": 2.0, "gamma": 1.5, "smoothing": 0.1}

    def total(evaluate, parameters, bias):
        margin = js.AngularMargin(**{name: parameters[name] for name in PARAMETERS})

        def loss(stats):
            smoothed = js.nll(stats, label_smoothing=parameters["smoothing"])
            return js.focal(stats, gamma=parameters["gamma"]) + smoothed

        return evaluate(x, w, labels, loss, bias=bias, softcap=parameters["softcap"], margin=margin)

    def by_blocks(*args, **options):
        if reduction:
            return js.linear_loss(*args, sample_weight=WEIGHTS, **options, **BLOCKS[blocks])
        losses = js.linear_loss(*args, reduction=None, **options, **BLOCKS[blocks])
        return js.weighted_mean(losses, WEIGHTS)

    got, expected = (
        jax.jit(jax.value_and_grad(partial(total, evaluate), (0, 1)))(parameters, bias)
        for evaluate in (by_blocks, dense)
    )
    jax.tree.map(partial(assert_allclose, rtol=2e-5, atol=1e-5), got, expected)
    assert all(abs(g) > 1e-4 for g in expected[1][0].values())


@pytest.mark.thorough
@pytest.mark.parametrize("reduction", ["mean", None])
def test_transformations(reduction):
    x, w, labels = head(examples=N, size=D, classes=C)
    margin = js.arcface(scale=4.0)
    stacked = jnp.stack([x, x[::-1], 2 * x])

    def by_blocks(x, w):
        options = {"margin": margin, "reduction": reduction} | BLOCKS["rows"]
        return jnp.mean(js.linear_loss(x, w, labels, js.focal, **options))

    def at_once(x, w):
        logits = js.linear_logits(x, w, labels, margin=margin)
        return jnp.mean(js.focal(js.logit_stats(logits, labels)))

    def transformed(f):
        def summed(w):
            return jax.lax.scan(lambda total, x: (total + f(x, w), None), 0.0, stacked)[0]

        def along(w):
            return jnp.sum(jnp.square(jax.grad(f, 1)(x, w)))

        found = {
            "vmap of grad": jax.vmap(jax.grad(f, (0, 1)), (0, None))(stacked, w),
            "vmap over weights": jax.vmap(f, (None, 0))(x, jnp.stack([w, w + 1])),
            "remat": jax.grad(jax.checkpoint(f), 1)(x, w),
            "grad of scan": jax.grad(summed)(w),
        }
        if reduction:
            found["reverse over reverse"] = jax.grad(along)(w)
        return found

    got, expected = (jax.jit(partial(transformed, f))() for f in (by_blocks, at_once))
    for name in got:
        check = partial(assert_allclose, rtol=1e-4, atol=2e-5, err_msg=name)
        jax.tree.map(check, got[name], expected[name])


def over_mesh(x, w, labels, loss, **options):
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    axes = {"batch_axis": "data", "class_axis": "model"}
    return js.sharded_linear_loss(mesh, **axes, num_classes=C, loss=loss)(x, w, labels, **options)


@pytest.mark.parametrize("name", ["scale", "margin", "softcap", "gamma"])
@pytest.mark.parametrize(
    "evaluate", [js.linear_loss, partial(js.linear_loss, reduction=None), over_mesh]
)
def test_a_tangent_may_be_a_python_number(evaluate, name):
    x, w, labels = head(examples=N, size=D, classes=C)
    numbers = {"scale": 4.0, "margin": 0.2, "softcap": 3.0, "gamma": 2.0}

    def total(number):
        at = numbers | {name: number}
        margin = js.arcface(at["margin"], at["scale"])
        loss = partial(js.focal, gamma=at["gamma"])
        return jnp.mean(evaluate(x, w, labels, loss, softcap=at["softcap"], margin=margin))

    _, moved = jax.jit(lambda: jax.jvp(total, (numbers[name],), (2.0,)))()
    assert_allclose(moved, 2 * jax.jit(jax.grad(total))(numbers[name]), rtol=1e-5)
