r"""How a linear head is cut into blocks, and the loop over them.

The rule, for N rows, C classes and D features, unless the caller gives the blocks:

    N C <= 2 Mi      one block: its products take 8 MB
    accelerators     by rows, blocks of r = max(D, 1024) rows and all classes: their products take
                     as much memory as the weight's gradient; fewer than 1,024 rows, but at least
                     D, if these products would take more than 1 GB. One block, if r >= N
    CPUs             by rows if N > 2 r, blocks of r = max(256, 4/5 D) rows, and within them blocks
                     of classes; else by classes. On CPUs with matrix units for operands of 16 bits
                     (AMX) these go by rows from r = 3072 on only
    over a mesh      each block of rows is an exchange: then r is at least what gives 2 Mi products

    by rows          a block of rows keeps the products of all classes for the gradients
    by classes       all rows are one block; the products are computed again for the gradients, and
                     the gradient of the weight is written once
    some margins     by rows, since they read the products twice (`summary.py`)
    N is left open   by `jax.export`: by classes, C / 20 in a block
    classes, CPUs    C / 20 in a block, unless it then has less than half a Mi products, or takes
                     more memory than the weight's gradient. Without AMX at most 2 Mi products, but
                     1,024 classes: then what passes over a block several times stays in the cache,
                     which makes sub-centers 5% faster

A block of rows costs a pass over the weight and its gradient, some 20 bytes per element, beside
6 r operations on it; computing the products again costs a third more operations. So rows are
better if r is above ten times the operations that a device does in the time of moving a byte.

On CPUs that is 11 for 220 GFLOP/s, a float32 product on two cores as measured, and 60 for 1,200 in
bfloat16 with matrix units, if memory gives 20 GB/s. Without such units the rule is that of float32,
and 16-bit operands are widened (`class_block.py`), but for those that a CPU multiplies faster than
float32 all the same (`machine.py`): an AMD EPYC has 200 GFLOP/s in float32 and 400 in bfloat16.
Measured on two cores, time of loss and gradients by the time of three bare products of the
operands' dtype, rows and classes:

    Intel Xeon, AMX                 2048 x 512 x 32,000   bfloat16   1.09   0.59
    Intel Xeon, AVX-512, no AMX     the same              bfloat16   0.73   0.85
                                    without widening      bfloat16   1.31   1.40
                                    the same              float32    1.08   1.26
                                    1024 x 512 x 16,000   bfloat16   0.76   0.89
    AMD EPYC (Zen 4), AVX-512       2048 x 512 x 32,000   bfloat16   0.74   0.75
                                    widened               bfloat16   1.06   1.31
                                    the same              float32    1.12   1.27

On accelerators it is 330 for an H100 by its data sheet, which makes r 3300. The additions of the
gradient's blocks become part of the products (beta = 1) if a block has all classes. Measured on an
H200 in bfloat16, milliseconds, with blocks of so many rows and all classes, and by classes:

    N x D x C                     8,192    4,096    2,048    1,024      512   by classes
    4,096 x 4,096 x 128,256                 18.3     19.9     21.6     27.7         27.8
    8,192 x 4,096 x 128,256        38.9     40.7              43.7                  99.5
    8,192 x 2,304 x 256,000        46.8     47.8     47.7     53.9                  63.3

The last column is the best of four sizes, but for the second row.
"""

from typing import NamedTuple

from jsoftmax.blockwise.machine import Machine
from jsoftmax.core.arguments import check_known, is_known
from jsoftmax.core.numbers import static_count

_SMALL = 1 << 19
_CACHED = 1 << 17  # logits that are compared at once on a CPU: 512 KB
_FEW_ROWS = 8
_FEW_CLASSES = 1024  # in a block: with fewer, adding up the gradient of the features takes its time
_MANY = 1 << 28  # products of a block on an accelerator: 1 GB


class BlockSizes(NamedTuple):
    """The rows and classes of a block, and whether its products are kept for the gradients."""

    rows: int
    classes: int
    save_products: bool


