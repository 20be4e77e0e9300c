"""Classes and examples over a mesh: the same numbers as on one device, and what devices exchange.

What one device returns is tested against float64 elsewhere; every margin and loss over a mesh, too,
in test_evaluators.py. Nothing here is a multiple of the number of devices, unless it must be.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LOSSES, MAPS, head, over
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

N, D, C = 5, 3, 11
BIAS = jnp.linspace(-0.5, 0.5, C)
WEIGHTS = jnp.array([1.0, 0, 2, 1, 3])
KEEP = jnp.arange(C) != 4
LISTS = js.SparseLabels(
    jnp.array([[0, 10], [3, 3], [10, 4], [7, 6], [1, 0]]),
    jnp.array([[0.7, 0.3], [0.5, 0.5], [1.0, 0.0], [0.2, 0.9], [0.6, 0.4]]),
)
PLACES = P("data"), P("model"), P("data")
# Examples over, classes over. Features are gathered over an axis that is in both.
AXES = [
    ("data", "model"),
    ("data", None),
    (None, "model"),
    (("data", "model"), "model"),
    (("model", "data"), ("data", "model")),
]
over_axes = pytest.mark.parametrize("axes", AXES, ids=str)


def mesh_of(kind="Explicit", shape=(2, 4)):
    return jax.make_mesh(shape, ("data", "model"), axis_types=(getattr(AxisType, kind),) * 2)


def spread(loss=js.nll, axes=("data", "model"), mesh=None, **options):
    names = dict(zip(("batch_axis", "class_axis"), axes, strict=True))
    mesh = mesh_of() if mesh is None else mesh
    return js.sharded_linear_loss(mesh, **names, num_classes=C, loss=loss, **options)


def close(got, expected, rtol=2e-5, atol=2e-6):
    jax.tree.map(partial(assert_allclose, rtol=rtol, atol=atol), got, expected)


# name -> (a number -> (loss, options)), all of which the number is to get a gradient through
OPTIONS = {
    "bias, softcap": lambda n: (js.nll, {"bias": BIAS * n, "softcap": 1.5 * n}),
    "where, smoothing": lambda n: (
        partial(js.nll, label_smoothing=0.2 * n, z_loss=0.1),
        {"where": KEEP},
    ),
    "weights": lambda n: (
        partial(js.focal, gamma=2 * n),
        {"sample_weight": WEIGHTS * n, "class_weight": jnp.arange(1.0, 1 + C) * n},
    ),
    "ignored, sum": lambda n: (js.gce, {"ignore_index": 7, "reduction": "sum"}),
    "per example": lambda n: (
        lambda stats: jnp.square(stats.mean * n) + stats.log_prob,
        {"reduction": None, "bias": BIAS},
    ),
    "numbers by class": lambda n: (
        js.nll,
        {"margin": js.AngularMargin(m2=jnp.linspace(0.1, 0.5, C) * n, scale=4.0 * n)},
    ),
    "norms kept": lambda n: (js.nll, {"margin": js.l_softmax(2, anneal=1.0 * n)}),
}


@pytest.mark.parametrize(
    ("axes", "blocks"), [(AXES[0], {"row_block": 2, "class_block": 2}), (AXES[3], {})], ids=str
)
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, axes, blocks):
    x, w, labels = head(examples=N, size=D, classes=C)

    def total(evaluate, x, w, n):
        loss, options = OPTIONS[name](n)
        out, stats = evaluate(x, w, labels, loss, return_stats=True, **options, **blocks)
        return (jnp.sum(out * jnp.arange(1.0, 1 + out.size)) if out.ndim else out), (out, stats)

    def over_mesh(x, w, labels, loss, **options):
        return spread(loss, axes)(x, w, labels, **options)

    expected, got = (
        jax.jit(jax.value_and_grad(partial(total, evaluate), (0, 1, 2), has_aux=True))(x, w, 1.0)
        for evaluate in (js.linear_loss, over_mesh)
    )
    close(got, expected)
    assert_array_equal(got[0][1][1].correct, expected[0][1][1].correct)


@over_axes
@pytest.mark.parametrize("reduction", ["mean", None])
def test_lists_of_labels(axes, reduction):
    x, w, _ = head(examples=N, size=D, classes=C)

    def total(evaluate, x, w, probs):
        labels = LISTS._replace(probs=probs)
        return jnp.mean(evaluate(x, w, labels, where=KEEP, reduction=reduction))

    expected, got = (
        jax.jit(jax.value_and_grad(partial(total, evaluate), (0, 1, 2)))(x, w, LISTS.probs)
        for evaluate in (js.linear_loss, spread(axes=axes))
    )
    close(got, expected)


@over_axes
def test_labels_that_are_no_class(axes):
    """11 has a row, to fill up, but is no class; 7 is ignored, 4 is off."""
    x, w, _ = head(examples=N, size=D, classes=C)
    labels = jnp.array([0, 11, -1, 7, 4])
    options = {"ignore_index": 7, "where": KEEP, "reduction": None}
    losses = jax.jit(partial(spread(axes=axes), **options))(x, w, labels)
    assert_array_equal(jnp.isnan(losses), [False, True, True, False, False])
    assert_array_equal(losses[3:], [0, jnp.inf])
    # An ignored label may have any number, that of a row without a class among them.
    labels = jnp.array([0, 11, 11, 11, 11])
    one = jax.jit(partial(spread(axes=axes), ignore_index=11, where=KEEP))(x, w, labels)
    assert_allclose(one, losses[0], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_dtypes(dtype):
    x, w, labels = head(dtype, examples=N, size=D, classes=C)

    def run(evaluate):
        total = partial(evaluate, margin=js.cosface(scale=4.0))
        return jax.jit(jax.value_and_grad(total, (0, 1)))(x, w, labels)

    got, expected = run(spread()), run(js.linear_loss)
    assert [g.dtype for g in got[1]] == [dtype, dtype]
    close(got[0], expected[0])
    # The parts of a gradient are rounded before they are added.
    as_float = partial(jax.tree.map, lambda g: g.astype(jnp.float32))
    close(as_float(got[1]), as_float(expected[1]), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("placed", [True, False])
def test_kinds_of_mesh(kind, placed):
    mesh = mesh_of(kind)
    x, w, labels = head(examples=6, size=D, classes=12)
    expected = jax.jit(jax.value_and_grad(js.linear_loss, (0, 1)))(x, w, labels)
    evaluate = js.sharded_linear_loss(mesh, batch_axis="data", class_axis="model", num_classes=12)
    if placed:
        x, w, labels = (
            jax.device_put(a, NamedSharding(mesh, place))
            for a, place in zip((x, w, labels), PLACES, strict=True)
        )
    got = jax.jit(jax.value_and_grad(evaluate, (0, 1)))(x, w, labels)
    close(got, expected)
    if placed:
        assert [g.sharding.spec[0] for g in got[1]] == ["data", "model"]


def test_without_jit():
    """Arrays that lie on no mesh may be differentiated, over any mesh."""
    x, w, labels = head(examples=6, size=D, classes=12)
    evaluate = js.sharded_linear_loss(
        mesh_of("Explicit"), batch_axis="data", class_axis="model", num_classes=12
    )
    got = jax.value_and_grad(evaluate, (0, 1))(x, w, labels)
    close(got, jax.jit(jax.value_and_grad(js.linear_loss, (0, 1)))(x, w, labels))


def test_several_axes_at_once():
    """Classes over all eight devices, with the features on each of them."""
    x, w, labels = head(examples=N, size=D, classes=C)
    evaluate = spread(axes=(None, ("data", "model")))
    got = jax.jit(jax.value_and_grad(evaluate, (0, 1)))(x, w, labels)
    close(got, jax.jit(jax.value_and_grad(js.linear_loss, (0, 1)))(x, w, labels))


# --- inside a shard_map of one's own ---

MARGIN = js.arcface(scale=4.0)


def own_shard_map(function, out_specs, *, check_vma=True):
    given = {"mesh": mesh_of("Auto"), "in_specs": PLACES, "out_specs": out_specs}
    return jax.shard_map(function, **given, check_vma=check_vma)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("reduction", ["mean", None])
def test_inside_shard_map(check_vma, reduction):
    """The gradient is taken outside."""
    x, w, labels = head(examples=6, size=D, classes=12)

    def here(x, w, labels):
        options = {"margin": MARGIN, "class_axis": "model", "reduction": reduction}
        if reduction:
            return js.linear_loss(x, w, labels, js.focal, batch_axis="data", **options)
        losses = js.linear_loss(x, w, labels, js.focal, **options)
        return js.weighted_mean(losses, axis_name="data")

    def one(x, w, labels):
        return js.linear_loss(x, w, labels, js.focal, margin=MARGIN)

    total = own_shard_map(here, P(), check_vma=check_vma)
    got = jax.jit(jax.value_and_grad(total, (0, 1)))(x, w, labels)
    close(got, jax.jit(jax.value_and_grad(one, (0, 1)))(x, w, labels))


@pytest.mark.parametrize("batch_axis", ["data", None])
def test_gradients_inside_shard_map(batch_axis):
    """They are taken inside; the mean over a device's own examples gets its weights by hand."""
    x, w, labels = head(examples=6, size=D, classes=12)

    def here(x, w, labels):
        def total(x, w):
            loss = js.linear_cross_entropy(
                x, w, labels, class_axis="model", batch_axis=batch_axis, margin=MARGIN
            )
            return loss if batch_axis else jax.lax.pmean(loss, "data")

        return jax.value_and_grad(total, (0, 1))(x, w)

    specs = P(), (P("data"), P("model"))
    got = jax.jit(own_shard_map(here, specs))(x, w, labels)
    one = partial(js.linear_cross_entropy, margin=MARGIN)
    close(got, jax.jit(jax.value_and_grad(one, (0, 1)))(x, w, labels))


