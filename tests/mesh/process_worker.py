"""One process of a training run over several: `test_processes.py` starts it, and uses its problem.

It is what a user's script would be: it joins the others, makes its own part of every array, goes on
from the last checkpoint if there is one, and saves checkpoints. A layer and a class matrix that
nothing divides are trained with ArcFace. Every step becomes a line of JSON in a file, so that a
process that is killed has still told how far it came.

    python process_worker.py '{"coordinator": "127.0.0.1:1234", "processes": 2, "process": 0, ...}'
"""

import faulthandler
import json
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jsoftmax as js

CLASSES, INPUTS, FEATURES, EXAMPLES = 13, 6, 4, 8
MARGIN = js.arcface(scale=8.0)
ADAM = optax.adam(0.1)
SAVE_EVERY = 2
PATIENCE = 90  # seconds for a process, all in all


def batch(step, bad_step=None):
    """Return the examples and labels of a step, with a NaN if it is the bad one."""
    random = np.random.default_rng(step)
    x = random.normal(size=(EXAMPLES, INPUTS)).astype(np.float32)
    y = random.integers(CLASSES, size=EXAMPLES).astype(np.int32)
    if step == bad_step:
        x[-1, 1] = np.nan
    return x, y


def beginning(optimizer, rows=CLASSES):
    """Return the state at the start, with the class matrix filled up to `rows` by zeros."""
    random = np.random.default_rng(1000)
    layer = random.normal(size=(INPUTS, FEATURES)).astype(np.float32)
    classes = random.normal(size=(CLASSES, FEATURES)).astype(np.float32)
    parameters = {
        "layer": jnp.asarray(layer),
        "classes": jnp.pad(classes, [(0, rows - CLASSES), (0, 0)]),
    }
    return parameters, optimizer.init(parameters)


def training_step(loss_fn, optimizer):
    """Compile (state, examples, labels) to (state, loss, largest change of a parameter)."""

    def total(parameters, x, y):
        return loss_fn(jnp.tanh(x @ parameters["layer"]), parameters["classes"], y)

    @jax.jit
    def step(state, x, y):
        parameters, inner = state
        loss, gradients = jax.value_and_grad(total)(parameters, x, y)
        with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic needs it
            updates, inner = optimizer.update(gradients, inner)
        after = optax.apply_updates(parameters, updates)
        changes = jax.tree.map(lambda new, old: jnp.max(jnp.abs(new - old)), after, parameters)
        return (after, inner), loss, jnp.max(jnp.stack(jax.tree.leaves(changes)))

    return step


def target(mesh, optimizer):
    """Return what makes the first state for a mesh, and its shapes and where they are to lie."""
    rows = CLASSES + -CLASSES % mesh.shape["model"]

    def placed(path, x):
        by_class = x.ndim and "classes" in jax.tree_util.keystr(path)
        sharding = NamedSharding(mesh, P("model" if by_class else None) if x.ndim else P())
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    def begin():
        return beginning(optimizer, rows)

    return begin, jax.tree_util.tree_map_with_path(placed, jax.eval_shape(begin))


def begin_or_resume(manager, mesh, optimizer):
    """Return how many steps are done, and the state after them, on the devices of the mesh."""
    begin, shapes = target(mesh, optimizer)
    done = manager.latest_step()
    if done is None:
        return 0, jax.jit(begin, out_shardings=jax.tree.map(lambda x: x.sharding, shapes))()
    # Not strict: on this mesh the class matrix may be filled up to another number of rows.
    return done, manager.restore(done, args=ocp.args.StandardRestore(shapes, strict=False))


def spread(x, mesh, across):
    """Return a global array of the whole batch from what this process has of it."""
    if across == "data":
        x = np.array_split(x, jax.process_count())[jax.process_index()]
    return jax.make_array_from_process_local_data(NamedSharding(mesh, P("data")), x)


def main(
    *, coordinator, processes, process, devices, across, steps, folder, bad_step=None, die_at=None
):
    """Train to `steps` on all devices of all processes, one axis of the mesh going across them.

    The last process kills itself at the start of step `die_at`: while a checkpoint is being saved,
    if the step before was followed by one.
    """
    folder = Path(folder)
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    jax.config.update("jax_num_cpu_devices", devices)
    jax.distributed.initialize(
        coordinator,
        processes,
        process,
        initialization_timeout=PATIENCE,
        coordinator_bind_address=coordinator,
    )
    grid = np.array(jax.devices()).reshape(processes, devices)
    mesh = Mesh(grid if across == "data" else grid.T, ("data", "model"))
    optimizer = optax.apply_if_finite(ADAM, max_consecutive_errors=3)
    step_fn = training_step(
        js.sharded_linear_loss(
            mesh, batch_axis="data", class_axis="model", num_classes=CLASSES, margin=MARGIN
        ),
        optimizer,
    )
    options = ocp.CheckpointManagerOptions(save_interval_steps=SAVE_EVERY, max_to_keep=2)
    with (
        ocp.CheckpointManager(folder / "checkpoints", options=options) as manager,
        open(folder / f"steps-{process}.jsonl", "w", buffering=1) as lines,
    ):
        first, state = begin_or_resume(manager, mesh, optimizer)
        for step in range(first, steps):
            if step == die_at and process == processes - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            x, y = (spread(each, mesh, across) for each in batch(step, bad_step))
            state, loss, change = step_fn(state, x, y)
            here = [shard.index[0] for shard in state[0]["classes"].addressable_shards]
            line = {
                "step": step,
                "loss": float(loss),
                "change": float(change),
                "classes": [min(rows.start for rows in here), max(rows.stop for rows in here)],
            }
            print(json.dumps(line), file=lines)
            manager.save(step + 1, args=ocp.args.StandardSave(state))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
