"""A loss of `LogitStats` as the engine takes it: traced, with what it closes over as arguments."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.blockwise.types import Examples, Head
from jsoftmax.core.collectives import MeshAxes, psum
from jsoftmax.core.varying import vary, varying_zero
from jsoftmax.losses.protocol import check_loss, fields_read, on_centred, with_class_weight
from jsoftmax.stats.logit_stats import LogitStats
from jsoftmax.stats.statistics import OPTIONAL


@dataclasses.dataclass(frozen=True)
class TracedLoss:
    """A function of (stats - shift, shift, loss_args, values closed over) of one example.

    Two are equal if their code and what was traced of it are: then a program that was compiled for
    one serves the other, too, whatever the values.
    """

    key: Any
    function: Callable[..., Array] = dataclasses.field(compare=False)

    def __call__(
        self,
        stats: LogitStats,
        shift: Array,
        args: Any,
        values: tuple[Array, ...],
        weight: Array | None,
    ) -> Array:
        """Return the loss of one example; `weight` is that of its class, if the loss takes it."""
        return self.function(stats, shift, args, values, weight)


def trace_loss(
    loss: Callable[..., Array],
    given: tuple[Examples, Head],
    dtype: jnp.dtype,
    class_axis: MeshAxes,
    average: Array | None = None,
    loss_args: Any = (),
) -> tuple[TracedLoss, tuple[Array, ...], tuple[str, ...]]:
    """Return a loss traced, the values it closes over, and which optional fields it reads.

    `given` are the arrays that the stats will be computed from, and so have the type of. `average`
    is that of the class weights, if the loss takes these: then the mean that it reads is by them.
    `loss_args` are what the loss gets, whose leaves are among the examples.
    """
    check_loss(loss, loss_args)
    centred = on_centred(loss) if average is None else with_class_weight(loss, average)

    def example(values):
        zero = psum(varying_zero((given, values), dtype, class_axis), class_axis)
        rows = [jnp.zeros(x.shape[1:], x.dtype) for x in given[0].loss_args]
        args = jax.tree.unflatten(jax.tree.structure(tuple(loss_args)), vary(rows, zero))
        return _stats_of(zero), (zero, *([] if average is None else [zero]), *args)

    def trace(values):
        stats, more = example(values)
        fields = fields_read(centred, stats, *more)
        stats = without_unread(stats, fields)
        out, tree = jax.tree.flatten(jax.eval_shape(centred, stats, *more))
        if [x.shape for x in out] != [()]:
            raise AssertionError(
                "`loss`: expected a function of one example's LogitStats that returns one number, "
                f"got {tree.unflatten(x.shape for x in out)}. What goes by example belongs in "
                "`loss_args`, a factor in `sample_weight`."
            )
        return fields, jax.make_jaxpr(centred)(stats, *more)

    def without_unread(stats, fields):
        return stats._replace(**{name: None for name in OPTIONAL if name not in fields})

    # The first trace finds the values that the loss closes over. Where these differ between the
    # devices of a mesh, so will its result: the second trace has the types of that.
    fields, traced = trace(())
    if traced.consts:
        fields, traced = trace(tuple(traced.consts))
    key, jaxpr = _key(loss, traced), traced.jaxpr

    def run(stats, shift, args, values, weight):  # which is kept, and must not hold values
        leaves = jax.tree.leaves((without_unread(stats, fields), shift, weight, args))
        return jax.core.eval_jaxpr(jaxpr, values, *leaves)[0]

    values = tuple(map(jnp.asarray, traced.consts))
    if average is None:
        return TracedLoss(key, run), values, fields
    by_weight = tuple("weighted_mean" if name == "mean" else name for name in fields)
    return TracedLoss(key, run), values, by_weight


def loss_key(loss: Callable[..., Array], loss_args: Any) -> Any:
    """Return a key by which a program compiled for a loss can be found again.

    It equals none before where the loss closes over arrays, whose values the program would keep.
    """
    check_loss(loss, loss_args)
    zero = jnp.zeros(())
    args = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), loss_args)
    traced = jax.make_jaxpr(on_centred(loss))(_stats_of(zero), zero, *args)
    return object() if traced.consts else _key(loss, traced)


def _stats_of(x):
    return LogitStats(*[x] * len(LogitStats._fields))


def _key(loss, traced):
    """Return the code of a loss and what was traced of it, but for addresses in memory."""
    function = inspect.unwrap(loss.func if isinstance(loss, partial) else loss)
    text = re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr))
    return getattr(function, "__code__", type(function)), text
