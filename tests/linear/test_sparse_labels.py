"""SparseLabels, in linear losses and on logits, against the distributions they stand for."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from blocks import BIAS, BLOCKS, KEEP, C, D, N, over_blocks
from cases import close, head
from numpy.testing import assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(4)

LISTS = jnp.array([[0, 3, 6], [2, 2, 1], [6, 0, 6], [4, 5, 3], [1, 1, 1]])
PROBS = jnp.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [1, 0, 0.5], [0.2, 0.3, 0.5], [1, 0, 0]])


def spread(probs):
    """Return the distributions that the lists stand for."""
    return jnp.sum(jax.nn.one_hot(LISTS, C) * probs[..., None], -2)


SPARSE_OPTIONS = {"label_smoothing": 0.1, "z_loss": 0.1, "class_weight": jnp.linspace(1, 2, C)}


def sparse_arguments():
    x, w, _ = head(examples=N, size=D, classes=C)
    return x, w, BIAS, PROBS


@cache
def mean_of_distributions():
    """Return the mean loss of the same on dense logits, and its gradients."""

    def mean(x, w, bias, probs):
        logits = js.linear_logits(x, w, bias=bias)
        return jnp.mean(js.cross_entropy(logits, spread(probs), **SPARSE_OPTIONS))

    return jax.jit(jax.value_and_grad(mean, range(4)))(*sparse_arguments())


@over_blocks
def test_sparse_labels(blocks):
    def mean(x, w, bias, probs, reduction):
        labels = js.SparseLabels(LISTS, probs)
        options = {"bias": bias, "reduction": reduction} | SPARSE_OPTIONS | blocks
        return jnp.mean(js.linear_cross_entropy(x, w, labels, **options))

    @jax.jit
    def run(*arguments):
        return [
            jax.value_and_grad(partial(mean, reduction=reduction), range(4))(*arguments)
            for reduction in ("mean", None)
        ]

    for got in run(*sparse_arguments()):
        close(got, mean_of_distributions())


def test_sparse_labels_on_logits():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(N, C)) * 3, jnp.float32)
    labels = js.SparseLabels(LISTS, PROBS)
    options = {"label_smoothing": 0.1, "where": KEEP | (spread(PROBS) > 0)}
    others = [(js.focal_loss, oracles.focal), (js.mae_loss, oracles.mae)]
    temperatures = 1.0, 0.5

    @jax.jit
    def run(logits):
        of_temperatures = [
            js.cross_entropy(logits, labels, temperature=t, **options) for t in temperatures
        ]
        along = js.cross_entropy(logits.T, labels, axis=0), js.cross_entropy(logits, labels)
        return of_temperatures, along, [loss(logits, labels) for loss, _ in others]

    of_temperatures, (along_first, along_last), of_others = run(logits)
    q = spread(PROBS)
    for got, t in zip(of_temperatures, temperatures, strict=True):
        close(got, oracles.cross_entropy(logits, q, temperature=t, **options), f"{t}", rtol=2e-6)
    close(along_first, along_last)
    for got, (loss, oracle) in zip(of_others, others, strict=True):
        close(got, oracle(logits, q), loss.__name__, rtol=5e-6)


def test_sparse_labels_out_of_range_or_with_a_margin():
    x, w, _ = head(examples=N, size=D, classes=C)
    labels = js.SparseLabels(LISTS.at[0, 0].set(C).at[1, 0].set(-1), PROBS)
    bad = jnp.array([True, True, False, False, False])

    @jax.jit
    def run():
        by_rows = js.linear_loss(x, w, labels, reduction=None, **BLOCKS["rows"])
        return by_rows, js.cross_entropy(js.linear_logits(x, w), labels)

    for losses in run():
        assert_array_equal(jnp.isnan(losses), bad)
    with pytest.raises(ValueError, match="margin"):
        js.linear_loss(x, w, labels, margin=js.arcface())
    with pytest.raises(ValueError, match="ignore_index"):
        js.linear_loss(x, w, labels, ignore_index=-1)
    with pytest.raises(AssertionError, match=r"labels\.probs"):
        js.linear_loss(x, w, labels._replace(probs=PROBS[:, :2]))
