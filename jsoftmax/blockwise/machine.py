"""What the choice of blocks has to know of the machine on which a program will run."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_UNITS = {"bfloat16": "amx_bf16", "float16": "amx_fp16"}  # of x86, as /proc/cpuinfo names them
_assumed: ContextVar[str | None] = ContextVar("assumed", default=None)


class Machine(NamedTuple):
    """A platform, and how it multiplies operands of a given dtype."""

    platform: str  # "cpu", or an accelerator: "gpu", "tpu"
    units_16_bit: bool = False  # the operands have 16 bits, and a CPU has matrix units for them

    @property
    def is_accelerator(self) -> bool:
        """Whether it is anything but a CPU."""
        return self.platform != "cpu"


def machine_for(dtype: jnp.dtype) -> Machine:
    """Return the machine for which JAX traces at the moment, for products of this dtype."""
    found = platform()
    return Machine(found, found == "cpu" and _UNITS.get(dtype.name) in cpu_flags())


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
    """Return what the processor can do, as Linux lists it; nothing where that cannot be read."""
    try:
        with open("/proc/cpuinfo", errors="replace") as lines:
            listed = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(listed.split())
