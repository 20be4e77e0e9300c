"""Every published head: its numbers in the official code, and its defaults beside the formula."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case
from margins import official
from margins.official import FEATURES, LABELS, PUBLISHED, WEIGHT
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js


def angular(margin=0.5, scale=64.0, beyond="continue"):
    return js.angular_margin(m2=margin, scale=scale, beyond=beyond)


def nearest(margin, scale):
    return js.sub_center(js.arcface(margin, scale), 2)


def hardest(margin=0.2, scale=32.0, **options):
    return js.inter_top_k(js.arcface(margin, scale), **options)


def hardest_nearest(**options):
    return js.sub_center(hardest(**options), 2)


LINEAR = {"beyond": "linear"}
STATE = 0.30194039437492705  # of CurricularFace: from 0.3, after these examples
BATCH = {"norm_mean": 1.4527714561228073, "norm_std": 0.3150769139428604}
NORMS = {"l_norm": 1.28, "u_norm": 1.8}
LARGE = {"l_margin": 0.9, "u_margin": 1.2, "l_norm": 1.2, "u_norm": 1.8}

# The head, its formula, and the numbers with which its official code gave what `official` says.
# All are at a scale of 8, at which every example has a gradient.
HEADS = [
    Case("adaface", js.adaface, official.adaface, BATCH),
    Case("magface", js.magface, official.magface, NORMS),
    Case("magface linear", js.magface, official.magface, LARGE | LINEAR),
    Case("curricularface", js.curricularface, official.curricularface, {"t": STATE}),
    Case(
        "curricularface past pi",
        js.curricularface,
        official.curricularface,
        {"t": STATE, "margin": 1.0},
    ),
    Case("mv cosface", js.mv_softmax, official.mv_softmax),
    Case("mv cosface fixed", js.mv_softmax, official.mv_softmax, {"kind": "fixed"}),
    Case("mv arcface", js.mv_softmax, official.mv_softmax, {"target": "arcface"}),
    Case(
        "mv arcface not easy",
        js.mv_softmax,
        official.mv_softmax,
        {"target": "arcface", "beyond": "continue"},
    ),
    Case("arcnegface", js.arcnegface, official.arcnegface),
    Case("arcnegface past pi", js.arcnegface, official.arcnegface, {"margin": 1.0}),
    Case("npcface", js.npcface, official.npcface),
    Case("circle", js.circle, official.circle),
    Case("sphereface", js.sphereface, official.sphereface),
    *[
        Case(f"sphereface_r {v}", js.sphereface_r, official.sphereface_r, {"version": v})
        for v in ("v0", "v1", "v2")
    ],
    Case("li_arcface", js.li_arcface, official.li_arcface),
    Case("tvmf", js.tvmf, official.tvmf),
    Case("sub_center", nearest, official.arcface, {"margin": np.deg2rad(28.6)}),
    Case("inter_top_k", hardest, official.inter_top_k, {"k": 2}),
    Case("inter_top_k, sub_center", hardest_nearest, official.inter_top_k, {"k": 2}),
    Case("arcface linear", angular, official.arcface, {"margin": 1.0, "beyond": "linear"}),
    Case("arcface easy", angular, official.arcface, {"margin": 1.0, "beyond": "easy"}),
    Case("arcface clamp", angular, official.arcface, {"margin": 1.0, "beyond": "clamp"}),
]
# These have a loss of their own, which takes a bias. "sphereface2 exact" is the same without its
# factor of lw / r, and with the derivative that the other leaves out.
STARTING = official.sphereface2_bias(5, r=8.0)
EXACT = {"m": 0.2, "lw": 8.0, "gradient": "exact"}
LOSSES = [
    Case("sphereface2", partial(js.sphereface2, r=8.0), None, {"bias": STARTING}),
    Case("sphereface2 exact", partial(js.sphereface2, r=8.0, **EXACT), None, {"bias": -1.0}),
    Case("uniface", partial(js.uniface, m=0.3, scale=8.0), None, {"bias": -0.2}),
    Case("p2sgrad", lambda: (js.normface(1.0), js.p2sgrad), None, {"bias": 0.0}),
]
ALL = [case.name for case in (*HEADS, *LOSSES)]


def test_every_published_number_is_tested():
    assert sorted(ALL) == sorted(PUBLISHED)


@pytest.fixture(scope="module")
def found():
    """Return the mean loss and its gradient of every head, compiled as one program."""

    def value(head, weight, labels, features):
        margin = head.function(scale=8.0, **head.options)
        logits = js.linear_logits(features, weight, labels, margin=margin)
        return js.weighted_mean(js.cross_entropy(logits, labels))

    def value_of_loss(head, weight, labels, features):
        margin, loss = head.function()
        bias = jnp.full(len(weight), head.options["bias"])
        return js.linear_loss(features, weight, labels, loss, margin=margin, bias=bias)

    @jax.jit
    def run(features, weight, centers, labels):
        results = {}
        for cases, of in ((HEADS, value), (LOSSES, value_of_loss)):
            for head in cases:
                w = centers if "sub_center" in head.name else weight
                results[head.name] = jax.value_and_grad(partial(of, head, w, labels))(features)
        return results

    with jax.enable_x64(True):
        return jax.device_get(run(FEATURES, WEIGHT, official.CENTERS, LABELS))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ALL)
def test_loss_and_gradient_of_the_official_code(found, name):
    for got, expected in zip(found[name], PUBLISHED[name], strict=True):
        assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


# --- defaults, on more examples ---

N, D, C = 12, 6, 9


def more():
    """Return examples of which some are outside, some inside the norms that the heads look at."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(N, D))
    x *= np.geomspace(3, 200, N)[:, None] / np.linalg.norm(x, axis=-1, keepdims=True)
    return x, rng.normal(size=(C, D)), rng.normal(size=(C, 3, D)), np.arange(N) % C


