r"""A block of examples, and its two passes over all classes in blocks.

    first pass    a = x wᵀ,  c = scores(a),  z = s c;  merge the rest of z  (a is kept)
    per example   scores of the labels, rest -> LogitStats -> loss;  gradients by autodiff
    second pass   dz_j = total' exp(z_j - top) + below',  da by autodiff;  dx += da w,  dw += daᵀ x

total' and below' are the loss's derivatives to the fields of `Rest`. Scores that use the direction
of a vector only do not change along it: of such a gradient the part along the vector is taken out,
which spares the passes over a block that differentiating the norms would need.

With the classes spread over devices, each goes over its own. Between the passes they share the
scores of the labels and the rest, a few numbers per example; what follows from these is the same
everywhere, and the second pass makes this device's part of the gradients.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.blockwise.block_loop import add_at, in_blocks, slice_rows
from jsoftmax.blockwise.block_sizes import BlockSizes
from jsoftmax.blockwise.matmul import matmul, times_features, times_weight
from jsoftmax.blockwise.scores import inverse_norm, scale_of, scores, true_score
from jsoftmax.core.collectives import MeshAxes, to_local_labels
from jsoftmax.core.dtypes import sum_dtype
from jsoftmax.core.numerics import exp_nonpositive, multiply_no_nan, neg_inf_to_zero
from jsoftmax.core.varying import num_replicas, vary, varying_zero
from jsoftmax.margins.angular import AngularMargin
from jsoftmax.stats.labels import add_at_labels, at_labels, is_listed
from jsoftmax.stats.logit_stats import absolute
from jsoftmax.stats.online import Rest, complete, merge, no_rest, of_all_devices, rest_of


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

    tiles: BlockSizes
    margin_of: Callable[..., AngularMargin | None]  # of Head.numbers, and Rows.margins if needed
    loss: Callable[..., Array]  # (LogitStats - shift, shift, *closed), all of one example
    mean: bool  # whether the mean logit is needed
    axis: MeshAxes  # the mesh axis over which the classes are spread

    def losses(self, stats, shift, probs, closed):
        """Return the losses `[N]`, expected ones if there are `probs`."""
        loss = self.loss
        for _ in stats.target.shape:
            loss = jax.vmap(loss, (0, 0) + (None,) * len(closed))
        losses = loss(stats, shift, *closed)
        return losses if probs is None else jnp.sum(multiply_no_nan(probs, losses), -1)


class Device(NamedTuple):
    """What the passes over classes read: this device's classes, labels counted from its first."""

    features: Array
    listed: Array
    where: Array | None
    weight: Array
    factor: Array | None  # of the weight, see direction_factor
    bias: Array | None
    softcap: Array | None
    numbers: list
    zero: Array  # of the type that all of these have, and what is computed from them

    @classmethod
    def of(cls, plan: Plan, labels: Labels, rows: Rows, head: Head) -> "Device":
        """Give everything the same type, before any loop."""
        zero = varying_zero((labels, rows, head), sum_dtype(rows.features, head.weight), plan.axis)
        listed = to_local_labels(labels.labels, head.weight.shape[0], plan.axis)
        weight, bias, softcap, numbers, _ = head
        given = rows.features, listed, weight, bias, softcap, numbers
        features, listed, weight, bias, softcap, numbers = vary(given, zero)
        margin, factor = plan.margin_of(numbers), None
        if margin is not None:
            factor = inverse_norm(weight, normalize=margin.normalize_weight)
        return cls(features, listed, labels.where, weight, factor, bias, softcap, numbers, zero)


class Found(NamedTuple):
    """What the first pass finds, of the classes of all devices."""

    label_scores: Array  # of the listed classes, before margin and scale
    on: Array  # whether `where` keeps them
    rest: Rest


