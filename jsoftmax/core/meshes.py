"""Functions of arrays on a mesh with Explicit axes, whose types say over which they are sharded.

JAX asks of a function on such arrays that it says how every gather, select and loop in it lies on
the mesh. Here a function says it of its result: in between XLA decides, as with Auto axes it does.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import Array
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jsoftmax.core.arguments import axes_of_classes
from jsoftmax.core.calls import Function, explaining_calls

Axes = tuple[Any, ...]  # of an array: for each of its axes the mesh axes, or None
Given = dict[str, Any]  # the arguments of a call


def on_any_mesh(axes: Callable[[Given], Axes]) -> Callable[[Function], Function]:
    """Let a function take arrays that lie on an Explicit mesh.

    `axes` says from the arguments how the results lie there: a result with fewer axes has the first
    of them, and further ones are not sharded.
    """

    def decorate(function: Function) -> Any:
        signature, function = inspect.signature(function), explaining_calls(function)

        @functools.wraps(function)
        def on_mesh(*args, **options):
            mesh = _mesh_of((args, options)) or _explicit(jax.sharding.get_abstract_mesh())
            if mesh is None:
                return function(*args, **options)
            given = signature.bind(*args, **options)
            given.apply_defaults()
            found = axes(given.arguments)
            auto, devices = _with_auto_axes(mesh), _devices_of((args, options))
            # Under `vmap` over a sharded axis JAX places an array only on the mesh that is in use.
            with jax.sharding.use_abstract_mesh(auto):
                args, options = jax.tree.map(lambda x: _enter(x, auto), (args, options))
                functions = [x for x in jax.tree.leaves((args, options)) if callable(x)]
                with explaining_closures(*functions):
                    out = function(*args, **options)
            return jax.tree.map(lambda x: _place(_on_devices(x, devices), mesh, found), out)

        return on_mesh

    return decorate


@contextlib.contextmanager
def explaining_closures(*functions: Callable[..., Any]) -> Iterator[None]:
    """Let an error say so if it is because a function closes over arrays of an Explicit mesh."""
    try:
        yield
    except (ValueError, NotImplementedError) as wrong:
        if not any(map(_closes_over_explicit, functions)):
            raise
        raise ValueError(
            "a function that was given closes over an array on an Explicit mesh, which cannot be "
            "placed as the arguments are. Hand it over by functools.partial: for a loss that is "
            "partial(loss, number=number)."
        ) from wrong


def same_everywhere(given: Given) -> Axes:
    """Say that results are not sharded."""
    return ()


def like(name: str) -> Callable[[Given], Axes]:
    """Say that results are sharded as an argument is."""
    return lambda given: explicit_axes(given[name])


def without_classes(name: str, axis: str | None = None) -> Callable[[Given], Axes]:
    """Say that results are sharded as an argument is, without its class axis or axes.

    That is the last axis, or the one that the argument `axis` names; with `keepdims` it has size 1.
    """

    def axes(given):
        found = explicit_axes(given[name])
        classes = axes_of_classes(given[axis] if axis else -1)
        classes = {i % len(found) for i in classes} if found else set()
        if given.get("keepdims"):
            return tuple(None if i in classes else each for i, each in enumerate(found))
        return tuple(each for i, each in enumerate(found) if i not in classes)

    return axes


def explicit_axes(x: Any) -> Axes:
    """Return over which Explicit mesh axes each axis of an array is sharded; () off such a mesh."""
    return () if _mesh_of(x) is None else tuple(jax.typeof(x).sharding.spec)


def _mesh_of(tree):
    """Return the mesh with Explicit axes on which an array of the tree lies, or None."""
    arrays = (x for x in jax.tree.leaves(tree) if isinstance(x, Array))
    return next(filter(None, (_explicit(jax.typeof(x).sharding.mesh) for x in arrays)), None)


def _devices_of(tree):
    """Return the mesh of devices on which an array of the tree is known to lie, or None."""
    arrays = (x for x in jax.tree.leaves(tree) if _mesh_of(x) is not None)
    return next((x.sharding.mesh for x in arrays if not isinstance(x, jax.core.Tracer)), None)


def _on_devices(x, mesh):
    """Return an array on all devices of a mesh: a result that depends on no argument is on one."""
    if mesh is None or not isinstance(x, Array) or isinstance(x, jax.core.Tracer):
        return x
    if x.sharding.device_set == set(mesh.devices.flat):
        return x
    return jax.device_put(x, NamedSharding(mesh, P()))


def _closes_over_explicit(function):
    if isinstance(function, functools.partial):
        function = function.func
    try:
        held = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    except ValueError:  # of a variable that has no value yet
        return False
    return _mesh_of(held) is not None


def _explicit(mesh):
    return mesh if AxisType.Explicit in mesh.axis_types else None


def _with_auto_axes(mesh):
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return mesh.update_axis_types(
        {name: AxisType.Auto for name, kind in kinds if kind == AxisType.Explicit}
    )


def _enter(x, auto):
    if isinstance(x, functools.partial):  # a loss with its options
        args, options = jax.tree.map(lambda x: _enter(x, auto), (x.args, x.keywords))
        return functools.partial(x.func, *args, **options)
    return x if _mesh_of(x) is None else _place(x, auto, ())


def _place(x, mesh, axes):
    """Return an array with its first axes sharded; a Python number is on no mesh."""
    if not isinstance(x, Array):
        return x
    return jax.reshard(x, NamedSharding(mesh, P(*axes[: x.ndim])))
