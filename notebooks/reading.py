"""A text that is on this machine already, a small recurrent model, and counts to compare it with.

The text is the documentation of scikit-learn, read from its source files.
"""

import ast
import importlib.util
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from training import QUICK


class Text(NamedTuple):
    """Words as numbers, the most frequent first; 0 is a word that is not in the training part."""

    train: np.ndarray
    test: np.ndarray
    words: list
    counts: np.ndarray


def documentation():
    """Return the docstrings of scikit-learn; of every twelfth file for testing."""
    folder = Path(importlib.util.find_spec("sklearn").origin).parent
    files = [file for file in sorted(folder.rglob("*.py")) if "tests" not in file.parts]
    parts = [[], []]
    for i, file in enumerate(files[::10] if QUICK else files):
        kinds = ast.FunctionDef, ast.ClassDef, ast.Module
        nodes = (node for node in ast.walk(ast.parse(file.read_text("utf8"))))
        found = (ast.get_docstring(node) for node in nodes if isinstance(node, kinds))
        text = re.sub(r"\s*\n\s*", "\n", "\n".join(filter(None, found)).lower())
        parts[i % 12 == 0] += re.findall(r"[a-z_]\w*|\d|[^\w\s]|\n", text)
    ranking = Counter(parts[0]).most_common()
    words = ["<unseen>", *(word for word, _ in ranking)]
    number = {word: i for i, word in enumerate(words)}
    train, test = (np.array([number.get(word, 0) for word in part], np.int32) for part in parts)
    return Text(train, test, words, np.array([0, *(count for _, count in ranking)]))


def recurrent(key, counts, width, state):
    """Return the parameters of a gated recurrent unit.

    `words` are also the class vectors; the bias starts at the logarithm of the words' counts.
    """
    keys = jax.random.split(key, 5)
    shapes = {"words": (len(counts), width), "input": (width, 3 * state)}
    shapes |= {"state": (state, 3 * state), "output": (state, width), "skip": (width, width)}
    scales = 0.1, width**-0.5, state**-0.5, state**-0.5, width**-0.5
    matrices = {
        name: scale * jax.random.normal(key, shape)
        for (name, shape), scale, key in zip(shapes.items(), scales, keys, strict=True)
    }
    bias = jnp.log(jnp.asarray(counts + 0.5, jnp.float32))
    return matrices | {"gates": jnp.zeros(3 * state), "level": jnp.zeros(width), "bias": bias}


def features(params, words):
    """Return the features of each word and those before it: [texts, length, width]."""

    def step(state, given):
        own, (reset, update, new) = state @ params["state"], jnp.split(given, 3, -1)
        own_reset, own_update, own_new = jnp.split(own, 3, -1)
        keep = jax.nn.sigmoid(update + own_update)
        new = jnp.tanh(new + jax.nn.sigmoid(reset + own_reset) * own_new)
        state = keep * state + (1 - keep) * new
        return state, state

    own = params["words"][words]
    inputs = own @ params["input"] + params["gates"]
    start = jnp.zeros((len(words), len(params["state"])))
    _, states = jax.lax.scan(step, start, jnp.swapaxes(inputs, 0, 1))
    return jnp.swapaxes(states, 0, 1) @ params["output"] + own @ params["skip"] + params["level"]


def losses_of_counts(text, discount=0.75):
    """Return what each word of the test text costs by counts of words, and of pairs of words.

    Pairs have absolute discounting (Ney, Essen, Kneser, 1994): each count less a discount, which
    goes to all words by their frequency.
    """
    size, before, word = len(text.words), text.test[:-1], text.test[1:]
    frequency = text.counts / text.counts.sum()
    seen = text.train[:-1].astype(np.int64) * size + text.train[1:]
    pairs, often = np.unique(seen, return_counts=True)
    followers = np.bincount(pairs // size, minlength=size)
    total = np.maximum(np.bincount(pairs // size, often, size), 1)
    key = before.astype(np.int64) * size + word
    at = np.minimum(np.searchsorted(pairs, key), len(pairs) - 1)
    count = np.where(pairs[at] == key, often[at], 0)
    spare = np.where(followers[before] > 0, discount * followers[before] / total[before], 1)
    by_pair = np.maximum(count - discount, 0) / total[before] + spare * frequency[word]
    with np.errstate(divide="ignore"):  # an unseen word costs infinitely much; it is left out
        return {"counts of words": -np.log(frequency[word]), "counts of pairs": -np.log(by_pair)}
