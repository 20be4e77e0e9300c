"""`sample_weight` and `reduction` of all losses on logits: a mean as that of the linear losses."""

import inspect
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import FORMULAS, LOSSES, class_weight
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(19)

N, C = 6, 5
WEIGHTS = np.float32([2, 0, 1, 0.5, 0, 3])
LEFT_OUT = WEIGHTS == 0
LABELS = np.array([0, 4, 2, 1, 3, 0], np.int32)
SOFT = np.float32(np.random.default_rng(1).dirichlet(np.ones(C), N))
LISTS = js.SparseLabels(np.stack([LABELS, LABELS[::-1]], 1), np.full((N, 2), 0.5, np.float32))
SPOILT_LISTS = js.SparseLabels(
    np.where(LEFT_OUT[:, None], -1, LISTS.indices),
    np.where(LEFT_OUT[:, None], np.float32(np.nan), LISTS.probs),
)
SPOILT_SOFT = np.where(LEFT_OUT[:, None], np.float32(np.nan), SOFT)


class Member(NamedTuple):
    name: str
    function: Any
    labels: Any = None  # None: the loss takes none
    spoilt: Any = None  # the labels with anything at the examples of weight 0


def members():
    for case in [*FORMULAS, *(case for case in LOSSES if case.name == "entmax_loss")]:
        loss = partial(case.function, **case.options)
        yield Member(case.name, loss, LABELS, np.where(LEFT_OUT, 99, LABELS))
        yield Member(f"{case.name}, soft", loss, SOFT, SPOILT_SOFT)
        yield Member(f"{case.name}, lists", loss, LISTS, SPOILT_LISTS)
    yield Member("kl_divergence", js.kl_divergence, SOFT, SPOILT_SOFT)
    yield Member("js_divergence", js.js_divergence, SOFT, SPOILT_SOFT)
    hot = partial(js.distillation_loss, temperature=2.0)
    yield Member("distillation_loss", hot, 3 * SOFT, 3 * SPOILT_SOFT)
    yield Member("entropy", js.entropy)


MEMBERS = list(members())
over = pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
LOGITS = np.float32(np.random.default_rng(0).normal(size=(N, C)) * 3)


def compiled(member):
    """Return value and gradients with respect to logits and weights of every reduction.

    A sum is that of the losses whatever the labels are: it is taken for one kind of these.
    """
    other_labels = member.name.endswith((", soft", ", lists"))
    return of_reductions(member.function, ("mean", None) if other_labels else ("mean", "sum", None))


@cache
def of_reductions(function, reductions):
    def run(z, labels, weights, reduction):
        given = () if labels is None else (labels,)
        return jnp.sum(function(z, *given, sample_weight=weights, reduction=reduction))

    def all_of(z, labels, weights):
        grad = jax.value_and_grad(run, (0, 2))
        return {str(r): grad(z, labels, weights, r) for r in reductions}

    return jax.jit(all_of)


@cache
def losses_and_gradient(function):
    def run(z, labels):
        losses = function(z) if labels is None else function(z, labels)
        return jnp.sum(losses), losses

    return jax.jit(jax.grad(run, has_aux=True))


def expected_of(losses, bar, weights, reduction, counts):
    """Return what value and gradients are by the formula, from losses and their gradients."""
    losses, bar = np.float64(losses), np.float64(bar)
    value = (weights * losses).sum()
    if reduction != "mean":
        return value, (weights[:, None] * bar, losses)
    total = (weights * counts).sum()
    mean = value / total
    return mean, (weights[:, None] * bar / total, (losses - mean * counts) / total)


def counts_of(member):
    """Return the class weights by which a mean divides, besides the weights."""
    weighted = member.name in ("weighted", "cross_entropy, everything")
    return class_weight(C)[LABELS] if weighted else np.ones(N)


def check(got, expected):
    jax.tree.map(partial(assert_allclose, rtol=3e-5, atol=3e-6), got, expected)


@over
def test_value_and_gradients(member):
    """The derivative with respect to a weight is the loss, also where the weight is 0."""
    found = compiled(member)(LOGITS, member.labels, WEIGHTS)
    bar, losses = losses_and_gradient(member.function)(LOGITS, member.labels)
    for reduction, got in found.items():
        check(got, expected_of(losses, bar, WEIGHTS, reduction, counts_of(member)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, "one"], ids=str)
@over
def test_examples_of_weight_zero_are_neutral(member, bad):
    run = compiled(member)
    spoilt = LOGITS.copy()
    spoilt[LEFT_OUT] = np.float32([1, np.inf, -np.inf, np.nan, 2]) if bad == "one" else bad
    labels = member.labels
    if member.name == "distillation_loss":
        labels = np.where(LEFT_OUT[:, None], spoilt[::-1], labels)
    expected = run(LOGITS, member.labels, WEIGHTS)
    for these in (labels, member.spoilt):
        for reduction, (value, (bar, d_weights)) in run(spoilt, these, WEIGHTS).items():
            value_0, (bar_0, d_weights_0) = expected[reduction]
            check((value, bar), (value_0, np.where(LEFT_OUT[:, None], 0, bar_0)))
            check(d_weights[~LEFT_OUT], d_weights_0[~LEFT_OUT])


