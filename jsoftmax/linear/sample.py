r"""A class drawn from the softmax of a linear head, without materialising the logits.

The largest of logits plus Gumbel noise is a draw from their softmax (Gumbel-max). The noise of an
example and a class follows from the key and the two numbers alone: whatever the blocks and the
mesh, the sample is the same.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from jsoftmax.blockwise.held_rows import over_rows, rows_held
from jsoftmax.core.arguments import check_key, check_shape
from jsoftmax.core.collectives import (
    MeshAxes,
    check_bound_axis,
    num_global,
    psum,
    to_global_labels,
)
from jsoftmax.core.dtypes import cast_like, sum_dtype, to_compute_dtype
from jsoftmax.core.masking import as_rows
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.core.numbers import is_static, like_examples, within
from jsoftmax.core.numerics import log_or_neg_inf, neg_inf_to_zero, softplus
from jsoftmax.core.top_k import largest_k
from jsoftmax.linear.arguments import checked_head, checked_precision, unflatten
from jsoftmax.linear.examples import temperature_by_row
from jsoftmax.linear.top_k import checked_k
from jsoftmax.stats.labels import class_numbers

_CHUNK = 1024  # classes that share a key, part of what a sample is
_DEPTH = 128.0  # how far below the largest logit a class can matter to a nucleus


@on_any_mesh(without_classes("features"))
def linear_sample(
    key: Array,
    features: ArrayLike,
    weight: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    top_k: int | None = None,
    top_p: ArrayLike | None = None,
    min_p: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    softcap: ArrayLike | None = None,
    where: ArrayLike | None = None,
    class_axis: MeshAxes = None,
    precision: PrecisionLike = None,
) -> tuple[Array, Array]:
    r"""Draw a class for every example from the softmax of a linear head.

    $$\arg\max_j\,(z_j + g_j), \qquad z = \mathrm{linear\_logits}(x, W) / T,\; g_j \sim
    \mathrm{Gumbel}(0, 1)$$

    One matrix product, for some rows at a time. The filters leave some of the classes, and what
    they leave is drawn from in proportion to its probabilities. They apply one after another:
    `temperature`, `top_k`, `top_p`, `min_p`.

    Args:
      key: a key, or one for every example `[...]`. Inside a `shard_map` over examples it must be
        the latter, or all devices would draw the same noise.
      features: `[..., features]`, floats.
      weight: `[classes, features]`, a row per class vector (a Flax `kernel` is its transpose).
      temperature: T > 0, a number or one for every example `[...]`. For the most probable class,
        the limit T = 0, use `linear_top_k`.
      top_k: keep this many of the largest logits, of equal ones the lower classes.
      top_p: p from 0 to 1, a number or one for every example: keep the fewest classes whose
        probabilities sum to p, the most probable ones, and those that are as probable as the last.
      min_p: from 0 to 1, likewise: keep classes at least this probable relative to the most
        probable one.
      bias: `[classes]`, added to the products.
      softcap: c > 0, the bound on the size of the logits.
      where: booleans `[classes]`; False masks a class.
      class_axis: inside `jax.shard_map`, the mesh axis, or axes, over which classes are sharded.
        Every argument per class is then this device's shard; examples are replicated along the
        axis. The devices draw together.
      precision: of the matrix product, as `jax.lax.dot_general` takes it. None follows
        `jax.default_matmul_precision`, by which a GPU rounds float32 operands to TF32, and a TPU to
        bfloat16.

    Returns:
      Classes `[...]`, integers, and their log-probabilities `[...]`, float32 or wider, under what
      they were drawn from, with temperature and filters. They are constants: for a gradient compute
      them again by `linear_cross_entropy`. With all classes masked, class 0 and -inf.

    Source: Gumbel, 1954; top-p: Holtzman et al., 2019, arXiv:1904.09751; min-p: Nguyen et al.,
    2024, arXiv:2407.01082.

    Example:
      >>> x, w = jnp.array([[1.0, 0.0]]), jnp.array([[9.0, 0.0], [0.0, 9.0], [8.0, 0.0]])
      >>> classes, log_probs = js.linear_sample(jax.random.key(0), x, w, top_k=1)
      >>> classes, log_probs
      (Array([0], dtype=int32), Array([0.], dtype=float32))
    """
    check_key(key)
    features, head = checked_head(
        features, weight, bias=bias, softcap=softcap, margin=None, where=where
    )
    check_bound_axis("class_axis", class_axis)
    if top_k is not None:
        top_k = checked_k(top_k, num_global(head.weight.shape[0], class_axis), "top_k")
    shape = features.shape[:-1]
    rows = as_rows(features)
    by_row = temperature_by_row(temperature, features.shape[:-1], sum_dtype(features, head.weight))
    shares = _share("top_p", top_p, shape), _share("min_p", min_p, shape)
    size = rows_held(rows.shape[0], head.weight.shape[0])
    static = top_k, class_axis, size, checked_precision(precision)
    drawn = _sample(*static, *lax.stop_gradient((rows, head, by_row)), _keys(key, shape), *shares)
    return unflatten(drawn, shape)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _sample(top_k, class_axis, *given):
    return over_rows(partial(_draw, top_k, class_axis), *given)


def _share(name, value, shape):
    """Return a share of the probability by row, or None."""
    if value is None or is_static(value, 1 if name == "top_p" else 0):
        return None
    value = to_compute_dtype(within(name, value, 0, 1))
    value = like_examples(name, value, jnp.zeros(shape, value.dtype))
    return lax.stop_gradient(jnp.broadcast_to(value, shape).reshape(-1))


def _keys(key, shape):
    """Return a key by row."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    key = key if typed else jax.random.wrap_key_data(key)
    if key.ndim:
        check_shape("key", key, shape, "one key, or one for every example")
        return key.reshape(-1)
    rows = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    return jax.vmap(partial(jax.random.fold_in, key))(rows)


