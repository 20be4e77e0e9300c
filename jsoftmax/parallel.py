r"""A linear head over a mesh of devices, as a function of global arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jsoftmax import checks
from jsoftmax.linear import linear_loss
from jsoftmax.losses import nll
from jsoftmax.numerics import promote
from jsoftmax.rest import SparseLabels
from jsoftmax.spread import NO_CLASS, Axis
from jsoftmax.stats import LogitStats

__all__ = ["sharded_linear_loss"]

_BY_CLASS = ("bias", "where", "class_weight")


def sharded_linear_loss(
    mesh: Mesh,
    *,
    batch_axis: Axis,
    class_axis: Axis,
    num_classes: int,
    loss: Callable[[LogitStats], Array] = nll,
    **options: Any,
) -> Callable[..., Array | tuple[Array, LogitStats]]:
    r"""Spread `linear_loss` over a mesh: examples over one of its axes, classes over another.

    $$(x, W, y) \mapsto \frac{\sum_i w_i\, \ell(\mathrm{stats}(W x_i, y_i))}{\sum_i w_i} \quad
    \text{over all examples of all devices}$$

    Each device computes the products of its examples with its classes: three, as on one device.
    What devices tell each other is, per block of examples, a maximum and a sum of a few numbers per
    example; and once the gradients, the features' over `class_axis` and the weight's over
    `batch_axis`. Neither logits nor weight are ever gathered. Inside your own `shard_map` the same
    is `linear_loss(..., class_axis=..., batch_axis=...)`.

    Args:
      mesh: the devices. Its axes may be Auto or Explicit.
      batch_axis: the mesh axis, or axes, over which examples are spread; None for all on each
        device. In an embedding trained on all devices of one axis, as in Partial FC, give the axis
        to the classes: the features are gathered over it, since every device needs them all.
      class_axis: the mesh axis, or axes, over which classes are spread; None for all on each.
      num_classes: C, how many classes there are. Rows of the weight from there on only make it
        divisible: they are no class, and get gradient 0.
      loss: a function of `LogitStats`, as in `linear_loss`; it may close over traced values.
      options: any options of `linear_loss`, here or in the call: there they win.

    Returns:
      `f(features, weight, labels, **options)`, which returns what `linear_loss` does. Arrays are
      global: features `[..., features]`, spread by their first axis, and weight `[C, features]`.
      What the mesh does not divide is padded inside; for a weight that is kept on the devices by
      its rows, that has to be done before, by zeros: to a multiple of their number.

    Source: vocabulary-parallel cross-entropy: Shoeybi et al., "Megatron-LM", 2019,
    arXiv:1909.08053, section 3.

    Example:
      >>> mesh = jax.make_mesh((2, 4), ("data", "model"))
      >>> loss_fn = js.sharded_linear_loss(
      ...     mesh, batch_axis="data", class_axis="model", num_classes=10, margin=js.arcface(scale=8.0)
      ... )
      >>> x, w, y = jnp.eye(5), jnp.eye(10, 5), jnp.arange(5)
      >>> loss, dw = jax.jit(jax.value_and_grad(loss_fn, argnums=1))(x, w, y)
      >>> loss, dw.shape
      (Array(0.008, dtype=float32), (10, 5))
    """
    row_devices = checks.mesh_devices("batch_axis", batch_axis, mesh)
    class_devices = checks.mesh_devices("class_axis", class_axis, mesh)

    def function(features, weight, labels, **more):
        chosen = options | more
        features, weight = jnp.asarray(features), jnp.asarray(weight)
        checks.has_axis("features", features, -2)
        held = weight.shape[0]
        if held < num_classes:
            raise AssertionError(
                f"`weight`: expected a row for each of num_classes = {num_classes} classes, got "
                f"shape {weight.shape}."
            )
        classes = held + -held % class_devices
        examples = features.shape[0]
        rows = examples + -examples % row_devices

        by_class = {name: chosen.pop(name) for name in _BY_CLASS if chosen.get(name) is not None}
        numbers, tree = jax.tree.flatten(chosen.pop("margin", None))
        by_class |= {f"margin, number {i}": x for i, x in enumerate(numbers) if jnp.ndim(x)}
        for name, x in by_class.items():
            if jnp.shape(x) != (held,):
                checks.shape(name, jnp.asarray(x), (num_classes,), "a number for every class")
        by_class["weight"] = weight
        if classes > num_classes:
            real = jnp.arange(held) < num_classes
            where = by_class.get("where")
            by_class["where"] = real if where is None else _filled(where, held) & real
            labels = _named(labels, num_classes, chosen.get("ignore_index"))

        sample_weight = chosen.pop("sample_weight", None)
        if sample_weight is None and rows > examples:
            sample_weight = jnp.ones(features.shape[:-1], promote(features).dtype)
        by_row = {"features": features, "labels": labels, "sample_weight": sample_weight}

        def spread(by_row, by_class):
            own = [by_class.pop(f"margin, number {i}", x) for i, x in enumerate(numbers)]
            return linear_loss(
                **(chosen | by_row | by_class),
                loss=loss,
                margin=tree.unflatten(own),
                class_axis=class_axis,
                batch_axis=batch_axis,
            )

        by_row = jax.tree.map(lambda x: _placed(_filled(x, rows), mesh, batch_axis), by_row)
        by_class = jax.tree.map(lambda x: _placed(_filled(x, classes), mesh, class_axis), by_class)
        result = P(batch_axis) if chosen.get("reduction", "mean") is None else P()
        out = jax.shard_map(
            spread,
            mesh=mesh,
            in_specs=(P(batch_axis), P(class_axis)),
            out_specs=(result, P(batch_axis)) if chosen.get("return_stats") else result,
        )(by_row, by_class)
        return (
            out if rows == examples else jax.tree.map(lambda x: x[:examples] if x.ndim else x, out)
        )

    return function


def _filled(x, size):
    """Fill up the first axis with zeros."""
    x = jnp.asarray(x)
    return jnp.pad(x, [(0, size - x.shape[0])] + [(0, 0)] * (x.ndim - 1))


def _placed(x, mesh, axis):
    """Spread the first axis over the mesh, where JAX does not do so by itself."""
    if AxisType.Explicit not in mesh.axis_types:
        return x
    return jax.reshard(x, NamedSharding(mesh, P(axis)))


def _named(labels, num_classes, ignore_index):
    """Return labels in which a row that is no class has no name either."""

    def named(indices):
        bad = indices >= num_classes
        if ignore_index is not None:
            bad &= indices != ignore_index
        return jnp.where(bad, NO_CLASS, indices)

    if isinstance(labels, SparseLabels):
        return labels._replace(indices=named(checks.as_labels(labels.indices)))
    return named(checks.as_labels(labels))