FAR = {"norm_mean": 30.0, "norm_std": 8.0}  # to both ends of its quality
DEFAULTS = [
    *[head for head in HEADS if not head.options and head.name not in ("tvmf", "npcface")],
    Case("npcface", js.npcface, partial(official.npcface, mask_margin=0.5)),
    Case("adaface", js.adaface, official.adaface),
    Case("adaface, clipped", partial(js.adaface, **FAR), partial(official.adaface, **FAR)),
    Case("magface", js.magface, official.magface),
    Case("curricularface", js.curricularface, official.curricularface),
    Case("sphereface_r", js.sphereface_r, official.sphereface_r),
    Case("inter_top_k", hardest, official.inter_top_k),
    Case("inter_top_k, all", partial(hardest, k=C), partial(official.inter_top_k, k=C)),
    Case("sub_center", lambda: js.sub_center(js.arcface()), official.arcface),
    Case("tvmf", partial(js.tvmf, scale=8.0), partial(official.tvmf, scale=8.0)),
]
# The others' scores have a map of their own cosine.
MAPPED = ("circle", "li_arcface", "sphereface_r", "tvmf")


@pytest.fixture(scope="module")
def defaults():
    """Return the logits with labels and without, and the losses, at the heads' defaults."""

    @jax.jit
    def run(features, weight, centers, labels):
        logits = {}
        for head in DEFAULTS:
            w = centers if head.name == "sub_center" else weight
            of = partial(js.linear_logits, features, w, margin=head.function())
            logits[head.name] = of(labels=labels), of()
        losses = {}
        for name in ("sphereface2", "uniface"):
            margin, loss = getattr(js, name)()
            options = {"margin": margin, "bias": jnp.full(C, -2.0), "reduction": None}
            losses[name] = js.linear_loss(features, weight, labels, loss, **options)
        return logits, losses

    with jax.enable_x64(True):
        return jax.device_get(run(*more()))


