"""Voices of nine speakers, as the package aeon ships them, and a small network of their frames."""

import importlib.util
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsoftmax as js

EACH = 54  # utterances that every speaker has


def utterances() -> np.ndarray | None:
    """Return `[speakers, utterances, frames, numbers]`, or None where aeon is not installed.

    The Japanese vowels of Kudo, Toyama and Shimbo, 1999, from the UCI archive.
    """
    package = importlib.util.find_spec("aeon")
    if package is None:
        return None
    folder = Path(package.origin).parent / "datasets/data/JapaneseVowels"
    files = [folder / f"JapaneseVowels_eq_{part}.ts" for part in ("TRAIN", "TEST")]
    text = [line for file in files for line in file.read_text().splitlines()]
    rows = [line.split(":") for line in text if line[:1] not in ("#", "@", "")]
    voices = np.array([[row.split(",") for row in line[:-1]] for line in rows], np.float32)
    speaker = np.array([int(line[-1]) - 1 for line in rows])
    each = [voices[speaker == number][:EACH] for number in range(speaker.max() + 1)]
    return np.stack(each).transpose(0, 1, 3, 2)


def features(params: dict, voices: jax.Array) -> jax.Array:
    """Return the features of utterances: of mean and spread of what their frames give."""
    frames = jax.nn.relu(voices @ params["frames"])
    pooled = jnp.concatenate([frames.mean(-2), frames.std(-2) + 1e-6], -1)
    return pooled @ params["out"]


@partial(jax.jit, static_argnames="steps")
def trained(key: jax.Array, voices: jax.Array, margin: js.Margin | None, *, steps: int = 300):
    """Train on all utterances of some speakers at once; return the parameters."""
    labels = jnp.broadcast_to(jnp.arange(len(voices))[:, None], voices.shape[:2])
    shapes = {"frames": (voices.shape[-1], 64), "out": (128, 32), "classes": (len(voices), 32)}
    keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
    params = {n: jax.random.normal(keys[n], s) / s[-2] ** 0.5 for n, s in shapes.items()}
    adam = optax.adam(0.003)

    def loss(params):
        x = features(params, voices)
        return js.linear_loss(x, params["classes"], labels, margin=margin)

    def step(state, _):
        params, moments = state
        updates, moments = adam.update(jax.grad(loss)(params), moments)
        return (optax.apply_updates(params, updates), moments), None

    return jax.lax.scan(step, (params, adam.init(params)), length=steps)[0][0]
