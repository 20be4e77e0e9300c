"""Every head by every evaluator: what it is on dense logits, with all its derivatives."""

import dataclasses
from functools import cache, partial

import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import HEADS, head, vectors_of
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(12)

N, D, C = 5, 4, 9
X, _, Y = head(examples=N, size=D, classes=C)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Own:
    """A margin of a user: of the norm, and with a derivative in the cosine of the true class."""

    margin: float = 0.2
    scale: float = 5.0

    def target(self, c_y, norm):
        return c_y - self.margin * (1 + c_y) * jnp.tanh(norm)

    def others(self, c_j, c_y):
        return c_j + self.margin * c_j * c_y


BY_CLASS = jnp.linspace(0.1, 0.5, C)
BY_EXAMPLE = js.PerExample(jnp.linspace(0.1, 0.5, N))
# One of a kind: with all second derivatives, and by all evaluators.
KINDS = {
    "own": Own(),
    "numbers by class and example": js.mv_softmax(BY_CLASS, BY_EXAMPLE, js.PerExample(5 + X[:, 0])),
    **{name: HEADS[name] for name in ("magface", "inter_top_k, sub_center", "sphereface2")},
}


def loss(stats):
    """Return a loss that reads all statistics, and is not linear in those of one kind."""
    rest = jax.nn.softplus(stats.others_softplus) + jnp.log1p(stats.others_square)
    hinge = jax.nn.relu(1 + stats.runner_up - stats.score)
    return js.nll(stats) + 0.1 * (rest + stats.entropy + hinge)


def derivatives(way, x, w, margin):
    """Return value, gradients (to the margin's numbers, too), and a product with the Hessian."""

    def total(*at):
        return way(at[0], at[1], Y, loss, margin=at[2])

    at = x, w, margin
    along = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size)).astype(a.dtype).reshape(a.shape), at)
    return jax.jvp(jax.value_and_grad(total, (0, 1, 2)), at, along)


def floats(margin):
    return jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), margin)


@cache
def expected(kind):
    margin = KINDS[kind]
    return jax.jit(partial(derivatives, heads.dense))(X, vectors_of(margin, C, D), floats(margin))


# What a margin is made of reaches the engine by few ways: compiling is what takes the time.
WAYS = [
    *[(kind, way) for kind in KINDS for way in ("rows", "sharded")],
    *[("own", way) for way in ("per example", "features gathered")],
    *[("inter_top_k, sub_center", way) for way in ("classes", "stats", "features gathered")],
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "way"), WAYS)
def test_every_evaluator_of_a_kind(kind, way):
    margin = KINDS[kind]
    got = jax.jit(partial(derivatives, heads.WAYS[way]))(
        X, vectors_of(margin, C, D), floats(margin)
    )
    for found, wanted in zip(got, expected(kind), strict=True):
        leaves = jax.tree.leaves(wanted)
        atol = 5e-6 * max(np.abs(leaf).max() for leaf in leaves)
        for a, b in zip(jax.tree.leaves(found), leaves, strict=True):
            assert_allclose(a, b, rtol=1e-5, atol=atol)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("third", range(3))
def test_every_head_by_blocks(third):
    """Mean loss and gradients, of a third of the heads from one program."""
    # The last are to the engine what others are that it has.
    alike = ("angular_margin", "sphereface")
    chosen = [item for item in HEADS.items() if item[0] not in KINDS]
    chosen = dict([(n, m) for n, m in chosen if not n.startswith(alike)][third::3])

    def dense(x, w, margin):
        return jnp.mean(js.cross_entropy(js.linear_logits(x, w, Y, margin=margin), Y))

    def by_blocks(x, w, margin):
        return js.linear_loss(x, w, Y, margin=margin, row_block=2, class_block=4)

    def both(w, margin):
        return [jax.value_and_grad(way, (0, 1))(X, w, margin) for way in (by_blocks, dense)]

    @jax.jit
    def run(vectors):
        return {name: both(vectors[name], margin) for name, margin in chosen.items()}

    found = run({name: vectors_of(margin, C, D) for name, margin in chosen.items()})
    for name, ((value, bars), (same, others)) in found.items():
        assert_allclose(value, same, rtol=1e-5, err_msg=name)
        for a, b in zip(bars, others, strict=True):
            assert np.abs(b).max() > 1e-3
            assert_allclose(a, b, rtol=1e-5, atol=5e-6 * np.abs(b).max(), err_msg=name)


@pytest.mark.parametrize("rows", [None, 2])
def test_the_hardest_of_blocks_with_fewer(rows):
    """The three hardest, from blocks of two classes; with the products kept, and made again."""
    margin = js.inter_top_k(HEADS["npcface"], 3)
    got, expected = (
        jax.jit(jax.value_and_grad(way, (0, 1)))(X, vectors_of(margin, C, D))
        for way in (
            lambda x, w: js.linear_loss(x, w, Y, margin=margin, row_block=rows, class_block=2),
            lambda x, w: jnp.mean(js.cross_entropy(js.linear_logits(x, w, Y, margin=margin), Y)),
        )
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# --- at the ends ---

EXTREMES = np.array([[2.0, 0, 0], [-3.0, 0, 0], [0, 0, 0], [0, -1.5, 0], [1, 1, 0.5]])
VECTORS = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 0], [1, 1, 0.5]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parallel_antiparallel_and_zero_vectors(dtype):
    """Values and gradients are finite, for the true class and for others."""

    def total(x, w, labels, margin):
        w = jnp.stack([w, w[::-1]], 1) if hasattr(margin, "centers") else w
        return jnp.sum(js.cross_entropy(js.linear_logits(x, w, labels, margin=margin), labels))

    @jax.jit
    def run(*at):
        of = jax.value_and_grad(total, (0, 1))
        return {name: of(*at, margin) for name, margin in HEADS.items()}

    x, w = (jnp.asarray(each).astype(dtype) for each in (EXTREMES, VECTORS))
    for name, results in run(x, w, jnp.array([0, 0, 1, 1, 2])).items():
        for got in jax.tree.leaves(results):
            assert np.all(np.isfinite(got.astype(jnp.float32))), name


