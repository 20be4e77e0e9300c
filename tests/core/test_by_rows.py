"""Reductions by blocks of rows, which a CPU makes of large logits, against the plain ones."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LOSSES, close

import jsoftmax as js
from jsoftmax.core import by_rows

pytestmark = pytest.mark.one_in(10)

CLASSES = 37
MASK = np.arange(CLASSES) % 5 > 0
LABELS = np.arange(24).reshape(4, 6) * 7 % CLASSES


@pytest.fixture
def in_blocks(monkeypatch):
    """Cut any logits into blocks of 8 rows, as on a machine with one device."""
    monkeypatch.setattr(by_rows, "_LARGE", 0)
    monkeypatch.setattr(by_rows, "_MANY", 0)
    monkeypatch.setattr(by_rows, "_BLOCK", 1)
    monkeypatch.setattr(by_rows, "_may_be_sharded", lambda: False)


def logits_of(shape):
    """Return logits with a class at -inf, but in the first row, and with ties at the top."""
    z = 6 * jax.random.normal(jax.random.key(1), shape)
    z = jnp.where(jnp.arange(CLASSES) > 34, jnp.max(z, -1, keepdims=True), z)
    return z.at[..., 0].set(-jnp.inf).at[0].set(z[0])


def distribution(z):
    return jax.nn.softmax(jnp.cos(jnp.arange(z.size, dtype=jnp.float32)).reshape(z.shape))


entropy = js.cross_entropy
CALLS = {
    **{c.name: partial(c.function, **c.options) for c in LOSSES},
    "smoothed": partial(entropy, label_smoothing=0.1, z_loss=0.01),
    "masked": partial(entropy, where=MASK, label_smoothing=0.1),
    "masked by example": lambda z, y: entropy(z, y, where=jnp.cos(1e3 * distribution(z)) > -0.5),
    "ignoring": partial(entropy, ignore_index=int(LABELS[1, 2])),
    "tempered": lambda z, y: entropy(z, y, temperature=1 + jnp.cos(z[..., 1:2]) ** 2),
    "soft": lambda z, y: entropy(z, distribution(z)),
    "soft, all options": lambda z, y: entropy(
        z, distribution(z), where=MASK, label_smoothing=0.1, temperature=2.0, z_loss=0.01
    ),
}


def results(function, z, labels):
    """Return the values alone, and values, gradients and a tangent of the gradients."""

    def gradient(z):
        return jax.grad(lambda z: jnp.sum(jnp.where(jnp.isfinite(x := function(z, labels)), x, 0)))(
            z
        )

    direction = jnp.cos(jnp.arange(z.size, dtype=jnp.float32)).reshape(z.shape).astype(z.dtype)
    return function(z, labels), *jax.jvp(gradient, (z,), (direction,))


# 4 x 5 rows make two blocks of 8 and a part, which overlaps; 4 x 6 rows make three. How they are
# cut does not depend on the loss.
ROWS = [(name, 5) for name in CALLS]
ROWS += [(name, 6) for name in ("cross_entropy", "masked by example", "ignoring", "soft")]


@pytest.mark.parametrize(("name", "rows"), ROWS)
def test_blocks_of_rows_change_nothing(name, rows, in_blocks, monkeypatch):
    z, labels = logits_of((4, rows, CLASSES)), LABELS[:, :rows]
    found = jax.jit(partial(results, CALLS[name]))(z, labels)
    with monkeypatch.context() as patch:
        patch.setattr(by_rows, "_LARGE", 1 << 60)
        expected = jax.jit(partial(results, CALLS[name]))(z, labels)
    close(found, expected, name)


def test_blocks_have_derivatives_without_a_rule(in_blocks):
    # Reverse mode over a scan drops the rules of what it does not differentiate.
    z = logits_of((19, CLASSES))[:, 1:]

    def weighted(scale, z):
        def step(total, label):
            return total + scale * jnp.sum(js.cross_entropy(z, jnp.full(19, label))), None

        return jax.lax.scan(step, 0.0, jnp.arange(2))[0]

    found = jax.jit(jax.grad(lambda z: jax.grad(weighted)(2.0, z)))(z)
    label = jax.nn.one_hot(0, CLASSES - 1) + jax.nn.one_hot(1, CLASSES - 1)
    close(found, 2 * jax.nn.softmax(z) - label)


def test_blocks_under_vmap(in_blocks):
    z = logits_of((3, 11, CLASSES))
    labels = jnp.arange(33).reshape(3, 11)
    found = jax.jit(jax.vmap(js.cross_entropy))(z, labels)
    close(found, jnp.stack([js.cross_entropy(*one) for one in zip(z, labels, strict=True)]))


def test_other_backends_need_no_loop(in_blocks):
    z, labels = jnp.ones((64, CLASSES)), jnp.zeros(64, int)

    def loops(function, platform):
        lowered = jax.jit(function).trace(z, labels).lower(lowering_platforms=(platform,))
        return "stablehlo.while" in lowered.as_text()

    for name in ("soft", "smoothed", "tempered"):
        found = [loops(CALLS[name], platform) for platform in ("cpu", "cuda", "tpu")]
        assert found == [True, False, False]


@pytest.mark.optimised
@pytest.mark.parametrize("name", ["smoothed", "masked", "ignoring", "tempered", "focal", "soft"])
def test_the_value_alone_needs_no_array_of_the_logits_size(name, monkeypatch):
    monkeypatch.setattr(by_rows, "_may_be_sharded", lambda: False)
    z = jax.ShapeDtypeStruct((1 << 15, 256), jnp.float32)
    labels = z if name == "soft" else jax.ShapeDtypeStruct((1 << 15,), jnp.int32)
    functions = dict(CALLS)
    functions["masked"] = partial(js.cross_entropy, where=np.arange(256) > 0)
    functions["soft"] = js.cross_entropy

    def value(z, labels):
        return jnp.mean(functions[name](z, labels))

    memory = jax.jit(value).lower(z, labels).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * (1 << 23) / 8


@pytest.mark.optimised
@pytest.mark.parametrize("name", ["cross_entropy", "focal", "gce", "mae", "sce", "poly"])
def test_a_gradient_makes_the_exponentials_once_and_in_place(name):
    z = jax.ShapeDtypeStruct((512, 1024), jnp.float32)
    labels = jax.ShapeDtypeStruct((512,), jnp.int32)

    def mean(z, labels):
        return jnp.mean(CALLS[name](z, labels))

    program = jax.jit(jax.value_and_grad(mean)).lower(z, labels).compile()
    text = program.as_text()
    large = [line for line in text.splitlines() if " exponential(" in line and "[512,1024]" in line]
    assert len(large) == 1
    assert program.memory_analysis().temp_size_in_bytes < 4 * 512 * 1024 / 8
