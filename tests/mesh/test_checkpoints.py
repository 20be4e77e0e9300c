"""A checkpoint of class vectors that lie on some devices is gone on from on more, or fewer.

Each device holds as many rows, so how many rows of zeros fill up the class matrix depends on the
mesh. Orbax cuts off and fills up with zeros what it restores if told that the shapes may differ:
each device reads its own rows, and nothing is gathered. That is exact, for rows that only pad
get gradient 0 and stay 0, and so do their moments in Adam.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = [pytest.mark.thorough, pytest.mark.slow]

CLASSES, FEATURES, EXAMPLES = 1003, 16, 12
ADAM = optax.adam(0.05)


def mesh_of(devices, axis_type=AxisType.Auto):
    some = jax.devices()[:devices]
    return jax.make_mesh((devices,), ("model",), axis_types=(axis_type,), devices=some)


def beginning(rows):
    weight = jax.random.normal(jax.random.key(0), (CLASSES, FEATURES))
    weight = jnp.pad(weight, [(0, rows - CLASSES), (0, 0)])
    return weight, ADAM.init(weight)


def target(mesh):
    """Return the shapes of the state on a mesh, and where it is to lie."""
    shapes = jax.eval_shape(lambda: beginning(CLASSES + -CLASSES % mesh.size))

    def placed(x):
        sharding = NamedSharding(mesh, P("model") if x.ndim else P())
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(placed, shapes)


def begin(mesh):
    shapes = target(mesh)
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    return jax.jit(lambda: beginning(len(shapes[0])), out_shardings=shardings)()


@cache
def training_step(mesh):
    loss_fn = js.sharded_linear_loss(
        mesh,
        batch_axis=None,
        class_axis="model",
        num_classes=CLASSES,
        margin=js.arcface(scale=8.0),
    )

    @jax.jit
    def step(state, x, y):
        weight, moments = state
        loss, gradient = jax.value_and_grad(loss_fn, 1)(x, weight, y)
        with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic needs it
            updates, moments = ADAM.update(gradient, moments)
        return (optax.apply_updates(weight, updates), moments), loss

    return step


def train(mesh, state, steps):
    """Return the state after some steps, and their losses."""
    losses = []
    for number in steps:
        keys = jax.random.split(jax.random.key(number + 1))
        x = jax.random.normal(keys[0], (EXAMPLES, FEATURES))
        y = jax.random.randint(keys[1], (EXAMPLES,), 0, CLASSES)
        state, loss = training_step(mesh)(state, x, y)
        losses.append(float(loss))
    return state, losses


def by_class(state):
    """Return what has a row for each class: the weight and both moments, on the host."""
    return [np.asarray(x) for x in jax.tree.leaves(state) if x.ndim]


@pytest.mark.parametrize(
    ("before", "after", "axis_type"),
    [
        (8, 2, AxisType.Auto),
        (8, 3, AxisType.Auto),
        (3, 8, AxisType.Auto),
        (2, 3, AxisType.Explicit),
    ],
)
def test_training_goes_on_over_another_number_of_devices(tmp_path, before, after, axis_type):
    old, new = mesh_of(before, axis_type), mesh_of(after, axis_type)
    state, _ = train(old, begin(old), range(3))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", target(new), strict=False)

    for x, kept in zip(by_class(restored), by_class(state), strict=True):
        assert x.shape == (CLASSES + -CLASSES % after, FEATURES)
        assert_array_equal(x[:CLASSES], kept[:CLASSES])
        assert not x[CLASSES:].any()
    for x, wanted in zip(*map(jax.tree.leaves, (restored, target(new))), strict=True):
        assert x.sharding == wanted.sharding
    shares = [shard.data.shape for shard in restored[0].addressable_shards]
    assert shares == [(-(-CLASSES // after), FEATURES)] * after

    there, expected = train(old, state, range(3, 6))
    here, losses = train(new, restored, range(3, 6))
    assert_allclose(losses, expected, rtol=1e-6)
    for x, other in zip(by_class(here), by_class(there), strict=True):
        assert_allclose(x[:CLASSES], other[:CLASSES], rtol=1e-5, atol=1e-6)
        assert not x[CLASSES:].any()


def test_another_shape_has_to_be_allowed(tmp_path):
    """By default Orbax takes other padding for a mistake, rather than to drop rows silently."""
    # One array on one device: of several reads Orbax would leave the others unfinished.
    saved, wanted = [begin(mesh_of(8))[0]], [target(mesh_of(1))[0]]
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", saved)
        checkpointer.wait_until_finished()
        with pytest.raises(ValueError, match=r"\(1003, 16\).* \(1008, 16\)"):
            checkpointer.restore(tmp_path / "state", wanted)
