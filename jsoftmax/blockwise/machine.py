"""What the choice of blocks has to know of the machine on which a program will run."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# As /proc/cpuinfo names what a processor can do. An Intel Xeon with avx512_bf16 and no AMX takes
# longer for products of bfloat16 than of float32, an AMD EPYC (Zen 4) half as long.
_GAINS = {
    "bfloat16": [({"amx_bf16"}, 5), ({"avx512_bf16", "AuthenticAMD"}, 2)],
    "float16": [({"amx_fp16"}, 5)],
}
_assumed: ContextVar[str | None] = ContextVar("assumed", default=None)


class Machine(NamedTuple):
    """A platform, and how it multiplies operands of a given dtype."""

    platform: str  # "cpu", or an accelerator: "gpu", "tpu"
    gain: int = 1  # how many times as fast as float32 a CPU multiplies operands of 16 bits

    @property
    def is_accelerator(self) -> bool:
        """Whether it is anything but a CPU."""
        return self.platform != "cpu"

    @property
    def has_matrix_units(self) -> bool:
        """Whether it is a CPU with matrix units for the operands: AMX."""
        return self.gain > 2


def machine_for(dtype: jnp.dtype) -> Machine:
    """Return the machine for which JAX traces at the moment, for products of this dtype."""
    found = platform()
    gains = _GAINS.get(dtype.name, []) if found == "cpu" else []
    return Machine(found, next((gain for needed, gain in gains if needed <= cpu_flags()), 1))


@contextmanager
def assumed_platform(name: str) -> Iterator[None]:
    """Choose blocks for a platform while compiling for another, to plan for what is not at hand.

    What was traced before stays as it is.
    """
    token = _assumed.set(name)
    try:
        yield
    finally:
        _assumed.reset(token)


def platform() -> str:
    """Return the platform of the mesh that is in use, else of the default device."""
    if (assumed := _assumed.get()) is not None:
        return assumed
    # Of a mesh only the kind of its devices is known while tracing. Older versions of JAX do not
    # say their platform, but a CPU's kind is "cpu".
    config: Any = jax.config
    device: Any = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    device = device or config.jax_default_device or jax.default_backend()
    if isinstance(device, str):
        return device
    return getattr(device, "platform", None) or device.device_kind.lower()


@cache
def cpu_flags() -> frozenset[str]:
    """Return what the processor can do and who made it, as Linux lists it for the first core.

    Nothing where that cannot be read.
    """
    try:
        with open("/proc/cpuinfo", errors="replace") as file:
            lines = file.read().split("\n\n")[0].splitlines()
    except OSError:
        return frozenset()
    return frozenset(
        word for line in lines if line.startswith(("flags", "vendor_id")) for word in line.split()
    )
