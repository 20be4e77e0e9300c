r"""A linear head block by block: rows of examples, and for each of them all classes in blocks.

For a block of rows, a first pass over the classes merges their statistics, and a second one turns
the gradients of these into gradients of the parameters:

    first pass    a = x wᵀ,  c = scores(a),  z = s c;  merge the rest of z  (a is kept)
    per example   scores of the labels, rest -> LogitStats -> loss;  gradients by autodiff
    second pass   dz_j = total' exp(z_j - top) + below',  da by autodiff;  dx += da w,  dw += daᵀ x

total' and below' are the loss's derivatives to the fields of `Rest`. Scores that use the direction
of a vector only do not change along it: of such a gradient the part along the vector is taken out,
which spares the passes over a block that differentiating the norms would need.

Memory, in float32 numbers: the gradients; rows x classes of a block of rows for the products it
keeps; and a few blocks of rows x classes and of classes x features.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.blocks import Tiles, add_at, cut, in_blocks, overlapping, put_at
from jsoftmax.margins import AngularMargin
from jsoftmax.numerics import exp_nonpositive, finite, times
from jsoftmax.products import products, sum_dtype, times_features, times_weight
from jsoftmax.rest import add_at_labels, at_labels, complete, is_listed, merge, no_rest, rest_of
from jsoftmax.scores import direction_factor, scale_of, scores, true_score
from jsoftmax.stats import LogitStats, absolute

__all__ = ["Head", "Labels", "Plan", "Rows", "stats_of_rows", "sum_and_gradients"]


class Rows(NamedTuple):
    """What has a row per example, and derivatives."""

    features: Array  # [N, D]
    length: Array | None  # [N], see kept_length
    margins: list  # [N], the margin's numbers by class, of the labels
    probs: Array | None  # [N, K], of K listed classes
    weight: Array | None  # [N], the factor on the example's loss


class Head(NamedTuple):
    """What all rows share, and derivatives."""

    weight: Array  # [C, D]
    bias: Array | None  # [C]
    softcap: Array | None
    numbers: list  # the traced numbers of the margin
    closed: list  # the traced values that the loss closes over


class Labels(NamedTuple):
    """What has no derivative."""

    labels: Array  # integers [N], or [N, K] for K listed classes
    where: Array | None  # booleans [C]


class Plan(NamedTuple):
    """What is known before anything is computed."""

    tiles: Tiles
    margin_of: Callable[..., AngularMargin | None]  # of Head.numbers, and Rows.margins if needed
    loss: Callable[..., Array]  # (LogitStats - shift, shift, *closed), all of one example
    mean: bool  # whether the mean logit is needed

    def losses(self, stats, shift, probs, closed):
        """Return the losses `[N]`, expected ones if there are `probs`."""
        loss = self.loss
        for _ in stats.target.shape:
            loss = jax.vmap(loss, (0, 0) + (None,) * len(closed))
        losses = loss(stats, shift, *closed)
        return losses if probs is None else jnp.sum(times(probs, losses), -1)


def stats_of_rows(plan: Plan, labels: Labels, rows: Rows, head: Head) -> tuple[LogitStats, Array]:
    """Return the stats of all rows and their shift, for JAX to differentiate by recomputation."""
    n, factor = rows.features.shape[0], _weight_factor(plan, head)

    def body(found, start, size, _):
        start, _ = overlapping(start, size, n)
        block, listed = cut((rows, labels.labels), start, size)
        these = _RowBlock(plan, block.features, listed, labels.where, head, factor)
        label_scores, rest, _ = these.first(keep=False)
        margin = plan.margin_of(head.numbers, block.margins)
        completed = these.complete(label_scores, rest, margin, block.length)
        return jax.tree.map(lambda x, part: put_at(x, start, part), found, completed), None

    zeros = jnp.zeros(labels.labels.shape, sum_dtype(rows.features, head.weight))
    found, _ = _over_rows(body, (LogitStats(*[zeros] * 4), zeros), n, plan)
    return found


def sum_and_gradients(
    plan: Plan, labels: Labels, rows: Rows, head: Head, wanted: tuple[Rows, Head] | None
) -> tuple[Array, tuple[Array, LogitStats], tuple[Rows, Head] | None]:
    """Return the weighted sum of the losses, (losses, stats) of all rows, and gradients.

    The leaves of `wanted` are booleans; gradients that are not wanted are None.
    """
    n, factor = rows.features.shape[0], _weight_factor(plan, head)
    dtype = sum_dtype(rows.features, head.weight)

    def body(carry, start, size, _):
        total, evaluation, gradients = carry
        start, new = overlapping(start, size, n)
        block, listed = cut((rows, labels.labels), start, size)
        block = block._replace(weight=jnp.where(new, block.weight, 0))
        these = _RowBlock(plan, block.features, listed, labels.where, head, factor)
        label_scores, rest, kept = these.first(keep=plan.tiles.keep and wanted is not None)
        (added, part), pull = these.losses(label_scores, rest, block)
        evaluation = jax.tree.map(lambda x, part: put_at(x, start, part), evaluation, part)
        if wanted is not None:
            d_rows, d_head = gradients
            d_block, d_head = these.second(rest, kept, pull, wanted, d_head)
            if d_block.weight is not None:
                d_block = d_block._replace(weight=jnp.where(new, d_block.weight, 0))
            d_rows = jax.tree.map(lambda x, part: add_at(x, start, part), d_rows, d_block)
            gradients = d_rows, d_head
        return (total + added, evaluation, gradients), None

    zeros = jnp.zeros(labels.labels.shape, dtype)
    evaluation = jnp.zeros(n, dtype), LogitStats(*[zeros] * 4)
    gradients = None
    if wanted is not None:  # sums are float32 or wider, whatever the parameters' dtype
        zero = jax.tree.map(lambda x: jnp.zeros_like(x, dtype), (rows, head))
        gradients = _only(wanted, zero)
    carry = jnp.zeros((), dtype), evaluation, gradients
    return _over_rows(body, carry, n, plan)[0]


def _over_rows(body, carry, n, plan):
    size = plan.tiles.rows
    return in_blocks(body, carry, -(-n // size) * size, size)


class _RowBlock(NamedTuple):
    """A block of rows, about to go over the classes."""

    plan: Plan
    features: Array
    listed: Array
    where: Array | None
    head: Head
    weight_factor: Array | None

    @property
    def margin(self):
        return self.plan.margin_of(self.head.numbers)

    @property
    def dtype(self):
        return sum_dtype(self.features, self.head.weight)

    @property
    def feature_factor(self):
        margin = self.margin
        if margin is None:
            return None
        return direction_factor(self.features, normalize=margin.normalize_features)

    def over_classes(self, body, carry, inputs=None):
        classes = self.head.weight.shape[0]
        return in_blocks(body, carry, classes, self.plan.tiles.classes, inputs)

    def block(self, start, size):
        """Return a block of classes, and the labels again, such that no loop hoists them.

        What is the same for all blocks of classes, XLA would compute once, as large as a block, and
        read from memory each time. So it is made to depend on the block.
        """
        start, listed = lax.optimization_barrier(
            (jnp.asarray(start, self.listed.dtype), self.listed)
        )
        per_class = self.head.weight, self.weight_factor, self.head.bias, self.where
        weight, factor, bias, on = cut(per_class, start, size)
        classes = start + jnp.arange(size, dtype=start.dtype)
        return _ClassBlock(weight, factor, bias, on, classes, listed)

    def scores(self, a, block, bias, softcap):
        return scores(a, self.feature_factor, block.factor, bias, softcap)

    def first(self, *, keep):
        """Return the scores of the labels, the rest, and the products of all blocks or None."""
        scale = scale_of(self.margin, jnp.zeros((), self.dtype))

        def body(carry, start, size, _):
            label_scores, rest = carry
            block = self.block(start, size)
            a = products(self.features, block.weight)
            c = self.scores(a, block, block.bias, self.head.softcap)
            here = block.listed - start
            inside = (here >= 0) & (here < size)
            label_scores = jnp.where(inside, at_labels(c, here), label_scores)
            off = block.off()
            z = jnp.where(off, -jnp.inf, scale * c)
            rest = merge(rest, rest_of(z, off, mean=self.plan.mean))
            return (label_scores, rest), a if keep else None

        # A label that names no class is in no block, and its score stays NaN.
        label_scores = jnp.full(self.listed.shape, jnp.nan, self.dtype)
        carry = label_scores, no_rest(self.features.shape[:1], self.dtype)
        (label_scores, rest), kept = self.over_classes(body, carry)
        return label_scores, rest, kept if keep else None

    def complete(self, label_scores, rest, margin, length):
        """Return the stats with each listed class as the true one, and their shift."""
        target = scale_of(margin, label_scores) * true_score(label_scores, length, margin)
        on = jnp.ones(self.listed.shape, bool)
        if self.where is not None:
            on = self.where.at[self.listed].get(mode="clip")
        return complete(target, self.listed, on, rest)

    def losses(self, label_scores, rest, rows):
        """Return (weighted sum, (losses, stats)), and the pullback of the sum."""

        def function(label_scores, total, below, rows, numbers, closed):
            margin = self.plan.margin_of(numbers, rows.margins)
            merged = rest._replace(total=total, below=below)
            stats, shift = self.complete(label_scores, merged, margin, rows.length)
            losses = self.plan.losses(stats, shift, rows.probs, closed)
            # As in weighted_mean: without weight an example is left out even if it is NaN.
            counted = jnp.where((rows.weight == 0) & jnp.isnan(losses), 0, losses)
            return jnp.sum(times(rows.weight, counted)), (losses, absolute(stats, shift))

        rows = rows._replace(features=None)
        arguments = rest.total, rest.below, rows, self.head.numbers, self.head.closed
        total, pull, evaluation = jax.vjp(function, label_scores, *arguments, has_aux=True)
        return (total, evaluation), pull

    def second(self, rest, kept, pull, wanted, d_head):
        """Return the gradients of these rows, and `d_head` with what they add to it."""
        wanted_rows, wanted_head = wanted
        d_label, d_total, d_below, d_rows, d_numbers, d_closed = pull(jnp.ones((), self.dtype))
        scale, pull_scale = jax.vjp(
            lambda numbers: scale_of(self.plan.margin_of(numbers), d_total), self.head.numbers
        )
        per_row = d_total, d_below, d_label, finite(rest.top)
        features_t = self.features.T

        def body(carry, start, size, a):
            d_features, d_scale, d_softcap, d_weight, d_bias = carry
            block = self.block(start, size)
            if a is None:
                a = products(self.features, block.weight)
            d_total_, d_below_, d_label_, top_ = lax.optimization_barrier((start, *per_row))[1:]
            c, pull_scores = jax.vjp(
                lambda *given: self.scores(given[0], block, *given[1:]),
                *(a, block.bias, self.head.softcap),
            )
            z = jnp.where(block.off(), -jnp.inf, scale * c)
            dz = d_total_[..., None] * exp_nonpositive(z - top_[..., None])
            if self.plan.mean:
                dz = dz + jnp.where(z == -jnp.inf, 0, d_below_[..., None])
            dc = add_at_labels(scale * dz, block.classes, block.listed, d_label_)
            da, added_bias, added_softcap = pull_scores(dc)
            if d_features is not None:
                d_features = d_features + times_weight(da, block.weight)
            if d_scale is not None:
                d_scale = d_scale + jnp.sum(times(dz, c))
            if d_softcap is not None:
                d_softcap = d_softcap + added_softcap
            if d_weight is not None:
                added = times_features(da, self.features, features_t)
                added = _across(added, block.weight, block.factor)
                d_weight = add_at(d_weight, start, added)
            if d_bias is not None:
                d_bias = add_at(d_bias, start, added_bias)
            return (d_features, d_scale, d_softcap, d_weight, d_bias), None

        zero = jnp.zeros((), self.dtype)
        carry = (
            jnp.zeros(self.features.shape, self.dtype) if wanted_rows.features else None,
            zero if any(wanted_head.numbers) else None,
            *(d_head.softcap, d_head.weight, d_head.bias),
        )
        carry, _ = self.over_classes(body, carry, kept)
        d_features, d_scale, d_softcap, d_weight, d_bias = carry
        if d_features is not None:
            d_features = _across(d_features, self.features, self.feature_factor)
        if d_scale is not None:
            d_numbers = jax.tree.map(jnp.add, d_numbers, pull_scale(d_scale)[0])
        added = _only((wanted_head.numbers, wanted_head.closed), (d_numbers, d_closed))
        numbers, closed = jax.tree.map(
            lambda total, x: total + x.astype(total.dtype), (d_head.numbers, d_head.closed), added
        )
        d_rows = _only(wanted_rows, d_rows._replace(features=d_features))
        return d_rows, Head(d_weight, d_bias, d_softcap, numbers, closed)


class _ClassBlock(NamedTuple):
    """A block of classes, and the labels of the rows."""

    weight: Array
    factor: Array | None
    bias: Array | None
    on: Array | None
    classes: Array  # their numbers
    listed: Array

    def off(self):
        """Say which of the classes are not in an example's rest: listed, or switched off."""
        off = is_listed(self.classes, self.listed)
        return off if self.on is None else off | ~self.on


def _weight_factor(plan, head):
    margin = plan.margin_of(head.numbers)
    if margin is None:
        return None
    return direction_factor(head.weight, normalize=margin.normalize_weight)


def _across(gradient, vectors, factor):
    """Take out the part of gradients along the vectors of which only the direction counts."""
    if factor is None:
        return gradient
    vectors = vectors.astype(gradient.dtype)
    along = jnp.square(factor) * jnp.sum(gradient * vectors, -1)
    return gradient - along[:, None] * vectors


def _only(wanted, tree):
    return jax.tree.map(lambda yes, x: x if yes else None, wanted, tree)