def test_statistics():
    x, w, labels = head(examples=6, size=D, classes=12)
    expected = jax.jit(js.linear_stats)(x, w, labels)
    here = partial(js.linear_stats, class_axis="model", row_block=2, class_block=2)
    got = jax.jit(own_shard_map(here, P("data")))(x, w, labels)
    close(got, expected)
    assert_array_equal(got.correct, expected.correct)


def test_axis_of_a_vmap():
    x, w, labels = head(examples=N, size=D, classes=12)

    def total(x, w):
        here = partial(js.linear_loss, margin=MARGIN, class_axis="classes")
        parts = w.reshape(4, 3, D)
        return jax.vmap(here, (None, 0, None), None, axis_name="classes")(x, parts, labels)

    got = jax.jit(jax.value_and_grad(total, (0, 1)))(x, w)
    one = partial(js.linear_loss, margin=MARGIN)
    close(got, jax.jit(jax.value_and_grad(one, (0, 1)))(x, w, labels))


WITH_LOOPS = [
    *(c for c in MAPS if c.name in ("log_softmax, sink", "sparsemax", "entmax", "soft_top_k")),
    *(c for c in LOSSES if c.name in ("cross_entropy, everything", "entmax_loss", "bi_tempered")),
]


@over(WITH_LOOPS)
def test_maps_and_losses_inside_shard_map(case):
    """Their loops begin with values of the type that they end with."""
    z, *labels = (
        jax.random.normal(jax.random.key(0), (8, 5)),
        *[jnp.arange(8) % 5][: case in LOSSES],
    )

    def total(z, *labels):
        return jnp.sum(jnp.sin(case.function(z, *labels, **case.options)))

    def on_each(*given):
        return jax.lax.psum(total(*given), "data")

    mesh = mesh_of("Auto", (8, 1))
    over_mesh = jax.shard_map(on_each, mesh=mesh, in_specs=P("data"), out_specs=P())
    got, expected = (jax.jit(jax.value_and_grad(f))(z, *labels) for f in (over_mesh, total))
    close(got, expected, atol=1e-5)


