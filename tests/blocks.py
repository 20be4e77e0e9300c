"""A small linear head, and the ways to cut its work into blocks: none of them divides it."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

import jsoftmax as js

N, D, C = 5, 3, 7
BIAS = jnp.linspace(-1, 1, C)
BLOCKS = {"one": {}, "rows": {"row_block": 2, "class_block": 3}, "classes": {"class_block": 4}}
KEEP = jnp.array([True, True, False, True, True, False, True])
over_blocks = pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)


def value_and_grads(x, w, labels, **options):
    run = jax.jit(
        lambda x, w: jax.value_and_grad(partial(js.linear_loss, **options), (0, 1))(x, w, labels)
    )
    return run(x, w)


def dot_generals(jaxpr):
    """Return the matrix products of a jaxpr, and of the calls, loops and rules in it."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    found = [equation for equation in jaxpr.eqns if equation.primitive.name == "dot_general"]
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
            found += dot_generals(value) if _is_jaxpr(value) else []
    return found


def _is_jaxpr(value):
    return isinstance(value, (core.Jaxpr, core.ClosedJaxpr))