def test_a_margin_does_not_touch_accuracy():
    """Where other classes change, too, what is correct is said by the cosines."""
    names = ("mv_softmax", "curricularface", "inter_top_k, sub_center")
    x = jnp.asarray(np.random.default_rng(2).normal(size=(64, D)).astype(np.float32))
    labels = jnp.arange(64) % C

    def both(w, margin):
        options = {"margin": margin, "class_block": 2, "return_stats": True}
        logged = js.linear_loss(x, w, labels, **options)[1]
        alone = js.linear_stats(x, w, labels, margin=margin)
        return logged.correct, alone.correct, js.linear_logits(x, w, margin=margin)

    run = jax.jit(lambda vectors: {name: both(vectors[name], HEADS[name]) for name in names})
    for name, found in run({name: vectors_of(HEADS[name], C, D) for name in names}).items():
        *said, logits = found
        right = np.argmax(logits, -1) == labels
        assert 0 < right.sum() < 64
        for each in said:
            assert_array_equal(each, right, err_msg=name)


def test_heads_with_a_loss_are_arguments_of_compiled_functions():
    """Their numbers may be traced, those of the loss as well."""
    w = vectors_of(None, C, D)

    @jax.jit
    def run(head):
        return js.linear_loss(X, w, Y, head.loss, margin=head.margin)

    for make in (js.uniface, js.sphereface2):
        head = make()
        expected = js.linear_loss(X, w, Y, head.loss, margin=head.margin)
        assert_allclose(run(head), expected, rtol=1e-6)
    bars = jax.grad(lambda lw: run(js.sphereface2(lw=lw)))(2.0)
    assert_allclose(bars, run(js.sphereface2(lw=1.0)), rtol=1e-5)


@pytest.mark.parametrize("size", np.float32([1e-30, 1e30]))
def test_cosines_of_vectors_of_any_size(size):
    def found(x, w):
        curricular = js.curricularface_update(js.curricularface(), x, w[:, 0], Y, momentum=1.0)
        return *js.nearest_center(x, w, Y), curricular.t

    w = vectors_of(HEADS["sub_center"], C, D)
    for got, expected in zip(found(size * X, size * w), found(X, w), strict=True):
        assert_allclose(got, expected, rtol=1e-5)


# --- what is refused ---


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unnormalised(Own):
    normalize_features: bool = dataclasses.field(default=False, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Summarised(Own):
    def summary(self, c_j, c_y):
        return jnp.max(c_j, -1)


@dataclasses.dataclass(frozen=True)
class Unregistered:
    margin: float = 0.3

    def target(self, c_y):
        return c_y - self.margin


W = vectors_of(None, C, D)
WRONG = {
    "no pytree": (lambda: js.linear_loss(X, W, Y, margin=Unregistered()), "register_dataclass"),
    "no pytree inside": (lambda: js.inter_top_k(Unregistered()), "register_dataclass"),
    "no call": (lambda: js.linear_loss(X, W, Y, margin=js.mv_softmax), "Call it"),
    "no target": (lambda: js.linear_loss(X, W, Y, margin=BY_EXAMPLE), "a method `target`"),
    "no join": (lambda: js.linear_loss(X, W, Y, margin=Summarised()), r"`join\(a, b\)`"),
    "no unit features": (lambda: js.linear_loss(X, W, Y, margin=Unnormalised()), "`others`"),
    "one vector a class": (
        lambda: js.linear_loss(X, W, Y, margin=HEADS["sub_center"]),
        r"`weight`: classes by centers by features: expected shape \(9, 2, 4\)",
    ),
    "several vectors": (
        lambda: js.linear_loss(X, jnp.ones((C, 2, D)), Y, margin=js.arcface()),
        "`weight`",
    ),
    "by example": (
        lambda: js.linear_loss(X, W, Y, margin=js.inter_top_k(js.arcface(), penalty=jnp.ones(N))),
        r"`margin.penalty`.*PerExample",
    ),
    "beyond": (lambda: js.angular_margin(beyond="pi"), "`beyond`: expected 'continue'"),
    "target": (lambda: js.mv_softmax(target="cos"), "`target`: expected 'cosface' or 'arcface'"),
    "version": (lambda: js.sphereface_r(version=1), "`version`: expected 'v0', 'v1' or 'v2'"),
    "centers": (lambda: js.sub_center(js.arcface(), 0), "`centers`"),
    "sub_center of no margin": (lambda: js.sub_center(js.arcface), "`margin`: expected a margin"),
    "kappa": (lambda: js.tvmf(-0.5), "`kappa`"),
    "negative counts": (lambda: js.dynamic_margins(jnp.array([1, -1])), "`class_counts`"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_what_is_refused(call, message):
    with pytest.raises((AssertionError, TypeError, ValueError), match=message):
        call()
