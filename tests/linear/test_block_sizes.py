"""The rule that says how many rows and classes a block has."""

import pytest

from jsoftmax.blockwise.block_sizes import block_sizes


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        ((64, 1000, 32), (None, None), (64, 1000, True)),  # small: one block
        ((2048, 32000, 512), (None, None), (410, 1600, True)),  # by rows
        ((512, 100_000, 256), (None, None), (512, 5000, False)),  # by classes
        ((2048, 32000, 512), (None, 4000), (2048, 4000, False)),
        ((2048, 32000, 512), (512, None), (512, 1600, True)),
        ((2048, 32000, 512), (512, 4000), (512, 4000, True)),
        ((5, 7, 3), (2, 3), (2, 3, True)),
        ((5, 7, 3), (100, 100), (5, 7, True)),
        ((0, 7, 3), (None, None), (1, 7, True)),
    ],
)
def test_rule_of_the_blocks(shape, given, expected):
    assert block_sizes(*shape, *given) == expected


def test_rule_for_few_classes_on_each_of_many_devices():
    assert block_sizes(65_536, 1024, 512).rows == 410
    assert block_sizes(65_536, 1024, 512, sharded=True) == (2048, 1024, True)
    assert block_sizes(65_536, 32_000, 512, sharded=True).rows == 410


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2048, 32000, 512), (2048, 1600, False)),
        ((8192, 128_256, 4096), (2731, 5344, True)),  # long rows: products cost more than passes
        ((65_536, 256_000, 2304), (65_536, 8000, False)),  # a block as large as the gradient
    ],
)
def test_rule_for_16_bit_operands(shape, expected):
    assert block_sizes(*shape, is_16_bit=True) == expected
