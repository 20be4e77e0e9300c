"""Guards: messages of bad arguments, and `checked` under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LOSSES, over
from jax.experimental.checkify import JaxRuntimeError
from numpy.testing import assert_allclose

import jsoftmax as js

pytestmark = pytest.mark.one_in(6)

GOOD = jnp.array([[2.0, -1.0, 0.5], [0.1, 0.2, 3.0]])
LABELS = jnp.array([0, 2])
BAD = {
    "NaN": (GOOD.at[0, 0].set(jnp.nan), LABELS, "nan"),
    "label too large": (GOOD, jnp.array([0, 3]), "`labels`"),
    "label negative": (GOOD, jnp.array([-1, 0]), "`labels`"),
    "probabilities": (jax.nn.softmax(GOOD), LABELS, "`logits` look like probabilities"),
}


def mean(logits, labels):
    return js.weighted_mean(js.cross_entropy(logits, labels))


def scanned(logits, labels):
    return jax.lax.scan(lambda c, xy: (c + js.cross_entropy(*xy), None), 0.0, (logits, labels))[0]


def batched(logits, labels):
    return jnp.mean(jax.vmap(js.cross_entropy)(logits[:, None], labels[:, None]))


WAYS = {
    "plain": mean,
    "jit": jax.jit(mean),
    "grad": jax.grad(mean),
    "jit of grad": jax.jit(jax.grad(mean)),
    "vmap": batched,
    "jit of vmap": jax.jit(batched),
    "scan": scanned,
    "jit of scan": jax.jit(scanned),
}
# What is not compiled is traced anew each time.
ONE = {"plain": "probabilities", "grad": "label too large", "vmap": "NaN", "scan": "label negative"}
over_ways = pytest.mark.parametrize("way", WAYS)


@over_ways
def test_checked_raises(way):
    checked = js.checks.checked(WAYS[way])
    for logits, labels, message in [BAD[ONE[way]]] if way in ONE else BAD.values():
        WAYS[way](logits, labels)  # compiled without checks, silent, and cached
        with pytest.raises(JaxRuntimeError, match=message):
            checked(logits, labels)
        WAYS[way](logits, labels)  # and silent again


@over_ways
def test_checked_is_silent_on_good_input(way):
    expected = WAYS[way](GOOD, LABELS)
    assert_allclose(js.checks.checked(WAYS[way])(GOOD, LABELS), expected, rtol=1e-6)


@over([case for case in LOSSES if case.options == {}])
def test_every_loss_takes_part(case):
    loss = js.checks.checked(jax.jit(case.function))
    loss(GOOD, LABELS)
    for logits, labels, message in BAD.values():
        with pytest.raises(JaxRuntimeError, match=message):
            loss(logits, labels)


def test_checked_lets_ignored_and_soft_labels_pass():
    loss = js.checks.checked(jax.jit(js.cross_entropy, static_argnames="ignore_index"))
    assert loss(GOOD, jnp.array([0, -1]), ignore_index=-1)[1] == 0
    loss(GOOD, jax.nn.softmax(GOOD))
    loss(GOOD[:0], LABELS[:0])
    loss(GOOD, LABELS, where=np.array([True, True, False]) | (np.arange(2)[:, None] == 1))


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        (jax.nn.softmax(GOOD), True),
        (jax.nn.softmax(GOOD).astype(jnp.bfloat16), True),
        (jax.nn.softmax(GOOD).astype(jnp.float16), True),
        (jnp.eye(3, dtype=int), True),
        (GOOD, False),
        (jnp.concatenate([jax.nn.softmax(GOOD), GOOD]), False),
        (jnp.array([[0.5, 0.6]]), False),
        (jnp.array([[1.5, -0.5]]), False),
        (jnp.zeros((2, 3)), False),
        (jnp.zeros((0, 3)), False),
        (jnp.full((1, 2), jnp.nan), False),
    ],
)
def test_looks_like_probabilities(logits, expected):
    assert bool(jax.jit(js.checks.looks_like_probabilities)(logits)) is expected


X = jnp.ones((2, 3))


@pytest.mark.parametrize(
    ("error", "message", "function"),
    [
        (ValueError, "`temperature`: expected > 0", lambda: js.softmax(X, temperature=0.0)),
        (ValueError, "`temperature`: expected > 0", lambda: js.log_softmax(X, temperature=-1)),
        (
            ValueError,
            "`temperature`: expected > 0",
            lambda: js.cross_entropy(X, LABELS, temperature=-1.0),
        ),
        (
            ValueError,
            "`label_smoothing`: expected between 0 and 1, got 2",
            lambda: js.cross_entropy(X, LABELS, label_smoothing=2),
        ),
        (
            ValueError,
            "`num_samples`: expected >= 2, got 1",
            lambda: js.gaussian_softmax(X, num_samples=1),
        ),
        (
            ValueError,
            "`num_samples`: expected >= 3, got 2",
            lambda: js.range_limited_softmax(X, num_samples=2),
        ),
        (ValueError, "`gradient`: .*got \"?'?x", lambda: js.angular_margin(gradient="x")),
        (ValueError, "`anneal`: expected >= 0", lambda: js.l_softmax(4, -1.0)),
        (ValueError, "`q`: expected >= 0", lambda: js.generalized_cross_entropy(X, LABELS, q=-1)),
        (
            ValueError,
            "`k`: expected an integer of at least 1",
            lambda: js.top_k_accuracy(X, LABELS, k=0),
        ),
        (
            ValueError,
            "`ignore_index`: expected integer labels",
            lambda: js.cross_entropy(X, X, ignore_index=0),
        ),
        (TypeError, "`where`: expected booleans", lambda: js.softmax(X, where=X)),
        (TypeError, "`where`: expected booleans", lambda: js.cross_entropy(X, LABELS, where=X)),
        (TypeError, "`labels`: expected integers", lambda: js.cross_entropy(X, LABELS > 0)),
        (TypeError, "`labels`: expected integers", lambda: js.logit_stats(X, X)),
        (TypeError, "`labels`: expected integers", lambda: js.top_k_accuracy(X, X)),
        (TypeError, "`target_probs`: expected floats", lambda: js.kl_divergence(X, X.astype(int))),
        (TypeError, "`logits`: expected real", lambda: js.softmax(X > 0)),
        (
            TypeError,
            "`logits`: expected real",
            lambda: js.cross_entropy(jnp.zeros((2, 3), complex), LABELS),
        ),
        (
            TypeError,
            "`features`: expected real",
            lambda: js.linear_logits(jnp.zeros((2, 3), complex), X),
        ),
    ],
)
def test_messages_of_bad_arguments(error, message, function):
    with pytest.raises(error, match=message):
        function()
