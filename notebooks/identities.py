"""Training with every image as a class of its own, sharded over a mesh: for notebook 6."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from training import QUICK, digits

import jsoftmax as js

CLASSES, WIDTH, BATCH = 4000, 64, 128
STEPS = 20 if QUICK else 250


@cache
def pictures():
    """Return the images that are classes, and 1,000 others, unknown in training."""
    images, _ = digits()
    return images[1000 : 1000 + CLASSES], images[:1000]


def view(key, x):
    """Return images with new noise: other examples of the same classes."""
    return x + 0.2 * jax.random.normal(key, x.shape)


def network(params, x):
    """Return the features of images: one hidden layer, normalised."""
    hidden, out = params
    x = x @ hidden
    x = (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-3)
    return jax.nn.relu(x) @ out


def over(mesh, head, adam):
    """Return a step of the class vectors as a function of global arrays, sharded over the mesh."""
    everywhere = ("data", "model")
    like = jax.ShapeDtypeStruct((CLASSES, WIDTH), jnp.float32)
    states = jax.tree.map(lambda x: P("model") if x.ndim else P(), jax.eval_shape(adam.init, like))
    return jax.shard_map(
        head,
        mesh=mesh,
        in_specs=(P("model"), states, P(everywhere), P(everywhere), P()),
        out_specs=(P("model"), states, P(), P(everywhere), P("model")),
    )


def start(mesh, seed):
    """Return network and class vectors, the latter sharded over the devices."""
    keys = jax.random.split(jax.random.key(seed), 3)
    hidden = jax.random.normal(keys[0], (196, 256)) / 14
    out = jax.random.normal(keys[1], (256, WIDTH)) / 16
    weight = jax.random.normal(keys[2], (CLASSES, WIDTH)) / 8
    params = jax.device_put([hidden, out], NamedSharding(mesh, P()))
    return params, jax.device_put(weight, NamedSharding(mesh, P("model")))


@jax.jit
def judge(params, weight):
    """Return how many new views of known images are recognised, and of unknown ones verified.

    Verified: the share of pairs of views of one image above the threshold that one of a thousand
    pairs of different images passes.
    """
    keys, (known, unknown) = jax.random.split(jax.random.key(9), 3), pictures()
    scores = js.linear_logits(network(params, view(keys[0], known)), weight, margin=js.normface())
    two = jnp.concatenate([network(params, view(key, unknown)) for key in keys[1:]])
    rates = js.verification_rates(two, jnp.tile(jnp.arange(len(unknown)), 2), far=1e-3)
    return js.top_k_accuracy(scores, jnp.arange(CLASSES)), rates.tar


def train(mesh, head, adam, seeds):
    """Train network and class vectors; return both of each seed, and the loss at the end."""
    step_head = over(mesh, head, adam)
    net_adam = optax.adam(optax.cosine_decay_schedule(0.002, STEPS))
    whole, by_class = NamedSharding(mesh, P()), NamedSharding(mesh, P("model"))
    by_row, (known, _) = NamedSharding(mesh, P(("data", "model"))), pictures()

    def step(carry, key):
        params, net_state, weight, state = carry
        keys = jax.random.split(key, 3)
        labels = jax.random.randint(keys[0], (BATCH,), 0, CLASSES)
        labels = jax.lax.with_sharding_constraint(labels, by_row)
        x = view(keys[1], known[labels])
        features, backward = jax.vjp(lambda params: network(params, x), params)
        weight, state, loss, d_features, _ = step_head(weight, state, features, labels, keys[2])
        updates, net_state = net_adam.update(backward(d_features)[0], net_state)
        return (optax.apply_updates(params, updates), net_state, weight, state), loss

    def fresh(seed):
        params, weight = start(mesh, seed)
        return params, net_adam.init(params), weight, adam.init(weight)

    carry = jax.eval_shape(fresh, 0)
    where = jax.tree.map(lambda x: by_class if x.shape[:1] == (CLASSES,) else whole, carry)
    run, found = jax.jit(partial(jax.lax.scan, step), out_shardings=(where, whole)), []
    for seed in seeds:
        keys = jax.random.split(jax.random.key(seed + 1), STEPS)
        (params, _, weight, _), losses = run(jax.device_put(fresh(seed), where), keys)
        found.append((jax.device_get((params, weight)), float(losses[-20:].mean())))
    return found
