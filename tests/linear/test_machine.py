"""Which machine the blocks are chosen for, and what is multiplied in which dtype on which."""

import builtins
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from blocks import C, D, dot_generals
from cases import close, head
from machines import chosen_for, over_machines
from meshes import mesh_of

import jsoftmax as js
from jsoftmax.blockwise import machine as machines
from jsoftmax.blockwise.machine import Machine, assumed_platform, machine_for

pytestmark = pytest.mark.one_in(9)

N = 259  # from 128 rows on, operands are widened where that is faster
BLOCKS = {
    "rule": {},
    "rows": {"row_block": 130, "class_block": 4},
    "classes": {"class_block": 4},
}


@pytest.mark.parametrize(
    ("flags", "dtype", "expected"),
    [
        ("", "bfloat16", 1),
        ("GenuineIntel avx512_bf16 avx512_fp16", "bfloat16", 1),
        ("AuthenticAMD avx512_bf16", "bfloat16", 2),
        ("AuthenticAMD avx512_bf16", "float16", 1),
        ("AuthenticAMD avx2", "bfloat16", 1),
        ("amx_tile amx_bf16 avx512_bf16", "bfloat16", 5),
        ("amx_tile amx_bf16", "float16", 1),
        ("amx_tile amx_fp16", "float16", 5),
        ("amx_tile amx_bf16 amx_fp16", "float32", 1),
    ],
)
def test_how_fast_a_cpu_multiplies_16_bits(flags, dtype, expected, monkeypatch):
    monkeypatch.setattr(machines, "cpu_flags", lambda: frozenset(flags.split()))
    assert machine_for(jnp.dtype(dtype)) == Machine("cpu", expected)
    with assumed_platform("gpu"):
        assert machine_for(jnp.dtype(dtype)) == Machine("gpu")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu amx_bf16\n\nprocessor : 1\nflags : other\n", True),
        ("processor : 0\nflags : fpu\n\nprocessor : 1\nflags : amx_bf16\n", False),
        ("vendor_id : amx_bf16\nmodel name : other\n", True),
        ("processor : 0\nFeatures : bf16\n", False),  # of an Arm processor
        ("\udcff", False),
        ("", False),
    ],
)
def test_flags_are_read(content, expected, monkeypatch, tmp_path):
    path, opened = tmp_path / "cpuinfo", builtins.open
    path.write_bytes(content.encode(errors="surrogateescape"))
    monkeypatch.setattr(builtins, "open", lambda _, **options: opened(path, **options))
    assert ("amx_bf16" in machines.cpu_flags.__wrapped__()) == expected


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_without_proc_there_are_none(error, monkeypatch):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(builtins, "open", refuse)
    assert machines.cpu_flags.__wrapped__() == frozenset()


def test_the_platform_is_that_of_the_mesh_or_the_default_device(monkeypatch):
    assert machines.platform() == "cpu"
    with jax.default_device(jax.devices("cpu")[1]):
        assert machines.platform() == "cpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert machines.platform() == "gpu"
    with jax.default_device("cpu"):
        assert machines.platform() == "cpu"
    seen = []
    on_cpus = jax.shard_map(
        lambda: seen.append(machines.platform()), mesh=mesh_of(), in_specs=(), out_specs=None
    )
    jax.jit(on_cpus)()
    assert seen == ["cpu"]
    for device, expected in [
        (SimpleNamespace(device_kind="TPU v5 lite", platform="tpu"), "tpu"),
        (SimpleNamespace(device_kind="NVIDIA H100"), "nvidia h100"),  # by an older JAX
        (SimpleNamespace(device_kind="cpu"), "cpu"),
        (None, "gpu"),
    ]:
        mesh = SimpleNamespace(abstract_device=device)
        monkeypatch.setattr(jax.sharding, "get_abstract_mesh", lambda mesh=mesh: mesh)
        assert machines.platform() == expected


def evaluators():
    """Return functions of features, weight and labels, by rows, by classes and by the rule."""
    kinds = {name: partial(js.linear_loss, margin=js.arcface(scale=4.0)) for name in BLOCKS}
    kinds["per example"] = partial(js.linear_loss, reduction=None)
    blocks = BLOCKS | {"per example": BLOCKS["rows"]}
    found = {name: partial(kind, **blocks[name]) for name, kind in kinds.items()}
    axes = {"batch_axis": None, "class_axis": "model"}
    found["sharded"] = js.sharded_linear_loss(mesh_of("Auto"), **axes, num_classes=C)
    return found


def derivatives(name, labels):
    """Return a function that computes a loss, its gradients, and the tangents of these."""

    def total(x, w):
        losses = evaluators()[name](x, w, labels)
        return jnp.mean(losses * jnp.linspace(1, 2, losses.size).reshape(losses.shape))

    def run(x, w):
        gradients = jax.grad(total, (0, 1))
        return total(x, w), *jax.jvp(gradients, (x, w), (w[:1] + x, x[:1] - w))

    return run


@cache
def on_this_machine(name):
    """Return the derivatives in float32, which holds all numbers of the inputs in 16 bits."""
    x, w, labels = head(examples=N, size=D, classes=C)
    return jax.jit(derivatives(name, labels))(x, w)


over_evaluators = pytest.mark.parametrize("name", evaluators())


@pytest.mark.slow
@over_machines
@over_evaluators
def test_operands_of_16_bits(name, machine):
    """Both of a product have one dtype, and on every machine the result is that of float32."""
    x, w, labels = head("bfloat16", examples=N, size=D, classes=C)
    run = derivatives(name, labels)
    with chosen_for(machine):
        operands = [product.invars for product in dot_generals(jax.make_jaxpr(run)(x, w))]
        got = jax.jit(run)(x, w)
    expected = "float32" if machine == "cpu" else "bfloat16"
    assert {x.aval.dtype.name for pair in operands for x in pair} == {expected}
    for each, true in zip(*map(jax.tree.leaves, (got, on_this_machine(name))), strict=True):
        close(each.astype(jnp.float32), true, rtol=2**-8, atol=2**-7 * jnp.abs(true).max())


@pytest.mark.slow
@over_machines
@over_evaluators
def test_float32(name, machine):
    """Blocks of other sizes do not change the result."""
    x, w, labels = head(examples=N, size=D, classes=C)
    with chosen_for(machine):
        got = jax.jit(derivatives(name, labels))(x, w)
    close(got, on_this_machine(name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_few_rows_are_multiplied_as_they_are(dtype):
    """To widen the weight would take longer than their products."""
    x, w, labels = head(dtype, examples=127, size=D, classes=C)
    with chosen_for("cpu"):
        products = dot_generals(jax.make_jaxpr(js.linear_loss)(x, w, labels))
    assert {x.aval.dtype for product in products for x in product.invars} == {jnp.dtype(dtype)}