@pytest.mark.parametrize("head", DEFAULTS, ids=[head.name for head in DEFAULTS])
def test_logits_at_the_defaults(defaults, head):
    x, weight, centers, labels = more()
    cosines, norms = official.cosines_of(x, centers if head.name == "sub_center" else weight)
    expected = head.oracle(cosines, norms, labels)
    with_labels, without = defaults[0][head.name]
    assert_allclose(with_labels, expected, rtol=1e-9, atol=1e-9)
    # Without labels there is no margin, and no class is hard.
    assert_array_equal(np.argsort(without), np.argsort(cosines))
    if head.name not in MAPPED:
        scale = inspect.signature(head.oracle).parameters["scale"].default
        assert_allclose(without, scale * cosines, rtol=1e-9, atol=1e-9)
    if head.name == "tvmf":
        assert_array_equal(without, with_labels)


@pytest.mark.parametrize("name", ["sphereface2", "uniface"])
def test_losses_at_the_defaults(defaults, name):
    x, weight, _, labels = more()
    expected = getattr(official, name)(official.cosines_of(x, weight)[0], labels, bias=-2.0)
    assert_allclose(defaults[1][name], expected, rtol=1e-9, atol=1e-9)


# --- states, and numbers by themselves ---


@pytest.mark.parametrize(
    ("t_alpha", "mean", "std"),
    [(0.01, 19.81452771456123, 99.00315076913942), (0.3, 14.435831436836843, 70.09452307418286)],
)
def test_statistics_of_adaface(t_alpha, mean, std):
    with jax.enable_x64(True):
        after = js.adaface_update(js.adaface(), FEATURES, t_alpha=t_alpha)
        alone = js.adaface_update(js.adaface(), FEATURES[:1], t_alpha=t_alpha)
    assert_allclose([after.norm_mean, after.norm_std], [mean, std], rtol=1e-12)
    assert_allclose(alone.norm_std, 100)  # one example has no standard deviation


def test_norms_of_adaface_are_clipped():
    x, *_ = more()
    x[0] *= 1e-6
    expected = official.adaface_statistics(np.linalg.norm(x, axis=-1), t_alpha=1.0)
    with jax.enable_x64(True):
        after = js.adaface_update(js.adaface(), x, t_alpha=1.0)
    assert_allclose([after.norm_mean, after.norm_std], expected, rtol=1e-12)


def test_state_of_curricularface():
    with jax.enable_x64(True):
        after = js.curricularface_update(js.curricularface(t=0.3), FEATURES, WEIGHT, LABELS)
    assert_allclose(after.t, STATE, rtol=1e-12)


def test_regularizer_of_magface():
    def mean(x):
        return jnp.mean(js.magface_regularizer(x, **NORMS))

    with jax.enable_x64(True):
        value, slope = jax.jit(jax.value_and_grad(mean))(FEATURES)
    assert_allclose(value, 1.1559227558417495, rtol=1e-12)
    inside = [
        [-0.0237185347, 0.0569244832, -0.0142311208],
        [-0.0578850225, -0.023154009, 0.0405195158],
    ]
    assert_allclose(slope, [*inside, [0, 0, 0], [0, 0, 0]], atol=1e-9)


def test_scale_of_adacos():
    """The median of four angles is the second; in the other case it is above π / 4."""

    @jax.jit
    def run(x, w, labels, scale):
        stats = js.linear_stats(x, w, labels, margin=js.normface(scale))
        return js.adacos_scale(stats, scale, len(w))

    x, w, _, labels = more()
    with jax.enable_x64(True):
        first = run(FEATURES, WEIGHT, LABELS, np.sqrt(2) * np.log(4))
        second = run(x, w, labels, 8.0)
    assert_allclose(first, 2.0570269646937716, rtol=1e-12)
    expected = official.adacos_scale(official.cosines_of(x, w)[0], labels, 8.0)
    assert_allclose(second, expected, rtol=1e-12)


def test_margins_by_class():
    counts = np.array([400, 1, 16, 7, 81, 3, 1])
    expected = [0.05, 0.5, 0.2101983900, 0.2767299731, 0.1135978533, 0.3607999901, 0.5]
    assert_allclose(js.dynamic_margins(counts), expected, rtol=1e-6)
    got = js.dynamic_margins(counts, smallest=0.2, largest=0.3, power=0.5)
    assert_allclose(got, official.dynamic_margins(counts, 0.2, 0.3, 0.5), rtol=1e-6)
    assert np.all(np.isfinite(js.dynamic_margins(np.full(3, 7))))
