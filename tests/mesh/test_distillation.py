"""Two heads over a mesh: the same as on one device, values and gradients of everything."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close, head
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import mesh_of
from test_exchanges import exchanges

import jsoftmax as js

pytestmark = [pytest.mark.slow, pytest.mark.one_in(12)]

N, C = 16, 24
STUDENT, TEACHER = (head(seed=i, examples=N, size=i + 2, classes=C)[:2] for i in (1, 2))
BY_ROW = jnp.arange(1.0, N + 1) / 8
KEEP = jnp.arange(C) % 5 > 0
BIAS = jnp.linspace(-1, 1, C)
MOVING = (*STUDENT, *TEACHER, BIAS, 1 + BY_ROW, BY_ROW - 1 / 8, jnp.array(0.25), jnp.array(2.0))
AXES = [("data", "model"), (None, "model"), ("data", None), (("data", "model"), "model")]
AXES += [(("data", "model"),) * 2, ("model", "model")]


def loss(x, w, y, v, bias, temperature, sample_weight, beta, softcap, where, **options):
    return js.linear_distillation_loss(
        *(x, w, y, v),
        student_bias=bias,
        teacher_softcap=softcap,
        student_softcap=softcap,
        temperature=temperature,
        sample_weight=sample_weight,
        beta=beta,
        where=where,
        **options,
    )


def value_and_grads(function):
    def total(moving):
        out = function(*moving, KEEP)
        return jnp.sum(out * BY_ROW) if out.ndim else out

    return jax.jit(jax.value_and_grad(total))(MOVING)


@cache
def on_one_device(**options):
    return value_and_grads(partial(loss, **options))


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("divergence", ["forward", "js"])
def test_inside_shard_map(axes, divergence):
    batch_axis, class_axis = axes
    rows, classes = map(P, axes)
    specs = rows, classes, rows, classes, classes, rows, rows, P(), P(), classes
    for reduction in ("mean", None):
        options = {"divergence": divergence, "reduction": reduction, "row_block": 3}
        here = partial(loss, batch_axis=batch_axis, class_axis=class_axis, **options)
        for check_vma in (True, False):
            sharded = jax.shard_map(
                here,
                mesh=mesh_of("Auto"),
                in_specs=specs,
                out_specs=P() if reduction else rows,
                check_vma=check_vma,
            )
            close(value_and_grads(sharded), on_one_device(**options), f"{reduction}, {check_vma}")


@pytest.mark.optimised
def test_a_student_that_agrees():
    """Where the classes are sharded, too, it is right to six digits."""
    rng = np.random.default_rng(0)
    t = np.float32(rng.normal(size=(4, 240)) * 2)
    z = np.float32(t + rng.normal(size=t.shape) * 1e-3)
    one = np.eye(240, dtype=np.float32)
    run = partial(js.linear_distillation_loss, temperature=20.0, reduction=None)
    specs = {"in_specs": (P("data"), P("model")) * 2, "out_specs": P("data")}
    sharded = partial(run, class_axis="model")
    got = jax.jit(jax.shard_map(sharded, mesh=mesh_of("Auto"), **specs))(z, one, t, one)
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in np.float64([z, t]) / 20)
    expected = 400 * (np.exp(log_q) * (log_q - log_p)).sum(-1)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.optimised
def test_what_devices_exchange():
    """A few numbers per example, and the gradients of features and weight."""
    rows, classes, widths, mesh = 64, 1024, (32, 48), mesh_of("Auto")
    shapes = [shape for width in widths for shape in ((rows, width), (classes, width))]
    specs = (P("data"), P("model")) * 2
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in zip(shapes, specs, strict=True)
    ]
    axes = {"batch_axis": "data", "class_axis": "model"}
    here = partial(js.linear_distillation_loss, row_block=16, **axes)
    sharded = jax.shard_map(here, mesh=mesh, in_specs=specs, out_specs=P())
    program = jax.jit(jax.value_and_grad(sharded, (0, 1))).lower(*arguments).compile()
    found = [n for _, n in exchanges(program)]
    gradients = {rows // 2 * 32, classes // 4 * 32}
    assert gradients <= {*found}
    assert sum(n for n in found if n not in gradients) <= 12 * 16
