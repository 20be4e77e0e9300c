"""The k largest logits and samples of a linear head, against the logits held."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close
from jax.sharding import PartitionSpec as P
from meshes import mesh_of

import jsoftmax as js
from jsoftmax.blockwise import held_rows

pytestmark = pytest.mark.one_in(8)

ROWS, WIDTH, CLASSES = 12, 6, 40
KEY = jax.random.key(3)
X = jax.random.normal(KEY, (3, 4, WIDTH))
# Whole numbers, with many ties between classes.
W = jnp.round(2 * jax.random.normal(jax.random.key(4), (CLASSES, WIDTH)))
WHOLE = jnp.round(2 * X)
BIAS = jnp.cos(jnp.arange(CLASSES, dtype=jnp.float32))
MASK = jnp.arange(CLASSES) % 7 > 0
BY_EXAMPLE = 0.5 + jnp.arange(ROWS, dtype=jnp.float32).reshape(3, 4) / 8

OPTIONS = {
    "plain": {},
    "bias": {"bias": BIAS},
    "cap": {"bias": BIAS, "softcap": 20.0},  # not so low that many are equal, but for rounding
    "masked": {"where": MASK},
    "cold": {"temperature": 0.5},
    "by example": {"temperature": BY_EXAMPLE, "where": MASK},
    "margin": {"margin": js.arcface(scale=8.0), "bias": BIAS},
}


@pytest.fixture(params=[1 << 24, CLASSES * 5])
def _blocks(request, monkeypatch):
    """All rows in one block, or blocks of 5 rows, of which the last overlaps."""
    monkeypatch.setattr(held_rows, "_HELD", request.param)


def held(x, w, *, where=None, temperature=1.0, **options):
    """Return the logits that the functions do not hold."""
    z = js.linear_logits(x, w, **options)
    z = z / jnp.broadcast_to(jnp.asarray(temperature), z.shape[:-1])[..., None]
    return z if where is None else jnp.where(where, z, -jnp.inf)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("x", [X, WHOLE], ids=["", "ties"])
def test_top_k_is_that_of_the_logits(x, name):
    for k in (1, 5, CLASSES):
        found, classes = jax.jit(partial(js.linear_top_k, k=k, **OPTIONS[name]))(x, W)
        expected, places = jax.lax.top_k(held(x, W, **OPTIONS[name]), k)
        close(found, expected, name)
        assert (classes == places).all()


@pytest.mark.usefixtures("_blocks")
def test_top_k_has_derivatives():
    def total(top_k, x, w, bias, temperature):
        logits = top_k(x, w, bias=bias, temperature=temperature)
        return jnp.sum(jnp.sin(logits) * jnp.arange(1.0, 4.0))

    given = X, W, BIAS, BY_EXAMPLE
    ours = partial(total, lambda *a, **k: js.linear_top_k(*a, 3, **k)[0])
    oracle = partial(total, lambda *a, **k: jax.lax.top_k(held(*a, **k), 3)[0])
    every = (0, 1, 2, 3)
    with jax.default_matmul_precision("highest"):
        close(*[jax.jit(jax.grad(f, every))(*given) for f in (ours, oracle)], rtol=1e-4, atol=1e-5)
        along = [jax.grad(lambda x, f=f: f(x, *given[1:])) for f in (ours, oracle)]
        hessians = [jax.jit(lambda x, g=g: jax.jvp(g, (x,), (jnp.cos(x),))[1])(X) for g in along]
    close(*hessians, rtol=1e-4, atol=1e-4)


def test_top_k_of_16_bits_and_of_nothing():
    found, classes = js.linear_top_k(WHOLE.astype(jnp.bfloat16), W.astype(jnp.bfloat16), 3)
    expected = js.linear_top_k(WHOLE, W, 3)
    close((found, classes), expected)
    assert found.dtype == jnp.float32
    none, classes = js.linear_top_k(X[:0], W, 3)
    assert none.shape == classes.shape == (0, 4, 3)
    spoilt = jnp.where(MASK[:, None], W, jnp.nan)
    close(js.linear_top_k(X, spoilt, 3, where=MASK), js.linear_top_k(X, W, 3, where=MASK))
    masked, _ = js.linear_top_k(X, W, 3, where=jnp.arange(CLASSES) < 2)
    assert (masked[..., 2] == -jnp.inf).all()


def test_k_has_a_range():
    with pytest.raises(ValueError, match="`k`: expected an integer of at least 1, got 0"):
        js.linear_top_k(X, W, 0)
    with pytest.raises(ValueError, match="`k`: expected at most 40, the classes, got 41"):
        js.linear_top_k(X, W, CLASSES + 1)


def over_mesh(function, *more):
    """Return a function of features and weight that shards rows and classes."""
    mesh = mesh_of("Auto")
    rows, classes = P("data"), P("model")
    return jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=(rows, classes, *more), out_specs=(rows, rows))
    )


@pytest.mark.parametrize("x", [X, WHOLE], ids=["", "ties"])
def test_top_k_over_a_mesh(x):
    x = x.reshape(ROWS, WIDTH)
    for k in (1, 5, 15):  # more than a device has
        found = over_mesh(lambda x, w, k=k: js.linear_top_k(x, w, k, class_axis="model"))(x, W)
        close(found, js.linear_top_k(x, W, k))

    def total(top_k, w):
        return jnp.sum(jnp.sin(top_k(x, w)[0]))

    sharded = over_mesh(lambda x, w: js.linear_top_k(x, w, 5, class_axis="model"))
    found = jax.grad(partial(total, sharded))(W)
    close(found, jax.grad(partial(total, lambda x, w: js.linear_top_k(x, w, 5)))(W))


FILTERS = {
    "none": {},
    "k": {"top_k": 7},
    "p": {"top_p": 0.6},
    "min": {"min_p": 0.2},
    "all": {"top_k": 9, "top_p": 0.9, "min_p": 0.05, "temperature": 1.5, "where": MASK},
}


def kept_by(z, *, top_k=None, top_p=None, min_p=None):
    """Return the logits that the filters leave, in float64, the others -inf; by sorting."""
    z = np.asarray(z, np.float64).copy()
    for row in z.reshape(-1, z.shape[-1]):
        order = np.argsort(-row, kind="stable")
        if top_k is not None:
            row[order[top_k:]] = -np.inf
        p = np.exp(row - row.max())
        p /= p.sum()
        if top_p is not None:
            before = np.cumsum(p[order]) - p[order]
            row[order[before >= top_p]] = -np.inf
        if min_p is not None:
            row[p < min_p * p.max()] = -np.inf
    return z


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("name", FILTERS)
def test_a_sample_is_of_what_the_filters_leave(name):
    options = dict(FILTERS[name])
    keys = jax.random.split(KEY, 200)
    draw = jax.jit(jax.vmap(lambda key: js.linear_sample(key, X, W, **options)))
    classes, log_probs = draw(keys)
    of_logits = {k: options.pop(k) for k in ("temperature", "where") if k in options}
    z = kept_by(held(X, W, **of_logits), **options)
    log_p = z - np.log(np.sum(np.exp(z - z.max(-1, keepdims=True)), -1, keepdims=True))
    log_p -= z.max(-1, keepdims=True)
    expected = np.take_along_axis(
        np.broadcast_to(log_p, (200, *log_p.shape)), classes[..., None], -1
    )
    close(log_probs, expected[..., 0], name, atol=1e-5)


@pytest.mark.thorough
def test_samples_have_the_probabilities_of_the_softmax():
    # Pearson's chi-squared: about normal with mean C - 1 and variance 2 (C - 1).
    draws = 20_000
    x, w = X[:1, 0], W[:10] / 2
    classes, _ = jax.jit(js.linear_sample)(KEY, jnp.broadcast_to(x, (draws, WIDTH)), w)
    expected = draws * np.asarray(jax.nn.softmax(held(x, w)[0]), np.float64)
    large = expected > 5
    counts = np.bincount(classes, minlength=10)
    chi = np.sum((counts - expected)[large] ** 2 / expected[large])
    degrees = large.sum() - 1
    assert degrees >= 4
    assert chi < degrees + 4 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("chunk", [1024, 16])
@pytest.mark.parametrize("name", FILTERS)
def test_a_sample_is_the_same_over_a_mesh(name, chunk, monkeypatch):
    monkeypatch.setattr("jsoftmax.linear.sample._CHUNK", chunk)
    jax.clear_caches()
    x = X.reshape(ROWS, WIDTH)
    keys = jax.random.split(KEY, ROWS)
    options = dict(FILTERS[name])
    of_shards = {"where": P("model")} if "where" in options else {}
    given = {"where": options.pop("where")} if of_shards else {}

    def draw(x, w, keys, given):
        return js.linear_sample(keys, x, w, class_axis="model", **options, **given)

    sharded = over_mesh(draw, P("data"), of_shards)(x, W, keys, given)
    expected = js.linear_sample(keys, x, W, **options, **given)
    assert (sharded[0] == expected[0]).all()
    close(sharded[1], expected[1])


def test_a_sample_does_not_depend_on_the_blocks(monkeypatch):
    whole = js.linear_sample(KEY, X, W)
    monkeypatch.setattr(held_rows, "_HELD", CLASSES * 5)
    assert (js.linear_sample(KEY, X, W)[0] == whole[0]).all()


def test_edges_of_sampling():
    some, log_probs = js.linear_sample(KEY, X, W, where=jnp.zeros(CLASSES, bool))
    assert (some == 0).all()
    assert (log_probs == -jnp.inf).all()
    best = js.linear_top_k(X, W, 1)[1][..., 0]
    for options in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}):
        classes, log_probs = js.linear_sample(KEY, X, W, **options)
        assert (classes == best).all()
        assert (log_probs == 0).all()
    for name in ("top_p", "min_p"):
        with pytest.raises(ValueError, match=f"`{name}`: expected between 0 and 1"):
            js.linear_sample(KEY, X, W, **{name: 1.5})
    assert js.linear_sample(KEY, X[:0], W)[0].shape == (0, 4)
    old = jax.random.PRNGKey(3)
    assert (js.linear_sample(old, X, W)[0] == js.linear_sample(KEY, X, W)[0]).all()
