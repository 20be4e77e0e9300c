"""PerExample: a margin's numbers by example, in every evaluator, with their gradients."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close, head
from heads import WAYS, dense, over_ways
from meshes import mesh_of
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(19)

N, C = 5, 7
X, W, LABELS = head(examples=N, size=3, classes=C)
NUMBERS = ("m1", "m2", "m3", "anneal", "scale")
VALUES = {
    "m1": jnp.array([1.0, 1.5, 2.0, 1.25, 3.0]),
    "m2": jnp.array([0.1, 0.5, 0.0, 0.3, 0.2]),
    "m3": jnp.array([0.3, 0.0, 0.2, 0.1, 0.4]),
    "anneal": jnp.array([0.0, 1.0, 2.0, 0.5, 4.0]),
    "scale": jnp.array([4.0, 2.0, 3.0, 1.0, 5.0]),
}
MARGINS = {
    "unit": js.AngularMargin(1.0, 0.2, 0.1, scale=4.0),
    "norms kept": js.l_softmax(2, anneal=1.0),
    "by class": js.AngularMargin(1.0, jnp.linspace(0.0, 0.5, C), 0.1, scale=4.0),
}


def one_by_one(margin, x, w, labels, loss, values, **options):
    """Evaluate each example alone, with its numbers as scalars: what all at once must equal."""

    def one(x, label, values):
        mine = dataclasses.replace(margin, **values)
        logits = js.linear_logits(x, w, label, margin=mine, **options)
        plain = js.logit_stats(js.linear_logits(x, w, margin=mine, **options), label)
        return loss(js.logit_stats(logits, label)._replace(score=plain.target))

    return jnp.sum(jax.vmap(one)(x, labels, values))


def loss(stats):
    return js.nll(stats) + jnp.tanh(stats.runner_up - stats.score)


def of_score(stats):
    return js.nll(stats) + jnp.tanh(stats.score)


def evaluated(way, margin, x, w, values, bias, loss=loss):
    mine = dataclasses.replace(margin, **{k: js.PerExample(v) for k, v in values.items()})
    return way(x, w, LABELS, loss, margin=mine, bias=bias, softcap=5.0)


def gradients(function, *given):
    return jax.jit(jax.value_and_grad(function, tuple(range(len(given)))))(*given)


def all_given(names):
    """Return the margin, which keeps the norms where all numbers go by example, and the rest."""
    margin = MARGINS["norms kept" if len(names) > 1 else "unit"]
    return margin, (X, W, {name: VALUES[name] for name in names}, jnp.linspace(-1, 1, C))


@cache
def alone(names):
    margin, given = all_given(names)

    def total(x, w, values, bias):
        return one_by_one(margin, x, w, LABELS, loss, values, bias=bias, softcap=5.0)

    return gradients(total, *given)


# How a number acts is in the margin's formula, which all evaluators share: each number alone by one
# evaluator of each kind, all of them by all, and two of them by all with unit norms below.
KINDS = {"dense": dense} | {name: WAYS[name] for name in ("rows", "stats", "sharded")}
CASES = {f"{way}-{name}": (KINDS[way], (name,)) for way in KINDS for name in NUMBERS}
CASES |= {f"{name}-all": (way, NUMBERS) for name, way in {"dense": dense, **WAYS}.items()}


@pytest.mark.parametrize(("way", "names"), CASES.values(), ids=CASES)
def test_every_number_by_every_evaluator(way, names):
    margin, given = all_given(names)
    got = gradients(partial(evaluated, way, margin), *given)
    close(got, alone(names), rtol=2e-4, atol=2e-5)


TWO = X, W, {"m3": VALUES["m3"], "scale": VALUES["scale"]}, jnp.linspace(-1, 1, C)


@cache
def of_labels():
    margin = MARGINS["by class"]
    by_example = dataclasses.replace(margin, m2=js.PerExample(margin.m2[LABELS]))
    return gradients(partial(evaluated, dense, by_example), *TWO)


@over_ways
def test_beside_numbers_by_class(way):
    got = gradients(partial(evaluated, way, MARGINS["by class"]), *TWO)
    close(got, of_labels(), rtol=2e-4, atol=2e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("way", ["rows", "per example", "sharded"])
def test_forward_mode_and_second_derivatives(way):
    names = ("m2", "scale")
    given = X, W, {name: VALUES[name] for name in names}, jnp.linspace(-1, 1, C)
    tangents = jax.tree.map(
        lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), given
    )

    def derivatives(each):
        run = partial(evaluated, each, MARGINS["unit"], loss=of_score)
        first = jax.jvp(run, given, tangents)
        return first, jax.jvp(jax.grad(run, (0, 2)), given, tangents)[1]

    got, expected = (jax.jit(partial(derivatives, each))() for each in (WAYS[way], dense))
    close(got, expected, rtol=5e-4, atol=5e-4)


@pytest.mark.thorough
def test_vmap_and_leading_axes():
    """The values have the shape of the labels; under vmap each example may be alone."""

    @jax.jit
    def run(x, labels, m, s):
        mine = js.arcface(js.PerExample(m), js.PerExample(s))
        return js.linear_loss(x, W, labels, margin=mine, reduction=None)

    m, s = VALUES["m2"], VALUES["scale"]
    expected = run(X, jnp.asarray(LABELS), m, s)
    close(jax.jit(jax.vmap(run))(X, jnp.asarray(LABELS), m, s), expected)
    two = [jnp.stack([x, x[::-1]]) for x in (X, jnp.asarray(LABELS), m, s)]
    close(run(*two), jnp.stack([expected, expected[::-1]]))
    close(jax.jit(jax.vmap(run))(*two), jnp.stack([expected, expected[::-1]]))
    logits = js.linear_logits(two[0], W, two[1], margin=js.cosface(js.PerExample(two[2])))
    assert logits.shape == (2, N, C)


@pytest.mark.parametrize(
    "axes", [("data", None), (None, "model"), (("data", "model"),) * 2], ids=str
)
def test_over_other_axes_of_a_mesh(axes):
    names = dict(zip(("batch_axis", "class_axis"), axes, strict=True))
    run = js.sharded_linear_loss(mesh_of(), **names, num_classes=C, loss=loss)

    def total(evaluate, m, s):
        margin = js.arcface(js.PerExample(m), js.PerExample(s))
        return evaluate(X, W, LABELS, margin=margin)

    runs = (
        jax.jit(jax.value_and_grad(partial(total, each), (0, 1)))
        for each in (run, partial(js.linear_loss, loss=loss))
    )
    close(*(each(VALUES["m2"], VALUES["scale"]) for each in runs))


@pytest.mark.thorough
def test_the_largest_logits():
    def dense(x, **options):
        return jax.lax.top_k(js.linear_logits(x, W, **options), 3)[0]

    def searched(x, **options):
        return js.linear_top_k(x, W, 3, **options)[0]

    for x, s in ((X, VALUES["scale"]), (X[None], VALUES["scale"][None])):
        margin = js.cosface(0.3, js.PerExample(s))
        got, expected = searched(x, margin=margin), dense(x, margin=margin)
        close(got, expected)

    def total(evaluate, x, s):
        return jnp.sum(evaluate(x, margin=js.cosface(0.3, js.PerExample(s))) ** 2)

    got, expected = (
        jax.jit(jax.grad(partial(total, each), (0, 1)))(X, VALUES["scale"])
        for each in (searched, dense)
    )
    close(got, expected, rtol=1e-4, atol=1e-5)


def test_is_a_frozen_pytree():
    number = js.PerExample(jnp.arange(3.0))
    assert_array_equal(jax.tree.leaves(number)[0], [0, 1, 2])
    assert isinstance(jax.tree.map(lambda x: x + 1, js.arcface(number)).m2, js.PerExample)
    with pytest.raises(dataclasses.FrozenInstanceError):
        number.values = 0
    assert_allclose(js.cosface(number)(jnp.full(3, 0.5)), 0.5 - np.arange(3), rtol=1e-6)


def test_as_many_examples_as_classes():
    """An array is by class, whatever the number of examples."""
    x, labels = X[:3], jnp.array([2, 0, 1])
    array = jnp.array([0.0, 0.2, 0.4])
    by_class = js.linear_logits(x, W[:3], labels, margin=js.cosface(array, scale=1.0))
    by_example = js.cosface(js.PerExample(array[labels]), scale=1.0)
    assert_array_equal(by_class, js.linear_logits(x, W[:3], labels, margin=by_example))


FUNCTIONS = {
    "logits": js.linear_logits,
    "loss": js.linear_loss,
    "stats": js.linear_stats,
    "sharded": js.sharded_linear_loss(
        mesh_of(), batch_axis="data", class_axis="model", num_classes=C
    ),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("name", NUMBERS)
def test_refused(function, name):
    def run(number):
        return jax.eval_shape(
            lambda: function(X, W, LABELS, margin=js.AngularMargin(**{name: number}))
        )

    for array in (jnp.ones(N), jnp.ones((N, 1)), jnp.ones((N, C))):
        with pytest.raises(
            AssertionError, match=name if function is FUNCTIONS["sharded"] else "PerExample"
        ):
            run(array)
    for array in (jnp.ones(C), jnp.ones(1), jnp.ones((N, 1)), 1.0):
        with pytest.raises(AssertionError):
            run(js.PerExample(array))


def test_the_margin_of_ldam_is_by_class():
    with pytest.raises(TypeError, match="max_margin"):
        js.ldam(jnp.arange(1, 4), js.PerExample(jnp.ones(3)))
    assert js.ldam(jnp.arange(1, 4), scale=js.PerExample(jnp.ones(3))).m3.shape == (3,)


def test_anneal_is_checked():
    with pytest.raises(ValueError, match="anneal"):
        js.l_softmax(anneal=js.PerExample(np.array([1.0, -1.0])))
