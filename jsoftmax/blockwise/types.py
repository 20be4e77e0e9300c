"""What the engine carries.

N  rows: the examples              D  features
C  classes of this device          K  classes that an example lists, if its label is a list
n, c  rows and classes of a block
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array
from jax.lax import PrecisionLike

from jsoftmax.blockwise.block_sizes import BlockSizes
from jsoftmax.core.collectives import MeshAxes
from jsoftmax.stats.others import Others


class Plan(NamedTuple):
    """What is known before anything is computed; it can be hashed."""

    blocks: BlockSizes
    margin: Any  # its whole numbers, see margins/partition.py, or None
    loss: Callable[..., Array]  # see linear/traced_loss.py; of one example
    fields: tuple[str, ...]  # the optional ones of LogitStats that are computed
    class_axis: MeshAxes  # the mesh axes over which the classes are sharded
    precision: PrecisionLike  # of all matrix products
    widen: bool  # whether operands of 16 bits become float32 to be multiplied


class Numbers(NamedTuple):
    """Numbers by example that the logits of all classes are made with: `[N]`, or None."""

    temperature: Array | None = None
    margin: Any = None  # its numbers by example, and those per class at the labels
    cosine: Array | None = None  # of the label, if the margin changes the other classes by it
    norm: Array | None = None  # of the features, if the margin reads it


class Examples(NamedTuple):
    """What has a row per example."""

    features: Array  # [N, D]
    labels: Array  # integers [N], or [N, K]
    probs: Array | None = None  # [N, K]
    weights: Any = None  # [N], factors on the losses
    left_out: Any = None  # booleans [N], ignored or of sample weight 0
    kept_norm: Array | None = None  # [N], see scores.kept_norm
    bias: Array | None = None  # of the labels, in their shape
    class_weight: Array | None = None  # of the labels, if the loss takes it
    numbers: Numbers = Numbers()
    loss_args: tuple[Array, ...] = ()  # [N, ...], the leaves of further arguments of the loss


class Head(NamedTuple):
    """What all rows share; of a block, its classes."""

    weight: Array  # [C, D], or [C, centers, D]; of a block [c, D], or [centers c, D]
    bias: Array | None = None  # [C]
    where: Array | None = None  # booleans [C], False for a class that is masked
    sound: Array | None = None  # booleans [C], False for a class vector that may hold NaN
    softcap: Array | None = None
    class_weight: Array | None = None  # [C], if the loss takes it
    inverse_norm: Array | None = None  # [C] or [C, centers], of the weight; of a block [... c]
    margin: Any = None  # its scalars
    loss: tuple[Any, ...] = ()  # the values that the loss closes over


class Forward(NamedTuple):
    """What the passes over the classes of all devices find, per row."""

    cosines: Array  # of the labels, in their shape: before margin, scale and bias
    unmasked: Array  # booleans of that shape, whether `where` keeps the labels
    runner_up: Array  # [N], the top of the others, with a derivative
    others: Others  # [N]
    rival: Array | None = None  # [N], the top of the others unchanged, if the margin changes them
    summary: Any = None  # arrays [N, ...], what the margin made of all cosines, or None
