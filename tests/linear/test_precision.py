"""`precision` reaches every matrix product. On a CPU it changes no number, so jaxprs are read."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from blocks import BLOCKS, C, D, N, dot_generals
from cases import head
from jax import lax
from meshes import mesh_of

import jsoftmax as js
from jsoftmax.blockwise import matmul

pytestmark = pytest.mark.one_in(5)

X, W, Y = head(examples=N, size=D, classes=C)
ARCFACE = js.arcface(scale=4.0)
HIGH, HIGHEST = lax.Precision.HIGH, lax.Precision.HIGHEST


def losses(function, **options):
    """Return the loss as a function of features, weight and the precision."""
    return lambda x, w, precision: function(x, w, Y, margin=ARCFACE, precision=precision, **options)


def of_stats(x, w, precision):
    stats = js.linear_stats(x, w, Y, precision=precision, **BLOCKS["rows"])
    return stats.target - stats.others + stats.mean + stats.runner_up


def sharded(x, w, precision):
    axes = {"batch_axis": "data", "class_axis": "model"}
    call = js.sharded_linear_loss(mesh_of(), **axes, num_classes=C, margin=ARCFACE)
    return call(x, w, Y, precision=precision)


FUNCTIONS = {
    **{name: losses(js.linear_loss, **blocks) for name, blocks in BLOCKS.items()},
    "per example": losses(js.linear_loss, reduction=None, **BLOCKS["rows"]),
    "cross_entropy": losses(js.linear_cross_entropy, label_smoothing=0.1),
    "stats": of_stats,
    "logits": losses(js.linear_logits),
    "sharded": sharded,
}


def derivative(function, order):
    """Return the function; its gradients; or the tangents of those."""

    def total(x, w):
        return jnp.sum(function(x, w))

    if order == 0:
        return total
    gradients = jax.grad(total, (0, 1))
    return gradients if order == 1 else lambda x, w: jax.jvp(gradients, (x, w), (x, w))


def precisions(function):
    """Return the precision of every product that a function of features and weight has."""
    return [found.params["precision"] for found in dot_generals(jax.make_jaxpr(function)(X, W))]


@pytest.mark.parametrize("order", [0, 1, 2], ids=["value", "gradients", "tangents"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_of_all_products(name, order):
    function = derivative(partial(FUNCTIONS[name], precision="highest"), order)
    found = precisions(function)
    assert len(found) >= 1 + 2 * order
    assert set(found) == {(HIGHEST, HIGHEST)}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (HIGH, (HIGH, HIGH)),
        (["high", "highest"], (HIGH, HIGHEST)),
        ("BF16_BF16_F32", lax.DotAlgorithmPreset.BF16_BF16_F32),
    ],
)
@pytest.mark.parametrize("name", ["rows", "logits", "sharded"])
def test_of_every_form(name, given, expected):
    function = derivative(partial(FUNCTIONS[name], precision=given), 1)
    assert set(precisions(function)) == {expected}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_none_follows_the_context(name):
    function = derivative(partial(FUNCTIONS[name], precision=None), 1)

    def found():
        return set(precisions(function))

    assert found() == {None}
    with jax.default_matmul_precision("highest"):
        assert found() == {(HIGHEST, HIGHEST)}
    assert found() == {None}


@pytest.mark.parametrize("wrong", ["best", 3, {}, ["high"]], ids=str)
@pytest.mark.parametrize("name", ["rows", "stats", "logits", "sharded"])
def test_wrong_ones_are_named(name, wrong):
    with pytest.raises(ValueError, match=r"`precision`: expected .* got .* Use None"):
        FUNCTIONS[name](X, W, wrong)


def test_a_call_without_jit_follows_the_context_too(monkeypatch):
    """What was compiled for one context does not serve in another."""
    traced, contract = [], matmul._contract
    FUNCTIONS["rows"](X, W, None)
    monkeypatch.setattr(
        matmul, "_contract", lambda *given: [traced.append(given), contract(*given)][1]
    )
    FUNCTIONS["rows"](X, W, None)
    assert not traced
    with jax.default_matmul_precision("highest"):
        FUNCTIONS["rows"](X, W, None)
    assert traced