def _draw(top_k, axes, z, keys, top_p, min_p):
    """Return a class and its log-probability for every row of logits `[n, C]`."""
    classes = to_global_labels(class_numbers(z, jnp.int32), z.shape[-1], axes)
    best = largest_k(z, 1, axes)[0]
    d = z - neg_inf_to_zero(best)
    if top_k is not None:
        logits, of_logits = (x[:, -1:] for x in largest_k(z, top_k, axes))
        kept = (z > logits) | ((z == logits) & (classes <= of_logits))
        d = jnp.where(kept, d, -jnp.inf)
    if top_p is not None:
        d = jnp.where(d >= _nucleus(d, cast_like(top_p, d), axes)[:, None], d, -jnp.inf)
    if min_p is not None:
        d = jnp.where(d >= log_or_neg_inf(cast_like(min_p, d))[:, None], d, -jnp.inf)
    drawn = largest_k(d + _noise(keys, z, axes), 1, axes)[1]
    is_drawn = classes == drawn
    of_drawn = psum(jnp.sum(jnp.where(is_drawn, d, 0), -1), axes)
    others = log_or_neg_inf(psum(jnp.sum(jnp.where(is_drawn, 0, jnp.exp(d)), -1), axes))
    log_prob = 0 - softplus(others - neg_inf_to_zero(of_drawn))
    return drawn[:, 0], jnp.where(of_drawn == -jnp.inf, -jnp.inf, log_prob)


def _nucleus(d, p, axes):
    """Return the least d that is kept, or a number between it and the next lower one.

    Bisection needs no sorting, and over devices one number per row and step.
    """
    e = jnp.exp(d)
    total = psum(jnp.sum(e, -1), axes)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        kept = psum(jnp.sum(jnp.where(d >= middle[:, None], e, 0), -1), axes)
        enough = kept >= p * total
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    # As functions of the total they have its type inside `shard_map`.
    low, _ = lax.fori_loop(0, 64, halve, (0 * total - _DEPTH, 0 * total))
    return jnp.where(p >= 1, -jnp.inf, low)


def _noise(keys, z, axes):
    """Return Gumbel noise of the shape of `z`; each chunk of classes of a row has its own key."""
    num_local = z.shape[-1]
    start = to_global_labels(jnp.zeros((), jnp.int32), num_local, axes)
    # Those of a device need not begin with a chunk.
    chunks = -(-num_local // _CHUNK) + (axes is not None)

    def chunk(key, number):
        return jax.random.gumbel(jax.random.fold_in(key, number), (_CHUNK,), z.dtype, mode="high")

    def row(key):
        noise = jax.vmap(partial(chunk, key))(start // _CHUNK + jnp.arange(chunks, dtype=jnp.int32))
        return lax.dynamic_slice_in_dim(noise.reshape(-1), start % _CHUNK, num_local)

    return jax.vmap(row)(keys)
