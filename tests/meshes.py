"""Meshes of the 8 CPU devices, and how a linear head lies on them."""

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jsoftmax as js

PLACES = P("data"), P("model"), P("data")


def mesh_of(kind="Explicit", shape=(2, 4)):
    return jax.make_mesh(shape, ("data", "model"), axis_types=(getattr(AxisType, kind),) * 2)


MARGIN = js.arcface(scale=4.0)
