"""What the benchmark computes: shapes, random data, and the exact answer in float64."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jsoftmax as js

LOSSES = ["nll", "focal", "poly1", "gce", "mae", "sce"]
MARGINS = [
    "none",
    "modified_softmax",
    "normface",
    "l_softmax",
    "a_softmax",
    "am_softmax",
    "cosface",
    "arcface",
    "combined_margin",
    "angular_margin",
]


class Data(NamedTuple):
    """Features `[rows, features]`, weight `[classes, features]` and labels `[rows]`."""

    features: Array
    weight: Array
    labels: Array


class Problem(NamedTuple):
    """The mean loss of `rows` examples over `classes`, and its gradients if `backward`.

    `blocks` is the number of blocks into which our blocked functions cut rows and classes; None
    leaves it to them.
    """

    rows: int
    features: int
    classes: int
    dtype: str = "float32"
    loss: str = "nll"
    margin: str = "none"
    backward: bool = True
    blocks: int | None = None

    def loss_function(self) -> Callable[[js.LogitStats], Array]:
        """Return the loss as a function of `LogitStats`."""
        return getattr(js, self.loss)

    def angular_margin(self) -> js.AngularMargin | None:
        """Return the margin with its paper's parameters."""
        return None if self.margin == "none" else getattr(js, self.margin)()

    def number(self, name: str) -> float:
        """Return a parameter of the margin, such as its scale."""
        return float(np.asarray(getattr(self.angular_margin(), name)))

    def reduced(self) -> "Problem":
        """Return the problem at a size that numpy solves in float64 in about a second.

        A large problem is computed in several blocks, and merging them adds to the rounding error,
        so the small one is computed in blocks too.
        """
        return self._replace(rows=min(256, self.rows), classes=min(8192, self.classes), blocks=4)

    def data(self) -> Data:
        """Return random data from a fixed seed; without a margin the logits have variance 1."""
        keys = jax.random.split(jax.random.key(0), 3)
        weight = jax.random.normal(keys[1], (self.classes, self.features), self.dtype)
        return Data(
            jax.random.normal(keys[0], (self.rows, self.features), self.dtype),
            weight * jnp.asarray(1 / math.sqrt(self.features), self.dtype),
            jax.random.randint(keys[2], (self.rows,), 0, self.classes, jnp.int32),
        )


def exact(problem: Problem, data: Data) -> tuple[float, np.ndarray, np.ndarray] | None:
    """Return the mean loss and the gradients of features and weight, in float64 numpy.

    Uses the papers' formulas, for `nll` without margin, with ArcFace or CosFace; None for others.
    """
    if problem.loss != "nll" or problem.margin not in ("none", "arcface", "cosface"):
        return None
    labels, unit = np.asarray(data.labels), problem.margin != "none"
    x, w = (np.asarray(array, np.float64) for array in (data.features, data.weight))
    rows, scale, slope = np.arange(len(x)), 1.0, 1.0
    lengths_x, lengths_w = (np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, w))
    if unit:
        x, w, scale = x / lengths_x, w / lengths_w, problem.number("scale")
    z = x @ w.T
    if problem.margin == "arcface":
        theta = np.arccos(np.clip(z[rows, labels], -1, 1))
        turned = theta + problem.number("m2")
        half_turns = turned // np.pi  # 1 beyond π, where φ is continued
        sign = 1 - 2 * (half_turns % 2)
        z[rows, labels] = sign * np.cos(turned) - 2 * half_turns
        slope = sign * np.sin(turned) / np.sin(theta)
    elif problem.margin == "cosface":
        z[rows, labels] -= problem.number("m3")
    z *= scale
    top = z.max(-1, keepdims=True)
    e = np.exp(z - top)
    total = e.sum(-1, keepdims=True)
    loss = float(np.mean(top[:, 0] + np.log(total[:, 0]) - z[rows, labels]))
    dz = e / total
    dz[rows, labels] -= 1
    dz[rows, labels] *= slope
    dz *= scale / len(x)
    dx, dw = dz @ w, dz.T @ x
    if unit:  # through the normalisation: project out the vector, divide by its norm
        dx = (dx - np.sum(dx * x, -1, keepdims=True) * x) / lengths_x
        dw = (dw - np.sum(dw * w, -1, keepdims=True) * w) / lengths_w
    return loss, dx, dw


def error(found: Any, answer: tuple[float, np.ndarray, np.ndarray], *, transposed: bool) -> float:
    """Compare a loss, or (loss, (dx, dw)), with the exact answer.

    Returns max |g - g64| / max |g64| for the worse of the two gradients, or without gradients the
    relative error of the loss.
    """
    loss, dx, dw = answer
    if not isinstance(found, tuple):
        return float(abs(_float64(found) - loss) / abs(loss))
    found_dx, found_dw = map(_float64, found[1])
    pairs = ((found_dx, dx), (found_dw.T if transposed else found_dw, dw))
    return max(float(np.max(np.abs(g - g64)) / np.max(np.abs(g64))) for g, g64 in pairs)


def _float64(x):
    x = x.detach().double().cpu().numpy() if hasattr(x, "detach") else x  # torch's
    return np.asarray(x, np.float64)
