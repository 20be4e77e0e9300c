"""What the losses keep for the backward pass: the logits themselves, and nothing else as large."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from cases import LOSSES, Case, over

import jsoftmax as js

pytestmark = [pytest.mark.optimised, pytest.mark.one_in(3)]

SHAPE = (16, 512)
LABELS = jnp.arange(16)
FLAT = [
    c for c in LOSSES if c.options.keys() <= {"gamma", "epsilon", "q", "alpha", "beta", "log_zero"}
]
OPTIONS = [
    *FLAT,
    Case("smoothed", partial(js.cross_entropy, label_smoothing=0.1), None),
    Case("z_loss", partial(js.cross_entropy, z_loss=0.1), None),
    Case("class_weight", partial(js.cross_entropy, class_weight=jnp.ones(512)), None),
    Case("ignore_index", partial(js.cross_entropy, ignore_index=3), None),
    Case("mean", partial(js.cross_entropy, sample_weight=jnp.ones(16), reduction="mean"), None),
]


def kept(function, logits):
    """Return the arrays of the logits' size that the pullback of `function` holds."""
    pullback = jax.eval_shape(lambda z: jax.vjp(jax.jit(function), z)[1], logits)
    arrays = [x for x in jax.tree.leaves(pullback) if x.size >= logits.size]
    return [(x.shape, str(x.dtype)) for x in arrays]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@over([case for case in OPTIONS if case.name != "weighted"])
def test_losses_keep_the_logits_only(case, dtype):
    logits = jnp.ones(SHAPE, dtype)
    found = kept(lambda z: case.function(z, LABELS, **case.options).mean(), logits)
    # For p - q of a sparse map its threshold would have to be solved for again: they keep it.
    own = "float32" if "max" in case.name else dtype
    assert found in ([], [(SHAPE, own)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("function", [js.log_softmax, js.softmax])
def test_maps_keep_one_array(function, dtype):
    assert len(kept(function, jnp.ones(SHAPE, dtype))) == 1


def test_the_plain_formula_keeps_more():
    def plain(z):
        return -jax.nn.log_softmax(z.astype(jnp.float32))[jnp.arange(16), LABELS].mean()

    assert kept(plain, jnp.ones(SHAPE, jnp.bfloat16)) != [(SHAPE, "bfloat16")]
