"""How the calls of a library are evaluated, with gradients: in JAX, in torch or in numpy."""

import os
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import SIZES


def weights_of(leaf):
    """Return what each number of a result counts in the gradients: no two of them alike."""
    return np.cos(np.arange(np.prod(leaf.shape))).reshape(leaf.shape)


# --- JAX ---


@cache
def compiled(code, dtype, **names):
    def total(moving, fixed):
        leaves = jax.tree.leaves(eval(code, names | fixed | moving))
        total = sum((leaf * weights_of(leaf)).sum() for leaf in leaves) if moving else 0.0
        return total, leaves

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def in_jax(code, names, arrays, moving):
    """Return the results of a call, and their gradients to the arrays that `moving` names."""
    if not arrays:
        return jax.tree.leaves(eval(code, names)), {}
    given = {name: array for name, array in arrays.items() if name not in moving}
    moving = {name: jnp.asarray(arrays[name]) for name in moving}
    (_, results), gradients = compiled(code, str(jnp.result_type(float)), **names)(moving, given)
    return results, gradients


# --- torch ---


def in_torch(code, names, arrays, moving):
    """Return the same as `in_jax`."""
    import torch

    torch.manual_seed(0)
    numbers = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
    tensors = {name: torch.tensor(array) for name, array in numbers.items()}
    moving = {name: tensors[name].requires_grad_() for name in moving}
    found = eval(code, names | tensors)
    leaves = found if isinstance(found, tuple) else [found]
    results = [leaf.detach().numpy() for leaf in leaves]
    if not moving:
        return results, {}
    total = sum((leaf * torch.tensor(weights_of(leaf)).to(leaf)).sum() for leaf in leaves)
    gradients = torch.autograd.grad(total, list(moving.values()))
    return results, {name: each.numpy() for name, each in zip(moving, gradients, strict=True)}


def owning(module, vectors):
    """Let a module of pytorch-metric-learning have class vectors that it did not make."""
    ((name, parameter),) = module.named_parameters()
    delattr(module, name)
    vectors = vectors.flatten(0, -2)
    setattr(module, name, vectors if parameter.shape == vectors.shape else vectors.T)
    return module


def in_metric_learning(code, names, arrays, moving):
    """Return the same of a loss that is a module: its class vectors are `w` or `centers`."""
    vectors = "centers" if "centers" in arrays else "w"
    called = f"owning({code}, {vectors})(x, labels)"
    return in_torch(called, names | {"owning": owning}, arrays, moving)


def in_keras(code, names, arrays, moving):
    names["keras"].config.set_floatx(str(jnp.result_type(float)))
    return in_jax(code, names, arrays, moving)


# --- scikit-learn ---


def in_numpy(code, names, arrays, moving):
    found = eval(code, names | arrays)
    return [np.asarray(leaf) for leaf in (found if isinstance(found, tuple) else [found])], {}


# --- all ---


class Library(NamedTuple):
    """What evaluates its calls, and the modules that names in them stand for."""

    evaluate: Callable
    modules: dict[str, str]
    moves: bool = True  # it has gradients
    single: bool = False  # it computes in float32
    amplifies: float = 1.0  # by how much more than the largest number a rounding counts

    def names(self):
        """Return what its calls may read; where something is not installed, skip."""
        found = {name: pytest.importorskip(path) for name, path in self.modules.items()}
        return SIZES | {"jax": jax, "jnp": jnp, "np": np} | found


LIBRARIES = {
    "optax": Library(in_jax, {"optax": "optax"}),
    "Keras": Library(in_keras, {"keras": "keras"}),
    "torch": Library(in_torch, {"torch": "torch", "F": "torch.nn.functional"}),
    "entmax": Library(
        in_torch,
        {"torch": "torch", "entmax": "entmax"},
        amplifies=10,  # the power 1 / (α - 1)
    ),
    "pytorch-metric-learning": Library(
        in_metric_learning,
        {"losses": "pytorch_metric_learning.losses"},
        amplifies=64,  # the scale
    ),
    "torchmetrics": Library(
        in_torch,
        {
            "torch": "torch",
            "classification": "torchmetrics.functional.classification",
            "text": "torchmetrics.functional.text",
        },
        moves=False,
        single=True,
    ),
    "scikit-learn": Library(in_numpy, {"metrics": "sklearn.metrics"}, moves=False),
}
