"""The rule that says how many rows and classes a block has, for every kind of machine."""

import pytest

from jsoftmax.blockwise.block_sizes import block_sizes, pair_blocks
from jsoftmax.blockwise.machine import Machine

pytestmark = pytest.mark.one_in(3)

CPU, UNITS = Machine("cpu"), Machine("cpu", gain=5)
over_accelerators = pytest.mark.parametrize("platform", ["gpu", "tpu", "cuda"])


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        ((64, 1000, 32), (None, None), (64, 1000, True)),  # small: one block
        ((2048, 32000, 512), (None, None), (410, 1600, True)),  # by rows
        ((512, 100_000, 256), (None, None), (512, 4000, False)),  # by classes, in the cache
        ((4096, 128_256, 4096), (None, None), (4096, 1002, False)),  # enough of them
        ((2048, 32000, 512), (None, 4000), (2048, 4000, False)),
        ((2048, 32000, 512), (512, None), (512, 1600, True)),
        ((2048, 32000, 512), (512, 4000), (512, 4000, True)),
        ((5, 7, 3), (2, 3), (2, 3, True)),
        ((5, 7, 3), (100, 100), (5, 7, True)),
        ((0, 7, 3), (None, None), (1, 7, True)),
    ],
)
def test_on_a_cpu(shape, given, expected):
    assert block_sizes(*shape, *given, machine=CPU) == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2048, 32000, 512), (2048, 1600, False)),
        ((8192, 128_256, 4096), (2731, 5344, True)),  # long rows: products cost more than passes
        ((65_536, 256_000, 2304), (65_536, 8000, False)),  # a block as large as the gradient
    ],
)
def test_on_a_cpu_with_matrix_units(shape, expected):
    assert block_sizes(*shape, machine=UNITS) == expected


@over_accelerators
@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        ((64, 1000, 32), (None, None), (64, 1000, True)),
        ((4096, 128_256, 4096), (None, None), (4096, 128_256, True)),  # all in one block
        ((16_384, 128_256, 4096), (None, None), (4096, 128_256, True)),
        ((5000, 128_256, 4096), (None, None), (2500, 128_256, True)),  # two halves
        ((2048, 32_000, 512), (None, None), (1024, 32_000, True)),  # few features
        ((4096, 1_000_000, 512), (None, None), (512, 1_000_000, True)),  # 1,024 rows: 4 GB
        ((4096, 128_256, 4096), (1024, None), (1024, 128_256, True)),
        ((4096, 128_256, 4096), (None, 2000), (4096, 1974, False)),
        ((4096, 128_256, 4096), (1024, 2000), (1024, 1974, True)),
        ((0, 7, 3), (None, None), (1, 7, True)),
    ],
)
def test_on_an_accelerator(platform, shape, given, expected):
    assert block_sizes(*shape, *given, machine=Machine(platform)) == expected


def test_few_classes_on_each_of_many_devices():
    assert block_sizes(65_536, 1024, 512, machine=CPU).rows == 410
    assert block_sizes(65_536, 1024, 512, machine=CPU, sharded=True) == (2048, 1024, True)
    assert block_sizes(65_536, 32_000, 512, machine=CPU, sharded=True).rows == 410


@over_accelerators
def test_few_classes_on_each_of_many_accelerators(platform):
    machine = Machine(platform)
    assert block_sizes(65_536, 512, 512, machine=machine).rows == 1024
    assert block_sizes(65_536, 512, 512, machine=machine, sharded=True) == (4096, 512, True)
    assert block_sizes(65_536, 32_000, 512, machine=machine, sharded=True).rows == 1024


@pytest.mark.parametrize(
    ("shape", "given", "platform", "expected"),
    [
        ((64, 1000, 32), (None, None), "cpu", (64, 64)),  # small: one block
        ((64, 1000, 32), (None, None), "gpu", (64, 64)),
        ((2048, 32_000, 512), (None, None), "cpu", (208, 8)),  # by rows, a few compared at once
        ((2048, 32_000, 512), (None, None), "gpu", (1024, 1024)),
        ((2048, 32_000, 512), (512, None), "cpu", (512, 8)),
        ((2048, 32_000, 512), (None, 4000), "cpu", (256, 8)),  # as many logits as 2048 x 4000
        ((2048, 32_000, 512), (None, 1), "cpu", (1, 1)),
        ((211, 32_000, 512), (211, None), "cpu", (211, 211)),  # a prime number is not divided
        ((0, 7, 3), (None, None), "cpu", (1, 1)),
    ],
)
def test_two_heads(shape, given, platform, expected):
    assert pair_blocks(*shape, *given, machine=Machine(platform)) == expected
