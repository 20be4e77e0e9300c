"""The linear losses' edge cases: out-of-range labels, masked classes, extremes, narrow dtypes."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from blocks import BLOCKS, KEEP, C, D, N, over_blocks, value_and_grads
from cases import close, head
from heads import WAYS, dense
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(19)


def jitted(function, *args, **options):
    """Compile at once what would be compiled operation by operation."""
    return jax.jit(lambda: function(*args, **options))()


@over_blocks
def test_a_bad_label_is_nan_in_its_own_row(blocks):
    x, w, labels = head(examples=N, size=D, classes=C)
    on = jnp.arange(C) < C - 1  # a bad label is not taken for the masked class next to it

    @jax.jit
    def run(labels):
        options = {"where": on, **blocks}
        loss = partial(js.linear_loss, **options)
        losses = js.linear_loss(x, w, labels, reduction=None, **options)
        return losses, *jax.value_and_grad(loss, (0, 1))(x, w, labels)

    for bad in (-1, C, -C):
        losses, loss, (dx, _) = run(jnp.asarray(labels).at[1].set(bad).at[-1].set(0))
        assert_array_equal(jnp.isnan(losses), jnp.arange(N) == 1)
        assert jnp.isnan(loss)
        assert_array_equal(jnp.isnan(dx).any(-1), jnp.arange(N) == 1)


# Class 0, the label that ignored rows are given on the way, is masked.
KEEP_LABELS = KEEP.at[0].set(False).at[head(examples=N, size=D, classes=C)[2][2:]].set(True)


@cache
def without_the_first_two():
    """Return loss and gradients of the other examples alone, in one block."""
    x, w, labels = head(examples=N, size=D, classes=C)
    return value_and_grads(x[2:], w, labels[2:], where=KEEP_LABELS)


@over_blocks
def test_what_does_not_count_leaves_no_trace(blocks):
    x, w, labels = head(examples=N, size=D, classes=C)
    spoilt, counts = x.at[1].set(jnp.nan), jnp.arange(N) != 1
    ignored = jnp.where(counts, labels, -100).at[0].set(-100)
    options = {"ignore_index": -100, "where": KEEP_LABELS, **blocks}
    got = value_and_grads(spoilt, w, ignored, **options)
    expected = without_the_first_two()
    close(got[0], expected[0])
    close(got[1][1], expected[1][1])
    close(got[1][0][2:], expected[1][0])
    assert_array_equal(got[1][0][:2], 0)

    # An example without weight is left out even if its loss is NaN, as in weighted_mean.
    @jax.jit
    def weighted(labels):
        loss = partial(js.linear_loss, sample_weight=counts.astype(jnp.float32), **blocks)
        return jax.value_and_grad(loss, (0, 1))(x, w, labels)

    close(weighted(jnp.where(counts, labels, C)), weighted(jnp.asarray(labels, jnp.int32)))


@over_blocks
def test_nothing_left(blocks):
    x, w, labels = head(examples=N, size=D, classes=C)
    none = jnp.zeros(N)

    @jax.jit
    def run(x, w):
        loss = jax.value_and_grad(js.linear_loss, (0, 1))
        return {
            "all ignored": loss(x, w, jnp.full(N, -1), ignore_index=-1, **blocks),
            "no weight": loss(x, w, labels, sample_weight=none, **blocks),
            "empty": loss(x[:0], w, labels[:0], **blocks),
        }

    for case, (loss, grads) in run(x, w).items():
        assert loss == 0, case
        assert all((g == 0).all() for g in grads), case


@over_blocks
def test_masked_classes(blocks):
    x, w, labels = head(examples=N, size=D, classes=C)
    off = jnp.arange(C) != labels[1]

    @jax.jit
    def run(where):
        options = {"where": where, **blocks}
        bias = jnp.where(where, 0.0, -jnp.inf)  # does the same
        return {
            "losses": js.linear_loss(x, w, labels, reduction=None, **options),
            "by bias": js.linear_loss(x, w, labels, bias=bias, reduction=None, **blocks),
            "mean": jax.value_and_grad(partial(js.linear_loss, **options), (0, 1))(x, w, labels),
            "stats": js.linear_stats(x, w, labels, **options),
        }

    found = run(off)
    assert_array_equal(jnp.isinf(found["losses"]), labels == labels[1])
    close(found["by bias"], found["losses"])
    _, (dx, dw) = found["mean"]
    assert_array_equal(dx[labels == labels[1]], 0)
    assert_array_equal(dw[labels[1]], 0)
    assert jnp.isfinite(dw).all()
    none = run(jnp.zeros(C, bool))
    loss, grads = none["mean"]
    assert loss == jnp.inf
    assert all((g == 0).all() for g in grads)
    assert (none["stats"].logsumexp == -jnp.inf).all()
    assert not none["stats"].correct.any()


MARGINS = {"none": None, "unit": js.arcface(scale=4.0), "norms kept": js.l_softmax(3, anneal=1.0)}


@pytest.mark.parametrize("margin", MARGINS.values(), ids=MARGINS)
@pytest.mark.parametrize("way", [dense, *WAYS.values()], ids=["dense", *WAYS])
def test_a_masked_class_may_hold_nan(way, margin):
    """Its vector and bias reach neither the value nor a gradient; theirs is 0."""
    x, w, labels = head(examples=N, size=D, classes=C)
    keep = jnp.arange(C) != 2
    labels = jnp.where(labels == 2, 3, labels)

    def total(x, w, bias, softcap):
        loss = partial(js.nll, label_smoothing=0.1)
        options = {"bias": bias, "softcap": softcap, "margin": margin, "where": keep}
        if way is dense:  # the statistics have to know of the mask as well
            logits = js.linear_logits(x, w, labels, **options)
            return jnp.sum(js.cross_entropy(logits, labels, where=keep, label_smoothing=0.1))
        return way(x, w, labels, loss, **options)

    run = jax.jit(jax.value_and_grad(total, (0, 1, 2, 3)))
    expected = run(x, jnp.where(keep[:, None], w, 0), jnp.where(keep, 0.5, 0), 3.0)
    for filler in (jnp.nan, jnp.inf):
        given = jnp.where(keep[:, None], w, filler), jnp.where(keep, 0.5, filler)
        close(run(x, *given, 3.0), expected)


@pytest.mark.thorough
@over_blocks
def test_statistics_of_ignored_examples(blocks):
    """They are those of a neutral example, without gradient."""
    x, w, labels = head(examples=N, size=D, classes=C)
    labels, margin = jnp.asarray(labels).at[1].set(-1), js.arcface(scale=4.0)
    spoilt = x.at[1].set(jnp.nan)
    options = {"bias": jnp.linspace(-1, 1, C), "margin": margin, **blocks}

    def total(x, w):
        stats = js.linear_stats(x, w, labels, ignore_index=-1, **options)
        return sum(jnp.sum(jnp.tanh(field)) for field in stats), stats

    (_, stats), bars = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(spoilt, w)
    neutral = js.linear_stats(x.at[1].set(0), w, labels.at[1].set(0), **options)
    close(stats, neutral)
    kept = jnp.arange(N) != 1
    found = jax.jit(jax.grad(lambda *given: total(*given)[0], (0, 1)))
    labels = labels[kept]
    dx, dw = found(x[kept], w)
    close(bars, (jnp.zeros_like(x).at[kept].set(dx), dw))


@over_blocks
def test_a_common_offset_and_sure_examples(blocks):
    x, w, labels = head(examples=N, size=D, classes=C)
    offset = jnp.full(C, 1e6)

    @jax.jit
    def run():
        options = {"bias": offset, "reduction": None, **blocks}
        by_blocks = js.linear_cross_entropy(x, w, labels, **options)
        return by_blocks, js.cross_entropy(js.linear_logits(x, w, bias=offset), labels)

    close(*run(), rtol=1e-6)
    # One class far ahead: loss and gradient keep their digits where lse - target is 0.
    x, w = jnp.array([[40.0]]), jnp.array([[1.0], [0.0], [0.0]])
    loss, (dx, _) = value_and_grads(x, w, jnp.array([0]), **blocks)
    assert_allclose(loss, 2 * np.exp(-40.0), rtol=1e-5)
    assert_allclose(dx[0, 0], -2 * np.exp(-40.0), rtol=1e-5)


def test_parallel_and_zero_vectors():
    w = jnp.concatenate([jnp.eye(3), -jnp.eye(3), jnp.zeros((1, 3))])
    x, labels = (
        jnp.array([[2.0, 0, 0], [0, -3.0, 0], [0, 0, 0], [1, 1, 1]]),
        jnp.array([0, 1, 2, 6]),
    )
    margins = js.arcface(), js.l_softmax(), js.a_softmax(), js.combined_margin()

    @jax.jit
    def run(x, w):
        losses = [partial(js.linear_loss, margin=m, **BLOCKS["rows"]) for m in margins]
        return [jax.value_and_grad(loss, (0, 1))(x, w, labels) for loss in losses]

    for margin, (loss, grads) in zip(margins, run(x, w), strict=True):
        assert jnp.isfinite(loss), margin
        assert all(jnp.isfinite(g).all() for g in grads), margin


def test_near_uniform_logits_and_a_ragged_end():
    """Padding that counted as a class would change log C, not what random normals give."""
    classes = 1009
    x, w = jnp.full((3, 2), 1e-3), jnp.full((classes, 2), 1e-3)
    labels = jnp.array([0, 1000, 1008])
    options = {"softcap": 1e-3, "reduction": None, "row_block": 2, "class_block": 100}
    losses = jitted(js.linear_loss, x, w, labels, **options)
    assert_allclose(losses, np.log(classes), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_more_classes_than_float16_counts(dtype):
    classes = 70_001
    x, w = jnp.ones((2, 2), dtype), jnp.zeros((classes, 2), dtype)
    loss, (dx, dw) = value_and_grads(x, w, jnp.array([0, 70_000]))
    assert_allclose(loss, np.log(classes), rtol=1e-6)
    assert dx.dtype == dw.dtype == dtype
    assert_allclose(dw[1, 0], 1 / classes, rtol=2**-7)
    assert_allclose(dw[0, 0], -0.5 + 1 / classes, rtol=2**-7)


@pytest.mark.parametrize(("x_dtype", "w_dtype"), [("bfloat16", "float32"), ("float16", "float16")])
def test_mixed_and_narrow_dtypes(x_dtype, w_dtype):
    x, w, labels = head(examples=N, size=D, classes=C)
    x, w = x.astype(x_dtype), w.astype(w_dtype)
    margin = js.cosface(scale=4.0)
    loss, grads = value_and_grads(x, w, labels, margin=margin, **BLOCKS["rows"])
    wide = value_and_grads(x.astype("float32"), w.astype("float32"), labels, margin=margin)
    assert [g.dtype for g in grads] == [x_dtype, w_dtype]
    assert_allclose(loss, wide[0], rtol=1e-6)
    for got, expected in zip(grads, wide[1], strict=True):
        assert_allclose(oracles.float64(got), expected, atol=2**-7 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_second_derivatives_per_example_in_blocks_of_rows(dtype):
    """The blocks of features are slices, whose derivative must not get lost."""
    x, w, labels = head(dtype, examples=N, size=D, classes=C)

    def total(x, w):
        losses = js.linear_loss(x, w, labels, reduction=None, **BLOCKS["rows"])
        return jnp.sum(losses * jnp.arange(1.0, 1 + N))

    run = jax.jit(lambda x, w: jax.jvp(jax.grad(total, (0, 1)), (x, w), (x, w))[1])
    expected = run(x.astype("float32"), w.astype("float32"))
    for got, true in zip(run(x, w), expected, strict=True):
        assert_allclose(oracles.float64(got), true, atol=2**-6 * np.abs(true).max())
