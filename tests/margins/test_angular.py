"""Margins: fixed vectors of other implementations, the shape of φ, and gradients where it breaks.

The vectors are from pytorch-metric-learning 2.9.0 in float64.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import MARGINS, STRAIGHT_THROUGH, Case, head, over
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(6)

FEATURES = np.array([[0.5, -1.2, 0.3], [1, 0.4, -0.7], [-0.8, 0.9, 1.5], [0.2, -0.6, -1.1]])
WEIGHT = np.array(
    [[0.9, -0.4, 0.7, -1.1, 0.3], [0.2, 1.3, -0.5, 0.6, -0.9], [-0.6, 0.8, 1, 0.4, -1.2]]
).T
LABELS = np.array([2, 0, 1, 3])
ALL = [*MARGINS, Case("straight_through", STRAIGHT_THROUGH, None)]


def loss(margin, features, weight, labels):
    return js.cross_entropy(js.linear_logits(features, weight, labels, margin=margin), labels)


def mean_loss(margin, features=FEATURES, weight=WEIGHT, labels=LABELS):
    return js.weighted_mean(loss(margin, features, weight, labels))


# margin, mean loss, gradient of the features (all or the first row), gradient of the weight (3 x 5)
VECTORS = {
    "ArcFace 28.6 degrees": (
        js.arcface(np.deg2rad(28.6)),
        36.58190112468195,
        [[-3.8802618254, -6.6970859934, -20.3212409311]],
        None,
    ),
    "CosFace": (
        js.cosface(),
        36.4604231322976,
        [[-2.6963364378, -5.4929051699, -17.4777266166]],
        None,
    ),
    "CosFace, s 8": (
        js.cosface(0.35, 8.0),
        4.749354292067268,
        [
            [-0.1905535397, -0.4298903303, -1.4019720882],
            [-0.0292573699, -0.1122745119, -0.1059531067],
            [-0.56594701, -0.306687435, -0.1178259443],
            [1.2540878976, -0.4344966053, 0.4650141297],
        ],
        None,
    ),
    "L-Softmax 1": (
        js.l_softmax(1),
        1.3126887724268008,
        [[-0.0523710451, 0.017080874, -0.2396077166]],
        None,
    ),
    "L-Softmax 2": (
        js.l_softmax(2),
        2.1129204640021055,
        [[-0.137247584, -0.2653756442, -0.6065857465]],
        None,
    ),
    "L-Softmax 3": (
        js.l_softmax(3),
        3.2040631273028968,
        [
            [-0.0966042928, -0.522623925, -0.7001827153],
            [-0.1407419868, 0.0741452853, 0.0405694386],
            [-0.393077986, -0.8335969726, 0.4721903161],
            [0.6293323812, -0.7103633872, -0.9961684422],
        ],
        None,
    ),
    "L-Softmax 4": (
        js.l_softmax(4),
        4.4217860764132615,
        [
            [0.183082895, -0.3815249856, -0.141034317],
            [-0.1847546886, 0.2026932378, 0.0425706482],
            [-0.5859100797, -1.1040150479, 0.7834891313],
            [0.9637217079, -1.0439395271, -1.4341263188],
        ],
        [
            [0.0007133274, 0.7066716385, 0.1670597255, -1.1482363156, 0.1813246554],
            [-0.4775270242, 1.1078415081, -0.0600740278, 1.0114312392, -0.2493975419],
            [0.0619698871, -1.1755208916, 0.2804366008, 1.2905129754, -0.2026014808],
        ],
    ),
    "A-Softmax 1": (js.a_softmax(1), 1.2656440061977738, [], None),
    "modified": (js.modified_softmax(), 1.2656440061977738, [], None),
    "A-Softmax 4": (
        js.a_softmax(4),
        3.535202185986345,
        [
            [0.1290711547, -0.2381659501, -0.0672467603],
            [-0.181786957, 0.2120013682, 0.0706696196],
            [-0.3513577632, -0.6757005042, 0.4881675716],
            [0.7474125693, -0.74463879, -1.0405497893],
        ],
        None,
    ),
    "NormFace": (
        js.normface(20.0),
        8.042510059784556,
        [[-0.0029071063, -0.0059267405, -0.0188617849]],
        None,
    ),
}
# At margin=57.3 degrees pytorch-metric-learning falls back to cos θ - m sin m past π, in row 3
# only. The other rows are comparable.
ARCFACE_57 = [
    [-0.4503568785, -0.8205632405, -2.5316581646],
    [-0.2953516839, 0.1106755797, -0.3586877885],
    [-0.7699194829, -0.8305759397, 0.0877218396],
]


def test_fixed_vectors():
    @jax.jit
    def run(*arguments):
        loss = jax.value_and_grad(mean_loss, (1, 2))
        return {name: loss(VECTORS[name][0], *arguments) for name in VECTORS}

    with jax.enable_x64(True):
        found = run(FEATURES, WEIGHT, LABELS)
    for name, (got, (dx, dw)) in found.items():
        _, value, features_bar, weight_bar = VECTORS[name]
        assert_allclose(got, value, rtol=1e-9, err_msg=name)
        if features_bar:
            assert_allclose(dx[: len(features_bar)], features_bar, atol=1e-9, err_msg=name)
        if weight_bar is not None:
            assert_allclose(dw.T, weight_bar, atol=1e-9, err_msg=name)


def test_arcface_of_57_degrees_in_the_rows_below_pi():
    margin = js.arcface(np.deg2rad(57.3), 8.0)
    with jax.enable_x64(True):
        dx = jax.jit(jax.grad(mean_loss, 1))(margin, FEATURES)
    assert_allclose(dx[:3], ARCFACE_57, atol=1e-9)


PHI = {
    (1, 0.5, 0): [0.80117544, 0.02359659, -0.47942554, -0.85398598, -1.00119895, -1.06356197],
    (1, 0.3, 0.2): [0.70409487, 0.02174024, -0.49552021, -0.93359625, -1.18861711, -1.21252862],
    (1.35, 0, 0): [0.98180002, 0.15643447, -0.52249856, -0.95105652, -1.11798324, -1.38505424],
    (4, 0, 0): [0.84396808, -1.5, -3, -4.5, -5.7688, -6.84396808],
    (1, 1, 0): [0.41619519, -0.4585841, -0.84147098, -0.9988864, -1.14693923, -1.34639663],
}


@pytest.mark.parametrize("m", PHI)
def test_phi_table(m):
    with jax.enable_x64(True):
        got = jax.jit(js.angular_margin(*m))(jnp.array([0.99, 0.5, 0, -0.5, -0.9, -0.99]))
    assert_allclose(got, PHI[m], atol=6e-9)


@pytest.mark.parametrize("m", [(1, 0.5), (1.35, 0.0), (1.7, 0.0), (4, 0.0), (0.9, 0.4), (1.5, 1.0)])
def test_phi_falls_continuously(m):
    theta = np.linspace(0, np.pi, 20_001)
    with jax.enable_x64(True):
        phi = np.asarray(jax.jit(js.angular_margin(*m))(jnp.cos(theta)))
    assert_allclose(phi, oracles.phi(np.cos(theta), *m), atol=1e-7)
    steps = np.diff(phi)
    assert steps.max() <= 1e-12
    assert np.abs(steps).max() <= m[0] * theta[1] * 1.001  # no slope beyond m1


@pytest.mark.parametrize(("m1", "m2"), [(1, 0.4), (2, 0.0), (3, 0.4), (4, 0.0), (5, 0.4)])
def test_whole_and_traced_m1_agree(m1, m2):
    with jax.enable_x64(True):
        c = jnp.cos(np.linspace(0.01, np.pi - 0.01, 301))
        whole = jax.jit(jax.vmap(jax.value_and_grad(js.angular_margin(m1, m2))))(c)
        traced = jax.jit(lambda m1: jax.vmap(jax.value_and_grad(js.angular_margin(m1, m2)))(c))(
            float(m1)
        )
    assert_allclose(whole[0], traced[0], rtol=1e-12, atol=1e-12)
    assert_allclose(whole[1], traced[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_logits_match_oracle(dtype):
    # The inputs are exact in every dtype, and cosines are float32: all agree with float64.
    features, weight, labels = head(dtype, examples=16, size=24, classes=10)

    @jax.jit
    def run(x, w):
        return [js.linear_logits(x, w, labels, margin=case.function) for case in MARGINS]

    for case, got in zip(MARGINS, run(features, weight), strict=True):
        assert got.dtype == jnp.float32
        expected = case.oracle(features, weight, labels, **case.options)
        # ψ has slopes of up to m1², so that a rounding of the cosine is that much larger.
        size = np.abs(expected).max() * case.options.get("m1", 1) ** 2
        assert_allclose(got, expected, rtol=2e-6, atol=1e-6 * size, err_msg=case.name)


# Of these the list has one with the same formula.
ALIKE = ("l_softmax 2", "l_softmax 3", "am_softmax", "combined_margin", "a_softmax, anneal")
EXTREMES = np.array([[2.0, 0, 0], [-3.0, 0, 0], [0, 0, 0], [0, -1.5, 0], [1, 1, 0.5]])


PARALLEL = {
    "float32": [case for case in ALL if case.name not in ALIKE],
    "bfloat16": [case for case in ALL if case.name in ("l_softmax 4", "arcface")],
}
KINDS = [pytest.param("float32", marks=pytest.mark.thorough), "bfloat16"]


@pytest.mark.parametrize("dtype", KINDS)
def test_parallel_antiparallel_and_zero_vectors(dtype):
    features = jnp.asarray(EXTREMES).astype(dtype)
    weight = jnp.asarray([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 0], [1, 1, 0.5]]).astype(dtype)
    labels = jnp.array([0, 0, 1, 1, 2])

    def derivatives(margin, *args):
        def total(features, weight):
            return jnp.sum(loss(margin, features, weight, labels))

        def second(features, weight):
            bars = jax.grad(total, (0, 1))(features, weight)
            return sum(jnp.sum(jnp.square(bar.astype(jnp.float32))) for bar in bars), bars

        return total(*args), jax.grad(second, (0, 1), has_aux=True)(*args)

    for case in PARALLEL[dtype]:
        results = jax.jit(partial(derivatives, case.function))(features, weight)
        for got in jax.tree.leaves(results):
            assert np.all(np.isfinite(got.astype(jnp.float32))), case.name


@pytest.mark.parametrize("size", [2, 16, 257])
def test_features_parallel_up_to_rounding(size):
    weight = jax.random.normal(jax.random.key(0), (50, size))
    sign = jnp.where(jnp.arange(50) % 2 == 0, 2.0, -2.0)[:, None]
    bar = jax.jit(jax.grad(mean_loss, (1, 2)))(js.arcface(), sign * weight, weight, np.arange(50))
    assert np.all(np.isfinite(bar[0]))
    assert np.all(np.isfinite(bar[1]))


def test_straight_through_has_the_gradient_of_the_cosine():
    c = np.linspace(-1, 1, 41, dtype=np.float32)
    assert_array_equal(jax.jit(jax.vmap(jax.grad(STRAIGHT_THROUGH)))(c), np.ones(41))
    exact = dataclasses.replace(STRAIGHT_THROUGH, gradient="exact")
    assert_allclose(jax.jit(STRAIGHT_THROUGH)(c), jax.jit(exact)(c), rtol=1e-6)
    # Scores then have the Jacobian that they have without a margin.
    features, weight, labels = head()
    with_margin = jax.jacobian(
        lambda x: js.linear_logits(x, weight, labels, margin=STRAIGHT_THROUGH)
    )
    without = jax.jacobian(lambda x: js.linear_logits(x, weight, margin=js.normface(8.0)))
    got, expected = jax.jit(lambda x: (with_margin(x), without(x)))(features)
    assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_annealing_goes_from_cosine_to_psi():
    c = jnp.linspace(-1, 1, 21)
    cosine, psi = jax.jit(lambda c: (js.a_softmax(4, 1e7)(c), js.a_softmax(4, 5.0)(c)))(c)
    assert_allclose(cosine, c, atol=2e-6)
    assert_allclose(psi, oracles.phi(c, 4, anneal=5.0), atol=1e-5)


FIELDS = {
    "m1": (js.angular_margin, 1.3),
    "m2": (lambda m2: js.angular_margin(1.0, m2), 0.5),
    "m3": (lambda m3: js.angular_margin(1.0, 0.2, m3), 0.35),
    "scale": (lambda scale: js.arcface(scale=scale), 30.0),
    "anneal": (lambda anneal: js.l_softmax(3, anneal), 5.0),
    "normface scale": (js.normface, 20.0),
}


@pytest.mark.parametrize("field", FIELDS)
def test_traced_fields_and_their_gradients(field):
    make, value = FIELDS[field]
    with jax.enable_x64(True):

        @jax.jit
        def run(v):
            constant = mean_loss(make(value))  # here the field is known
            return *jax.value_and_grad(lambda v: mean_loss(make(v)))(v), constant

        got, bar, expected = run(value)
        slope = (run(value + 1e-5)[0] - run(value - 1e-5)[0]) / 2e-5
    assert_allclose(got, expected, rtol=1e-12)
    assert_allclose(bar, slope, rtol=1e-6, atol=1e-8)


@over(ALL)
def test_margins_are_pytrees(case):
    margin = case.function
    through = jax.jit(lambda m: m)(margin)
    assert type(through) is js.AngularMargin
    assert through.gradient == margin.gradient
    assert through.normalize_features == margin.normalize_features
    assert len(jax.tree.leaves(margin)) == 5
    c = jnp.array([0.5, -0.9])
    assert_allclose(through(c), margin(c), rtol=1e-5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        margin.scale = 1.0