# --- what is exchanged, and what it costs ---

KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
COLLECTIVE = re.compile(rf"= \(?(.*?)\)? ({KINDS})(?:-start)?\(")


def compiled(evaluate, rows, size, classes, mesh, places=PLACES):
    shapes = ((rows, size), jnp.float32), ((classes, size), jnp.float32), ((rows,), jnp.int32)
    arguments = [
        jax.ShapeDtypeStruct(*shape, sharding=NamedSharding(mesh, place))
        for shape, place in zip(shapes, places, strict=True)
    ]
    return jax.jit(jax.value_and_grad(evaluate, (0, 1))).lower(*arguments).compile()


def exchanges(program):
    """Return (kind, how many numbers) of every array that devices exchange, scalars apart."""
    found = []
    for shapes, kind in COLLECTIVE.findall(program.as_text()):
        for shape in re.findall(r"\[([\d,]*)\]", shapes):
            numbers = int(np.prod([int(n) for n in shape.split(",") if n]))
            found += [(kind, numbers)] if shape else []
    return found


@pytest.mark.parametrize("margin", [None, MARGIN])
@pytest.mark.parametrize(
    "blocks", [{"row_block": 16}, {"class_block": 64}], ids=["rows", "classes"]
)
def test_what_devices_exchange(margin, blocks):
    """A few numbers per example, the gradient of the features, and that of the weight's rows."""
    rows, size, classes, mesh = 64, 32, 1024, mesh_of("Auto")
    evaluate = js.sharded_linear_loss(
        mesh, batch_axis="data", class_axis="model", num_classes=classes, margin=margin, **blocks
    )
    found = exchanges(compiled(evaluate, rows, size, classes, mesh))
    # The scalar results apart: maximum and sum per block of rows, and the two gradients.
    block = blocks.get("row_block", rows // 2)
    expected = [block, 4 * block, rows // 2 * size, classes // 4 * size]
    assert sorted(found) == [("all-reduce", n) for n in expected]


def test_what_devices_exchange_if_an_axis_is_in_both():
    """Their own features are gathered, and of the gradient each device gets its own."""
    rows, size, classes, mesh = 64, 32, 1024, mesh_of("Auto")
    axes = {"batch_axis": ("data", "model"), "class_axis": "model"}
    evaluate = js.sharded_linear_loss(mesh, **axes, num_classes=classes)
    program = compiled(evaluate, rows, size, classes, mesh, (P(("data", "model")), *PLACES[1:]))
    block = rows // 2
    numbers = [block, block, 4 * block, classes // 4 * size]  # the labels too
    expected = [("all-reduce", n) for n in numbers]
    expected += [("all-gather", block * size), ("reduce-scatter", rows // 8 * size)]
    assert sorted(exchanges(program)) == sorted(expected)


def test_three_products():
    rows, size, classes, mesh = 256, 64, 4096, mesh_of("Auto")
    evaluate = js.sharded_linear_loss(
        mesh, batch_axis="data", class_axis="model", num_classes=classes, row_block=rows // 2
    )
    flops = compiled(evaluate, rows, size, classes, mesh).cost_analysis()["flops"]
    products = flops / (2 * rows * size * classes / 8)
    assert 3 <= products < 3.5


def test_plain_jit_of_sharded_arrays():
    """XLA spreads the loss of one device by itself: right, but it gathers."""
    mesh = mesh_of("Auto")
    x, w, labels = head(examples=8, size=D, classes=12)
    given = [
        jax.device_put(a, NamedSharding(mesh, place))
        for a, place in zip((x, w, labels), PLACES, strict=True)
    ]
    run = jax.jit(jax.value_and_grad(partial(js.linear_loss, margin=MARGIN), (0, 1)))
    close(run(*given), run(x, w, labels))


# --- mistakes ---


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, w, y: spread(axes=("rows", "model")), ValueError, "`batch_axis`: expected axes"),
        (lambda x, w, y: spread()(x, w[:5], y), AssertionError, "num_classes = 11"),
        (lambda x, w, y: spread()(x, w, y, bias=BIAS[:5]), AssertionError, "`bias`"),
        (lambda x, w, y: spread()(x[0], w, y[0]), AssertionError, "`features`"),
        (lambda x, w, y: spread()(x, w, y[:3]), AssertionError, "`labels`"),
        (lambda x, w, y: spread()(x, w, y, smoothing=0.1), TypeError, "smoothing"),
        (lambda x, w, y: js.linear_loss(x, w, y, class_axis="model"), NameError, "`class_axis`"),
        (lambda x, w, y: js.linear_loss(x, w, y, batch_axis="data"), NameError, "`batch_axis`"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(*head(examples=N, size=D, classes=C))
