"""A small network, and all it takes to train it with any head: see `train_step`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsoftmax as js
from jsoftmax.demo.characters import Task
from jsoftmax.demo.heads import BATCH, WARM_UP, Head

LEARNING_RATE = 0.02
CHANNELS = (16, 32, 64)


class Net(nnx.Module):
    """Three strided convolutions and a linear layer to features; also holds the class vectors."""

    def __init__(self, size: int, dimensions: int, classes: int, head: Head, rngs: nnx.Rngs):
        """Make the network for images of `size` by `size` pixels."""
        ends = zip((1, *CHANNELS), CHANNELS, (5, 3, 3), strict=False)
        self.convs = nnx.List(
            [nnx.Conv(a, b, (k, k), strides=2, use_bias=False, rngs=rngs) for a, b, k in ends]
        )
        self.norms = nnx.List([nnx.BatchNorm(n, momentum=0.9, rngs=rngs) for n in CHANNELS])
        self.feature = nnx.Linear((size // 8) ** 2 * CHANNELS[-1], dimensions, rngs=rngs)
        # In the plane lengths count: what does not normalise features needs long ones.
        self.last_norm = (
            nnx.BatchNorm(dimensions, momentum=0.9, use_scale=False, use_bias=False, rngs=rngs)
            if dimensions > 2
            else None
        )
        centers = () if head.centers is None else (head.centers,)
        vectors = jax.random.normal(rngs.params(), (classes, *centers, dimensions))
        if dimensions == 2:  # around the circle, so that every class starts between two others
            angle = 2 * jnp.pi * jnp.arange(classes) / classes
            around = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
            vectors = 0.1 * vectors + jnp.expand_dims(around, tuple(range(1, vectors.ndim - 1)))
        self.class_vectors = nnx.Param(vectors / jnp.sqrt(dimensions))
        self.bias = None if head.bias is None else nnx.Param(jnp.float32(head.bias(classes)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the features of images."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(conv(x)))
        x = self.feature(x.reshape(len(x), -1))
        return x if self.last_norm is None else self.last_norm(x)


@nnx.jit(static_argnames=("head", "loss"))
def train_step(net, optimizer, margin, images, labels, *, head, loss):
    """Update the network on one batch; return the margin, which may follow it, and the loss."""

    def loss_fn(net):
        features, vectors, followed = net(images), net.class_vectors[...], margin
        if vectors.ndim > 2 and not head.centers:
            vectors = vectors.mean(1)  # in the warm-up
        if head.update:
            followed = head.update(margin, features, vectors, labels)
        bias = None if head.bias is None else jnp.full(len(vectors), net.bias[...])
        mean = js.linear_loss(features, vectors, labels, loss, margin=followed, bias=bias)
        if head.penalty:
            mean += head.penalty(features).mean()
        return mean, followed

    (mean, margin), gradients = nnx.value_and_grad(loss_fn, has_aux=True)(net)
    optimizer.update(net, gradients)
    return margin, mean


@functools.cache  # so that `train_step` is compiled once for all seeds
def optimizer_for(steps: int) -> optax.GradientTransformation:
    """Return Adam, with a learning rate that rises and falls once."""
    return optax.adam(optax.cosine_onecycle_schedule(steps, LEARNING_RATE))


def steps_for(task: Task, epochs: int) -> int:
    """Return how many batches a training has."""
    return epochs * (len(task.images) // BATCH)


def train(
    task: Task,
    head: Head,
    *,
    dimensions: int,
    epochs: int,
    seed: int,
    advance: Callable[[jax.Array], Any] = lambda loss: None,
) -> tuple[Net, Any]:
    """Train a network with one head; `advance` is called with the loss after every step.

    Returns the network, and the margin as it is at the end.
    """
    classes, steps = int(task.labels.max()) + 1, steps_for(task, epochs)
    net = Net(task.images.shape[1], dimensions, classes, head, nnx.Rngs(seed))
    net.train()
    optimizer = nnx.Optimizer(net, optimizer_for(steps), wrt=nnx.Param)
    rng = np.random.default_rng(seed)
    per_epoch = steps // epochs
    orders = [rng.permutation(len(task.images))[: per_epoch * BATCH] for _ in range(epochs)]
    given, margin, loss = (), None, js.nll
    for step, batch in enumerate(np.concatenate(orders).reshape(steps, BATCH)):
        now = WARM_UP if dimensions == 2 and step < head.warm_up * steps else head
        scheduled = now.margin(step / steps)
        if scheduled is not given:
            given, (margin, loss) = scheduled, margin_and_loss(scheduled)
        batch = task.images[batch], task.labels[batch]
        margin, mean = train_step(net, optimizer, margin, *batch, head=now, loss=loss)
        advance(mean)
    net.eval()
    last = head.margin(1.0)
    return net, margin if last is given else margin_and_loss(last)[0]


def margin_and_loss(found: Any) -> tuple[Any, Callable]:
    """Return a margin, and the loss that goes with it: cross-entropy, or one of its own."""
    return found if isinstance(found, js.MarginAndLoss) else (found, js.nll)
