"""How many programs a call compiles."""

import jax

compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
)


def compiles(call, *args):
    """Return how many programs the second call compiles."""
    jax.block_until_ready(call(*args))
    before = len(compiled)
    jax.block_until_ready(call(*args))
    return len(compiled) - before
