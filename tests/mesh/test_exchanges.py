"""What devices exchange, and how many products each computes: read from the compiled program."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import MARGIN, PLACES, mesh_of

import jsoftmax as js

pytestmark = [pytest.mark.optimised, pytest.mark.one_in(3)]

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
