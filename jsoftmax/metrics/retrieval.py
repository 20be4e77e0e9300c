"""Retrieval: are the nearest neighbours of an embedding of its class?"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from jsoftmax.blockwise.held_rows import over_rows, rows_held
from jsoftmax.blockwise.types import Head
from jsoftmax.checks import check_some
from jsoftmax.core.arguments import check_shape
from jsoftmax.core.collectives import NO_CLASS
from jsoftmax.core.dtypes import cast_like
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numbers import is_concrete, static_count
from jsoftmax.core.numerics import share
from jsoftmax.core.top_k import largest_k
from jsoftmax.metrics.embeddings import Embeddings, checked_embeddings, unit_vectors


class RetrievalRates(NamedTuple):
    r"""How good nearest neighbours are; returned by `retrieval_rates`.

    $$\mathrm{recall}_k = P(\mathrm{one\;of\;the\;} k \mathrm{\;nearest\;is\;of\;the\;class})$$

    Args:
      recall: for each k, the share of the queries with one of their class among the k nearest.
      r_precision: the mean share of a query's R nearest that are of its class, where R is how many
        there are of it.
      map_at_r: mean average precision at R.
      queries: how many queries have another one of their class.

    Source: Musgrave, Belongie, Lim, "A metric learning reality check", 2020, arXiv:2003.08505.

    Example:
      >>> js.retrieval_rates(jnp.eye(2)[jnp.array([0, 0, 1])], jnp.array([0, 0, 1]), k=1).recall
      Array(1., dtype=float32)
    """

    recall: Array
    r_precision: Array
    map_at_r: Array
    queries: Array


@on_any_mesh(same_everywhere)
def retrieval_rates(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    k: int | tuple[int, ...] = (1, 5),
    max_r: int | None = None,
    other: ArrayLike | None = None,
    other_labels: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    precision: PrecisionLike = None,
) -> RetrievalRates:
    r"""Recall at k, R-precision and mean average precision at R of nearest neighbours by cosine.

    $$\mathrm{MAP@R} = \frac1n \sum_i \frac1{R_i} \sum_{r=1}^{R_i}
    [\,\mathrm{rth\;nearest\;is\;of\;} y_i\,]\;
    \frac{|\{\mathrm{of\;} y_i \mathrm{\;among\;the\;} r \mathrm{\;nearest}\}|}{r}$$

    Args:
      features: `[n, features]`, embeddings, any real dtype: the queries.
      labels: `[n]`, integers.
      k: a number of neighbours or several; static.
      max_r: at least the largest R; static. None counts the labels, which must be known for that,
        not traced.
      other: `[m, features]`, among which neighbours are sought. None for the other queries.
      other_labels: `[m]`, integers.
      ignore_index: a label whose embeddings are left out.
      precision: of the products, as `jax.lax.dot_general` takes it; "highest" is float32 on any
        device. None follows `jax.default_matmul_precision`, by which a GPU rounds float32 operands
        to TF32, and a TPU to bfloat16.

    Returns:
      `RetrievalRates`. Of equally near ones the one with the lower index is nearer. Queries without
      any of their class are left out, as in pytorch-metric-learning; all is NaN if none is left, if
      an embedding that counts is not finite, or if R is larger than `max_r`. Cosines are held for
      some queries at a time.

    Source: Musgrave, Belongie, Lim, "A metric learning reality check", 2020, arXiv:2003.08505,
    section 3.2; recall at k: Jégou, Douze, Schmid, 2011.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [0.0, 1.0]])
      >>> rates = js.retrieval_rates(x, jnp.array([0, 0, 1, 1]), k=(1, 2))
      >>> rates.recall, rates.map_at_r
      (Array([0.75, 0.75], dtype=float32), Array(0.75, dtype=float32))
    """
    numbers = [static_count("k", each, 1) for each in np.ravel(np.asarray(k)).tolist()]
    given = checked_embeddings("features", features, labels, ignore_index)
    among, one_set = given, other is None
    if one_set != (other_labels is None):
        raise ValueError("`other` and `other_labels`: expected both or neither.")
    if other is not None and other_labels is not None:
        among = checked_embeddings("other", other, other_labels, ignore_index, "other_labels")
        check_shape("other", among.x, (len(among.x), given.x.shape[1]), "as many features")
    max_r = (
        _largest_class(among.labels) - one_set if max_r is None else static_count("max_r", max_r, 0)
    )
    nearest = min(len(among.labels), max([1, max_r, *numbers]))
    found = _retrieved(given, among, one_set, nearest, tuple(numbers), precision)
    counts = (given.labels < NO_CLASS) & (found.relevant > 0)
    queries = jnp.sum(counts, dtype=jnp.int32)
    check_some(queries > 0, "queries with another embedding of their class")
    bad = jnp.any(given.bad) | jnp.any(among.bad) | jnp.any(counts & (found.relevant > nearest))
    total = jnp.where(bad, jnp.nan, cast_like(queries, found.map_at_r))

    def mean(values):
        return share(jnp.sum(jnp.where(counts, values, 0), -1), total)

    recall = mean(found.recall.T).reshape(np.shape(k))
    return RetrievalRates(recall, mean(found.r_precision), mean(found.map_at_r), queries)


def _largest_class(labels: Any) -> int:
    if not is_concrete(labels):
        raise ValueError("`max_r`: expected a number where labels are traced, such as under jit.")
    _, counts = np.unique(np.asarray(labels)[np.asarray(labels) < NO_CLASS], return_counts=True)
    return int(counts.max(initial=1))


class _Found(NamedTuple):
    recall: Array  # [n, k]
    r_precision: Array  # [n]
    map_at_r: Array  # [n]
    relevant: Array  # [n], R


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _retrieved(
    given: Embeddings, among: Embeddings, one_set, nearest, numbers, precision
) -> _Found:
    columns = jnp.arange(len(among.labels), dtype=jnp.int32)
    real = among.labels < NO_CLASS

    def of_block(z, label, row):
        some = jnp.broadcast_to(real[None], z.shape)
        if one_set:
            some &= columns[None] != row[:, None]
        values, classes = largest_k(jnp.where(some, z, -jnp.inf), nearest, None)
        right = (among.labels[classes] == label[:, None]) & (values > -jnp.inf)
        relevant = jnp.sum(some & (among.labels[None] == label[:, None]), -1, dtype=jnp.int32)
        rank = jnp.arange(1, nearest + 1, dtype=jnp.int32)[None]
        so_far = jnp.cumsum(right, -1, dtype=jnp.int32)
        counted = cast_like(right & (rank <= relevant[:, None]), z)
        precise = counted * cast_like(so_far, z) / cast_like(rank, z)
        of_all = cast_like(jnp.maximum(relevant, 1), z)
        recall = [so_far[:, min(k, nearest) - 1] > 0 for k in numbers]
        recall = jnp.stack(recall, -1) if recall else jnp.zeros((len(z), 0), bool)
        sums = jnp.sum(counted, -1) / of_all, jnp.sum(precise, -1) / of_all
        return _Found(cast_like(recall, z), *sums, relevant)

    if not len(among.labels):
        none = jnp.zeros(len(given.labels))
        return _Found(jnp.zeros((len(none), len(numbers))), none, none, none.astype(jnp.int32))
    vectors, rows = unit_vectors(given), jnp.arange(len(given.labels), dtype=jnp.int32)
    size = rows_held(len(vectors), len(among.labels))
    head = Head(unit_vectors(among))
    return over_rows(of_block, size, precision, vectors, head, None, given.labels, rows)
