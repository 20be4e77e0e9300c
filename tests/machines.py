"""Kinds of machines that blocks are chosen for, whatever the tests run on."""

from contextlib import contextmanager
from unittest import mock

import pytest

from jsoftmax.blockwise import machine as machines

MACHINES = {
    "cpu": ("cpu", frozenset()),
    "cpu, bfloat16 at twice the speed": ("cpu", frozenset(["avx512_bf16", "AuthenticAMD"])),
    "cpu with units": ("cpu", frozenset(["amx_tile", "amx_bf16"])),
    "gpu": ("gpu", frozenset()),
}
over_machines = pytest.mark.parametrize("machine", MACHINES)


@contextmanager
def chosen_for(machine):
    """Choose blocks for a kind of machine; what is traced in here must not have been traced yet."""
    platform, flags = MACHINES[machine]
    with (
        mock.patch.object(machines, "cpu_flags", return_value=flags),
        machines.assumed_platform(platform),
    ):
        yield
