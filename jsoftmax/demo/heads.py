"""The heads of the demo, each with numbers at which it trains well on a few hundred classes.

These are fewer than the papers have, in fewer dimensions: so most scales are smaller.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jsoftmax as js

BATCH = 128
SCALE = 16.0


class Head(NamedTuple):
    """A head: its title, and its margin as a function of training progress.

    The margin may be a `MarginAndLoss`; the `bias` that this may need starts at a number that
    depends on how many classes there are, and is learned. A margin that follows the batch has an
    `update`, a function of margin, features, class vectors and labels; it goes on from the last
    step as long as `margin` returns the same object. A `penalty` of the features is added to the
    loss. `centers` is how many vectors a class has, None for one without an axis for it. `warm_up`
    is how much of a training in the plane goes to `WARM_UP`.
    """

    title: str
    margin: Callable[[float], Any]
    bias: Callable[[int], float] | None = None
    update: Callable[..., Any] | None = None
    penalty: Callable[[jax.Array], jax.Array] | None = None
    centers: int | None = None
    warm_up: float = 0.6


def fixed(margin: Any) -> Callable[[float], Any]:
    """Return a margin that stays as it is during training."""
    return lambda progress: margin


# On a circle a class cannot pass its neighbours; in the plane it can, through the middle. So the
# classes first find their order in the plane. More dimensions do not need this.
WARM_UP = Head("warm-up", fixed(js.modified_softmax()))


def annealed(preset: Callable[..., Any]) -> Callable[[float], Any]:
    """Return L- or A-Softmax, whose λ decays from 1000 to 5 in the first half of training."""
    return lambda progress: preset(4, anneal=jnp.float32(1000 * 0.005 ** min(1.0, 2 * progress)))


def _elastic(progress):
    if progress == 1:
        return js.arcface(0.5, SCALE)
    key = jax.random.key(math.floor(1e6 * progress))  # another one for every step
    return js.arcface(js.elastic_margin(key, (BATCH,), mean=0.5, std=0.05), SCALE)


def _adacos(margin, features, vectors, labels):
    stats = js.linear_stats(features, vectors, labels, margin=margin)
    return js.normface(js.adacos_scale(stats, margin.scale, len(vectors)))


def _adaface(margin, features, vectors, labels):
    return js.adaface_update(margin, features, t_alpha=0.1)


_NORMS = {"l_norm": 2.0, "u_norm": 20.0}
_SPHEREFACE2 = {"alpha": 0.7, "r": 32.0, "m": 0.2, "t": 3.0}
_P2SGRAD = js.MarginAndLoss(js.normface(1.0), js.p2sgrad)

HEADS = {
    "softmax": Head("softmax", fixed(None), warm_up=0.0),
    "normface": Head("NormFace", fixed(js.normface(10.0))),
    "sphereface": Head("SphereFace m=1.5", fixed(js.sphereface(1.5, SCALE))),
    "am-softmax": Head("AM-Softmax m=0.35", fixed(js.am_softmax(0.35, SCALE))),
    "arcface": Head("ArcFace m=0.5", fixed(js.arcface(0.5, SCALE))),
    "modified": Head("modified softmax", fixed(js.modified_softmax()), warm_up=0.0),
    "l-softmax": Head("L-Softmax m=4", annealed(js.l_softmax), warm_up=0.0),
    "a-softmax": Head("A-Softmax m=4", annealed(js.a_softmax), warm_up=0.0),
    "combined": Head("combined 1, 0.3, 0.2", fixed(js.combined_margin(1, 0.3, 0.2, SCALE))),
    "sphereface-r": Head("SphereFace-R m=1.5", fixed(js.sphereface_r(1.5, SCALE))),
    "elasticface": Head("ElasticFace m=0.5", _elastic),
    "adacos": Head("AdaCos", fixed(js.normface(10.0)), update=_adacos),
    "adaface": Head("AdaFace m=0.3", fixed(js.adaface(0.3, 0.333, SCALE)), update=_adaface),
    "magface": Head(
        "MagFace m=0.3 to 0.7",
        fixed(js.magface(0.3, 0.7, **_NORMS, scale=SCALE)),
        penalty=lambda features: 2 * js.magface_regularizer(features, **_NORMS),
    ),
    "mv-softmax": Head("MV-Softmax m=0.3", fixed(js.mv_softmax(0.3, 0.1, SCALE))),
    "curricularface": Head(
        "CurricularFace m=0.5",
        fixed(js.curricularface(0.5, SCALE)),
        update=js.curricularface_update,
    ),
    "arcnegface": Head("ArcNegFace m=0.5", fixed(js.arcnegface(0.5, 1.2, 2.0, SCALE))),
    "npcface": Head(
        "NPCFace m=0.3", fixed(js.npcface(0.3, 0.1, 1.05, 0.1, SCALE, mask_margin=0.3))
    ),
    "inter-top-k": Head(
        "inter-top-k m=0.4", fixed(js.inter_top_k(js.arcface(0.4, SCALE), 2, 0.06))
    ),
    "li-arcface": Head("Li-ArcFace m=0.45", fixed(js.li_arcface(0.45, SCALE))),
    "circle": Head("circle m=0.35", fixed(js.circle(0.35, 64.0)), warm_up=0.8),
    "tvmf": Head("t-vMF κ=4", fixed(js.tvmf(4.0, 16.0))),
    "sub-center": Head(
        "ArcFace, 3 centers", fixed(js.sub_center(js.arcface(0.5, SCALE))), centers=3
    ),
    "sphereface2": Head(
        "SphereFace2 m=0.2",
        fixed(js.sphereface2(**_SPHEREFACE2)),
        bias=partial(js.sphereface2_bias, **_SPHEREFACE2),
    ),
    "uniface": Head("UniFace m=0.2", fixed(js.uniface(0.2, 64.0)), bias=js.uniface_bias),
    "p2sgrad": Head("P2SGrad", fixed(_P2SGRAD), warm_up=0.85),
}
DEFAULT = list(HEADS)[:5]
