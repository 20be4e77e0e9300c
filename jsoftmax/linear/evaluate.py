r"""From the arguments of a linear loss to its value by tiles, with the rule for its derivative.

`Arguments` are what the caller gave, checked, with the examples as one axis. A scalar result goes
through `_weighted_sum`, whose derivative rule makes the gradients together with the value; one
value per example is differentiated by JAX.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.blockwise.block_sizes import block_sizes
from jsoftmax.blockwise.row_block import Head, Labels, Plan, Rows, only
from jsoftmax.blockwise.rows import stats_of_rows, sum_and_gradients
from jsoftmax.blockwise.scores import at_labels_of_class, kept_norm
from jsoftmax.checks import check_values
from jsoftmax.core.arguments import (
    as_labels,
    as_logits,
    check_at_least,
    check_shape,
    is_concrete,
    is_distribution,
    normalize_axis,
)
from jsoftmax.core.collectives import (
    MeshAxes,
    all_gather_rows,
    all_gather_unvarying,
    check_bound_axis,
    gather_per_class,
    local_rows,
    num_global,
    psum,
    split_shared_axes,
)
from jsoftmax.core.dtypes import cast_like, sum_dtype, to_compute_dtype
from jsoftmax.core.masking import class_mask
from jsoftmax.core.numerics import multiply_no_nan
from jsoftmax.core.varying import varying_zero
from jsoftmax.margins.angular import AngularMargin
from jsoftmax.stats.labels import SparseLabels, check_sparse_labels
from jsoftmax.stats.logit_stats import LogitStats, absolute


def evaluate(
    loss,
    features,
    weight,
    labels,
    *,
    bias,
    softcap,
    margin,
    where,
    sample_weight,
    class_weight,
    ignore_index,
    reduction,
    return_stats,
    class_axis,
    batch_axis,
    row_block,
    class_block,
):
    """Evaluate a loss of (stats - shift, shift) on a linear head."""
    if reduction not in ("mean", "sum", None):
        raise ValueError(f'`reduction`: expected "mean", "sum" or None, got {reduction!r}.')
    check_bound_axis("class_axis", class_axis)
    check_bound_axis("batch_axis", batch_axis)
    both, batch_axis = split_shared_axes(batch_axis, class_axis)
    if both is not None:
        normalize_axis("features", jnp.asarray(features), -2)
        features = all_gather_rows(jnp.asarray(features), both)
        labels, sample_weight = jax.tree.map(
            lambda x: all_gather_unvarying(jnp.asarray(x), both), (labels, sample_weight)
        )
    head = Arguments.of(
        features, weight, labels, bias, softcap, margin, where, class_axis, ignore_index
    )
    head, weights = head.weighted(sample_weight, class_weight)
    loss, closed, needs_mean = _converted(loss, head, weights)
    mean = needs_mean or return_stats
    plan, rest = head.plan(loss, closed, row_block, class_block, mean=mean)
    if reduction is None:
        stats, shift = stats_of_rows(plan, head.labels, head.rows(None), rest)
        result = multiply_no_nan(weights, plan.losses(stats, shift, head.probs, closed))
        result = head.unflatten(jnp.where(head.ignored, 0, result))
        stats = absolute(stats, shift)
    else:
        if reduction == "mean":
            count = psum(jnp.sum(weights), batch_axis)
            weights = jnp.where(count == 0, 0, weights / jnp.where(count == 0, 1, count))
        result, (_, stats) = _weighted_sum(plan, head.labels, head.rows(weights), rest)
        result = psum(result, batch_axis)
    stats = jax.tree.map(jax.lax.stop_gradient, head.unflatten(stats))
    if both is not None:
        result, stats = jax.tree.map(
            lambda x: local_rows(x, both) if x.ndim else x, (result, stats)
        )
    return (result, stats) if return_stats else result


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _weighted_sum(plan, labels, rows, head):
    total, evaluation, _ = sum_and_gradients(plan, labels, rows, head, None)
    return total, evaluation


@functools.partial(_weighted_sum.defjvp, symbolic_zeros=True)
def _weighted_sum_jvp(plan, primals, tangents):
    # The cotangent of a scalar only scales its gradient, so the gradient can be made with the
    # value. As a rule for tangents, d sum = <gradient, tangent>, whose transpose is that scaling.
    labels, rows, head = primals
    wanted = jax.tree.map(lambda t: not isinstance(t, SymbolicZero), tangents[1:])
    total, evaluation, gradients = _sealed(plan, wanted, labels, rows, head)
    moving = only(wanted, tangents[1:])
    spread = [(rows.features, head.weight, head.bias) for rows, head in (gradients, moving)]
    shared = [
        (rows._replace(features=None), head._replace(weight=None, bias=None))
        for rows, head in (gradients, moving)
    ]
    # The transpose of the sum over devices sums the gradient of the features, if these are the same
    # on all of them.
    d_total = psum(_inner(spread, total.dtype), plan.axis) + _inner(shared, total.dtype)
    return (total, evaluation), (d_total, jax.tree.map(jnp.zeros_like, evaluation))


def _inner(pair, dtype):
    total = jnp.zeros((), dtype)
    for g, t in zip(*map(jax.tree.leaves, pair), strict=True):
        total += jnp.sum(g * t.astype(g.dtype)).astype(dtype)
    return total


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _sealed(plan, wanted, labels, rows, head):
    """Return `sum_and_gradients`, with derivative rules that survive the rule above.

    While a rule is linearised, a scan in it loses the rules of the functions in its body. Only a
    derivative of this derivative would notice. Inside a rule of its own the scan is left alone.
    """
    return sum_and_gradients(plan, labels, rows, head, wanted)


@_sealed.defjvp
def _sealed_jvp(plan, wanted, primals, tangents):
    return jax.jvp(functools.partial(_sealed.fun, plan, wanted), primals, tangents)


class Arguments(NamedTuple):
    """The arguments, checked, with the examples as one axis."""

    features: Array
    weight: Array
    bias: Array | None
    softcap: Array | None
    margin: AngularMargin | None
    labels: Labels
    probs: Array | None
    ignored: Array | bool
    shape: tuple[int, ...]
    axis: MeshAxes

    @classmethod
    def of(
        cls, features, weight, labels, bias, softcap, margin, where, class_axis, ignore_index=None
    ):
        """Check the arguments; what is ignored becomes label 0 and features 0."""
        check_bound_axis("class_axis", class_axis)
        features, weight, bias, softcap = checked_head(features, weight, bias, softcap)
        shape, classes = features.shape[:-1], weight.shape[0]
        features = features.reshape(-1, features.shape[-1])
        if not classes:
            raise AssertionError(f"`weight`: expected at least one class, got {weight.shape}.")
        if where is not None:
            where = class_mask(where, (classes,))
            check_shape("where", where, (classes,), "a switch for every class")
        probs, ignored = None, False
        if isinstance(labels, SparseLabels):
            indices, probs = check_sparse_labels(labels, shape)
            for name, option in (("margin", margin), ("ignore_index", ignore_index)):
                if option is not None:
                    raise ValueError(
                        f"`{name}`: expected integer labels with it, got SparseLabels."
                    )
            indices, probs = (x.reshape(-1, x.shape[-1]) for x in (indices, probs))
        else:
            indices = as_labels(labels)
            if is_distribution(indices):
                raise TypeError(
                    f"`labels`: expected integers or SparseLabels, got dtype {indices.dtype}. For "
                    "a distribution over all classes use cross_entropy on linear_logits."
                )
            check_shape("labels", indices, shape, "an integer class for every example")
            indices = indices.reshape(-1)
            if ignore_index is not None:
                # It must not reach a gradient, be it NaN.
                ignored = indices == ignore_index
                indices = jnp.where(ignored, 0, indices)
                features = jnp.where(ignored[:, None], 0, features)
        margin = checked_margin(margin, classes)
        check_values(None, indices, num_global(classes, class_axis))
        head = features, weight, bias, softcap, margin
        return cls(*head, Labels(indices, where), probs, ignored, shape, class_axis)

    def weighted(self, sample_weight, class_weight):
        """Return self, with the factors that belong into `probs` there, and those on the losses.

        As in `weighted_mean`, an example of weight 0 is left out even if it would be NaN.
        """
        dtype = sum_dtype(self.features, self.weight)
        weights = jnp.ones(self.features.shape[:1], dtype)
        if sample_weight is None and class_weight is None:
            return self, jnp.where(self.ignored, 0, weights)
        indices, probs, classes = self.labels.labels, self.probs, self.weight.shape[0]
        if sample_weight is not None:
            sample_weight = jnp.asarray(sample_weight)
            check_shape("sample_weight", sample_weight, self.shape, "a weight for every example")
            weights = sample_weight.reshape(-1).astype(dtype)
        if class_weight is not None:
            class_weight = jnp.asarray(class_weight)
            check_shape("class_weight", class_weight, (classes,), "a weight for every class")
            by_label = gather_per_class(class_weight, indices, self.axis).astype(dtype)
            if probs is None:
                weights = weights * by_label
            else:
                probs = probs.astype(dtype) * by_label
        weights = jnp.where(self.ignored, 0, weights)
        classes = num_global(classes, self.axis)
        bad = jnp.any((indices < 0) | (indices >= classes), range(1, indices.ndim))
        bad &= weights == 0
        indices = jnp.where(bad.reshape(-1, *[1] * (indices.ndim - 1)), 0, indices)
        bad |= (weights == 0) & ~jnp.all(jnp.isfinite(self.features), -1)
        features = jnp.where(bad[:, None], 0, self.features)
        labels = self.labels._replace(labels=indices)
        return self._replace(features=features, labels=labels, probs=probs), weights

    def rows(self, weights):
        """Return what has a row per example, with the factors on the losses."""
        labels = self.labels.labels
        length = kept_norm(self.features, self.weight, labels, self.margin, self.axis)
        by_class = [
            at_labels_of_class(x, labels, self.axis)
            for x in jax.tree.leaves(self.margin)
            if jnp.ndim(x)
        ]
        return Rows(self.features, length, by_class, self.probs, weights)

    def plan(self, loss, closed, row_block, class_block, *, mean):
        """Return what is known beforehand, and what all rows share."""
        (n, d), classes = self.features.shape, self.weight.shape[0]
        leaves, tree = jax.tree.flatten(self.margin)
        # Numbers that are known stay so: an integer multiple of the angle is a polynomial. Numbers
        # by class matter at the label only, where each example has its own: see `rows`.
        by_class = [jnp.ndim(x) > 0 for x in leaves]
        shared = [
            not (local_rows or is_concrete(x))
            for x, local_rows in zip(leaves, by_class, strict=True)
        ]
        traced = [to_compute_dtype(x) for x, yes in zip(leaves, shared, strict=True) if yes]

        def margin_of(numbers, at_label=None):
            numbers = iter(numbers)
            at_label = iter([0] * len(leaves) if at_label is None else at_label)
            return tree.unflatten(
                next(at_label) if local_rows else next(numbers) if yes else x
                for x, local_rows, yes in zip(leaves, by_class, shared, strict=True)
            )

        narrow = max(self.features.dtype.itemsize, self.weight.dtype.itemsize) == 2
        sharded = self.axis is not None
        tiles = block_sizes(
            n, classes, d, row_block, class_block, is_16_bit=narrow, sharded=sharded
        )
        head = Head(self.weight, self.bias, self.softcap, traced, list(closed))
        return Plan(tiles, margin_of, loss, mean, self.axis), head

    def unflatten(self, tree):
        """Give arrays with a row per example the shape of the examples."""
        return jax.tree.map(lambda x: x.reshape(*self.shape, *x.shape[1:]), tree)


def checked_head(features, weight, bias, softcap):
    """Check what all evaluators have in common; bias and softcap come back in float32 or wider."""
    features, weight = as_logits(features, "features"), as_logits(weight, "weight")
    normalize_axis("features", features, -1)
    check_shape("weight", weight, weight.shape[:1] + features.shape[-1:], "classes by features")
    wide = jnp.zeros((), sum_dtype(features, weight))
    if bias is not None:
        bias = cast_like(bias, wide)
        check_shape("bias", bias, weight.shape[:1], "a number for every class")
    if softcap is not None:
        check_at_least("softcap", softcap, 0, strict=True)
        softcap = cast_like(softcap, wide)
    return features, weight, bias, softcap


def _converted(loss, head, weights):
    """Return a loss of one example's (stats, shift), the traced values it closes over, as arguments
    after these two, and whether it looks at the mean logit."""
    given = *head[: Arguments._fields.index("ignored")], weights

    def example(closed):  # of the type that the stats will have
        zero = varying_zero((given, closed), weights.dtype, head.axis)
        zero = psum(zero, head.axis)
        return LogitStats(zero, zero, zero, zero), zero

    jaxpr, out = jax.make_jaxpr(loss, return_shape=True)(*example(()))
    if getattr(out, "shape", None) != ():
        raise AssertionError(
            "`loss`: expected a function of one example's LogitStats that returns one number, got "
            f"{jax.tree.map(lambda x: x.shape, out)}. Factors by example belong in `sample_weight`."
        )
    mean = jaxpr.jaxpr.invars[LogitStats._fields.index("mean")]
    looked_at = any(mean is x for eqn in jaxpr.eqns for x in eqn.invars)
    _, closed = jax.closure_convert(loss, *example(()))
    converted, closed = jax.closure_convert(loss, *example(closed))
    return converted, closed, looked_at or any(mean is x for x in jaxpr.jaxpr.outvars)


def checked_margin(margin: AngularMargin | None, classes: int) -> AngularMargin | None:
    """Check the shapes of a margin's numbers: scalars, but for the scale also one by class."""
    if margin is not None:
        for name in ("m1", "m2", "m3", "anneal"):
            if jnp.ndim(getattr(margin, name)):
                number = jnp.asarray(getattr(margin, name))
                check_shape(f"margin.{name}", number, (classes,), "a number for every class")
        check_shape("margin.scale", jnp.asarray(margin.scale), (), "one number for all classes")
    return margin
