"""A block of classes: its logits, and what is reduced over them.

The same few lines make the forward pass, the backward pass and its derivatives: `logits` from
products, `reduce` from products to sums relative to a given top.

Operands of 16 bits are multiplied as they are, except where `plan.widen` says otherwise: on most
CPUs without matrix units for them, XLA multiplies bfloat16 at 0.6 of the speed of float32. There a
block of classes becomes float32 when it is cut, and the features do before any loop.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.blockwise.block_loop import slice_rows
from jsoftmax.blockwise.scores import (
    cosines,
    fold,
    logits_of,
    nearest,
    of_others,
    sound_vectors,
    weight_inverse_norm,
)
from jsoftmax.blockwise.types import Examples, Head, Numbers, Plan
from jsoftmax.core.collectives import to_local_labels
from jsoftmax.core.dtypes import sum_dtype
from jsoftmax.core.varying import vary, varying_zero
from jsoftmax.margins.form import at_cosines, scale_of, similarity
from jsoftmax.margins.partition import combine
from jsoftmax.stats.labels import at_labels, is_any_label
from jsoftmax.stats.others import is_class, sums_below
from jsoftmax.stats.statistics import names_of_sums


class ClassBlock(NamedTuple):
    """Some of this device's classes, beside a block of rows."""

    head: Head
    classes: Array  # [c], their numbers, counted from the device's first
    place: Array  # of the labels [n] or [n, K], counted from the block's first
    inside: Array  # booleans of that shape, whether a label is one of these
    unmasked: Array  # [n, c], neither a label nor masked, nor in the block before as well

    @classmethod
    def of(cls, plan: Plan, head: Head, labels: Array, start: Any, new: Any) -> "ClassBlock":
        """Cut the block from the head; `new` is where its classes begin that the last has not.

        What is the same for all blocks of classes, XLA would compute once, as large as a block, and
        read from memory each time. So the labels are made to depend on the block.
        """
        num_local, size = head.weight.shape[0], plan.blocks.classes
        start, new = (jnp.asarray(x, labels.dtype) for x in (start, new))
        start, new, labels = lax.optimization_barrier((start, new, labels))
        classes = start + jnp.arange(size, dtype=labels.dtype)
        per_class = head._replace(softcap=None, margin=None, loss=())
        cut = slice_rows(per_class, start, size)
        weight, where = sound_vectors(cut.weight, cut.sound), cut.where
        weight = fold(weight.astype(jnp.float32) if plan.widen else weight, plan.margin)
        norms = jax.tree.map(lambda x: fold(x, plan.margin), cut.inverse_norm)
        head = cut._replace(
            weight=weight, softcap=head.softcap, margin=head.margin, inverse_norm=norms
        )
        inside = (labels >= new) & (labels < start + size)
        unmasked = ~is_any_label(classes, labels)
        if where is not None:
            unmasked &= where[None]
        if num_local % size:
            unmasked &= (classes >= new)[None]
        return cls(head, classes, labels - start, inside, unmasked)

    def cosines(self, plan: Plan, products: Array, of_features: Array | None) -> Array:
        """Return what takes the place of the logits before margin, scale and bias: `[n, c]`."""
        return nearest(cosines(products, of_features, self.head.inverse_norm), plan.margin)

    def logits(self, plan: Plan, c: Array, numbers: Numbers, summary: Any, head: Head) -> Array:
        """Return logits `[n, c]` as those of other classes; bias and softcap are those of `head`.

        -inf for what is a label or masked.
        """
        margin, numbers = columns(plan, c, numbers, head)
        summary = jax.tree.map(lambda x: x[:, None], summary)
        f = of_others(margin, c, numbers.cosine, numbers.norm, summary)
        return self._finished(f, margin, numbers, head)

    def unchanged(self, plan: Plan, c: Array, numbers: Numbers, head: Head) -> Array:
        """Return logits `[n, c]` of which a margin has not changed those of the other classes."""
        margin, numbers = columns(plan, c, numbers, head)
        return self._finished(similarity(margin, c), margin, numbers, head)

    def _finished(self, f, margin, numbers, head):
        z = logits_of(f, scale_of(margin), head.bias, head.softcap, numbers.temperature)
        return jnp.where(self.unmasked, z, -jnp.inf)

    def reduce(self, plan: Plan, products, of_features, numbers, head: Head, found):
        """Return what the block adds to cosines of labels, runner-up and sums.

        `found` are constants: the top, its class or None, and the summary. This is what the
        derivatives are taken of.
        """
        top, top_class, summary = found
        c = self.cosines(plan, products, of_features)
        z = self.logits(plan, c, numbers, summary, head)
        of_labels = jnp.where(self.inside, at_labels(c, self.place), 0)
        runner_up, first = jnp.zeros_like(top), None
        if top_class is not None:
            first = is_class(self.classes, top_class)
            runner_up = jnp.sum(jnp.where(first, z, 0), -1)
        names = names_of_sums(plan.fields)
        sums = sums_below(top, z, self.unmasked, names, head.class_weight, first)
        return of_labels, runner_up, sums


def columns(plan, c, numbers, head):
    """Return the margin, and numbers by example, such that they broadcast against cosines."""
    margin = at_cosines(combine(plan.margin, head.margin, numbers.margin), c, axes=1)
    numbers = jax.tree.map(lambda x: x[:, None], numbers._replace(margin=None))
    return margin, numbers


def local_shard(plan: Plan, examples: Examples, head: Head) -> tuple[Examples, Head]:
    """Return what the passes over the classes read: labels counted from this device's first class.

    All get the type that what is computed from them has, before any loop.
    """
    dtype = sum_dtype(examples.features, head.weight)
    zero = varying_zero((examples, head), dtype, plan.class_axis)
    labels = to_local_labels(examples.labels, head.weight.shape[0], plan.class_axis)
    read = head._replace(where=None, sound=None, loss=())
    features = examples.features.astype(jnp.float32) if plan.widen else examples.features
    features, labels, numbers, read = vary((features, labels, examples.numbers, read), zero)
    of_weight = weight_inverse_norm(sound_vectors(read.weight, head.sound), plan.margin)
    shard = Examples(features, labels, numbers=numbers)
    return shard, read._replace(where=head.where, sound=head.sound, inverse_norm=of_weight)
