r"""A linear head over a mesh of devices, as a function of global arrays."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Unpack, overload

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jsoftmax.checks import check_values
from jsoftmax.core.arguments import (
    as_logits,
    check_shape,
    marked_labels,
    normalize_axis,
)
from jsoftmax.core.calls import explaining_calls
from jsoftmax.core.collectives import NO_CLASS, MeshAxes, axes_of
from jsoftmax.core.dtypes import to_compute_dtype
from jsoftmax.core.meshes import explaining_closures
from jsoftmax.core.numbers import at_least, is_static, number, static_count
from jsoftmax.linear.arguments import Padding, checked_precision
from jsoftmax.linear.examples import as_loss_args
from jsoftmax.linear.loss import linear_loss
from jsoftmax.linear.options import ShardedLoss, ShardedOptions, WithStats
from jsoftmax.linear.placing import (
    filled,
    filled_up,
    filled_with_last,
    mesh_devices,
    mesh_for,
    placed,
)
from jsoftmax.linear.traced_loss import loss_key
from jsoftmax.losses.of_stats import nll
from jsoftmax.margins.partition import combine, partition
from jsoftmax.stats.labels import SparseLabels, with_indices


@overload
def sharded_linear_loss(
    mesh: Mesh,
    *,
    batch_axis: MeshAxes,
    class_axis: MeshAxes,
    num_classes: int,
    loss: Callable[..., Array] = ...,
    return_stats: Literal[False] = False,
    **options: Unpack[ShardedOptions],
) -> ShardedLoss[Array]: ...
@overload
def sharded_linear_loss(
    mesh: Mesh,
    *,
    batch_axis: MeshAxes,
    class_axis: MeshAxes,
    num_classes: int,
    loss: Callable[..., Array] = ...,
    return_stats: Literal[True],
    **options: Unpack[ShardedOptions],
) -> ShardedLoss[WithStats]: ...
@overload
def sharded_linear_loss(
    mesh: Mesh,
    *,
    batch_axis: MeshAxes,
    class_axis: MeshAxes,
    num_classes: int,
    loss: Callable[..., Array] = ...,
    return_stats: bool,
    **options: Unpack[ShardedOptions],
) -> ShardedLoss[Array | WithStats]: ...
@explaining_calls
def sharded_linear_loss(
    mesh: Mesh,
    *,
    batch_axis: MeshAxes,
    class_axis: MeshAxes,
    num_classes: int,
    loss: Callable[..., Array] = nll,
    **options: Any,
) -> ShardedLoss[Any]:
    r"""Shard `linear_loss` over a mesh: examples over one of its axes, classes over another.

    $$(x, W, y) \mapsto \frac{\sum_i w_i\, \ell(\mathrm{stats}(W x_i, y_i))}{\sum_i w_i} \quad
    \text{over all examples of all devices}$$

    Each device computes the products of its examples with its classes: three, as on one device.
    The collectives are, per block of examples, a maximum and a sum of a few numbers per example;
    and once the gradients, the features' over `class_axis` and the weight's over `batch_axis`.
    Neither logits nor weight are ever gathered. Inside your own `shard_map` the same
    is `linear_loss(..., class_axis=..., batch_axis=...)`.

    Args:
      mesh: the devices. Its axes may be Auto or Explicit. Arrays on an Explicit mesh are
        differentiated by JAX under `jit` or in `jax.set_mesh` only.
      batch_axis: the mesh axis, or axes, over which examples are sharded; None for all on each
        device.
      class_axis: the mesh axis, or axes, over which classes are sharded; None for all on each:
        plain data parallelism, where only the gradient of the weight is summed. An axis may be in
        both, as after a network that is trained on all devices: then the features are gathered over
        it, and each device gets the gradient of its own.
      num_classes: C, how many classes there are. Rows of the weight from there on only make it
        divisible: they are no class, and get gradient 0.
      loss: a function of one example's `LogitStats`, such as `js.focal`; it may close over traced
        values (those on an Explicit mesh in a `partial`).
      options: any options of `linear_loss`, here or in the call: there they win.

    Returns:
      `f(features, weight, labels, **options)`, which returns what `linear_loss` does. Arrays are
      global: features `[..., features]`, sharded by their first axis, and weight `[C, features]`.
      What the mesh does not divide is padded inside; for a weight that is kept on the devices by
      its rows, that has to be done before, by zeros: to a multiple of their number.

    Source: vocabulary-parallel cross-entropy: Shoeybi et al., "Megatron-LM", 2019,
    arXiv:1909.08053, section 3.

    Example:
      >>> mesh = jax.make_mesh((2, 4), ("data", "model"))
      >>> axes = {"batch_axis": "data", "class_axis": "model"}
      >>> margin = js.arcface(scale=8.0)
      >>> loss_fn = js.sharded_linear_loss(mesh, **axes, num_classes=10, margin=margin)
      >>> x, w, y = jnp.eye(5), jnp.eye(10, 5), jnp.arange(5)
      >>> loss, dw = jax.jit(jax.value_and_grad(loss_fn, argnums=1))(x, w, y)
      >>> loss, dw.shape
      (Array(0.008, dtype=float32), (10, 5))
    """
    num_classes = static_count("num_classes", num_classes, 1)
    row_devices = mesh_devices("batch_axis", batch_axis, mesh)
    class_devices = mesh_devices("class_axis", class_axis, mesh)
    # Over an axis of one device nothing is to be exchanged.
    batch_axes, class_axes = (
        tuple(name for name in axes_of(axis) if mesh.shape[name] > 1) or None
        for axis in (batch_axis, class_axis)
    )
    per_row, per_class, scalar = P(batch_axes), P(class_axes), P()
    numbers, with_numbers = _numbers_of(loss)

    # Compiled, since without jit a shard_map is run operation by operation; and once, for all calls
    # with the same `static` and shapes.
    @partial(jax.jit, static_argnames=("on", "static"))
    def run(arrays, on, static):
        whole, _, given = static
        given = dict(given)

        def on_each(rows, classes, scalars):
            margin = combine(whole, *(x.pop("margin") for x in (scalars, classes, rows)))
            return linear_loss(
                loss=with_numbers(scalars.pop("loss")),
                margin=margin,
                class_axis=class_axes,
                batch_axis=batch_axes,
                **given | rows | classes | scalars,
            )

        result = per_row if given.get("reduction", "mean") is None else scalar
        return jax.shard_map(
            on_each,
            mesh=on,
            in_specs=(per_row, per_class, scalar),
            out_specs=(result, per_row) if given.get("return_stats") else result,
        )(*arrays)

    def function(features, weight, labels, **more):
        chosen: dict[str, Any] = {**options, **more}
        features, weight = as_logits(features, "features"), as_logits(weight, "weight")
        normalize_axis("features", features, -2)
        chosen["precision"] = checked_precision(chosen.get("precision"))
        examples, num_rows = features.shape[0], weight.shape[0]
        num_examples = filled_up(examples, row_devices)
        num_rows += -num_rows % class_devices
        rows = {"features": features, "labels": _indices(labels, chosen)}
        rows |= _pop(chosen, ("sample_weight",))
        rows["loss_args"] = as_loss_args(chosen.pop("loss_args", ()))
        classes = {"weight": weight} | _pop(chosen, ("bias", "where", "class_weight"))
        margin = partition(chosen.pop("margin", None))
        classes["margin"], rows["margin"] = margin.per_class, margin.per_example
        scalars = {"margin": margin.scalars, "loss": numbers} | _pop(chosen, ("softcap",))
        if not is_static(temperature := number(chosen.pop("temperature", 1.0)), 1):
            temperature = at_least("temperature", temperature, 0, strict=True)
            (rows if jnp.ndim(temperature) else scalars)["temperature"] = temperature
        _check_classes(num_classes, classes)
        if num_rows > num_classes:
            real, where = jnp.arange(num_rows) < num_classes, classes.get("where")
            classes["where"] = Padding(real) if where is None else filled(where, num_rows) & real
            ignored = chosen.get("ignore_index")
            rows["labels"] = _out_of_range(rows["labels"], num_classes, ignored)
        _check_rows(rows)
        if num_examples != examples and "sample_weight" not in rows:
            rows["sample_weight"] = jnp.ones(features.shape[:-1], to_compute_dtype(features).dtype)

        on = mesh_for(mesh, (rows, classes, numbers))

        def place(tree, size, spec, fill=filled):
            return jax.tree.map(lambda x: placed(fill(x, size), on, spec), tree)

        key = loss_key(loss, loss_args := rows.pop("loss_args"))
        arrays = place(rows, num_examples, per_row), place(classes, num_rows, per_class), scalars
        arrays[0]["loss_args"] = place(loss_args, num_examples, per_row, filled_with_last)
        with explaining_closures(loss):
            out = run(arrays, on=on, static=(margin.whole, key, tuple(sorted(chosen.items()))))
        if num_examples == examples:
            return out
        return jax.tree.map(lambda x: placed(x, on, scalar)[:examples] if x.ndim else x, out)

    return function


def _numbers_of(loss):
    """Return the arrays among the arguments of a partial, and the loss as a function of them.

    What lies on an Explicit mesh can not be closed over inside of `shard_map`.
    """
    if not isinstance(loss, partial):
        return [], lambda arrays: loss
    leaves, structure = jax.tree.flatten((loss.args, loss.keywords))

    def with_arrays(arrays):
        given = iter(arrays)
        both = [next(given) if isinstance(x, Array) else x for x in leaves]
        args, options = structure.unflatten(both)
        return partial(loss.func, *args, **options)

    return [x for x in leaves if isinstance(x, Array)], with_arrays


def _indices(labels, options):
    """Return labels in a dtype that holds any class; those to ignore become the static -1."""
    index = options.get("ignore_index")
    if index is not None:
        options["ignore_index"] = -1
    if isinstance(labels, SparseLabels):
        return with_indices(labels)
    return marked_labels(labels, index)


def _pop(options, names):
    """Take what is given of these options out of them."""
    taken = {name: options.pop(name, None) for name in names}
    return {name: value for name, value in taken.items() if value is not None}


def _check_classes(num_classes, per_class):
    weight, margin = per_class["weight"], per_class["margin"]
    if weight.shape[0] < num_classes:
        use = " Of a kernel, features by classes as in Flax, write kernel.T." * (
            weight.shape[-1] == num_classes
        )
        raise AssertionError(
            f"`weight`: expected a row for each of num_classes = {num_classes} classes, got shape "
            f"{weight.shape}.{use}"
        )
    named = {name: x for name, x in per_class.items() if name not in ("weight", "margin")}
    if margin is not None:
        named |= {f"margin.{name}": x for name, x in vars(margin).items() if isinstance(x, Array)}
    for name, x in named.items():
        if jnp.shape(x) != weight.shape[:1]:
            check_shape(name, jnp.asarray(x), (num_classes,), "a number for every class")


def _check_rows(by_row):
    """Find what is missing before it would be filled up."""
    examples = by_row["features"].shape[0]
    for path, x in jax.tree.leaves_with_path(by_row):
        name = path[0].key + jax.tree_util.keystr(path[1:])
        x = jnp.asarray(x)
        check_shape(name, x, (examples, *x.shape[1:]), "as many examples as there are features")


def _out_of_range(labels, num_classes, ignore_index):
    """Return labels in which one of a row that is no class is out of range for all devices."""

    def mapped(indices):
        ignored = False if ignore_index is None else indices == ignore_index
        check_values(None, jnp.where(ignored, 0, indices), num_classes)
        return jnp.where((indices >= num_classes) & ~jnp.asarray(ignored), NO_CLASS, indices)

    if isinstance(labels, SparseLabels):
        return labels._replace(indices=mapped(labels.indices))
    return mapped(labels)
