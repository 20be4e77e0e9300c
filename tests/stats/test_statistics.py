"""The list of statistics: merging, the derivative of the runner-up, and what a loss reads."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blocks import BLOCKS, C, D, N
from cases import STATS_LOSSES, head, over
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js
from jsoftmax.losses.protocol import fields_read, on_centred
from jsoftmax.stats.logit_stats import LogitStats
from jsoftmax.stats.others import Others, merge, no_others, others_of
from jsoftmax.stats.statistics import OPTIONAL, SUMS

pytestmark = pytest.mark.one_in(4)

Z = jnp.asarray(np.random.default_rng(0).normal(size=(4, 12)) * 4, jnp.float32)
ALL = (*OPTIONAL, "weighted_mean")
UNMASKED = jnp.asarray(np.random.default_rng(1).random((4, 12)) < 0.7).at[3].set(False)


def statistics(columns):
    """Return the statistics of some of the classes, with all sums there are."""
    z = jnp.where(UNMASKED, Z, -jnp.inf)[:, columns]
    classes = jnp.arange(12, dtype=jnp.int32)[columns]
    return others_of(z, UNMASKED[:, columns], classes, ALL, jnp.linspace(0, 2, 12)[columns])


@pytest.mark.thorough
def test_every_sum_merges_over_blocks_in_any_order():
    found = statistics(slice(None))
    assert set(found.sums) == set(SUMS)
    blocks = [statistics(slice(i, i + 4)) for i in (0, 4, 8)]
    nothing = no_others((4,), jnp.float32, jnp.int32, ALL)
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        merged = nothing
        for i in order:
            merged = merge(merged, blocks[i])
        jax.tree.map(partial(assert_allclose, rtol=1e-5, atol=1e-5), merged.sums, found.sums)
        assert_array_equal(merged.top, found.top)
        some = np.asarray(UNMASKED.any(-1))
        assert_array_equal(
            merged.top_class[some], np.argmax(np.where(UNMASKED, Z, -np.inf), -1)[some]
        )


def test_no_class_is_neutral():
    nothing, found = no_others((4,), jnp.float32, jnp.int32, ALL), statistics(slice(None))
    for merged in (merge(nothing, found), merge(found, nothing)):
        jax.tree.map(assert_array_equal, merged.sums, found.sums)
        assert_array_equal(merged.top, found.top)
    assert isinstance(merge(nothing, nothing), Others)
    assert all((x == 0).all() for x in merge(nothing, nothing).sums.values())


# What each loss of the library reads beside the target and the others.
READS = {"nll, smoothed": ("mean",)}


@over(STATS_LOSSES)
def test_a_loss_reads_what_its_formula_has(case):
    zero = jnp.zeros(())
    stats = LogitStats(*[zero] * len(LogitStats._fields))
    loss = on_centred(partial(case.function, **case.options))
    assert fields_read(loss, stats, zero) == READS.get(case.name, ())


@pytest.mark.parametrize(
    ("loss", "fields"),
    [
        (lambda s: s.runner_up - s.target, ("runner_up",)),
        (lambda s: jnp.where(s.correct, 0, s.others - s.mean), ("mean",)),
        (lambda s: s.logsumexp, ()),
        (jax.jit(lambda s: s.mean - s.target), ("mean",)),
        (lambda s: sum(s), OPTIONAL),
        (lambda s: s.entropy - s.log_prob, ("others_entropy",)),
        (lambda s: undefined, OPTIONAL),  # noqa: F821, an error that is the user's
    ],
)
def test_what_a_loss_reads_is_found_by_tracing_it(loss, fields):
    zero = jnp.zeros(())
    stats = LogitStats(*[zero] * len(LogitStats._fields))
    assert fields_read(lambda s, shift: loss(s), stats, zero) == fields


# --- the runner-up has a gradient ---


@js.shift_invariant
def hinge(stats):
    """A margin of 1 between the true class and the strongest other one."""
    return jax.nn.relu(1 + stats.runner_up - stats.target)


def hinge_on_logits(z, labels):
    z = np.asarray(z, np.float64)
    true = np.arange(z.shape[1]) == np.asarray(labels)[:, None]
    runner_up = np.where(true, -np.inf, z).argmax(-1)
    rows = np.arange(len(z))
    loss = np.maximum(1 + z[rows, runner_up] - z[rows, labels], 0)
    gradient = np.zeros_like(z)
    gradient[rows, runner_up] += loss > 0
    gradient[rows, labels] -= loss > 0
    return loss, gradient


LABELS = jnp.array([0, 3, 11, 5])


@pytest.mark.thorough
def test_gradient_of_the_runner_up_on_logits():
    loss, gradient = hinge_on_logits(Z, LABELS)

    def total(z):
        return jnp.sum(hinge(js.logit_stats(z, LABELS)))

    assert_allclose(total(Z), loss.sum(), rtol=1e-6)
    assert_array_equal(jax.grad(total)(Z), gradient)
    assert_allclose(jax.jvp(total, (Z,), (Z,))[1], (gradient * np.asarray(Z)).sum(), rtol=1e-5)
    # Among ties it goes to one class, or is shared.
    tied = jax.grad(total)(jnp.zeros((4, 12)))
    assert_allclose(tied.sum(-1), 0, atol=1e-6)
    assert_allclose(jnp.where(tied > 0, tied, 0).sum(-1), 1, rtol=1e-6)


def sharded(x, w, labels, **options):
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    axes = {"batch_axis": "data", "class_axis": "model"}
    evaluate = js.sharded_linear_loss(mesh, **axes, num_classes=C, loss=hinge)
    return evaluate(x, w, labels, reduction="sum", **options)


@pytest.mark.parametrize("reduction", ["sum", None])
@pytest.mark.parametrize("blocks", [*BLOCKS, "sharded"])
def test_gradient_of_the_runner_up_of_a_linear_head(blocks, reduction):
    x, w, labels = head(examples=N, size=D, classes=C)
    bias = jnp.linspace(-1, 1, C)

    def total(x, w, bias):
        if blocks == "sharded":
            return sharded(x, w, labels, bias=bias)
        options = {"bias": bias, "reduction": reduction} | BLOCKS[blocks]
        return jnp.sum(js.linear_loss(x, w, labels, hinge, **options))

    loss, bars = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(x, w, bias)
    expected, dz = hinge_on_logits(x @ w.T + bias, labels)
    assert_allclose(loss, expected.sum(), rtol=1e-5)
    for bar, slope in zip(bars, (dz @ w, dz.T @ x, dz.sum(0)), strict=True):
        assert_allclose(bar, slope, rtol=1e-5, atol=1e-5)


def test_gradient_of_the_runner_up_of_lists():
    """Of a listed class the runner-up may be another one of the list."""
    x, w, _ = head(examples=N, size=D, classes=C)
    indices = jnp.array([[0, 3, 6], [2, 2, 1], [6, 0, 6], [4, 5, 3], [1, 1, 1]])
    labels = js.SparseLabels(indices, jnp.full((N, 3), 1.0))

    def total(x, w):
        return js.linear_loss(x, w, labels, hinge, reduction="sum", row_block=2, class_block=3)

    loss, (dx, dw) = jax.jit(jax.value_and_grad(total, (0, 1)))(x, w)
    parts = [hinge_on_logits(x @ w.T, indices[:, k]) for k in range(3)]
    dz = sum(gradient for _, gradient in parts)
    assert_allclose(loss, sum(part.sum() for part, _ in parts), rtol=1e-5)
    assert_allclose(dx, dz @ w, rtol=1e-5, atol=1e-5)
    assert_allclose(dw, dz.T @ x, rtol=1e-5, atol=1e-5)


# --- a common shift ---


# Whether a loss is declared is read in one place: two of them are enough for one loss per example.
SHIFTED = [(case, "mean") for case in STATS_LOSSES]
SHIFTED += [(case, None) for case in STATS_LOSSES if case.name in ("focal", "nll, smoothed")]


@pytest.mark.parametrize(
    ("case", "reduction"), SHIFTED, ids=[f"{case.name}-{reduction}" for case, reduction in SHIFTED]
)
def test_a_common_shift_costs_a_declared_loss_nothing(case, reduction):
    """All losses of the library are declared, and so is a wrapper that a user decorates."""
    x, w, labels = head(examples=N, size=D, classes=C)
    # Powers of two, and a weight that is exact: the shifted logits are rounded nowhere.
    far = jnp.full(C, 2.0**16)
    loss = partial(case.function, **case.options)
    wrapped = js.shift_invariant(lambda stats: loss(stats))

    @jax.jit
    def run(x, w):
        def gradients(loss, bias):
            options = {"bias": bias, "reduction": reduction, "row_block": 2, "class_block": 3}
            of = lambda x: jnp.mean(js.linear_loss(x, w, labels, loss, **options))  # noqa: E731
            return jax.value_and_grad(of)(x)

        return gradients(loss, far), gradients(wrapped, far), gradients(loss, 0 * far)

    coarse = jnp.round(x * 4) / 4, jnp.round(w * 4) / 4
    shifted, decorated, plain = run(*coarse)
    check = partial(assert_allclose, rtol=1e-5, atol=1e-6)
    if "z_loss" in case.options:  # which is no function of differences, but accurate all the same
        gap = shifted[0] - case.options["z_loss"] * 2.0**32
        assert abs(gap) < 1e-3 * case.options["z_loss"] * 2.0**32
        return
    jax.tree.map(check, shifted, plain)
    jax.tree.map(check, decorated, plain)


def test_any_other_loss_gets_the_stats_themselves():
    x, w, labels = head(examples=N, size=D, classes=C)
    bias = jnp.full(C, 100.0)
    found = jax.jit(lambda: js.linear_loss(x, w, labels, lambda s: s.logsumexp, bias=bias))()
    expected = jnp.mean(js.logsumexp(js.linear_logits(x, w, bias=bias)))
    assert_allclose(found, expected, rtol=1e-6)
