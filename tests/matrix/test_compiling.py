"""A call without jit compiles nothing if its shapes and options are those of an earlier one.

That of every function is counted in test_audit.py; here is what is about the options.
"""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from cases import Case, head, over
from compiling import compiled, compiles

import jsoftmax as js
from jsoftmax.core import by_rows

pytestmark = [pytest.mark.slow, pytest.mark.one_in(6)]

N, D, C = 6, 3, 8
X, W, Y = head(examples=N, size=D, classes=C)
Y = jnp.asarray(Y, jnp.int32)
Z = X @ W.T
LISTS = js.SparseLabels(jnp.stack([Y, (Y + 1) % C], -1), jnp.full((N, 2), 0.5))
BLOCKS = {"row_block": 4, "class_block": 3}


def own_loss(stats):
    return js.focal(stats, gamma=0.5) + stats.mean


def head_case(name, function, *given, **options):
    def call(x, w):
        return function(x, w, *given, **options, **BLOCKS)

    return Case(name, call, None)


def inline(x, w, labels, **options):
    gamma = jnp.asarray(1.5)  # another array, and another function, in every call
    return js.linear_loss(x, w, labels, lambda s: js.focal(s, gamma=gamma), **options)


LINEAR = [
    head_case("linear_loss", js.linear_loss, Y),
    head_case("linear_stats", lambda *args, **options: js.linear_stats(*args, **options).others, Y),
    head_case("cross_entropy, smoothed", js.linear_cross_entropy, Y, label_smoothing=0.1),
    head_case("per example", js.linear_loss, Y, reduction=None),
    head_case("lists", js.linear_loss, LISTS),
    head_case("partial", js.linear_loss, Y, partial(js.gce, q=0.5), margin=js.arcface()),
    head_case("own", js.linear_loss, Y, own_loss, where=jnp.arange(C) < 7),
    head_case("inline", inline, Y),
]


def test_the_count_counts():
    assert compiles(lambda: jax.jit(lambda x: x + 1)(X)) == 1


@over(LINEAR)
def test_linear(case):
    def total(x, w):
        return jnp.sum(case.function(x, w))

    assert compiles(case.function, X, W) == 0
    assert compiles(jax.grad(total, (0, 1)), X, W) == 0


@pytest.mark.parametrize("loss", [js.nll, partial(js.focal, gamma=1.0), own_loss])
def test_sharded(loss):
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    axes = {"batch_axis": "data", "class_axis": "model"}
    evaluate = js.sharded_linear_loss(mesh, **axes, num_classes=C, loss=loss)
    assert compiles(lambda: evaluate(X, W, Y, bias=jnp.zeros(C))) == 0


def test_another_value_of_a_number_is_not_another_program():
    def call(margin, gamma, bias):
        loss = partial(js.focal, gamma=jnp.asarray(gamma))
        margin = js.arcface(margin, scale=8.0 * margin)
        return js.linear_loss(X, W, Y, loss, margin=margin, softcap=bias, bias=bias * W[:, 0])

    call(0.5, 2.0, 1.0)
    before = len(compiled)
    call(0.25, 1.0, 3.0)
    assert len(compiled) == before


@pytest.mark.parametrize("option", ["label_smoothing", "z_loss", "temperature", "softcap"])
def test_another_number_is_not_another_program(option):
    for more in ({}, {"class_weight": jnp.ones(C)}):
        js.linear_cross_entropy(X, W, Y, **{option: 0.25}, **more)
        before = len(compiled)
        js.linear_cross_entropy(X, W, Y, **{option: 0.5}, **more)
        assert len(compiled) == before


def test_a_changed_value_is_seen():
    """What is compiled once holds no value that a loss closes over."""
    gamma = {"python": 1.0, "array": jnp.asarray(1.0)}

    def loss(stats):
        return js.focal(stats, gamma=gamma["python"]) + gamma["array"] * js.mae(stats)

    mesh = jax.make_mesh((2, 4), ("data", "model"))
    sharded = js.sharded_linear_loss(
        mesh, batch_axis="data", class_axis="model", num_classes=C, loss=loss
    )
    for changed in ({}, {"python": 2.0}, {"array": jnp.asarray(3.0)}):
        gamma |= changed
        expected = js.weighted_mean(loss(js.logit_stats(Z, Y)))
        for found in (js.linear_loss(X, W, Y, loss), sharded(X, W, Y)):
            assert jnp.allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("soft", [False, True])
def test_losses_in_blocks_of_rows(soft, monkeypatch):
    monkeypatch.setattr(by_rows, "_LARGE", 0)
    monkeypatch.setattr(by_rows, "_MANY", 0)
    monkeypatch.setattr(by_rows, "_may_be_sharded", lambda: False)
    z, labels = jnp.cos(jnp.arange(44.0)).reshape(11, 4), jnp.arange(11) % 4
    given = jax.nn.one_hot(labels, 4) if soft else labels
    for options in ({}, {"label_smoothing": 0.1}, {"temperature": 2.0}):
        loss = partial(js.cross_entropy, labels=given, **options)
        assert compiles(loss, z) == 0
        assert compiles(jax.grad(lambda z, loss=loss: loss(z).sum()), z) == 0
