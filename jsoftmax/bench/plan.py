"""A training step of a linear head over many devices: compiled, not run.

The devices form a mesh `data` x `model`: each has N / data examples and C / model classes, and so
computes N C / devices logits for any split. The split decides how much is exchanged: over `model`
the N / data features and their gradient, over `data` the C / model rows of the weight's gradient.
docs/scale.md has the formulas of `predicted`, and the tables of `STANDARD`.

Programs are compiled for CPU devices, of which one process can have hundreds, but in the blocks of
accelerators.
"""

import contextlib
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jsoftmax as js
from jsoftmax.bench.hlo import exchanges
from jsoftmax.bench.problem import Problem
from jsoftmax.blockwise.block_sizes import block_sizes
from jsoftmax.blockwise.machine import Machine, assumed_platform

_EMBEDDINGS = [Problem(65536, 512, c * 1_000_000, margin="arcface") for c in (1, 10, 100)]
# A problem, and the fraction of the classes that each step samples; None for all.
STANDARD = [
    *[(problem, None) for problem in _EMBEDDINGS],
    *[(problem, 0.1) for problem in _EMBEDDINGS],
    (Problem(65536, 8192, 256_000, "bfloat16"), None),
]
_ADAM = optax.adam(1e-3)
_AXES = {"batch_axis": ("data", "model"), "class_axis": "model"}
_ROWS, _CLASSES = P(_AXES["batch_axis"]), P(_AXES["class_axis"])


class Costs(NamedTuple):
    """Bytes per device: in total, for weight and moments, for temporaries; and bytes sent."""

    memory: float
    state: float
    temporary: float
    sent: float


class Plan(NamedTuple):
    """The costs of a step on a mesh, as compiled and by formula, and its number of messages."""

    problem: Problem
    sample_rate: float | None
    data: int
    model: int
    found: Costs
    formula: Costs
    sent_by_kind: dict[str, float]
    messages: int


def cpu_devices(count: int) -> list[jax.Device]:
    """Return `count` CPU devices. JAX creates them on first use, so call this before."""
    with contextlib.suppress(RuntimeError):  # JAX is already in use; there may be enough devices
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise RuntimeError(
            f"a plan for {count} devices needs as many CPU devices, and JAX was started with "
            f"{len(devices)}: set the environment variable JAX_NUM_CPU_DEVICES={count}."
        )
    return devices[:count]


