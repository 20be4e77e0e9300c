"""The lists that the matrices run over. A new member of the library needs one line here.

A `Case` is a function of the library, the numpy oracle with the same arguments, and options that
are handed to both.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import jsoftmax as js


class Case(NamedTuple):
    name: str
    function: Any
    oracle: Any
    options: dict = {}  # noqa: RUF012


def over(cases, name="case"):
    """Parametrise a test over cases, with their names as ids."""
    return pytest.mark.parametrize(name, cases, ids=[case.name for case in cases])


def all_of(cases, call, logits):
    """Return (case, result) for each of the cases, which are compiled as one program."""
    results = jax.jit(lambda z: [call(case, z) for case in cases])(logits)
    return zip(cases, results, strict=True)


def close(got, expected, name="", rtol=2e-5, atol=2e-6):
    """Compare two trees of arrays."""
    check = partial(np.testing.assert_allclose, rtol=rtol, atol=atol, err_msg=name)
    jax.tree.map(check, got, expected)


KEY = jax.random.key(7)


def gumbel(logits, axis=-1, **options):
    return js.gumbel_softmax(KEY, logits, axis, **options)


def gumbel_oracle(logits, axis=-1, *, where=None, temperature=1.0, hard=False):
    if jnp.issubdtype(logits.dtype, jnp.integer):
        dtype = jnp.zeros(0).dtype
    else:
        dtype = logits.dtype if logits.dtype.itemsize >= 4 else jnp.float32
    noise = jax.random.gumbel(KEY, logits.shape, dtype, mode="high")
    noisy = oracles.float64(logits.astype(dtype) + noise)
    if hard:
        return oracles.hardmax(noisy, axis, where=where)
    return oracles.softmax(noisy, axis, where=where, temperature=temperature)


def two_of(logits, axis=-1, **options):
    return js.soft_top_k(logits, 2, axis, **options)


# (logits, axis, where=...) -> array
MAPS = [
    Case("softmax", js.softmax, oracles.softmax),
    Case("softmax, cold", js.softmax, oracles.softmax, {"temperature": 0.25}),
    Case("softmax, hot", js.softmax, oracles.softmax, {"temperature": 100.0}),
    Case("softmax, sink", js.softmax, oracles.softmax, {"sink": 0.5, "temperature": 2.0}),
    Case("log_softmax", js.log_softmax, oracles.log_softmax),
    Case("log_softmax, cold", js.log_softmax, oracles.log_softmax, {"temperature": 0.25}),
    Case("log_softmax, sink", js.log_softmax, oracles.log_softmax, {"sink": 0.5}),
    Case("logsumexp", js.logsumexp, oracles.logsumexp),
    Case("hardmax", js.hardmax, oracles.hardmax),
    Case(
        "range_limited_softmax",
        js.range_limited_softmax,
        oracles.range_limited_softmax,
        {"num_samples": 2000},
    ),
    Case("gaussian_softmax", js.gaussian_softmax, oracles.gaussian_softmax, {"num_samples": 50}),
    Case(
        "log_gaussian_softmax",
        js.log_gaussian_softmax,
        oracles.log_gaussian_softmax,
        {"num_samples": 50},
    ),
    Case("taylor_softmax", js.taylor_softmax, oracles.taylor_softmax),
    Case("spherical_softmax", js.spherical_softmax, oracles.spherical_softmax),
    Case("sigsoftmax", js.sigsoftmax, oracles.sigsoftmax),
    Case("ev_softmax", js.ev_softmax, oracles.ev_softmax),
    Case("scalable_softmax", js.scalable_softmax, oracles.scalable_softmax, {"scale": 0.43}),
    Case("sparsemax", js.sparsemax, partial(oracles.entmax, alpha=2.0)),
    Case("entmax15", js.entmax15, partial(oracles.entmax, alpha=1.5)),
    Case("entmax", js.entmax, oracles.entmax, {"alpha": 1.3}),
    Case("tempered_softmax", js.tempered_softmax, oracles.tempered_softmax, {"t": 1.4}),
    Case("soft_top_k", two_of, partial(oracles.soft_top_k, k=2), {"temperature": 0.5}),
]
SPARSE = ("sparsemax", "entmax15", "entmax")
# Apart from the others, since random numbers take long to compile.
GUMBEL = [
    Case("gumbel_softmax", gumbel, gumbel_oracle, {"temperature": 0.5}),
    Case("gumbel_softmax, hard", gumbel, gumbel_oracle, {"hard": True}),
]


def class_weight(classes):
    return np.linspace(0.5, 2.0, classes, dtype=np.float32)


def weighted(logits, labels, *, axis=-1, **options):
    weight = class_weight(logits.shape[axis])
    return js.cross_entropy(logits, labels, axis=axis, class_weight=weight, **options)


def weighted_oracle(logits, q, **options):
    weight = class_weight(logits.shape[-1])
    return oracles.cross_entropy(logits, q, class_weight=weight, **options)


# (logits, labels, where=...) -> [...]; the oracle takes a distribution in place of labels
LOSSES = [
    Case("cross_entropy", js.cross_entropy, oracles.cross_entropy),
    Case("smoothed", js.cross_entropy, oracles.cross_entropy, {"label_smoothing": 0.1}),
    Case("z_loss", js.cross_entropy, oracles.cross_entropy, {"z_loss": 0.01}),
    Case("cold", js.cross_entropy, oracles.cross_entropy, {"temperature": 0.5}),
    Case("weighted", weighted, weighted_oracle),
    Case(
        "cross_entropy, everything",
        weighted,
        weighted_oracle,
        {"label_smoothing": 0.2, "z_loss": 0.01, "temperature": 2.0},
    ),
    Case("focal", js.focal_loss, oracles.focal),
    Case("focal, gamma 0.5", js.focal_loss, oracles.focal, {"gamma": 0.5}),
    Case("poly", js.poly_loss, oracles.poly1),
    Case("poly, epsilon -1", js.poly_loss, oracles.poly1, {"epsilon": -1.0}),
    Case("gce", js.generalized_cross_entropy, oracles.gce),
    Case("gce, q 0", js.generalized_cross_entropy, oracles.gce, {"q": 0.0}),
    Case("mae", js.mae_loss, oracles.mae),
    Case("sce", js.symmetric_cross_entropy, oracles.sce),
    Case(
        "sce, CIFAR-100",
        js.symmetric_cross_entropy,
        oracles.sce,
        {"alpha": 6.0, "beta": 0.1, "log_zero": -9.21},
    ),
    Case("brier", js.brier_loss, oracles.brier),
    Case("confidence penalty", js.confidence_penalty_loss, oracles.confidence_penalty),
    Case("sparsemax_loss", js.sparsemax_loss, partial(oracles.entmax_loss, alpha=2.0)),
    Case("entmax15_loss", js.entmax15_loss, partial(oracles.entmax_loss, alpha=1.5)),
    Case("entmax_loss", js.entmax_loss, oracles.entmax_loss, {"alpha": 1.3}),
    Case("bi_tempered", js.bi_tempered_loss, oracles.bi_tempered_loss, {"t1": 0.8, "t2": 1.4}),
]

# One of every formula, for what does not depend on the options.
FORMULAS = [
    case
    for case in LOSSES
    if (case.options == {} and case.name != "sparsemax_loss")
    or case.name in ("z_loss", "cross_entropy, everything", "gce, q 0", "bi_tempered")
]

# (stats) -> [...]
STATS_LOSSES = [
    Case("nll", js.nll, oracles.cross_entropy),
    Case("nll, smoothed", js.nll, oracles.cross_entropy, {"label_smoothing": 0.1}),
    Case("nll, z_loss", js.nll, oracles.cross_entropy, {"z_loss": 0.01}),
    Case("focal", js.focal, oracles.focal, {"gamma": 1.5}),
    Case("poly1", js.poly1, oracles.poly1),
    Case("gce", js.gce, oracles.gce, {"q": 0.4}),
    Case("mae", js.mae, oracles.mae),
    Case("sce", js.sce, oracles.sce),
]


def margin_case(name, margin, **options):
    return Case(name, margin, oracles.margin_logits, options)


KEEP_BOTH = {"unit_features": False, "unit_weight": False}
KEEP_FEATURES = {"unit_features": False}

# (features, weight, labels) -> logits through linear_logits(margin=case.function)
MARGINS = [
    margin_case("modified_softmax", js.modified_softmax(), **KEEP_FEATURES),
    margin_case("normface", js.normface(), scale=20.0),
    *[margin_case(f"l_softmax {m}", js.l_softmax(m), m1=m, **KEEP_BOTH) for m in (1, 2, 3, 4)],
    margin_case("l_softmax, anneal", js.l_softmax(4, 5.0), m1=4, anneal=5.0, **KEEP_BOTH),
    margin_case("a_softmax", js.a_softmax(), m1=4, **KEEP_FEATURES),
    margin_case("a_softmax, anneal", js.a_softmax(3, 2.0), m1=3, anneal=2.0, **KEEP_FEATURES),
    margin_case("am_softmax", js.am_softmax(), m3=0.35, scale=30.0),
    margin_case("cosface", js.cosface(), m3=0.35, scale=64.0),
    margin_case("arcface", js.arcface(), m2=0.5, scale=64.0),
    margin_case("combined_margin", js.combined_margin(), m2=0.3, m3=0.2, scale=64.0),
    margin_case(
        "combined_margin 2", js.combined_margin(2, 0.3, 0.1, 8.0), m1=2, m2=0.3, m3=0.1, scale=8.0
    ),
    margin_case("angular_margin 1.35", js.angular_margin(1.35, scale=8.0), m1=1.35, scale=8.0),
    margin_case(
        "angular_margin 1.5", js.angular_margin(1.5, 1.0, scale=8.0), m1=1.5, m2=1.0, scale=8.0
    ),
]

CENTERS = 2  # of a class, in the heads below that have several vectors for one

# Further heads by name. Each is in all evaluators what it is on dense logits, and those have the
# numbers of the official code: margins/test_official.py. A new one needs a line here.
HEADS = {
    "adaface": js.adaface(scale=8.0, norm_mean=2.0, norm_std=1.0),
    "magface": js.magface(l_norm=0.5, u_norm=6.0, scale=8.0),
    "mv_softmax": js.mv_softmax(scale=8.0),
    "mv_softmax, arcface": js.mv_softmax(0.5, scale=8.0, target="arcface", kind="fixed"),
    "curricularface": js.curricularface(scale=8.0, t=0.3),
    "arcnegface": js.arcnegface(scale=8.0),
    "npcface": js.npcface(scale=8.0),
    "sphereface": js.sphereface(scale=8.0),
    "sphereface_r v1": js.sphereface_r(scale=8.0, version="v1", gradient="exact"),
    "sphereface_r v2": js.sphereface_r(scale=8.0, gradient="exact"),
    "li_arcface": js.li_arcface(scale=8.0),
    "tvmf": js.tvmf(4.0, 8.0),
    "circle": js.circle(scale=8.0),
    "sphereface2": js.sphereface2(r=8.0, gradient="exact").margin,
    "sub_center": js.sub_center(js.arcface(scale=8.0), CENTERS),
    "inter_top_k": js.inter_top_k(js.arcface(scale=8.0), 2, 0.1),
    "inter_top_k, sub_center": js.sub_center(js.inter_top_k(js.npcface(scale=8.0), 2), CENTERS),
    **{
        f"angular_margin {beyond}": js.angular_margin(1.0, 1.0, 0.1, scale=8.0, beyond=beyond)
        for beyond in ("linear", "shift", "clamp", "easy")
    },
}


def vectors_of(margin, classes, size, seed=1):
    """Return class vectors, several for each class if the margin is for that."""
    shape = (classes, *(margin.centers for _ in [0] if hasattr(margin, "centers")), size)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


STRAIGHT_THROUGH = js.angular_margin(1.0, 0.5, scale=8.0, gradient="straight_through")


# --- inputs ---

DTYPES = ["float32", "bfloat16", "float16", "float64", "int32"]
CLASSES = [1, 2, 3, 10, 1000]
# Class counts in float32, every other dtype at 10 classes.
CLASSES_AND_DTYPES = [*[(c, "float32") for c in (1, 3, 1000)], *[(10, d) for d in DTYPES[1:]]]
# One rounding of the result, and for float32 and float64 the few of the computation itself.
RTOL = {"float64": 1e-13, "float32": 2e-6, "bfloat16": 2**-8, "float16": 2**-10, "int32": 2e-6}
FLOAT16_STEP = 2.0**-24  # the distance of its subnormal numbers


def hard_logits(classes, dtype="float32", seed=0):
    """Return rows that are near uniform, ordinary, peaked, and far from zero: `[8, classes]`."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(8, classes))
    scale = np.array([1e-3, 1e-3, 1.0, 1.0, 8.0, 8.0, 2.0, 2.0])[:, None]
    offset = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 300.0, -300.0])[:, None]
    return jnp.asarray(normal * scale + offset).astype(dtype)


