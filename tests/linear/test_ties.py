"""Second derivatives of a loss that reads `runner_up`, where several classes attain it.

Of equal ones the first has the derivative, and it must be the same one in both steps: else the
second derivative is of no function, and depends on the order in which it is taken.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blocks import BLOCKS, C, D, N
from cases import close
from meshes import mesh_of

import jsoftmax as js

pytestmark = pytest.mark.one_in(4)

LABELS = np.array([0, 6, 2, 3, 5])
TIED = np.array([0, 1, 1, 2, 2, 3, 3])  # which classes have the same vector
_random = np.random.default_rng(0)
X = _random.integers(-3, 4, (N, D)).astype(np.float64)
W = _random.integers(-3, 4, (4, D)).astype(np.float64)[TIED]
V = np.cos(np.arange(N * D)).reshape(N, D), np.sin(np.arange(C * D)).reshape(C, D)


def loss(stats):
    return jnp.square(stats.runner_up - stats.target + 1) + stats.runner_up * stats.others


def by_definition(x, w):
    z = x @ w.T
    is_label = np.arange(C) == LABELS[:, None]
    others = jnp.where(is_label, -jnp.inf, z)
    first = jnp.arange(C) == jnp.argmax(others, -1)[:, None]
    runner_up, target = (jnp.sum(jnp.where(one, z, 0), -1) for one in (first, is_label))
    stats = js.LogitStats(target, jax.nn.logsumexp(others, -1), runner_up, jnp.zeros(N))
    return jnp.sum(loss(stats))


def sharded(x, w):
    axes = {"batch_axis": "data", "class_axis": "model"}
    run = js.sharded_linear_loss(mesh_of(), **axes, num_classes=C, loss=loss, reduction="sum")
    return run(x, w, LABELS)


def linear(x, w, **options):
    return jnp.sum(js.linear_loss(x, w, LABELS, loss, **options))


WAYS = {"logits": lambda x, w: jnp.sum(loss(js.logit_stats(x @ w.T, LABELS))), "sharded": sharded}
WAYS |= {k: partial(linear, reduction="sum", **blocks) for k, blocks in BLOCKS.items()}
WAYS["each"] = partial(linear, reduction=None, **BLOCKS["rows"])


def second(order, function):
    gradient = jax.grad(function, (0, 1))
    if order == "fr":
        return jax.jvp(gradient, (X, W), V)[1]
    if order == "rf":
        return jax.grad(lambda *at: jax.jvp(function, at, V)[1], (0, 1))(X, W)

    def along(*at):
        return sum(map(jnp.vdot, gradient(*at), V))

    return jax.grad(along, (0, 1))(X, W)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_second_derivatives(way):
    with jax.enable_x64(True):
        found = jax.jit(lambda: {order: second(order, way) for order in ("rr", "fr", "rf")})()
        expected = second("fr", by_definition)
        for order, got in found.items():
            close(got, expected, order, rtol=1e-10, atol=1e-10)