def best_mesh(problem: Problem, sample_rate: float | None, devices: list[jax.Device]) -> Mesh:
    """Return the mesh on which a step sends least, by `predicted`, within a memory limit.

    The limit is 1.5 times the memory of the mesh that needs least: sending a little less is not
    worth a second copy of the weight and its moments.
    """
    count = len(devices)
    splits = [(data, count // data) for data in range(1, count + 1) if count % data == 0]
    costs = {split: predicted(problem, sample_rate, *split) for split in splits}
    most = 1.5 * min(cost.memory for cost in costs.values())
    best = min((cost.sent, split) for split, cost in costs.items() if cost.memory <= most)[1]
    return Mesh(np.reshape(devices, best), ("data", "model"))


def planned(problem: Problem, sample_rate: float | None, mesh: Mesh) -> Plan:
    """Compile a training step and read its costs from the compiled program."""
    step, arguments = training_step(problem, sample_rate, mesh)
    with assumed_platform("gpu"):
        program = step.lower(*arguments).compile()
    memory = program.memory_analysis()
    given, made = memory.argument_size_in_bytes, memory.output_size_in_bytes
    held, temporary = memory.alias_size_in_bytes, memory.temp_size_in_bytes
    by_kind, messages = {}, 0
    for kind, sent, times in exchanges(program.as_text()):
        by_kind[kind] = by_kind.get(kind, 0) + sent * times
        messages += times
    # Weight and moments are donated; `held` is 0 if XLA does not reuse their memory.
    found = Costs(given + made - held + temporary, held, temporary, sum(by_kind.values()))
    data, model = mesh.devices.shape
    formula = predicted(problem, sample_rate, data, model)
    return Plan(problem, sample_rate, data, model, found, formula, by_kind, messages)


def predicted(problem: Problem, sample_rate: float | None, data: int, model: int) -> Costs:
    """Return the costs by the formula in docs/scale.md."""
    d, b = problem.features, jnp.dtype(problem.dtype).itemsize
    n, c, s = _shares(problem, sample_rate, data, model)
    r, *_ = block_sizes(n, s, d, machine=Machine("gpu"), sharded=model > 1)
    blocks = -(-n // r)
    state = c * d * (b + 8)
    features, d_features, d_weight = n * d * b * (model > 1), 4 * blocks * r * d, 4 * s * d
    # The products of a block of rows with all classes, their gradient, and what is between the two.
    products = 4 * r * s * (3 if model > 1 else 2.5 if b == 2 else 2)
    block = products + 4 * r * d * (blocks > 1) + (r * d * b if b == 2 else 0)
    sampled = 0 if sample_rate is None else s * d * (b + 8)
    temporary = max(
        sampled + features + d_features + d_weight * (blocks > 1) + block,  # in the last block
        d_weight + min(blocks, 2) * d_features,  # when the blocks are joined
        2 * d_weight,  # when it is summed over devices
        2 * sampled,  # in Adam
    )
    over_model, over_data = (model - 1) / model, (data - 1) / data
    gathered, summed, labels, told = n * d * b, 4 * n * d, 4 * n, 20 * blocks * r
    sent = over_model * (gathered + summed + 2 * (labels + told)) + over_data * 2 * d_weight
    if sample_rate is not None:  # the classes of the batch, and the labels' positions in the sample
        sent += over_data * 2 * c + over_model * 2 * 2 * labels
    examples = n // model * (2 * d * b + 4)
    return Costs(state + temporary + examples, state, temporary, sent)


def _shares(problem, sample_rate, data, model):
    """Return a device's number of examples, of weight rows, and of rows that a step uses.

    Examples and classes are padded to a multiple of the devices, so that all hold equally many.
    """
    rows, classes = (-(-x // (data * model)) for x in (problem.rows, problem.classes))
    n, c = rows * model, classes * data
    return n, c, c if sample_rate is None else max(1, round(sample_rate * c))


def training_step(
    problem: Problem, sample_rate: float | None, mesh: Mesh
) -> tuple[Any, tuple[Any, ...]]:
    """Return a jitted training step, and the shapes and shardings of its arguments.

    `step(key, features, labels, weight, state)` returns the loss, over all classes or a sample
    (Partial FC), the gradient of the features, and weight and state after a step of Adam, updated
    in place. Features and labels are sharded over all devices, as a data-parallel network leaves
    them.
    """
    data, model = mesh.devices.shape
    n, c, _ = _shares(problem, sample_rate, data, model)
    weight = jax.ShapeDtypeStruct((c * model, problem.features), problem.dtype)
    # Moments are float32 for a weight of any dtype.
    state = jax.eval_shape(_ADAM.init, jax.ShapeDtypeStruct(weight.shape, jnp.float32))
    features = jax.ShapeDtypeStruct((n * data, problem.features), problem.dtype)
    labels = jax.ShapeDtypeStruct((n * data,), jnp.int32)
    key = jax.eval_shape(jax.random.key, 0)
    specs = jax.tree.map(lambda x: _CLASSES if x.ndim else P(), state)
    shapes, specs = (key, features, labels, weight, state), (P(), _ROWS, _ROWS, _CLASSES, specs)
    shardings = jax.tree.map(partial(NamedSharding, mesh), specs)
    arguments = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    if sample_rate is None:
        step = _full_step(problem, mesh)
    else:
        step = _sampled_step(problem, sample_rate, mesh, specs)
    scalar, rows, _, *updated = shardings
    jitted = jax.jit(step, donate_argnums=(3, 4), out_shardings=(scalar, rows, *updated))
    return jitted, arguments


def _full_step(problem, mesh):
    loss_fn = js.sharded_linear_loss(
        mesh,
        **_AXES,
        num_classes=problem.classes,
        loss=problem.loss_function(),
        margin=problem.head_margin(),
    )

    def step(key, features, labels, weight, state):
        gradients = jax.value_and_grad(loss_fn, (0, 1))
        loss, (d_features, d_weight) = gradients(features, weight, labels)
        return loss, d_features, *_updated((weight, state), d_weight)

    return step


def _sampled_step(problem, sample_rate, mesh, specs):
    _, c, sampled = _shares(problem, sample_rate, *mesh.devices.shape)
    scalar, rows, _, *updated = specs

    @partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=(scalar, rows, *updated))
    def step(key, features, labels, weight, state):
        sample = js.sample_classes(key, labels, num_classes=c, num_sampled=sampled, **_AXES)
        real = c * lax.axis_index("model") + sample.indices < problem.classes

        def loss_fn(features, weight):
            return js.linear_loss(
                features,
                weight,
                sample.labels,
                problem.loss_function(),
                margin=problem.head_margin(),
                where=real if c * mesh.shape["model"] > problem.classes else None,
                **_AXES,
            )

        # Only these rows of weight and moments are read or written.
        at = {"indices_are_sorted": True, "unique_indices": True, "mode": "clip"}

        def taken(x):
            return x.at[sample.indices].get(**at) if x.ndim else x

        def put(x, new):
            return x.at[sample.indices].set(new, **at) if x.ndim else new

        own = jax.tree.map(taken, (weight, state))
        gradients = jax.value_and_grad(loss_fn, (0, 1))
        loss, (d_features, d_weight) = gradients(features, own[0])
        weight, state = jax.tree.map(put, (weight, state), _updated(own, d_weight))
        return loss, d_features, weight, state

    return step


def _updated(held, gradient):
    """Return weight and state after a step of Adam."""
    weight, state = held
    updates, state = _ADAM.update(gradient.astype(jnp.float32), state)
    return optax.apply_updates(weight, updates), state
