"""What the benchmark computes: shapes, random data, and the exact answer in float64."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jsoftmax as js


def entropy_bonus(stats: js.LogitStats) -> Array:
    """Cross-entropy that prefers probabilities of much entropy: of all fields the dearest."""
    return js.nll(stats) - 0.01 * stats.entropy


def grpo(stats: js.LogitStats, advantage: Array, old: Array, reference: Array) -> Array:
    """A clipped policy gradient, with a penalty for leaving a reference model."""
    ratio = jnp.exp(stats.log_prob - old)
    policy = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
    log_ratio = reference - stats.log_prob
    return -policy + 0.04 * (jnp.expm1(log_ratio) - log_ratio)  # of k3, Schulman, 2020


DISTILLATION = "distillation"  # of two heads, and so no loss of `LogitStats`
OWN_LOSSES = {"entropy_bonus": entropy_bonus, "grpo": grpo}
LOSSES = ["nll", "focal", "poly1", "gce", "mae", "sce", *OWN_LOSSES, DISTILLATION]
# The margins whose formula in float64 is `exact`.
EXACT = [
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
# Heads that are more than a function of the library without arguments.
COMPOSED: dict[str, Callable[[], Any]] = {
    "sub_center": lambda: js.sub_center(js.arcface()),
    "inter_top_k": lambda: js.inter_top_k(js.arcface(0.2, 32.0)),
    "p2sgrad": lambda: js.MarginAndLoss(js.normface(1.0), js.p2sgrad),
}
BIASES = {"sphereface2": js.sphereface2_bias, "uniface": js.uniface_bias}
WITH_OWN_LOSS = ["p2sgrad", *BIASES]
MARGINS = [
    *EXACT,
    "sphereface",
    "adaface",
    "magface",
    "mv_softmax",
    "curricularface",
    "arcnegface",
    "npcface",
    "sphereface_r",
    "li_arcface",
    "circle",
    "tvmf",
    "sub_center",
    "inter_top_k",
    *WITH_OWN_LOSS,
]


class Data(NamedTuple):
    """Features `[rows, features]`, weight `[classes, features]` and labels `[rows]`.

    For sub-centers the weight is `[classes, centers, features]`.
    """

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

    def loss_function(self) -> Callable[..., Array]:
        """Return the loss as a function of `LogitStats` and `loss_args`."""
        if self.margin in WITH_OWN_LOSS:
            return self._head().loss
        return OWN_LOSSES.get(self.loss) or getattr(js, self.loss)

    def loss_args(self) -> tuple[Array, ...]:
        """Return what the loss gets by example: for GRPO what is known of the policies before."""
        if self.loss != "grpo":
            return ()
        advantage, *noise = jax.random.normal(jax.random.key(1), (3, self.rows))
        return advantage, *(n / 4 - math.log(self.classes) for n in noise)

    def head_margin(self) -> Any:
        """Return the margin with its paper's parameters, or None."""
        head = self._head()
        return head.margin if self.margin in WITH_OWN_LOSS else head

    def bias(self) -> Array | None:
        """Return the bias of a head that needs one, as it starts, or None."""
        if self.margin not in BIASES:
            return None
        return jnp.full(self.classes, BIASES[self.margin](self.classes), jnp.float32)

    @property
    def centers(self) -> int | None:
        """How many vectors a class has, None for one without an axis for it."""
        return getattr(self.head_margin(), "centers", None)

    def _head(self) -> Any:
        if self.margin == "none":
            return None
        return COMPOSED.get(self.margin, getattr(js, self.margin))()

    def number(self, name: str) -> float:
        """Return a parameter of the margin, such as its scale."""
        return float(np.asarray(getattr(self.head_margin(), name)))

    def scaled(self, factor: float) -> "Problem":
        """Return the problem with so many times the rows and classes."""
        rows, classes = (max(1, round(factor * n)) for n in (self.rows, self.classes))
        return self._replace(rows=rows, classes=classes)

    def reduced(self) -> "Problem":
        """Return the problem at a size that numpy solves in float64 in about a second.

        A large problem is computed in several blocks, and merging them adds to the rounding error,
        so the small one is computed in blocks too.
        """
        return self._replace(rows=min(256, self.rows), classes=min(8192, self.classes), blocks=4)

    def data(self) -> Data:
        """Return random data from a fixed seed; without a margin the logits have variance 1."""
        return self._data(jax.random.key(0))

    def teacher(self) -> Data:
        """Return the features and weight of a teacher with as many features."""
        return self._data(jax.random.key(2))

    def _data(self, key):
        keys = jax.random.split(key, 3)
        centers = () if self.centers is None else (self.centers,)
        shape = self.classes, *centers, self.features
        weight = jax.random.normal(keys[1], shape, self.dtype)
        return Data(
            jax.random.normal(keys[0], (self.rows, self.features), self.dtype),
            weight * jnp.asarray(1 / math.sqrt(self.features), self.dtype),
            jax.random.randint(keys[2], (self.rows,), 0, self.classes, jnp.int32),
        )


