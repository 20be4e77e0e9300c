"""Class weights on the terms of a smoothed label, without materialising the logits."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from blocks import BIAS, BLOCKS, KEEP, C, D, N
from cases import close, head
from meshes import mesh_of
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(16)

X, W, LABELS = head(examples=N, size=D, classes=C)
LISTS = js.SparseLabels(
    jnp.array([[0, 6], [3, 3], [6, 4], [1, 6], [1, 0]]),
    jnp.array([[0.7, 0.3], [0.5, 0.5], [1.0, 0.0], [0.2, 0.9], [0.6, 0.4]]),
)
WEIGHTS = jnp.array([0.5, 0.0, 2.0, 1.5, 3.0, 1.0, 0.25])
SAMPLE = jnp.array([1.0, 2.0, 0.0, 0.5, 3.0])


def dense(x, w, labels, bias, **options):
    return js.cross_entropy(js.linear_logits(x, w, bias=bias), labels, **options)


def sharded(axes, x, w, labels, label_smoothing, z_loss, **options):
    names = dict(zip(("batch_axis", "class_axis"), axes, strict=True))
    loss = partial(js.nll, label_smoothing=label_smoothing, z_loss=z_loss)
    run = js.sharded_linear_loss(mesh_of(), **names, num_classes=C, loss=loss)
    return run(x, w, labels, **options)


WAYS = {name: partial(js.linear_cross_entropy, **options) for name, options in BLOCKS.items()}
WAYS |= {
    "sharded": partial(sharded, ("data", "model")),
    "features gathered": partial(sharded, (("data", "model"), "model")),
}


@cache
def with_everything(way, labels, reduction):
    def total(x, w, numbers):
        options = {"where": KEEP, "sample_weight": SAMPLE, "reduction": reduction, "z_loss": 0.1}
        losses = way(x, w, KINDS[labels], **numbers, **options)
        return jnp.sum(losses * jnp.arange(1.0, 1 + losses.size))

    numbers = {"bias": BIAS, "class_weight": WEIGHTS, "label_smoothing": 0.3}
    return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(X, W, numbers)


KINDS = {"classes": LABELS, "lists": LISTS}


@pytest.mark.parametrize("reduction", ["mean", None])
@pytest.mark.parametrize("labels", KINDS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_is_that_of_the_dense_loss(way, labels, reduction):
    got, expected = (with_everything(each, labels, reduction) for each in (way, dense))
    close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
def test_the_mean_divides_by_the_weights_of_the_labels(blocks):
    options = {"label_smoothing": 0.3, "class_weight": WEIGHTS, **blocks}
    got = js.linear_cross_entropy(X, W, LABELS, **options)
    q = oracles.one_hot(LABELS, C)
    logits = oracles.float64(X) @ oracles.float64(W).T
    losses = oracles.cross_entropy(logits, q, label_smoothing=0.3, class_weight=np.asarray(WEIGHTS))
    assert_allclose(got, losses.sum() / np.asarray(WEIGHTS)[LABELS].sum(), rtol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", None])
def test_statistics_do_not_change(reduction):
    run = partial(js.linear_cross_entropy, X, W, LABELS, reduction=reduction, return_stats=True)
    _, expected = run(label_smoothing=0.3)
    _, got = run(label_smoothing=0.3, class_weight=WEIGHTS)
    close(got, expected)
    _, got = run(class_weight=WEIGHTS)
    close(got, expected)


def test_a_list_of_weight_zero_may_hold_anything():
    spoilt = js.SparseLabels(LISTS.indices.at[2].set(-1), LISTS.probs.at[2].set(jnp.nan))
    run = jax.value_and_grad(partial(js.linear_cross_entropy, sample_weight=SAMPLE), (0, 1))
    close(run(X.at[2].set(jnp.inf), W, spoilt), run(X, W, LISTS))
    close(run(X, W, LISTS._replace(probs=spoilt.probs)), run(X, W, LISTS))


@pytest.mark.thorough
def test_second_derivatives():
    def total(way, x):
        losses = way(x, W, LABELS, BIAS, label_smoothing=0.3, class_weight=WEIGHTS)
        return jnp.sum(losses)

    def linear(x, w, labels, bias, **options):
        blocks = {"class_block": 3, "row_block": 2}
        return js.linear_cross_entropy(
            x, w, labels, bias=bias, reduction="sum", **options, **blocks
        )

    v = jnp.cos(jnp.arange(X.size, dtype=X.dtype)).reshape(X.shape)
    expected, got = (
        jax.jvp(jax.grad(partial(total, way)), (X,), (v,))[1] for way in (dense, linear)
    )
    close(got, expected, rtol=1e-4, atol=1e-5)


def test_weights_of_zero_only():
    """Nothing is left to be a mean of, and nothing is NaN."""
    run = partial(js.linear_cross_entropy, label_smoothing=0.3, class_weight=jnp.zeros(C))
    value, bar = jax.value_and_grad(run)(X, W, LABELS)
    close((value, bar), (0, jnp.zeros_like(bar)))


BAD = {
    "NaN": (X.at[2].set(jnp.nan), LABELS),
    "inf": (X.at[2, 0].set(jnp.inf), LABELS),
    "label -1": (X, np.where(np.arange(N) == 2, -1, LABELS)),
    "label too large": (X, np.where(np.arange(N) == 2, C, LABELS)),
}
NO_WEIGHTS = jnp.zeros(C).at[LABELS[0]].set(1.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ["mean", None])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_weight_of_zero_hides_nothing(bad, reduction, smoothing):
    """It is a factor on the loss, on logits and in blocks: NaN stays NaN, and so do gradients."""
    x, labels = bad

    def total(way, x, w):
        options = {"class_weight": NO_WEIGHTS, "label_smoothing": smoothing}
        losses = way(x, w, labels, BIAS, reduction=reduction, **options)
        return jnp.sum(losses), losses

    def linear(x, w, labels, bias, **options):
        return js.linear_cross_entropy(x, w, labels, bias=bias, **BLOCKS["rows"], **options)

    for way in (dense, linear):
        (_, losses), gradients = jax.value_and_grad(partial(total, way), (0, 1), has_aux=True)(x, W)
        rows = jnp.arange(N) == 2
        assert_array_equal(jnp.isnan(losses), rows if losses.ndim else True)
        assert_array_equal(jnp.isnan(gradients[0]).any(-1), rows)
        assert jnp.isnan(gradients[1]).any()


@pytest.mark.thorough
def test_a_masked_label_of_weight_zero():
    """Its term is 0, smoothed or not, and no other is of its class."""
    keep = jnp.arange(C) != LABELS[2]
    weights = WEIGHTS.at[LABELS[2]].set(0)
    for smoothing in (0.0, 0.3, 1.0):
        options = {"where": keep, "class_weight": weights, "label_smoothing": smoothing}
        run = partial(js.linear_cross_entropy, bias=BIAS, reduction="sum", z_loss=0.1, **options)

        def on_logits(x, w, options=options):
            return jnp.sum(dense(x, w, LABELS, BIAS, z_loss=0.1, **options))

        got = jax.value_and_grad(lambda x, w, run=run: run(x, w, LABELS), (0, 1))(X, W)
        close(got, jax.value_and_grad(on_logits, (0, 1))(X, W), rtol=1e-4, atol=1e-5)
        assert np.isfinite(got[0])