def test_every_loss_on_logits_takes_them():
    """A new loss needs a line in cases.py, or here, and these two options."""
    listed = {getattr(m.function, "func", m.function) for m in MEMBERS}
    listed = {getattr(f, "__name__", "") for f in listed} | {"sparsemax_loss"}
    for name in js.__all__:
        found = getattr(js, name)
        if not getattr(found, "__module__", "").startswith("jsoftmax.losses."):
            continue
        parameters = inspect.signature(found).parameters
        if next(iter(parameters)).endswith("logits") and name != "adjust_logits":
            assert parameters["sample_weight"].default is None
            assert parameters["reduction"].default is None
            assert name in listed or name == "binary_cross_entropy"


@pytest.mark.parametrize("member", [m for m in MEMBERS if m.labels is LABELS], ids=lambda m: m.name)
def test_ignored_examples_do_not_count(member):
    """Without weights the mean is over the examples that are not ignored."""

    @jax.jit
    def run(z, labels, **options):
        return jax.value_and_grad(partial(member.function, ignore_index=4, reduction="mean"))(
            z, labels, **options
        )

    kept = LABELS != 4
    value, bar = run(LOGITS, LABELS)
    d_losses, losses = losses_and_gradient(member.function)(LOGITS, LABELS)
    counted = kept * counts_of(member)
    check(value, (np.float64(losses) * kept).sum() / counted.sum())
    check(bar, np.where(kept[:, None], d_losses, 0) / counted.sum())
    check((value, bar), run(LOGITS, LABELS, sample_weight=kept))
    nothing = run(LOGITS, np.full(N, 4, np.int32))
    assert_array_equal(nothing[0], 0)
    assert_array_equal(nothing[1], np.zeros((N, C)))


@over
def test_no_examples(member):
    z, labels = jax.tree.map(lambda x: jnp.asarray(x)[:0], (LOGITS, member.labels))
    found = compiled(member)(z, labels, jnp.zeros(0))
    assert_array_equal([value for value, _ in found.values()], 0)


OPTIONS = {
    "plain": {},
    "ignore": {"ignore_index": 0},
    "class weights": {"class_weight": jnp.linspace(0, 2, C), "ignore_index": 2},
    "weights": {"sample_weight": WEIGHTS, "class_weight": jnp.linspace(1, 2, C)},
    "smoothed": {"sample_weight": WEIGHTS, "ignore_index": 0, "label_smoothing": 0.2},
    "smoothed class weights": {
        "sample_weight": WEIGHTS,
        "class_weight": jnp.linspace(0, 2, C),
        "ignore_index": 2,
        "label_smoothing": 0.2,
        "z_loss": 0.1,
        "where": jnp.array([True, True, True, False, True]),
    },
}


@pytest.mark.parametrize("reduction", ["mean", "sum", None])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_is_the_loss_of_a_linear_head(options, reduction):
    x, w = (
        jax.random.normal(jax.random.key(0), (N, 3)),
        jax.random.normal(jax.random.key(1), (C, 3)),
    )
    labels = jnp.where(LABELS == 3, 1, LABELS)
    arrays = {k: v for k, v in options.items() if k in ("sample_weight", "class_weight")}
    static = {k: v for k, v in options.items() if k not in arrays} | {"reduction": reduction}

    def dense(x, w, arrays):
        return jnp.sum(js.cross_entropy(x @ w.T, labels, **arrays, **static))

    def linear(x, w, arrays):
        return jnp.sum(js.linear_cross_entropy(x, w, labels, class_block=2, **arrays, **static))

    got, expected = (
        jax.jit(jax.value_and_grad(f, (0, 1, 2)))(x, w, arrays) for f in (dense, linear)
    )
    check(got, expected)


def test_binary():
    z, y = jnp.array([[0.5, -2.0], [jnp.nan, 3.0]]), jnp.array([[1, 0], [1, 7]])
    weights = jnp.array([[1, 2], [0, 0]])

    def mean(z):
        return js.binary_cross_entropy(z, y, sample_weight=weights, reduction="mean")

    value, bar = jax.value_and_grad(mean)(z)
    rows = js.binary_cross_entropy(z[0], y[0])
    check(value, (rows @ np.array([1.0, 2.0], np.float32)) / 3)
    check(bar[0], jax.grad(lambda z: mean(jnp.stack([z, z])))(z[0]))
    assert_array_equal(bar[1], 0)
    assert_array_equal(js.binary_cross_entropy(z, y, sample_weight=weights)[1], 0)
    assert js.binary_cross_entropy(jnp.zeros((0, 2)), jnp.zeros((0, 2)), reduction="mean") == 0


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"reduction": "average"}, ValueError, "reduction"),
        ({"sample_weight": np.ones((N, 1))}, AssertionError, "sample_weight"),
        ({"sample_weight": np.ones(1)}, AssertionError, "sample_weight"),
    ],
)
@pytest.mark.parametrize(
    "member", [*(m for m in MEMBERS if m.labels is LABELS), *MEMBERS[-4:]], ids=lambda m: m.name
)
def test_refused(member, options, error, match):
    given = () if member.labels is None else (member.labels,)
    with pytest.raises(error, match=match):
        jax.eval_shape(partial(member.function, **options), LOGITS, *given)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("function", [js.cross_entropy, js.kl_divergence, js.distillation_loss])
def test_any_class_axis(function, axis):
    z, q = np.stack([LOGITS, LOGITS[::-1]]), np.stack([SOFT, SOFT[::-1]])
    weights = np.float32(np.arange(2 * N)).reshape(2, N)
    options = {"sample_weight": weights, "reduction": "mean"}
    run = jax.jit(partial(function, **options), static_argnames="axis")
    got = run(*(np.moveaxis(x, -1, axis) for x in (z, q)), axis=axis)
    assert_allclose(got, run(z, q), rtol=1e-6)
