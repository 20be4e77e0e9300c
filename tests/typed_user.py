"""A user's script with types: Flax and Optax, margins, losses of one's own, a mesh, evaluation.

`make check` reads it with mypy --strict, pyright and pyrefly; a test runs it.
"""

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, assert_type

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import jsoftmax as js

CLASSES, WIDTH = 10, 8
WithStats = tuple[Array, js.LogitStats]


class Net(nnx.Module):
    """An encoder, and the class vectors."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.encoder = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, CLASSES, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        kernel: Array = self.head.kernel[...]
        return nnx.tanh(self.encoder(x)), kernel.T


@js.shift_invariant
def hinge(stats: js.LogitStats) -> Array:
    return jax.nn.relu(1 - stats.log_odds)


def policy(stats: js.LogitStats, advantage: Array) -> Array:
    return -advantage * stats.log_prob - 0.01 * stats.entropy


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Softer:
    """A margin of one's own, smaller for features that are short."""

    margin: float = 0.3
    scale: float = 16.0

    def target(self, c_y: Array, norm: Array) -> Array:
        return c_y - self.margin * jnp.minimum(norm, 1)


class Logged(NamedTuple):
    loss: Array
    accuracy: Array


@nnx.jit
def step(net: Net, optimizer: nnx.Optimizer[Net], margin: js.Margin, x: Array, y: Array) -> Logged:
    def loss_of(net: Net) -> WithStats:
        features, weight = net(x)
        found = js.linear_loss(features, weight, y, hinge, margin=margin, return_stats=True)
        assert_type(found, WithStats)
        return found

    (loss, stats), gradients = nnx.value_and_grad(loss_of, has_aux=True)(net)
    optimizer.update(net, gradients)
    return Logged(loss, stats.correct.mean())


def linear_losses(x: Array, w: Array, y: Array, with_stats: bool) -> None:
    assert_type(js.linear_loss(x, w, y), Array)
    assert_type(js.linear_loss(x, w, y, return_stats=with_stats), Array | WithStats)
    assert_type(js.linear_cross_entropy(x, w, y, label_smoothing=0.1), Array)
    assert_type(js.linear_cross_entropy(x, w, y, z_loss=1e-4, return_stats=True), WithStats)
    assert_type(js.linear_loss(x, w, y, policy, loss_args=(x[:, 0],), where=w[:, 0] < 9), Array)
    margins: list[js.Margin] = [js.adaface(), js.arcface(js.PerExample(x[:, 0])), Softer()]
    margins += [js.ldam(np.arange(1, CLASSES + 1)), js.inter_top_k(js.cosface(scale=8), 2)]
    for margin in margins:
        focal = partial(js.focal, gamma=1.0)
        each = js.linear_loss(x, w, y, focal, margin=margin, reduction=None, ignore_index=-1)
        assert_type(each, Array)
    centers = jnp.stack([w, -w], 1)
    js.linear_cross_entropy(x, centers, y, margin=js.sub_center(js.arcface(), 2))
    head = js.sphereface2(r=10.0)
    bias = jnp.full(CLASSES, js.sphereface2_bias(CLASSES))
    js.linear_loss(x, w, y, head.loss, margin=head.margin, bias=bias)


def over_a_mesh(x: Array, w: Array, y: Array) -> None:
    mesh = jax.make_mesh((1, 1), ("data", "model"))
    loss = js.sharded_linear_loss(mesh, batch_axis="data", class_axis="model", num_classes=CLASSES)
    assert_type(loss(x, w, y, margin=js.cosface()), Array)
    assert_type(loss(x, w, y, return_stats=True), WithStats)
    jax.jit(jax.value_and_grad(loss, argnums=1))(x, w, y)
    logging = js.sharded_linear_loss(
        mesh, batch_axis="data", class_axis=None, num_classes=CLASSES, return_stats=True
    )
    assert_type(logging(x, w, y), WithStats)


def evaluation(logits: Array, y: Array) -> dict[str, Array]:
    assert_type(js.softmax(logits, where=logits > 0), Array)
    labels = js.SparseLabels(np.zeros((len(y), 1), int), np.ones((len(y), 1), np.float32))
    assert_type(js.cross_entropy(logits, labels, label_smoothing=0.1), Array)
    scores, same = logits[:, 0], logits[:, 0] > 0.05
    rate, threshold = js.equal_error_rate(scores, same, return_threshold=True)
    low, high = js.bootstrap_interval(
        jax.random.key(0), js.equal_error_rate, scores, same, num_samples=20
    )
    assert_type(js.tar_at_far(scores, same, far=0.1), Array)
    assert_type((rate, threshold, low, high), tuple[Array, Array, Array, Array])
    return {"accuracy": js.top_k_accuracy(logits, y), "equal error rate": rate}


if TYPE_CHECKING:  # mistakes: mypy says so if one is none

    def mistakes(x: Array, w: Array, y: Array) -> None:
        js.linear_loss(x, w, y, reduction="means")  # type: ignore[call-overload]
        js.linear_cross_entropy(x, w, y, smoothing=0.1)  # type: ignore[call-overload]
        js.linear_loss(x, w, y, margin=js.arcface)  # type: ignore[call-overload]
        js.cross_entropy(x, y, reduction="avg")  # type: ignore[arg-type]
        js.angular_margin(beyond="flat")  # type: ignore[arg-type]
        js.checks.checked(js.softmax)(temperature=2.0)  # type: ignore[call-arg]


def main() -> list[Logged]:
    net = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)
    x = jax.random.normal(jax.random.key(1), (20, WIDTH))
    y = jnp.arange(20) % CLASSES
    logged = [step(net, optimizer, js.arcface(0.1, scale=16), x, y) for _ in range(20)]
    features, weight = net(x)
    logits = js.linear_logits(features, weight)
    assert_type(js.checks.checked(js.cross_entropy)(logits, y, reduction="mean"), Array)
    for function, given in (
        (partial(linear_losses, with_stats=True), (features, weight, y)),
        (over_a_mesh, (features, weight, y)),
        (evaluation, (logits, y)),
    ):
        jax.eval_shape(function, *given)  # traced, which finds what is wrong, and not compiled
    return logged


if __name__ == "__main__":
    main()