def block_sizes(
    rows: int,
    classes: int,
    features: int,
    row_block: int | None = None,
    class_block: int | None = None,
    *,
    machine: Machine,
    sharded: bool = False,
    keep: bool = False,
) -> BlockSizes:
    """Choose the blocks as far as the caller does not.

    `sharded`: `classes` are those of one of several devices. `keep`: the products are read twice
    for the value alone, so blocks go by rows.
    """
    if row_block is not None:
        row_block = static_count("row_block", row_block, 1)
    if class_block is not None:
        class_block = static_count("class_block", class_block, 1)
    if not is_known(rows):
        if row_block is not None:
            check_known("features", rows, "With `row_block` it must be.")
        class_block = _even(classes, class_block or max(1, classes // 20))
        return BlockSizes(rows, class_block, class_block == classes)
    large = _large(classes, features, machine)
    by_rows = (
        keep
        or machine.is_accelerator
        or (rows > 2 * large and (not machine.has_matrix_units or large >= 3072))
    )
    save = row_block is not None or (class_block is None and by_rows)
    if row_block is None:
        large = max(large, 4 * _SMALL // classes) if sharded else large
        row_block = large if save and rows * classes > 4 * _SMALL else rows
    row_block = _even(rows, row_block)
    if class_block is None:
        most = max(_SMALL, classes * features) // row_block
        class_block = classes // 20
        if not machine.has_matrix_units:
            class_block = min(class_block, max(_FEW_CLASSES, 4 * _SMALL // row_block))
        class_block = min(max(_SMALL // row_block, class_block), max(1, most))
        if machine.is_accelerator or row_block * classes <= 4 * _SMALL:
            class_block = classes
    class_block = _even(classes, class_block)
    return BlockSizes(row_block, class_block, save or class_block == classes)


class PairBlocks(NamedTuple):
    """The rows of a block that has the logits of two heads, and how many are compared at once."""

    rows: int
    few: int


def pair_blocks(
    rows: int,
    classes: int,
    features: int,
    row_block: int | None = None,
    class_block: int | None = None,
    *,
    machine: Machine,
    sharded: bool = False,
) -> PairBlocks:
    """Choose the blocks of two heads, of which all hold the products of all classes.

    As by rows, but half as many on a CPU, for two heads. With `class_block`, as many as there are
    logits in all rows by that many classes. On a CPU, what is compared at once fits into the cache.
    """
    if not is_known(rows):
        if row_block is not None or class_block is not None:
            check_known("features", rows, "With blocks of a given size it must be.")
        return PairBlocks(rows, rows)
    if row_block is not None:
        size = static_count("row_block", row_block, 1)
    elif class_block is not None:
        size = max(1, rows * static_count("class_block", class_block, 1) // classes)
    elif rows * classes <= 4 * _SMALL:
        size = rows
    else:
        size = _large(classes, features, machine)
        size = size if machine.is_accelerator else size // 2
        size = max(size, 4 * _SMALL // classes) if sharded else size
    size = _even(rows, size)
    few = size if machine.is_accelerator else min(size, max(_FEW_ROWS, _CACHED // classes))
    if row_block is None:
        size = max(1, min(rows, -(-size // few) * few))
    return PairBlocks(size, _divisor(size, few))


def _divisor(size, most):
    """Return the largest divisor up to `most`, or all if it has only much smaller ones."""
    found = next(few for few in range(most, 0, -1) if size % few == 0)
    return found if 2 * found >= most else size


def _large(classes, features, machine):
    """Return the rows of a block by rows."""
    if machine.is_accelerator:
        return max(features, min(1024, _MANY // classes))
    return max(256, -(-4 * features // 5))


def _even(size: int, block: int) -> int:
    """Return a block of at most the wanted size that leaves the last one full, or nearly so."""
    fewest = -(-size // max(1, min(block, size))) if size else 1
    for count in range(fewest, fewest + max(1, fewest // 4)):
        if size % count == 0:
            return max(1, size // count)
    return -(-size // fewest)
