"""Identification: which class of a gallery is a probe of, if of any?"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from jsoftmax.blockwise.held_rows import over_rows, rows_held
from jsoftmax.blockwise.types import Head
from jsoftmax.checks import check_some
from jsoftmax.core import wide
from jsoftmax.core.arguments import check_shape
from jsoftmax.core.collectives import NO_CLASS
from jsoftmax.core.dtypes import cast_like
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numbers import static_count
from jsoftmax.core.numerics import share
from jsoftmax.metrics.embeddings import Embeddings, by_label, checked_embeddings, unit_vectors
from jsoftmax.metrics.rates import allowed, exact_rates


class IdentificationRates(NamedTuple):
    r"""How often probes are identified; returned by `identification_rates`.

    $$\mathrm{cmc}_k = P(\mathrm{rank} \le k \mid \mathrm{known}), \qquad
    \mathrm{dir} = P(\mathrm{rank} = 1,\; s \ge t \mid \mathrm{known})$$

    Args:
      cmc: for each k, the share of the known probes whose class is among the k best.
      dir: for each far, the share of the known probes that are identified and not rejected.
      threshold: for each far, the lowest threshold at which no more unknown probes are accepted.
      known: the number of probes whose class is in the gallery.
      unknown: the number of the others.

    Source: Grother, Ngan, Hanaoka, "Face recognition vendor test part 2", NISTIR 8271, 2019.

    Example:
      >>> x, y = jnp.eye(3), jnp.arange(3)
      >>> js.identification_rates(x[:2], y[:2], x, y, k=1).cmc
      Array(1., dtype=float32)
    """

    cmc: Array
    dir: Array
    threshold: Array
    known: Array
    unknown: Array


@on_any_mesh(same_everywhere)
def identification_rates(
    gallery: ArrayLike,
    gallery_labels: ArrayLike,
    probes: ArrayLike,
    probe_labels: ArrayLike,
    *,
    k: int | tuple[int, ...] = (1, 5),
    far: float | tuple[float, ...] = (1e-2,),
    ignore_index: ArrayLike | None = None,
    precision: PrecisionLike = None,
) -> IdentificationRates:
    r"""Identification by cosines: at rank k (CMC), and with unknown probes (DIR at FAR).

    $$s_{ic} = \max_{j : y_j = c} \cos(x_i, g_j), \qquad
    \mathrm{rank}_i = 1 + \bigl|\{c \ne y_i : s_{ic} \ge s_{i y_i}\}\bigr|$$

    The score of a class is that of its best embedding in the gallery. A probe whose class is not in
    the gallery is unknown: it is a false accept if its best score reaches the threshold.

    Args:
      gallery: `[g, features]`, embeddings, any real dtype; several of a class are allowed.
      gallery_labels: `[g]`, integers.
      probes: `[p, features]`, the embeddings to identify.
      probe_labels: `[p]`, integers; those of unknown probes are in no label of the gallery.
      k: ranks, a number or several; static.
      far: shares of the unknown probes that may be accepted, from 0 to 1, a number or several;
        static. Where less than one of them may be accepted, the threshold is above all. () for a
        gallery in which all are.
      ignore_index: a label whose embeddings, in either set, are left out.
      precision: of the products, as `jax.lax.dot_general` takes it; "highest" is float32 on any
        device. None follows `jax.default_matmul_precision`, by which a GPU rounds float32 operands
        to TF32, and a TPU to bfloat16.

    Returns:
      `IdentificationRates`, in the shapes of k and far. Other classes with an equal score rank
      first. `cmc` and `dir` are NaN if no probe is known, `dir` and `threshold` if none is unknown,
      all rates if an embedding that counts is not finite. Some probes' scores are held at a time.

    Source: CMC, DIR at FAR: Phillips, Grother, Micheals, "Evaluation methods in face recognition",
    Handbook of face recognition, 2011.

    Example:
      >>> x, y = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])
      >>> probes = jnp.array([[1.0, 0.1], [0.8, 0.6], [1.0, 0.5]])
      >>> rates = js.identification_rates(x, y, probes, jnp.array([0, 1, 2]), k=(1, 2), far=0.0)
      >>> rates.cmc, rates.dir
      (Array([0.5, 1. ], dtype=float32), Array(0.5, dtype=float32))
    """
    ranks = np.asarray([static_count("k", each, 1) for each in np.ravel(np.asarray(k)).tolist()])
    given = checked_embeddings("gallery", gallery, gallery_labels, ignore_index, "gallery_labels")
    tried = checked_embeddings("probes", probes, probe_labels, ignore_index, "probe_labels")
    check_shape("probes", tried.x, (len(tried.x), given.x.shape[1]), "as many features")
    found = _identified(given, tried, precision)
    counts = tried.labels < NO_CLASS
    known, unknown = counts & found.has_class, counts & ~found.has_class
    numbers = [jnp.sum(x, dtype=jnp.int32) for x in (known, unknown)]
    check_some(numbers[0] > 0, "probes whose class is in the gallery")
    if np.size(far):
        check_some(
            numbers[1] > 0, "probes whose class is not in the gallery; where all are, far=()"
        )
    bad = jnp.any(given.bad) | jnp.any(tried.bad)
    of_known, of_unknown = (jnp.where(bad, jnp.nan, cast_like(x, found.own)) for x in numbers)

    hits = known[:, None] & (found.ahead[:, None] < jnp.asarray(ranks, jnp.int32)[None])
    cmc = share(cast_like(jnp.sum(hits, 0), of_known), of_known)
    threshold = _thresholds(jnp.where(unknown, found.best_other, -jnp.inf), numbers[1], far)
    first = known & (found.ahead == 0)
    accepted = first[:, None] & (found.own[:, None] >= threshold[None])
    rate = share(cast_like(jnp.sum(accepted, 0), of_known), of_known)
    some = of_unknown > 0
    dir_, threshold = (
        jnp.where(some, x, jnp.nan).reshape(np.shape(far)) for x in (rate, threshold)
    )
    return IdentificationRates(cmc.reshape(np.shape(k)), dir_, threshold, *numbers)


class _Found(NamedTuple):
    own: Array  # [p], the score of a probe's own class, -inf if it is in no gallery
    best_other: Array  # [p]
    ahead: Array  # [p], how many other classes have at least the score of its own
    has_class: Array  # [p]


@partial(jax.jit, static_argnums=2)
def _identified(given: Embeddings, tried: Embeddings, precision) -> _Found:
    given = by_label(given)
    labels, place = given.labels, jnp.arange(len(given.labels), dtype=jnp.int32)
    real = labels < NO_CLASS
    first = real & jnp.concatenate([jnp.ones(1, bool), labels[1:] != labels[:-1]])[: len(labels)]
    since = place - lax.cummax(jnp.where(first, place, 0))
    longest = jnp.max(jnp.where(real, since, -1), initial=-1) + 1

    def of_block(z, label):
        # Best scores move to the first embedding of a class, from twice as far with each step.
        def fold(state):
            step, best = state
            later = (jnp.roll(labels, -step) == labels) & (place + step < len(labels))
            moved = jnp.where(later[None], jnp.roll(best, -step, 1), -jnp.inf)
            return 2 * step, jnp.maximum(best, moved)

        z = jnp.where(real[None], z, -jnp.inf)
        best = lax.while_loop(lambda state: state[0] < longest, fold, (jnp.int32(1), z))[1]
        mine = first[None] & (labels[None] == label[:, None])
        own = jnp.max(jnp.where(mine, best, -jnp.inf), -1, initial=-jnp.inf)
        others = jnp.where(first[None] & ~mine, best, -jnp.inf)
        ahead = jnp.sum(others >= own[:, None], -1, dtype=jnp.int32)
        return _Found(own, jnp.max(others, -1, initial=-jnp.inf), ahead, jnp.any(mine, -1))

    vectors = unit_vectors(tried)
    size = rows_held(len(vectors), max(1, len(labels)))
    return over_rows(
        of_block, size, precision, vectors, Head(unit_vectors(given)), None, tried.labels
    )


def _thresholds(scores, unknown, far):
    """Return the lowest threshold for each far, of the best scores of unknown probes, else -inf."""
    number = wide.wide(unknown)
    most = [wide.halves(allowed(number, rate))[1].astype(jnp.int32) for rate in exact_rates(far)]
    descending = jnp.append(-jnp.sort(-scores), -jnp.inf)
    highest = descending[jnp.stack(most)] if most else jnp.zeros(0, scores.dtype)
    above = wide.from_order_key(wide.order_key(highest) + 1)
    tiny = jnp.finfo(above.dtype).tiny  # what is smaller may count as 0
    above = jnp.where((highest >= 0) & (highest < tiny), tiny, above)
    return jnp.where(highest == -jnp.inf, -jnp.inf, above)