PRESETS = {
    "small": Problem(2048, 512, 32000),
    "gemma-2-2b": Problem(8192, 2304, 256000, "bfloat16"),
    "llama-3-8b": Problem(8192, 4096, 128256, "bfloat16"),
    "face-1m": Problem(512, 512, 1_000_000, margin="arcface"),
}


def exact(problem: Problem, data: Data) -> tuple[float, np.ndarray, np.ndarray] | None:
    """Return the mean loss and the gradients of features and weight, in float64 numpy.

    Uses the papers' formulas, for `nll` and `focal` with a margin of `EXACT`; None for others.
    """
    if problem.loss not in ("nll", "focal") or problem.margin not in EXACT:
        return None
    plain = js.AngularMargin(normalize_features=False, normalize_weight=False)
    margin = problem.head_margin() or plain
    m1, m2, m3, scale, anneal = (
        float(np.asarray(getattr(margin, name))) for name in ("m1", "m2", "m3", "scale", "anneal")
    )
    x, w = (np.asarray(array, np.float64) for array in (data.features, data.weight))
    lengths_x, lengths_w = (np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, w))
    x, w = x / lengths_x, w / lengths_w
    size_x = np.ones_like(lengths_x) if margin.normalize_features else lengths_x
    size_w = np.ones_like(lengths_w) if margin.normalize_weight else lengths_w
    mine = np.arange(len(x)), np.asarray(data.labels)
    score = x @ w.T
    cosine = score[mine]
    theta = np.arccos(np.clip(cosine, -1, 1))
    turned = m1 * theta + m2
    half_turns = turned // np.pi  # from 1 on, beyond π, φ is continued
    sign = 1 - 2 * (half_turns % 2)
    phi = sign * np.cos(turned) - 2 * half_turns - m3
    score[mine] = (anneal * cosine + phi) / (1 + anneal)
    slope = (anneal + sign * m1 * np.sin(turned) / np.sin(theta)) / (1 + anneal)
    loss, dz = _loss_and_gradient(problem.loss, scale * size_x * size_w.T * score, mine)
    d_score = scale * dz / len(x)
    along_x = np.sum(d_score * size_w.T * score, 1, keepdims=True)
    along_w = np.sum(d_score * size_x * score, 0)[:, None]
    d_cosine = d_score * size_x * size_w.T
    d_cosine[mine] *= slope
    # A cosine does not change along a vector; what is not normalised is a product of its length.
    dx, dw = d_cosine @ w, d_cosine.T @ x
    dx = (dx - np.sum(dx * x, -1, keepdims=True) * x) / lengths_x
    dw = (dw - np.sum(dw * w, -1, keepdims=True) * w) / lengths_w
    dx = dx if margin.normalize_features else dx + along_x * x
    dw = dw if margin.normalize_weight else dw + along_w * w
    return loss, dx, dw


def _loss_and_gradient(name, z, mine):
    """Return the mean loss, and the gradients of each example's loss with respect to its logits."""
    top = z.max(-1, keepdims=True)
    e = np.exp(z - top)
    total = e.sum(-1, keepdims=True)
    log_p, dz = z[mine] - (top + np.log(total))[:, 0], e / total
    p = dz[mine]
    dz[mine] = 0
    others = dz.sum(-1)  # 1 - p would have no digits left where p is near 1
    dz[mine] = -others
    if name == "nll":
        return float(np.mean(-log_p)), dz
    factor = others**2 - 2 * p * others * log_p  # focal's γ is 2
    return float(np.mean(-(others**2) * log_p)), factor[:, None] * dz


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
    return float(np.max([np.max(np.abs(g - g64)) / np.max(np.abs(g64)) for g, g64 in pairs]))


def _float64(x):
    x = x.detach().double().cpu().numpy() if hasattr(x, "detach") else x  # torch's
    return np.asarray(x, np.float64)
