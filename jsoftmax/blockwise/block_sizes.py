r"""How a linear head is cut into blocks, and the loop over them.

The rule, for N rows, C classes and D features, unless the caller gives the blocks:

    N C <= 2 Mi   one block: its products take 8 MB
    by rows       blocks of r = max(256, 4/5 D) rows keep the products of all classes, which take
                  4/5 of the memory of the weight's gradient; within them, blocks of classes. Over
                  a mesh each is an exchange: then r is at least what gives 2 Mi products
    by classes    all rows, blocks of classes; the products are computed again for the gradients,
                  and the gradient of the weight is written once
    classes       C / 20 in a block, unless it then has less than half a Mi products, or takes more
                  memory than the weight's gradient

A block of rows costs a pass over the weight and its gradient, some 20 bytes per element, beside
6 r operations on it; computing the products again costs a third more operations. So rows are
better if r is above ten times the operations that a device does in the time of moving a byte. That
is 11 for 220 GFLOP/s, a float32 product on two CPU cores as measured, and 60 for 1,200 in bfloat16
with matrix instructions, if memory gives 20 GB/s; 330 for an H100 by its data sheet. Hence 16-bit
operands go by rows from r = 3072 on only; and none do with N <= 2 r, where there is little to lose.
Measured on two CPU cores, time by rows / by classes, N x D x C: 2048 x 512 x 32,000 float32 0.93,
bfloat16 1.7; 512 x 256 x 100,000 float32 1.0.
"""

from typing import NamedTuple

from jsoftmax.core.arguments import check_at_least

_SMALL = 1 << 19


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
    is_16_bit: bool = False,
    sharded: bool = False,
) -> BlockSizes:
    """Choose the blocks as far as the caller does not.

    `is_16_bit`: operands have 16 bits. `sharded`: `classes` are those of one of several devices.
    """
    for name, block in (("row_block", row_block), ("class_block", class_block)):
        if block is not None:
            check_at_least(name, block, 1)
    large = max(256, -(-4 * features // 5))
    by_rows = rows > 2 * large and (not is_16_bit or large >= 3072)
    save = row_block is not None or (class_block is None and by_rows)
    if row_block is None:
        large = max(large, 4 * _SMALL // classes) if sharded else large
        row_block = large if save and rows * classes > 4 * _SMALL else rows
    row_block = _even(rows, row_block)
    if class_block is None:
        most = max(_SMALL, classes * features) // row_block
        class_block = min(max(_SMALL // row_block, classes // 20), max(1, most))
        if row_block * classes <= 4 * _SMALL:
            class_block = classes
    class_block = _even(classes, class_block)
    return BlockSizes(row_block, class_block, save or class_block == classes)


def _even(size: int, block: int) -> int:
    """Return a block of at most the wanted size that leaves the last one full, or nearly so."""
    fewest = -(-size // max(1, min(block, size))) if size else 1
    for count in range(fewest, fewest + max(1, fewest // 4)):
        if size % count == 0:
            return max(1, size // count)
    return -(-size // fewest)
