"""Confidence intervals of any metric that takes weights, by resampling with these."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.core.arguments import (
    as_labels,
    check_key,
    check_known,
    check_no_tuple,
    check_shape,
    integer_labels,
)
from jsoftmax.core.dtypes import unnarrowed
from jsoftmax.core.meshes import on_any_mesh, same_everywhere
from jsoftmax.core.numbers import one_number, static_count, within

Rates = TypeVar("Rates")


@on_any_mesh(same_everywhere)
def bootstrap_interval(
    key: Array,
    metric: Callable[..., Rates],
    *arrays: ArrayLike,
    level: ArrayLike = 0.95,
    num_samples: int = 1000,
    groups: ArrayLike | None = None,
    num_groups: int | None = None,
) -> tuple[Rates, Rates]:
    r"""Confidence interval of a metric by the bootstrap.

    $$[\,q_{(1 - \mathrm{level}) / 2},\; q_{(1 + \mathrm{level}) / 2}\,] \quad
    \mathrm{of} \quad m(x;\, w), \qquad w \sim \mathrm{multinomial}(n, 1/n)$$

    A sample draws n examples with replacement: the metric is computed with the number of times that
    each was drawn as its `sample_weight`. So shapes stay the same, and it works under `jit`.

    Args:
      key: a key of `jax.random`, for the samples.
      metric: a function of the arrays and of `sample_weight`, which returns an array or a tree of
        them, such as `equal_error_rate` or `partial(tar_at_far, far=1e-3)`; static.
      arrays: `[n, ...]`, what the metric takes.
      level: how probably the interval should hold the true value.
      num_samples: how many samples are drawn; static.
      groups: `[n]`, integers in [0, num_groups): groups are drawn instead of examples, where those
        of a group are alike, such as the trials of one person. An example in none counts nowhere.
      num_groups: how many there are; static.

    Returns:
      The lower and the upper end, in the shape of what the metric returns. Samples for which it is
      NaN, since they lack a kind of example, are left out. One sample is computed at a time.

    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979: percentiles.

    Example:
      >>> scores, same = jnp.linspace(0, 1, 40), jnp.arange(40) % 3 > 0
      >>> low, high = js.bootstrap_interval(jax.random.key(0), js.auroc, scores, same)
      >>> bool(low < js.auroc(scores, same)) and bool(js.auroc(scores, same) < high)
      True
    """
    check_key(key)
    if not callable(metric):
        raise TypeError(f"`metric`: expected a function, got {type(metric).__name__}.")
    num_samples = static_count("num_samples", num_samples, 1)
    level = within("level", one_number("level", level), 0, 1)
    held = tuple(map(_held, arrays))
    if not held or not all(x.ndim for x in held):
        raise TypeError(
            f"`arrays`: expected arrays [n, ...] after the metric, got {[x.shape for x in held]}."
        )
    n = held[0].shape[0]
    check_known("arrays", n, "So many examples are drawn.")
    if (groups is None) != (num_groups is None):
        raise ValueError("`groups` and `num_groups`: expected both or neither.")
    if groups is not None:
        groups = integer_labels(groups, name="groups")
        num_groups = static_count("num_groups", num_groups, 1)
        check_shape("groups", groups, (n,), "an integer for every example")
    found = _resampled(_by_content(metric), num_samples, num_groups or n, key, groups, held)
    ends = jnp.stack([(1 - jnp.asarray(level)) / 2, (1 + jnp.asarray(level)) / 2])
    quantiles = jax.tree.map(lambda x: jnp.nanquantile(x, ends.astype(x.dtype), 0), found)
    return tuple(jax.tree.map(lambda x, i=i: x[i], quantiles) for i in range(2))


def _as_float(x):
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)


def _held(x):
    """Return an array; an integer that JAX would narrow becomes one that is no class."""
    check_no_tuple("arrays", x)
    given = unnarrowed(x)
    return as_labels(given) if jnp.issubdtype(given.dtype, jnp.integer) else given


def _by_content(metric):
    """Return a function and its options, so that one written anew does not compile again."""
    if isinstance(metric, partial):
        found = metric.func, metric.args, tuple(metric.keywords.items())
        with contextlib.suppress(TypeError):  # arrays have no hash
            hash(found)
            return found
    return metric, (), ()


@partial(jax.jit, static_argnums=(0, 1, 2))
def _resampled(metric, num_samples, n, key, groups, arrays):
    function, first, options = metric

    def one(key):
        drawn = jax.random.randint(key, (n,), 0, n)
        counts = jnp.zeros(n, jnp.float32).at[drawn].add(1)
        if groups is not None:
            of_group = counts.at[groups].get(mode="clip")
            counts = jnp.where((groups >= 0) & (groups < n), of_group, 0)
        found = function(*first, *arrays, sample_weight=counts, **dict(options))
        return jax.tree.map(_as_float, found)

    return lax.map(one, jax.random.split(key, num_samples))
