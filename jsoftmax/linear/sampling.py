"""A sample of the classes for one batch: its labels, and negatives drawn at random (Partial FC)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import check_integers, check_key, marked_labels
from jsoftmax.core.collectives import (
    NO_CLASS,
    MeshAxes,
    all_gather_unvarying,
    check_bound_axis,
    local_rows,
    num_global,
    psum,
    split_shared_axes,
    to_local_labels,
)
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numbers import static_count


class ClassSample(NamedTuple):
    r"""Some of the classes, for one batch.

    $$\mathrm{indices}_{\mathrm{labels}_i} = y_i, \qquad \log\_\mathrm{expected\_count}_k =
    \log P(\mathrm{indices}_k \text{ is in the sample})$$

    Args:
      indices: integers `[num_sampled]`, distinct and ascending: rows of the class vectors.
      labels: integers `[...]`, the labels as places in `indices`.
      log_expected_count: float32 `[num_sampled]`: 0 for the classes of the batch.

    Source: An et al., "Partial FC", 2021, arXiv:2010.05222, section 3.

    Example:
      >>> sample = js.sample_classes(
      ...     jax.random.key(0), jnp.array([7, 2]), num_classes=9, num_sampled=4
      ... )
      >>> sample.indices[sample.labels]
      Array([7, 2], dtype=int32)
    """

    indices: Array
    labels: Array
    log_expected_count: Array


@on_any_mesh(same_everywhere)
def sample_classes(
    key: Array,
    labels: ArrayLike,
    *,
    num_classes: int,
    num_sampled: int,
    ignore_index: int | None = None,
    class_axis: MeshAxes = None,
    batch_axis: MeshAxes = None,
) -> ClassSample:
    r"""Sample classes for a batch: all of its own, the rest drawn without replacement.

    $$S \supseteq \{y_i\}, \quad |S| = \mathrm{num\_sampled}, \quad P(j \in S) = \frac{
    \mathrm{num\_sampled} - P}{\mathrm{num\_classes} - P} \text{ for the others, with } P
    \text{ distinct labels}$$

    The loss over the rows `weight[sample.indices]` costs as much as one with so few classes, and
    its gradient reaches these rows only. With `bias=-sample.log_expected_count` the sum over the
    other classes is right on average (sampled softmax), with or without a margin, since the bias is
    added after the scale. Partial FC leaves it out.

    Args:
      key: a `jax.random` key, a new one for every step, the same on all devices.
      labels: integers `[...]`. One outside [0, num_classes) stays as it is, and the loss reports
        it.
      num_classes: the number of class vectors; with `class_axis`, of this device.
      num_sampled: how many classes to return; with `class_axis`, on this device. If the batch has
        more than that, the highest ones do not fit: their labels become the largest integer, which
        is out of range, and the loss is NaN.
      ignore_index: a label of examples to ignore: it becomes -1, which no class of a sample is, and
        its class is not kept for them. Write `ignore_index=-1` in the loss, whatever it was before:
        another class may now have its number. Any other label outside [0, num_classes) becomes the
        largest integer.
      class_axis: inside `shard_map`, the mesh axis over which the classes are sharded. Each device
        samples its own rows; labels are global, before and after.
      batch_axis: inside `shard_map`, the mesh axis over which the batch is sharded: the classes of
        the whole batch are kept. Both axes may be several, and one may be in both.

    Returns:
      A `ClassSample`. Rows that are only padding are sampled like others: mask them with
      `where[sample.indices]`.

    Source: An et al., "Partial FC", 2021, arXiv:2010.05222, section 3; correction by the expected
    count: Jean et al., 2015, arXiv:1412.2007, section 3.

    Example:
      >>> labels, key = jnp.array([7, 2, 0]), jax.random.key(0)  # 0 is padding
      >>> sample = js.sample_classes(
      ...     key, labels, num_classes=1000, num_sampled=100, ignore_index=0
      ... )
      >>> x, w = jnp.ones((3, 4)), jnp.ones((1000, 4))
      >>> rows, labels = w[sample.indices], sample.labels
      >>> jax.jit(js.linear_cross_entropy)(
      ...     x, rows, labels, bias=-sample.log_expected_count, ignore_index=-1
      ... )
      Array(6.9078, dtype=float32)
    """
    check_key(key)
    check_bound_axis("class_axis", class_axis)
    check_bound_axis("batch_axis", batch_axis)
    labels = marked_labels(labels, ignore_index)
    check_integers(labels)
    num_classes = static_count("num_classes", num_classes, 1)
    num_sampled = static_count("num_sampled", num_sampled, 1)
    if num_sampled > num_classes:
        raise ValueError(
            f"`num_sampled`: expected at most num_classes = {num_classes}, got {num_sampled}."
        )
    both, batch_axis = split_shared_axes(batch_axis, class_axis)
    whole = labels if both is None else all_gather_unvarying(labels, both)
    here = to_local_labels(whole, num_classes, class_axis)
    ignored = whole == -1 if ignore_index is not None else jnp.zeros_like(whole, bool)
    outside = (here < 0) | (here >= num_classes) | ignored
    if class_axis is not None:
        key = jax.random.fold_in(key, lax.axis_index(class_axis))

    none = jnp.zeros(num_classes, jnp.int8)
    batch = none.at[jnp.where(outside, num_classes, here)].set(1, mode="drop")
    batch = (batch if batch_axis is None else lax.pmax(batch, batch_axis)) > 0
    # Sampled are the classes with the largest random numbers; those of the batch have the largest.
    bits = jax.random.bits(key, (num_classes,), jnp.uint32)
    bits = jnp.where(batch, jnp.uint32(0xFFFFFFFF), bits >> 1)
    indices = jnp.sort(lax.top_k(bits, num_sampled)[1])

    certain = batch[indices]
    kept, drawn = jnp.sum(batch, dtype=jnp.float32), jnp.sum(~certain, dtype=jnp.float32)
    chance = jnp.log(jnp.maximum(drawn, 1) / jnp.maximum(num_classes - kept, 1))
    log_expected_count = jnp.where(certain, 0, chance)

    found = indices.astype(here.dtype)
    place = jnp.searchsorted(found, here).astype(here.dtype)
    fits = found.at[place].get(mode="clip") == here
    place = jnp.where(fits, place - to_local_labels(0 * place, num_sampled, class_axis), NO_CLASS)
    place = psum(jnp.where(outside, 0, place), class_axis)
    named = (whole >= 0) & (whole < num_global(num_classes, class_axis))
    unnamed = whole if ignore_index is None else jnp.full_like(whole, NO_CLASS)
    remapped = jnp.where(ignored, -1, jnp.where(named, place, unnamed))
    remapped = remapped if both is None else local_rows(remapped, both)
    return ClassSample(indices, remapped, log_expected_count)
