"""Linear losses, maps and losses inside a shard_map of the user's own."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from cases import LOSSES, MAPS, close, head, over
from jax.sharding import PartitionSpec as P
from meshes import MARGIN, PLACES, mesh_of
from numpy.testing import assert_array_equal

import jsoftmax as js

pytestmark = [pytest.mark.slow, pytest.mark.one_in(6)]

N, D, C = 5, 3, 11


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
