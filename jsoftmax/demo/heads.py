"""The heads of the demo, each with numbers at which it trains well in the plane.

Ten classes on a circle are 36 degrees apart: the margins and scales of the papers, made for more
dimensions, are too large.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jsoftmax as js

BATCH = 50
SCALE = 16.0


class Head(NamedTuple):
    """A head: its title, and its margin as a function of training progress.

    The margin may be a `MarginAndLoss`; the `bias` that this may need starts at the given number
    and is learned. A margin that follows the batch has an `update`, a function of margin, features,
    class vectors and labels; it goes on from the last step as long as `margin` returns the same
    object. A `penalty` of the features is added to the loss. `centers` is how many vectors a class
    has, None for one without an axis for it.
    """

    title: str
    margin: Callable[[float], Any]
    bias: float | None = None
    update: Callable[..., Any] | None = None
    penalty: Callable[[jax.Array], jax.Array] | None = None
    centers: int | None = None


def annealed(progress: float) -> jax.Array:
    """Return the λ of L- and A-Softmax: decays from 1000 to 5 in the first half of training."""
    return jnp.float32(1000 * (5 / 1000) ** min(1.0, 2 * progress))


def after_warm_up(margin: Any, start: float = 0.6) -> Callable[[float], Any]:
    """Leave features unnormalised for 60% of training, then use a margin on the unit circle.

    On a circle a class cannot pass its neighbours; in the plane it can, through the middle. So the
    classes first find their order in the plane. Wider embeddings do not need this.
    """
    before = js.modified_softmax()
    return lambda progress: before if progress < start else margin


def _elastic(progress):
    if not 0.6 <= progress < 1:
        return after_warm_up(js.arcface(0.2, SCALE))(progress)
    key = jax.random.key(math.floor(1e6 * progress))  # another one for every step
    return js.arcface(js.elastic_margin(key, (BATCH,), mean=0.2, std=0.03), SCALE)


def _adacos(margin, features, vectors, labels):
    if not margin.normalize_features:
        return margin  # in the warm-up
    stats = js.linear_stats(features, vectors, labels, margin=margin)
    return js.normface(js.adacos_scale(stats, margin.scale, len(vectors)))


def _adaface(margin, features, vectors, labels):
    if not hasattr(margin, "norm_mean"):
        return margin
    return js.adaface_update(margin, features, t_alpha=0.1)


def _curricularface(margin, features, vectors, labels):
    if not hasattr(margin, "t"):
        return margin
    return js.curricularface_update(margin, features, vectors, labels)


_NORMS = {"l_norm": 2.0, "u_norm": 20.0}
_P2SGRAD = js.MarginAndLoss(js.normface(1.0), js.p2sgrad)

HEADS = {
    "softmax": Head("softmax", lambda progress: None),
    "modified": Head("modified softmax", lambda progress: js.modified_softmax()),
    "l-softmax": Head("L-Softmax m=4", lambda progress: js.l_softmax(4, anneal=annealed(progress))),
    "a-softmax": Head("A-Softmax m=4", lambda progress: js.a_softmax(4, anneal=annealed(progress))),
    "am-softmax": Head("AM-Softmax m=0.15 s=16", after_warm_up(js.am_softmax(0.15, SCALE))),
    "arcface": Head("ArcFace m=0.2 s=16", after_warm_up(js.arcface(0.2, SCALE))),
    "normface": Head("NormFace s=16", after_warm_up(js.normface(SCALE))),
    "combined": Head(
        "combined 1, 0.1, 0.08", after_warm_up(js.combined_margin(1, 0.1, 0.08, SCALE))
    ),
    "sphereface": Head("SphereFace m=1.3 s=16", after_warm_up(js.sphereface(1.3, SCALE))),
    "sphereface-r": Head("SphereFace-R m=1.3 s=16", after_warm_up(js.sphereface_r(1.3, SCALE))),
    "elasticface": Head("ElasticFace m=0.2 s=16", _elastic),
    "adacos": Head("AdaCos", after_warm_up(js.normface(SCALE)), update=_adacos),
    "adaface": Head(
        "AdaFace m=0.1 s=16", after_warm_up(js.adaface(0.1, 0.333, SCALE)), update=_adaface
    ),
    "magface": Head(
        "MagFace m=0.1 to 0.3 s=16",
        after_warm_up(js.magface(0.1, 0.3, **_NORMS, scale=SCALE, beyond="continue")),
        penalty=lambda features: 2 * js.magface_regularizer(features, **_NORMS),
    ),
    "mv-softmax": Head("MV-Softmax m=0.1 s=16", after_warm_up(js.mv_softmax(0.1, 0.05, SCALE))),
    "curricularface": Head(
        "CurricularFace m=0.2 s=16",
        after_warm_up(js.curricularface(0.2, SCALE)),
        update=_curricularface,
    ),
    "arcnegface": Head("ArcNegFace m=0.2 s=16", after_warm_up(js.arcnegface(0.2, 1.2, 2.0, SCALE))),
    "npcface": Head(
        "NPCFace m=0.1 s=16",
        after_warm_up(js.npcface(0.1, 0.05, 1.05, 0.05, SCALE, mask_margin=0.15)),
    ),
    "inter-top-k": Head(
        "inter-top-k m=0.15 s=16", after_warm_up(js.inter_top_k(js.arcface(0.15, SCALE), 2, 0.03))
    ),
    "li-arcface": Head("Li-ArcFace m=0.15 s=20", after_warm_up(js.li_arcface(0.15, 20.0))),
    "circle": Head("circle m=0.7 s=32", after_warm_up(js.circle(0.7, 32.0), 0.8)),
    "tvmf": Head("t-vMF κ=2 s=8", after_warm_up(js.tvmf(2.0, 8.0))),
    "sub-center": Head(
        "ArcFace m=0.2 s=16, 3 centers",
        after_warm_up(js.sub_center(js.arcface(0.2, SCALE))),
        centers=3,
    ),
    "sphereface2": Head(
        "SphereFace2 m=0.1 r=32",
        after_warm_up(js.sphereface2(0.7, 32.0, 0.1, 3.0, 32.0)),
        bias=-24.0,
    ),
    "uniface": Head("UniFace m=0.05 s=64", after_warm_up(js.uniface(0.05, 64.0)), bias=-56.0),
    "p2sgrad": Head("P2SGrad", after_warm_up(_P2SGRAD, 0.85)),
}
DEFAULT = list(HEADS)[:6]
