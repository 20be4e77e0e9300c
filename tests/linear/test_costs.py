"""What the linear losses cost: products and memory, read from the compiled program."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from blocks import C, D, N
from cases import HEADS, head
from machines import chosen_for, over_machines

import jsoftmax as js
from jsoftmax.blockwise.block_sizes import block_sizes
from jsoftmax.blockwise.machine import machine_for

pytestmark = [pytest.mark.optimised, pytest.mark.one_in(16)]

ROWS, CLASSES = {"row_block": 2, "class_block": 3}, {"class_block": 4}


@pytest.mark.parametrize(
    ("wrt", "reduction", "blocks", "products"),
    [
        ((), "mean", {}, 1),
        ((0, 1), "mean", {}, 3),
        ((0,), "mean", {}, 2),
        ((1,), "mean", {}, 2),
        ((), "mean", ROWS, 1),
        ((0, 1), "mean", ROWS, 3),
        ((0, 1), "mean", CLASSES, 4),
        # In one block XLA finds that the product that is recomputed is there already.
        ((0, 1), None, {}, 3),
        ((), None, ROWS, 1),
        ((0, 1), None, ROWS, 4),
        ((0, 1), None, CLASSES, 4),
        ((0,), None, CLASSES, 3),
    ],
)
def test_number_of_products(wrt, reduction, blocks, products):
    x, w, labels = head(examples=N, size=D, classes=C)

    def total(x, w):
        return jnp.sum(js.linear_loss(x, w, labels, reduction=reduction, **blocks))

    function = jax.grad(total, wrt) if wrt else total
    compiled = jax.jit(function).lower(x, w).compile().as_text()
    assert compiled.count(" dot(") == products


def memory(n, classes, dtype="float32", features=32, **options):
    """Return the bytes of the temporaries of loss and gradients."""
    centers = getattr(options.get("margin"), "centers", None)
    shapes = (n, features), (classes, *(() if centers is None else (centers,)), features)
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    labels = jax.ShapeDtypeStruct((n,), jnp.int32)
    loss = partial(js.linear_loss, **options)
    function = jax.jit(lambda x, w, y: jax.value_and_grad(loss, (0, 1))(x, w, y))
    return function.lower(*arguments, labels).compile().memory_analysis().temp_size_in_bytes


@over_machines
@pytest.mark.parametrize("margin", [None, js.arcface()], ids=["plain", "arcface"])
def test_memory_by_rows_is_one_block(margin, machine):
    options = {"row_block": 64, "class_block": 256, "margin": margin}
    sizes = (2048, 8192), (512, 8192), (2048, 4096)
    with chosen_for(machine):
        found = {(n, c): memory(n, c, **options) for n, c in sizes}
    for (n, c), got in found.items():
        # The products of a block of rows, a few blocks of classes, and features and their gradient.
        few_blocks = 8 * (64 * 256 + 256 * 32 + 64 * 32)
        assert got <= 4 * (64 * c + few_blocks + 2 * 32 * n + 8 * n + 4 * c)
    assert found[2048, 8192] < 2048 * 8192 * 4 / 16


@pytest.mark.parametrize("name", ["mv_softmax", "npcface", "sub_center", "inter_top_k, sub_center"])
def test_no_head_holds_the_cosines_of_all(name):
    """Neither those of all classes, nor those of all their centers."""
    n, classes = 8192, 16384
    few, many = (memory(rows, classes, margin=HEADS[name]) for rows in (n, 2 * n))
    assert many - few < n * classes * 4 / 16


@over_machines
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_by_classes_does_not_grow_with_the_classes(dtype, machine):
    with chosen_for(machine):
        few, many = (memory(256, c, dtype, class_block=256) for c in (4096, 65536))
    # Of the weight there is no copy; a bfloat16 one's gradient is summed in float32.
    per_class = 32 * 4 if dtype == "bfloat16" else 0
    assert many - few <= (65536 - 4096) * (per_class + 4)
    assert few <= 4096 * per_class + 8 * 4 * (256 * 256 + 256 * 32)


@over_machines
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_by_the_rule(dtype, machine):
    """What the README says: the gradients, the products that are kept, and a few blocks."""
    n, classes, features = 2048, 16_384, 1024
    with chosen_for(machine):
        blocks = block_sizes(n, classes, features, machine=machine_for(jnp.dtype(dtype)))
        found = memory(n, classes, dtype, features)
    # Features and their gradient; and a 16-bit gradient of the weight is summed apart from it.
    numbers = 2 * n * features + (classes * features if dtype == "bfloat16" else 0)
    numbers += blocks.rows * classes if blocks.save_products and blocks.classes < classes else 0
    assert found <= 4 * (numbers + 3 * blocks.classes * (blocks.rows + features))


def two_heads(n, classes, wrt, dtype="float32", widths=(32, 48), **options):
    """Return the compiled loss of two heads, and its gradients."""
    shapes = [shape for width in widths for shape in ((n, width), (classes, width))]
    given = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]

    def total(*arrays):
        return jnp.sum(js.linear_distillation_loss(*arrays, **options))

    return jax.jit(jax.value_and_grad(total, wrt) if wrt else total).lower(*given).compile()


@pytest.mark.parametrize(
    ("wrt", "reduction", "products"),
    [
        ((), "mean", 2),
        ((0, 1), "mean", 4),  # three of the student's, one of the teacher's
        ((0,), "mean", 3),
        ((1,), "mean", 3),
        ((2, 3), "mean", 4),
        ((0, 1, 2, 3), "mean", 6),
        ((), None, 2),
        ((0, 1), None, 6),
        ((0, 1, 2, 3), None, 8),
    ],
)
@pytest.mark.parametrize("divergence", ["forward", "js"])
def test_number_of_products_of_two_heads(wrt, reduction, products, divergence):
    options = {"reduction": reduction, "row_block": 8, "divergence": divergence}
    compiled = two_heads(32, 64, wrt, temperature=2.0, **options)
    assert compiled.as_text().count(" dot(") == products


@over_machines
@pytest.mark.parametrize("divergence", ["forward", "reverse", "js"])
def test_memory_of_two_heads_is_one_block(divergence, machine):
    options = {"row_block": 64, "divergence": divergence, "temperature": 2.0}
    with chosen_for(machine):
        for n, classes in ((2048, 8192), (512, 8192), (2048, 4096)):
            program = two_heads(n, classes, (0, 1), **options)
            found = program.memory_analysis().temp_size_in_bytes
            # The products and the student's gradient, and what compares a few of the rows.
            few = 64 if machine == "gpu" else (1 << 17) // classes
            assert found <= 4 * ((3 * 64 + 10 * few) * classes + 4 * 32 * n + 64 * 48)


def test_memory_of_two_heads_by_the_rule():
    """Less than twice what one head takes, and a quarter of the logits that would be held."""
    n, classes, width = 2048, 16_384, 512
    with chosen_for("cpu"):
        program = two_heads(n, classes, (0, 1), widths=(width, width))
        found = program.memory_analysis().temp_size_in_bytes
        one = memory(n, classes, features=width)
    assert found < 2 * one
    assert found < 2 * n * classes * 4 / 4