class RowBlock(NamedTuple):
    """A block of rows, about to go over the classes of this device."""

    plan: Plan
    device: Device

    @property
    def dtype(self):
        """The dtype of sums."""
        return self.device.zero.dtype

    @property
    def margin(self):
        """The margin, for the passes over the classes."""
        return self.plan.margin_of(self.device.numbers)

    @property
    def feature_factor(self):
        """1 / |x| of the rows, see `direction_factor`."""
        margin = self.margin
        if margin is None:
            return None
        return inverse_norm(self.device.features, normalize=margin.normalize_features)

    def over_classes(self, body, carry, inputs=None):
        """Run a body over all blocks of classes, see `in_blocks`."""
        classes = self.device.weight.shape[0]
        return in_blocks(body, carry, classes, self.plan.tiles.classes, inputs)

    def block(self, start, size):
        """Return a block of classes, and the labels again, such that no loop hoists them.

        What is the same for all blocks of classes, XLA would compute once, as large as a block, and
        read from memory each time. So it is made to depend on the block.
        """
        listed = self.device.listed
        start, listed = lax.optimization_barrier((jnp.asarray(start, listed.dtype), listed))
        per_class = self.device.weight, self.device.factor, self.device.bias, self.device.where
        weight, factor, bias, on = slice_rows(per_class, start, size)
        classes = start + jnp.arange(size, dtype=start.dtype)
        return _ClassBlock(weight, factor, bias, on, classes, listed)

    def scores(self, a, block, bias, softcap):
        """Return the scores of a block of classes from its products."""
        return scores(a, self.feature_factor, block.factor, bias, softcap)

    def first(self, *, keep: bool) -> tuple[Found, list | None]:
        """Make the first pass; return what it finds, and the products of all blocks or None."""
        features, listed, zero = self.device.features, self.device.listed, self.device.zero
        scale = scale_of(self.margin, zero)

        def body(carry, start, size, _):
            label_scores, rest = carry
            block = self.block(start, size)
            a = matmul(features, block.weight)
            c = self.scores(a, block, block.bias, self.device.softcap)
            place = block.listed - start
            inside = (place >= 0) & (place < size)
            label_scores = jnp.where(inside, at_labels(c, place), label_scores)
            off = block.off()
            z = jnp.where(off, -jnp.inf, scale * c)
            rest = merge(rest, rest_of(z, off, mean=self.plan.mean))
            return (label_scores, rest), a if keep else None

        # A label that names no class is in no block, and its score stays NaN.
        label_scores = jnp.full_like(vary(jnp.zeros(listed.shape, self.dtype), zero), jnp.nan)
        carry = label_scores, vary(no_rest(features.shape[:1], self.dtype), zero)
        (label_scores, rest), kept = self.over_classes(body, carry)
        inside = (listed >= 0) & (listed < self.device.weight.shape[0])
        on = inside
        if self.device.where is not None:
            on &= self.device.where.at[listed].get(mode="clip")
        found = of_all_devices(label_scores, inside, on, rest, self.plan.axis, mean=self.plan.mean)
        return Found(*found), kept if keep else None

    def complete(self, found: Found, labels: Array, margin, length):
        """Return the stats with each listed class as the true one, and their shift."""
        label_scores, on, rest = found
        target = scale_of(margin, label_scores) * true_score(label_scores, length, margin)
        return complete(target, labels, on, rest)

    def losses(self, found: Found, rows: Rows, labels: Array, head: Head):
        """Return (weighted sum, (losses, stats)), and the pullback of the sum.

        The pullback gives the derivatives to the label scores, total and below, and this device's
        part of those to rows, numbers and closed values.
        """

        def function(label_scores, total, below, rows, numbers, closed):
            margin = self.plan.margin_of(numbers, rows.margins)
            rest = found.rest._replace(total=total, below=below)
            merged = found._replace(label_scores=label_scores, rest=rest)
            stats, shift = self.complete(merged, labels, margin, rows.length)
            losses = self.plan.losses(stats, shift, rows.probs, closed)
            # As in weighted_mean: without weight an example is left out even if it is NaN.
            counted = jnp.where((rows.weight == 0) & jnp.isnan(losses), 0, losses)
            return jnp.sum(multiply_no_nan(rows.weight, counted)), (losses, absolute(stats, shift))

        zero = varying_zero(found.rest.top, self.dtype)
        shared = *vary((rows, head.numbers), zero), head.closed
        scores = found.label_scores, found.rest.total, found.rest.below
        total, pull, evaluation = jax.vjp(function, *scores, *shared, has_aux=True)

        def pull_part(cotangent):
            *derivatives, d_closed = pull(cotangent)
            # The loss has been traced with the closed values as they are, so these derivatives are
            # sums over the devices already.
            devices = [num_replicas(x, zero) for x in head.closed]
            parts = [d / n.astype(d.dtype) for d, n in zip(d_closed, devices, strict=True)]
            return *derivatives, parts

        return (total, evaluation), pull_part

    def second(self, found: Found, kept, slopes, wanted: tuple[Rows, Head], d_head: Head):
        """Make the second pass, given the derivatives to label scores, total and below.

        Returns the gradient of the features, and `d_head` with what these rows add to it; of its
        numbers only the scale has a part here.
        """
        d_label, d_total, d_below = slopes
        device = self.device

        def scale_from(numbers):
            return vary(scale_of(self.plan.margin_of(numbers), device.zero), device.zero)

        scale, pull_scale = jax.vjp(scale_from, device.numbers)
        per_row = d_total, d_below, d_label, neg_inf_to_zero(found.rest.top)
        features_t = device.features.T

        def body(carry, start, size, a):
            d_features, d_scale, d_softcap, d_weight, d_bias = carry
            block = self.block(start, size)
            if a is None:
                a = matmul(device.features, block.weight)
            d_total_, d_below_, d_label_, top_ = lax.optimization_barrier((start, *per_row))[1:]
            c, pull_scores = jax.vjp(
                lambda a, bias, softcap: self.scores(a, block, bias, softcap),
                *(a, block.bias, device.softcap),
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
                d_scale = d_scale + jnp.sum(multiply_no_nan(dz, c))
            if d_softcap is not None:
                d_softcap = d_softcap + added_softcap
            if d_weight is not None:
                added = times_features(da, device.features, features_t)
                added = _across(added, block.weight, block.factor)
                d_weight = add_at(d_weight, start, added)
            if d_bias is not None:
                d_bias = add_at(d_bias, start, added_bias)
            return (d_features, d_scale, d_softcap, d_weight, d_bias), None

        moving = wanted[0].features, any(wanted[1].numbers)
        zeros = only(moving, (jnp.zeros_like(device.features, self.dtype), device.zero))
        carry = *zeros, d_head.softcap, d_head.weight, d_head.bias
        carry, _ = self.over_classes(body, carry, kept)
        d_features, d_scale, d_softcap, d_weight, d_bias = carry
        if d_features is not None:
            d_features = _across(d_features, device.features, self.feature_factor)
        d_numbers = d_head.numbers
        if d_scale is not None:
            added = only(wanted[1].numbers, pull_scale(d_scale)[0])
            d_numbers = jax.tree.map(lambda a, b: a + b.astype(a.dtype), d_numbers, added)
        return d_features, Head(d_weight, d_bias, d_softcap, d_numbers, [])


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


def only(wanted, tree):
    """Return the leaves that are wanted, and None for the others."""
    return jax.tree.map(lambda yes, x: x if yes else None, wanted, tree)


def _across(gradient, vectors, factor):
    """Take out the part of gradients along the vectors of which only the direction counts."""
    if factor is None:
        return gradient
    vectors = vectors.astype(gradient.dtype)
    along = jnp.square(factor) * jnp.sum(gradient * vectors, -1)
    return gradient - along[:, None] * vectors