def labels_for(classes, seed=0):
    """Return labels `[8]` of which the first is the first class and the last is the last."""
    labels = np.random.default_rng(seed + 1).integers(0, classes, 8)
    labels[0], labels[-1] = 0, classes - 1
    return jnp.asarray(labels, jnp.int32)


def distributions(classes, seed=0):
    """Return float labels `[8, classes]`: one-hot rows, mixed ones, and one with zeros."""
    rng = np.random.default_rng(seed + 2)
    q = rng.dirichlet(np.ones(classes), 8)
    q[0] = oracles.one_hot(classes - 1, classes)
    q[1] = oracles.one_hot(0, classes)
    q[2, : classes // 2] = 0
    return jnp.asarray(q, jnp.float32)


def on_kept(q, where):
    """Return distributions over the classes that are not masked, of which the last is one."""
    q = jnp.where(where, q, 0)
    q = q.at[..., -1].add(jnp.where(q.sum(-1) == 0, 1, 0))
    return q / q.sum(-1, keepdims=True)


def some_mask(classes, seed=0):
    """Return a class mask `[8, classes]` that keeps the last class and about half of the others."""
    mask = np.random.default_rng(seed + 3).random((8, classes)) < 0.5
    mask[:, -1] = True
    return mask


def head(dtype="float32", seed=0, examples=4, size=3, classes=5):
    """Return features, weight and labels whose numbers are exact in every float dtype."""
    rng = np.random.default_rng(seed)
    features = np.round(rng.normal(size=(examples, size)) * 16) / 16 + 1 / 32
    weight = np.round(rng.normal(size=(classes, size)) * 16) / 16 + 1 / 32
    labels = np.arange(examples) * (classes - 1) // max(examples - 1, 1)
    return jnp.asarray(features).astype(dtype), jnp.asarray(weight).astype(dtype), labels
