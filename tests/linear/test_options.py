"""The options of the linear losses against dense logits, their statistics, and wrong arguments."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import pytest
from blocks import BIAS, BLOCKS, KEEP, C, D, N, over_blocks
from cases import close, head
from numpy.testing import assert_array_equal

import jsoftmax as js
from jsoftmax.stats.logit_stats import UNSHIFTED

pytestmark = pytest.mark.one_in(4)

OPTIONS = {
    "bias": {"bias": BIAS},
    "softcap": {"softcap": 0.5},
    "where": {"where": KEEP, "label_smoothing": 0.2},
    "weights": {"sample_weight": jnp.array([1, 0, 2, 1, 3]), "class_weight": jnp.arange(C)},
    "ignore": {"ignore_index": 3, "class_weight": jnp.linspace(1, 2, C)},
    "by example": {
        "label_smoothing": jnp.linspace(0, 0.5, N),
        "z_loss": jnp.linspace(0.2, 0, N),
        "bias": BIAS,
        "ignore_index": 3,
    },
    "by example, weighted": {"z_loss": jnp.linspace(0.2, 0, N), "class_weight": jnp.arange(C)},
    "by example, smoothed": {
        "z_loss": jnp.linspace(0.2, 0, N),
        "class_weight": jnp.arange(C),
        "label_smoothing": 0.3,
    },
    "smoothed by example": {
        "z_loss": 0.1,
        "class_weight": jnp.arange(C),
        "label_smoothing": jnp.linspace(0, 0.5, N),
    },
    "everything": {
        "bias": BIAS,
        "softcap": 2.0,
        "where": KEEP,
        "sample_weight": jnp.arange(5) > 1,
        "label_smoothing": 0.1,
        "z_loss": 0.1,
        "ignore_index": 4,
        "reduction": "sum",
        "margin": js.cosface(0.2, 4.0),
    },
}


FACTORS = jnp.arange(1.0, 1 + N)  # different cotangents of the losses of the examples


def on_dense_logits(x, w, labels, options):
    """Return what the options mean, by the functions on logits: reduced, and per example."""
    options = dict(options)
    sample_weight = options.pop("sample_weight", jnp.ones(N)).astype(jnp.float32)
    class_weight = options.get("class_weight", jnp.ones(C)).astype(jnp.float32)
    score = {k: options.pop(k) for k in ("bias", "softcap", "margin") if k in options}
    ignore, reduction = options.get("ignore_index"), options.pop("reduction", "mean")
    losses = js.cross_entropy(js.linear_logits(x, w, labels, **score), labels, **options)
    kept = sample_weight if ignore is None else jnp.where(labels == ignore, 0, sample_weight)
    weights = kept * class_weight[labels]
    total = jnp.sum(losses * kept) / (jnp.sum(weights) if reduction == "mean" else 1)
    return jnp.stack([total, jnp.sum(losses * kept * FACTORS)])


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name):
    x, w, labels = head(examples=N, size=D, classes=C)
    options = OPTIONS[name]

    def given(bias):
        return options | ({"bias": bias} if "bias" in options else {})

    def by_blocks(blocks, **more):
        """Return a scalar and its gradients."""

        def total(x, w, bias):
            out = js.linear_cross_entropy(x, w, labels, **given(bias) | blocks | more)
            return jnp.sum(out * FACTORS) if out.ndim else out

        return jax.value_and_grad(total, (0, 1, 2))(x, w, BIAS)

    def dense(x, w, bias):
        out = on_dense_logits(x, w, labels, given(bias))
        return out, out

    @jax.jit
    def run():
        got = {
            "rows": by_blocks(BLOCKS["rows"]),
            "classes": by_blocks(BLOCKS["classes"]),
            "none": by_blocks(BLOCKS["rows"], reduction=None),
        }
        bars, values = jax.jacrev(dense, (0, 1, 2), has_aux=True)(x, w, BIAS)
        return got, (values, bars)

    got, expected = run()
    reduced, per_example = (jax.tree.map(lambda x, i=i: x[i], expected) for i in (0, 1))
    close(got["rows"], reduced, "rows")
    close(got["classes"], reduced, "classes")
    close(got["none"], per_example, "none")


def test_only_the_library_s_losses_are_centred():
    """Any other function gets the stats themselves."""
    x, w, labels = head(examples=N, size=D, classes=C)

    def own(stats):
        return stats.target - 2 * stats.others + 3 * stats.mean + 4 * stats.runner_up

    @jax.jit
    def run():
        by_rows = js.linear_loss(x, w, labels, own, reduction=None, **BLOCKS["rows"])
        expected = own(js.logit_stats(js.linear_logits(x, w), labels))
        return by_rows, js.linear_loss(x, w, labels, own), expected

    by_rows, mean, expected = run()
    close(by_rows, expected)
    close(mean, expected.mean())


ARCFACE = js.arcface(scale=4.0)


@cache
def stats_on_dense_logits():
    """Return the stats of `test_statistics`, and the mean loss."""
    x, w, labels = head(examples=N, size=D, classes=C)

    @jax.jit
    def run():
        logits = js.linear_logits(x, w, labels, margin=ARCFACE)
        stats = js.logit_stats(logits, labels, where=KEEP)
        plain = js.logit_stats(js.linear_logits(x, w, margin=ARCFACE), labels, where=KEEP)
        return stats._replace(score=plain.target), js.nll(stats).mean()

    return run()


@over_blocks
def test_statistics(blocks):
    x, w, labels = head(examples=N, size=D, classes=C)
    options = {"margin": ARCFACE, "where": KEEP, **blocks}

    def only_stats(x):
        loss, stats = js.linear_loss(x, w, labels, return_stats=True, **options)
        return 0 * loss + sum(map(jnp.sum, jax.tree.leaves(stats))), (loss, stats)

    @jax.jit
    def run(x):
        alone = js.linear_stats(x, w, labels, **options)
        return alone, *jax.grad(only_stats, has_aux=True)(x)

    alone, bar, (loss, stats) = run(x)
    expected, expected_loss = stats_on_dense_logits()
    close(alone, expected)
    close(stats, expected._replace(**dict.fromkeys(UNSHIFTED)))  # which the loss does not read
    close(loss, expected_loss)
    assert_array_equal(bar, jnp.zeros_like(x))


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_leading_shapes(shape):
    x, labels = jnp.ones((*shape, D)), jnp.zeros(shape, jnp.uint8)
    options = {"reduction": None, "return_stats": True, "sample_weight": jnp.ones(shape)}
    arguments = x, jnp.eye(C, D), labels
    (losses, stats), mean = jax.jit(
        lambda: (js.linear_loss(*arguments, **options), js.linear_loss(*arguments))
    )()
    assert losses.shape == stats.target.shape == shape
    assert mean.shape == ()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": jnp.zeros((N, C))}, TypeError, "labels"),
        ({"labels": jnp.zeros(N + 1, int)}, AssertionError, "labels"),
        ({"weight": jnp.zeros((C, D + 1))}, AssertionError, "weight"),
        ({"weight": jnp.zeros((0, D))}, AssertionError, "weight"),
        ({"bias": jnp.zeros(C + 1)}, AssertionError, "bias"),
        ({"where": jnp.ones((N, C), bool)}, AssertionError, "where"),
        ({"where": jnp.ones(C)}, TypeError, "where"),
        ({"sample_weight": jnp.ones(1)}, AssertionError, "sample_weight"),
        ({"class_weight": jnp.ones(1)}, AssertionError, "class_weight"),
        ({"softcap": -1.0}, ValueError, "softcap"),
        ({"reduction": "none"}, ValueError, "reduction"),
        ({"row_block": 0}, ValueError, "row_block"),
        ({"loss": lambda stats: js.nll(stats) * jnp.ones(N)}, AssertionError, "sample_weight"),
    ],
)
def test_wrong_arguments(change, error, message):
    x, w, labels = head(examples=N, size=D, classes=C)
    with pytest.raises(error, match=message):
        js.linear_loss(**({"features": x, "weight": w, "labels": labels} | change))


def test_checked_finds_bad_labels():
    x, w, labels = head(examples=N, size=D, classes=C)
    step = js.checks.checked(jax.jit(jax.grad(partial(js.linear_loss, **BLOCKS["rows"]))))
    step(x, w, labels)
    with pytest.raises(Exception, match="labels"):
        step(x, w, labels + 1)
