"""The options of the linear losses by name and type, which several functions have in common.

Their meaning is in the docstrings of the functions. With `return_stats` a loss returns another
type: a type checker knows it from overloads, which would repeat all options without this.
"""

from typing import Any, Literal, Protocol, TypedDict, TypeVar, Unpack, overload

from jax import Array
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from jsoftmax.core.collectives import MeshAxes
from jsoftmax.margins.form import Margin
from jsoftmax.stats.labels import SparseLabels
from jsoftmax.stats.logit_stats import LogitStats

WithStats = tuple[Array, LogitStats]


class HeadOptions(TypedDict, total=False):
    """What every linear loss takes."""

    bias: ArrayLike | None
    softcap: ArrayLike | None
    temperature: ArrayLike
    margin: Margin | None
    where: ArrayLike | None
    sample_weight: ArrayLike | None
    class_weight: ArrayLike | None
    ignore_index: ArrayLike | None
    reduction: Literal["mean", "sum"] | None
    row_block: int | None
    class_block: int | None
    precision: PrecisionLike


class ShardedOptions(HeadOptions, total=False):
    """What a sharded loss takes, which knows its axes."""

    loss_args: tuple[Any, ...]


class LinearLossOptions(ShardedOptions, total=False):
    """What `linear_loss` takes."""

    class_axis: MeshAxes
    batch_axis: MeshAxes


class CrossEntropyOptions(HeadOptions, total=False):
    """What `linear_cross_entropy` takes."""

    label_smoothing: ArrayLike
    z_loss: ArrayLike
    class_axis: MeshAxes
    batch_axis: MeshAxes


Returned = TypeVar("Returned", covariant=True)


class ShardedLoss(Protocol[Returned]):
    """What `sharded_linear_loss` returns: `linear_loss` of global arrays."""

    @overload
    def __call__(
        self,
        features: ArrayLike,
        weight: ArrayLike,
        labels: ArrayLike | SparseLabels,
        **options: Unpack[ShardedOptions],
    ) -> Returned: ...
    @overload
    def __call__(
        self,
        features: ArrayLike,
        weight: ArrayLike,
        labels: ArrayLike | SparseLabels,
        *,
        return_stats: Literal[False],
        **options: Unpack[ShardedOptions],
    ) -> Array: ...
    @overload
    def __call__(
        self,
        features: ArrayLike,
        weight: ArrayLike,
        labels: ArrayLike | SparseLabels,
        *,
        return_stats: Literal[True],
        **options: Unpack[ShardedOptions],
    ) -> WithStats: ...
    @overload
    def __call__(
        self,
        features: ArrayLike,
        weight: ArrayLike,
        labels: ArrayLike | SparseLabels,
        *,
        return_stats: bool,
        **options: Unpack[ShardedOptions],
    ) -> Array | WithStats: ...
