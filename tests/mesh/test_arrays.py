"""Every public function on arrays that lie on a mesh, Auto or Explicit, under plain jit."""

from contextlib import nullcontext
from functools import cache, partial

import jax
import numpy as np
import pytest
from audit import CALLS, FILES, GIVEN, C, N, all_at_once, arrays_of, each, evaluate
from cases import close
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import mesh_of

import jsoftmax as js

pytestmark = pytest.mark.slow

OVER = {"n": "data", "c": "model"}


def spec_of(axes, sharded):
    """Return how an array lies on a mesh if examples n, classes c, or both are sharded."""
    return P(*(OVER[axis] if axis in sharded else None for axis in axes))


def placed(mesh, sharded):
    def change(given):
        return jax.device_put(given.array, NamedSharding(mesh, spec_of(given.axes, sharded)))

    return change


PARTS = 12
over_parts = pytest.mark.parametrize("part", range(PARTS))


@cache
def expected(part):
    return all_at_once(FILES[part::PARTS])


@pytest.mark.one_in(2 * PARTS)
@over_parts
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_values_on_a_mesh(kind, part):
    calls = FILES[part::PARTS]
    found = all_at_once(calls, placed(mesh_of(kind), "nc"))
    each(lambda call: close(found[call.name], expected(part)[call.name]), calls)


@pytest.mark.one_in(4 * PARTS)
@over_parts
@pytest.mark.parametrize(
    ("sharded", "context"),
    [("nc", nullcontext), ("n", nullcontext), ("nc", jax.set_mesh), ("c", jax.set_mesh)],
)
def test_types_on_an_explicit_mesh(sharded, context, part):
    """What JAX refuses there, it refuses while it traces.

    Gradients lie as their arguments do, and results as the logits, or the examples, do.
    """
    mesh = mesh_of("Explicit")

    def check(call):
        arrays = arrays_of(call, placed(mesh, sharded))
        results, gradients = jax.eval_shape(partial(evaluate, call), arrays)
        for x, gradient in zip(arrays, gradients, strict=False):
            assert gradient.sharding.spec == jax.typeof(x).sharding.spec
        for x in jax.tree.leaves(results):
            axes = {(N, C): "nc", (N,): "n"}.get(x.shape if call.moving else ())
            assert axes is None or x.sharding.spec == spec_of(axes, sharded)

    with context() if context is nullcontext else context(mesh):
        each(check, CALLS[part::PARTS])


@pytest.mark.one_in(4 * PARTS)
@over_parts
def test_outside_of_jit_after_a_call_with_a_mesh_in_use(part):
    """What JAX keeps of the first call may be of the mesh in use."""
    mesh = mesh_of("Explicit")

    def check(call):
        arrays = arrays_of(call, placed(mesh, "n"))
        with jax.set_mesh(mesh):
            jax.eval_shape(partial(evaluate, call), arrays)
        call.function(*arrays, **call.options)

    each(check, FILES[part::PARTS])


def focal_of(x, w, y, gamma):
    return js.linear_loss(x, w, y, partial(js.focal, gamma=gamma))


def focal_sharded(x, w, y, gamma):
    axes = {"batch_axis": "data", "class_axis": "model"}
    loss = partial(js.focal, gamma=gamma)
    return js.sharded_linear_loss(mesh_of("Explicit"), **axes, num_classes=C, loss=loss)(x, w, y)


def rows_alone(z, y):
    return jax.vmap(jax.grad(js.cross_entropy))(z, y)


def curvature(x, w, y):
    return jax.jvp(jax.grad(partial(js.linear_loss, weight=w, labels=y)), (x,), (x,))[1]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("context", [nullcontext, jax.set_mesh])
def test_other_uses_of_an_explicit_mesh(context):
    mesh = mesh_of("Explicit")

    def check(function, names, *specs):
        arrays = [np.float32(2) if name == "gamma" else GIVEN[name].array for name in names.split()]
        placed = [
            jax.device_put(x, NamedSharding(mesh, P(*spec)))
            for x, spec in zip(arrays, specs, strict=True)
        ]
        close(jax.jit(function)(*placed), jax.jit(function)(*arrays))

    with context() if context is nullcontext else context(mesh):
        # A loss that has a number which lies on the mesh, too.
        gradients, head = jax.grad(focal_of, (0, 1, 3)), "features weight labels"
        check(gradients, f"{head} gamma", ["data"], ["model"], ["data"], [])
        gradients = jax.grad(focal_sharded, (0, 1, 3))
        check(gradients, f"{head} gamma", ["data"], ["model"], ["data"], [])
        # Examples and classes over the same axis, as with parameters that are spread over all.
        check(jax.grad(js.linear_loss, (0, 1)), head, ["data"], ["data"], ["data"])
        check(js.linear_logits, "features weight", ["data"], ["data"])
        check(rows_alone, "logits labels", ["data", "model"], ["data"])
        check(curvature, head, ["data"], ["model"], ["data"])


@pytest.mark.parametrize("context", [nullcontext, jax.set_mesh])
def test_results_that_depend_on_no_argument(context):
    """Outside of jit they are made on one device."""
    mesh = mesh_of("Explicit")
    z, x, y = (
        jax.device_put(GIVEN[name].array, NamedSharding(mesh, P("data")))
        for name in ("logits", "features", "folds")
    )
    with context() if context is nullcontext else context(mesh):
        assert js.smooth_reliability_curve(z, y).confidence.shape == (257,)
        assert js.verification_rates(x, y, far=(), eer=True).tar.shape == (0,)
        assert js.identification_rates(x, y, x, y, far=()).dir.shape == (0,)


def test_a_loss_that_closes_over_an_array_on_an_explicit_mesh():
    """JAX has no way to place what it closes over: the error says what to write."""
    mesh = mesh_of("Explicit")
    placed = [
        jax.device_put(GIVEN[name].array, NamedSharding(mesh, P(axis)))
        for name, axis in (("features", "data"), ("weight", "model"), ("labels", "data"))
    ]
    gamma = jax.device_put(np.float32(2), NamedSharding(mesh, P()))

    def loss(stats):
        return js.focal(stats, gamma=gamma)

    axes = {"batch_axis": "data", "class_axis": "model"}
    sharded = js.sharded_linear_loss(mesh, **axes, num_classes=C, loss=loss)
    for function in (partial(js.linear_loss, loss=loss), sharded):
        with pytest.raises(ValueError, match=r"closes over an array.*functools.partial"):
            function(*placed)
