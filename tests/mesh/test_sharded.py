"""sharded_linear_loss: the same values and gradients over a mesh as on one device.

What one device returns is tested against float64 elsewhere; every margin and loss over a mesh, too,
in linear/test_evaluators.py. No size here is a multiple of the number of devices unless it must be.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close, head
from jax.sharding import NamedSharding
from members import direction, in_scan
from meshes import MARGIN, PLACES, mesh_of
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = [pytest.mark.slow, pytest.mark.one_in(19)]

N, D, C = 5, 3, 11
BIAS = jnp.linspace(-0.5, 0.5, C)
WEIGHTS = jnp.array([1.0, 0, 2, 1, 3])
KEEP = jnp.arange(C) != 4
LISTS = js.SparseLabels(
    jnp.array([[0, 10], [3, 3], [10, 4], [7, 6], [1, 0]]),
    jnp.array([[0.7, 0.3], [0.5, 0.5], [1.0, 0.0], [0.2, 0.9], [0.6, 0.4]]),
)
# Examples over, classes over. Features are gathered over an axis that is in both.
AXES = [
    ("data", "model"),
    ("data", None),
    (None, "model"),
    (("data", "model"), "model"),
    (("model", "data"), ("data", "model")),
]
over_axes = pytest.mark.parametrize("axes", AXES, ids=str)


def spread(loss=js.nll, axes=("data", "model"), mesh=None, **options):
    names = dict(zip(("batch_axis", "class_axis"), axes, strict=True))
    mesh = mesh_of() if mesh is None else mesh
    return js.sharded_linear_loss(mesh, **names, num_classes=C, loss=loss, **options)


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
    "parameters per class": lambda n: (
        js.nll,
        {"margin": js.AngularMargin(m2=jnp.linspace(0.1, 0.5, C) * n, scale=4.0 * n)},
    ),
    "norms kept": lambda n: (js.nll, {"margin": js.l_softmax(2, anneal=1.0 * n)}),
}


def with_gradients(name, evaluate, **blocks):
    """Return a sum of the losses, its gradients, the losses themselves and their statistics."""
    x, w, labels = head(examples=N, size=D, classes=C)

    def total(x, w, n):
        loss, options = OPTIONS[name](n)
        out, stats = evaluate(x, w, labels, loss, return_stats=True, **options, **blocks)
        return (jnp.sum(out * jnp.arange(1.0, 1 + out.size)) if out.ndim else out), (out, stats)

    return jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(x, w, 1.0)


@cache
def on_one_device(name):
    return with_gradients(name, js.linear_loss)


@pytest.mark.parametrize(
    ("axes", "blocks"), [(AXES[0], {"row_block": 2, "class_block": 2}), (AXES[3], {})], ids=str
)
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, axes, blocks):
    def over_mesh(x, w, labels, loss, **options):
        return spread(loss, axes)(x, w, labels, **options)

    expected, got = on_one_device(name), with_gradients(name, over_mesh, **blocks)
    close(got, expected)
    assert_array_equal(got[0][1][1].correct, expected[0][1][1].correct)


@cache
def of_lists(evaluate, reduction):
    x, w, _ = head(examples=N, size=D, classes=C)

    def total(x, w, probs):
        labels = LISTS._replace(probs=probs)
        return jnp.mean(evaluate(x, w, labels, where=KEEP, reduction=reduction))

    return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(x, w, LISTS.probs)


@over_axes
@pytest.mark.parametrize("reduction", ["mean", None])
def test_lists_of_labels(axes, reduction):
    close(of_lists(spread(axes=axes), reduction), of_lists(js.linear_loss, reduction))


@over_axes
def test_out_of_range_labels(axes):
    """Row 11 only pads the weight, so label 11 is out of range; 7 is ignored, 4 is masked."""
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


@cache
def second_derivatives(evaluate, loop, dtype):
    x, w, labels = head(dtype, examples=8, size=D, classes=C)
    total, v = loop(lambda x: evaluate(x, w, labels)), direction(x)
    along = jax.grad(lambda x: jnp.vdot(jax.grad(total)(x), v).astype(jnp.float32))
    return np.asarray(jax.jit(along)(x), np.float32)


def no_loop(function):
    return function


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@over_axes
def test_second_derivatives_in_a_scan(axes, dtype):
    got = second_derivatives(spread(axes=axes), in_scan, dtype)
    expected = second_derivatives(js.linear_loss, no_loop, dtype)
    step = float(jnp.finfo(dtype).eps)
    atol = 4 * step * np.abs(expected).max()
    assert_allclose(got, expected, rtol=0, atol=atol)


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
