"""The classes with the largest logits of a linear head, without materialising the logits."""

from functools import partial

import jax
from jax import Array
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from jsoftmax.blockwise.held_rows import over_rows, rows_held
from jsoftmax.blockwise.scores import without_length
from jsoftmax.core.collectives import MeshAxes, check_bound_axis, num_global
from jsoftmax.core.dtypes import sum_dtype
from jsoftmax.core.masking import as_rows
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.core.numbers import static_count
from jsoftmax.core.top_k import largest_k
from jsoftmax.linear.arguments import checked_head, checked_precision, unflatten
from jsoftmax.linear.examples import temperature_by_row
from jsoftmax.margins.form import Margin


@on_any_mesh(without_classes("features"))
def linear_top_k(
    features: ArrayLike,
    weight: ArrayLike,
    k: int,
    *,
    bias: ArrayLike | None = None,
    softcap: ArrayLike | None = None,
    margin: Margin | None = None,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    class_axis: MeshAxes = None,
    precision: PrecisionLike = None,
) -> tuple[Array, Array]:
    r"""The k largest logits of a linear head and their classes, without materialising the logits.

    $$(x, W) \mapsto \bigl(z_{(1)}, \dots, z_{(k)}\bigr),\; \bigl((1), \dots, (k)\bigr), \qquad
    z = \mathrm{linear\_logits}(x, W) / T,\; z_{(1)} \ge z_{(2)} \ge \dots$$

    One matrix product. With k = 1 it is the prediction; accuracy is whether the label is among the
    classes.

    Args:
      features: `[..., features]`, floats.
      weight: `[classes, features]`, a row per class vector (a Flax `kernel` is its transpose).
      k: how many, at most as many as there are classes.
      bias: `[classes]`, added after margin and scale.
      softcap: c > 0, the bound on the size of the logits.
      margin: such as `arcface()`. It says what is normalised, and the scale; it adds nothing, since
        there is no true class.
      where: booleans `[classes]`; False masks a class.
      temperature: T > 0, a number or one for every example `[...]`.
      class_axis: inside `jax.shard_map`, the mesh axis, or axes, over which classes are sharded.
        Every argument per class is then this device's shard; examples are replicated along the
        axis. Each device finds its k largest, and those are exchanged.
      precision: of the matrix product, as `jax.lax.dot_general` takes it. None follows
        `jax.default_matmul_precision`, by which a GPU rounds float32 operands to TF32, and a TPU to
        bfloat16. With a margin write "highest".

    Returns:
      Logits `[..., k]` in descending order, float32 or wider, with their gradients, and classes
      `[..., k]`, integers. Of equal logits the lower class comes first. If `where` leaves fewer
      than k classes, the last logits are -inf.

    Source: the merge of top-k over blocks: Milakov, Gimelshein, 2018, arXiv:1805.02867, section 4.

    Example:
      >>> x, w = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> js.linear_top_k(x, w, 2)
      (Array([[3., 2.]], dtype=float32), Array([[2, 1]], dtype=int32))
    """
    features, head = checked_head(
        features, weight, bias=bias, softcap=softcap, margin=margin, where=where
    )
    check_bound_axis("class_axis", class_axis)
    k = checked_k(k, num_global(head.weight.shape[0], class_axis))
    given = as_rows(without_length(features, margin)), head
    by_row = temperature_by_row(temperature, features.shape[:-1], sum_dtype(features, head.weight))
    size = rows_held(given[0].shape[0], head.weight.shape[0])
    found = _search(k, class_axis, size, checked_precision(precision), *given, by_row)
    return unflatten(found, features.shape[:-1])


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _search(k, class_axis, *given):
    return over_rows(lambda z: largest_k(z, k, class_axis), *given)


def checked_k(k: int, classes: int, name: str = "k") -> int:
    """Return k as a Python integer, from 1 to the number of classes."""
    k = static_count(name, k, 1)
    if k > classes:
        raise ValueError(f"`{name}`: expected at most {classes}, the classes, got {k}.")
    return k
