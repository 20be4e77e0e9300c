"""The k largest of many numbers, on one device and on several.

XLA's CPU backend sorts whole rows for that: 100,000 numbers take some 7 ms. But the k largest are
in the k groups with the largest maxima, and to find these is one pass over the numbers.
"""

import jax.numpy as jnp
from jax import Array, lax

from jsoftmax.core.collectives import MeshAxes, all_gather_unvarying, to_global_labels


def top_k(x: Array, k: int) -> tuple[Array, Array]:
    """Return the k largest of `[..., n]` in descending order, and where they are.

    Of equal ones the first come first, as in `lax.top_k`.
    """
    size = _group(x.shape[-1], k)
    groups = x.shape[-1] // size
    if groups <= 2 * k:
        return lax.top_k(x, k)
    whole = groups * size
    grouped = x[..., :whole].reshape(*x.shape[:-1], groups, size)
    # In the order of the groups, so that the first of equals stays the first.
    chosen = jnp.sort(lax.top_k(jnp.max(lax.stop_gradient(grouped), -1), k)[1], -1)
    places = chosen[..., None] * size + jnp.arange(size, dtype=chosen.dtype)
    places = places.reshape(*x.shape[:-1], k * size)
    rest = jnp.arange(whole, x.shape[-1], dtype=chosen.dtype)
    rest = jnp.broadcast_to(rest, (*x.shape[:-1], rest.size))
    places = jnp.concatenate([places, rest], -1)
    values, found = lax.top_k(jnp.take_along_axis(x, places, -1), k)
    return values, jnp.take_along_axis(places, found, -1)


def _group(n, k):
    """Return the size of a group, with which there are about as many groups as chosen numbers.

    If it divides n, XLA need not copy the numbers.
    """
    size = max(8, round((n / max(k, 1)) ** 0.5))
    near = sorted(range(size // 2, 2 * size), key=lambda other: abs(other - size))
    return next((other for other in near if n % other == 0), size)


def largest_k(z: Array, k: int, axes: MeshAxes) -> tuple[Array, Array]:
    """Return the k largest of `[n, C]` in descending order, and their classes over all devices.

    Of equal ones the lower class comes first.
    """
    values, classes = top_k(z, min(k, z.shape[-1]))
    classes = to_global_labels(classes, z.shape[-1], axes)
    if axes is None:
        return values, classes
    # The devices come in the order of their classes, and top_k takes the first of equals.
    values, classes = (all_gather_unvarying(x.T, axes).T for x in (values, classes))
    values, place = lax.top_k(values, min(k, values.shape[-1]))
    return values, jnp.take_along_axis(classes, place, -1)
