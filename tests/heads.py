"""The sum of a loss over a linear head by every evaluator; the dense one is what they must equal.

All are functions of (features, weight, labels, loss, options).
"""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from meshes import mesh_of

import jsoftmax as js


def dense(x, w, labels, loss, *, loss_args=(), **options):
    stats = js.logit_stats(js.linear_logits(x, w, labels, **options), labels)
    plain = js.logit_stats(js.linear_logits(x, w, **options), labels)
    stats = stats._replace(score=plain.target, rival=plain.runner_up)
    return jnp.sum(jax.vmap(loss)(stats, *loss_args))


def of_stats(x, w, labels, loss, *, loss_args=(), **options):
    return jnp.sum(jax.vmap(loss)(js.linear_stats(x, w, labels, **options), *loss_args))


def by_blocks(x, w, labels, loss, **options):
    return jnp.sum(js.linear_loss(x, w, labels, loss, **options))


def sharded(batch_axis, class_axis, x, w, labels, loss, **options):
    axes = {"batch_axis": batch_axis, "class_axis": class_axis}
    run = js.sharded_linear_loss(mesh_of(), **axes, num_classes=len(w), loss=loss)
    return jnp.sum(run(x, w, labels, **options))


WAYS = {
    "rows": partial(by_blocks, row_block=2, class_block=3, reduction="sum"),
    "classes": partial(by_blocks, class_block=3, reduction="sum"),
    "per example": partial(by_blocks, row_block=2, class_block=3, reduction=None),
    "stats": partial(of_stats, row_block=3, class_block=4),
    "sharded": partial(sharded, "data", "model", reduction="sum"),
    "sharded, per example": partial(sharded, "data", "model", reduction=None),
    "features gathered": partial(sharded, ("data", "model"), "model", reduction="sum"),
}
over_ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
