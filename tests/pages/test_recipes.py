"""The recipes of docs/recipes.md: short, and the formulas on logits in memory."""

import ast
import inspect
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from page_code import code_of, names_of

import jsoftmax as js

pytestmark = pytest.mark.one_in(12)

PAGE = "docs/recipes.md"
FUNCTIONS = [node for node in ast.parse(code_of(PAGE)).body if isinstance(node, ast.FunctionDef)]
B, T, D, C = 4, 6, 16, 50


@pytest.fixture(autouse=True)
def _as_a_reader():
    with jax.numpy_dtype_promotion("standard"):
        yield


@cache
def names():
    return names_of(PAGE)


def recipe(name):
    return names()[name]


@cache
def given():
    """Return what the recipes are called with, by the names of their arguments."""
    keys = iter(jax.random.split(jax.random.key(1), 20))

    def normal(*shape):
        return jax.random.normal(next(keys), shape)

    x, w = normal(B, T, D), normal(C, D) / 2
    y, v = normal(B, T, 24), normal(C, 24) / 2
    tokens = jax.random.randint(next(keys), (B, T), 0, C)
    log_p = chosen(log_softmax(x, w), tokens)
    logits, classes = jax.lax.top_k(y @ v.T, 3)
    return {
        "x": x,
        "w": w,
        "tokens": tokens,
        "mask": jnp.arange(T) < jnp.array([6, 4, 0, 1])[:, None],
        "advantages": normal(B, T),
        "old": log_p + 0.3 * normal(B, T),
        "reference": log_p + 0.3 * normal(B, T),
        "avoid": normal(B, T) > 0,
        "step": jnp.int32(700),
        "desirable": jnp.array([True, False, False, True]),
        "baseline": jnp.float32(0.4),
        "teacher_x": y,
        "teacher_w": v,
        "classes": classes,
        "q": jnp.exp(logits - jax.nn.logsumexp(y @ v.T, -1, keepdims=True)),
        "temperature": jnp.float32(0.7),
    }


def log_softmax(x, w, temperature=1.0):
    return jax.nn.log_softmax(x @ w.T / temperature, -1)


def chosen(log_p, tokens):
    return jnp.take_along_axis(log_p, tokens[..., None], -1)[..., 0]


def mean(losses, mask):
    return jnp.sum(jnp.where(mask, losses, 0)) / jnp.sum(mask)


def policy_gradient(x, w, tokens, mask, advantages):
    log_p = log_softmax(x, w)
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, -1)
    return mean(-advantages * chosen(log_p, tokens) - 0.01 * entropy, mask)


def clipped(log_p, old, advantages, low, high):
    ratio = jnp.exp(log_p - old)
    return jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - low, 1 + high) * advantages)


def grpo(x, w, tokens, mask, advantages, old, reference):
    log_p = log_softmax(x, w)
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, -1)
    log_p = chosen(log_p, tokens)
    k3 = jnp.exp(reference - log_p) - (reference - log_p) - 1
    losses = -clipped(log_p, old, advantages, 0.2, 0.2) + 0.04 * k3 - 0.02 * entropy
    return sum(mean(losses[i], mask[i]) for i in (0, 1, 3)) / 3  # answer 2 has no tokens


def dapo(x, w, tokens, mask, advantages, old):
    log_p = chosen(log_softmax(x, w), tokens)
    return mean(-clipped(log_p, old, advantages, 0.2, 0.28), mask)


def cispo(x, w, tokens, mask, advantages, old):
    log_p = chosen(log_softmax(x, w), tokens)
    ratio = jax.lax.stop_gradient(jnp.clip(jnp.exp(log_p - old), 0, 1.1))
    return mean(-ratio * advantages * log_p, mask)


def sequence_log_prob(x, w, tokens, mask):
    return jnp.sum(jnp.where(mask, chosen(log_softmax(x, w), tokens), 0), -1)


def dpo(x, w, tokens, mask, reference):
    gain = sequence_log_prob(x, w, tokens, mask) - reference
    return -jnp.mean(jnp.log(jax.nn.sigmoid(0.1 * (gain[: B // 2] - gain[B // 2 :]))))


def kto(x, w, tokens, mask, reference, desirable, baseline):
    gain = sequence_log_prob(x, w, tokens, mask) - reference
    good = 1.0 - jax.nn.sigmoid(0.1 * (gain - baseline))
    bad = 1.5 * (1 - jax.nn.sigmoid(0.1 * (baseline - gain)))
    return jnp.mean(jnp.where(desirable, good, bad))


def unlikelihood(x, w, tokens, mask, avoid):
    log_p = chosen(log_softmax(x, w), tokens)
    return mean(jnp.where(avoid, -0.5 * jnp.log(1 - jnp.exp(log_p)), -log_p), mask)


def scheduled(x, w, tokens, mask, step):
    log_z = jax.nn.logsumexp(x @ w.T, -1)
    strength = 1e-3 + (1e-4 - 1e-3) * step / 1000
    return mean(-chosen(log_softmax(x, w), tokens) + strength * log_z**2, mask)


def top_k_distillation(x, w, mask, classes, q):
    p = jnp.take_along_axis(jnp.exp(log_softmax(x, w)), classes, -1)
    p, q = (jnp.concatenate([each, 1 - each.sum(-1, keepdims=True)], -1) for each in (p, q))
    return mean(jnp.sum(q * jnp.log(q / p), -1), mask)


def distillation(x, w, teacher_x, teacher_w, tokens, mask):
    log_p, log_q = log_softmax(x, w, 2.0), log_softmax(teacher_x, teacher_w, 2.0)
    soft = 4 * jnp.sum(jnp.exp(log_q) * (log_q - log_p), -1)
    return mean(-0.5 * chosen(log_softmax(x, w), tokens) + 0.5 * soft, mask)


def scored(x, w, tokens, temperature):
    return chosen(log_softmax(x, w, temperature), tokens)


HELD = {
    "policy_gradient": (policy_gradient, {}, 3),
    "grpo": (grpo, {"bonus": 0.02}, 3),
    "log_probs": (lambda x, w, tokens: scored(x, w, tokens, 1.0), {}, 4),
    "dapo": (dapo, {}, 3),
    "cispo": (cispo, {"high": 0.1}, 3),
    "sequence_log_prob": (sequence_log_prob, {}, 4),
    "dpo": (dpo, {}, 4),
    "kto": (kto, {"weights": (1.0, 1.5)}, 4),
    "unlikelihood": (unlikelihood, {"alpha": 0.5}, 3),
    "scheduled": (scheduled, {}, 3),
    "top_k_distillation": (top_k_distillation, {}, 4),
    "distillation": (distillation, {}, 7),
    "scored": (scored, {}, 4),
}
OTHERS = {"top_of", "sampled", "predicted", "accuracy"}  # without gradients; tested below
over_losses = pytest.mark.parametrize("name", HELD)


def arguments(name):
    """Return the arrays that a recipe and its formula take."""
    arrays = dict(given())
    if name in ("dpo", "kto"):
        arrays["reference"] = jnp.sum(jnp.where(arrays["mask"], arrays["reference"], 0), -1)
    taken = inspect.signature(HELD[name][0]).parameters
    return {key: array for key, array in arrays.items() if key in taken}


def total(function, arrays, **options):
    """Return the value, and its gradients where the values of tokens weigh differently."""

    def weighed(x, w):
        found = function(**arrays | {"x": x, "w": w}, **options)
        return jnp.sum(found * jnp.cos(jnp.arange(found.size)).reshape(found.shape)), found

    return jax.jit(jax.value_and_grad(weighed, (0, 1), has_aux=True))(arrays["x"], arrays["w"])


@pytest.mark.parametrize("node", FUNCTIONS, ids=lambda node: node.name)
def test_is_short_and_tested(node):
    assert node.end_lineno - node.lineno < 10
    assert node.name in {*HELD, *OTHERS}


@over_losses
def test_is_the_formula_on_logits_in_memory(name):
    held, options, _ = HELD[name]
    arrays = arguments(name)
    (_, found), found_slopes = total(recipe(name), arrays, **options)
    (_, expected), expected_slopes = total(held, arrays)
    assert np.all(np.isfinite(expected))
    assert np.any(expected_slopes[1])
    chex.assert_trees_all_close(found, expected, rtol=1e-5)
    chex.assert_trees_all_close(found_slopes, expected_slopes, rtol=1e-4, atol=1e-6)


@pytest.mark.thorough
@over_losses
@pytest.mark.optimised
@pytest.mark.slow
def test_number_of_products(name):
    """Where a head is so large that the rule takes several blocks."""
    _, options, products = HELD[name]
    function = recipe(name)
    n, classes, features = 2048, 16_384, 1024

    def large(key, array):
        sizes = {"x": (B, n // B, features), "w": (classes, features)}
        sizes |= {"teacher_x": (B, n // B, features), "teacher_w": (classes, features)}
        shape = sizes.get(key, (B, n // B, *array.shape[2:]) if array.ndim > 1 else array.shape)
        return jax.ShapeDtypeStruct(shape, array.dtype)

    arrays = {key: large(key, array) for key, array in arguments(name).items()}

    def loss(x, w, rest):
        return jnp.sum(function(x=x, w=w, **rest, **options))

    rest = {key: array for key, array in arrays.items() if key not in ("x", "w")}
    lowered = jax.jit(jax.grad(loss, (0, 1))).lower(arrays["x"], arrays["w"], rest)
    assert lowered.compile().as_text().count(" dot(") == products


def test_of_a_teacher_the_top_and_its_probabilities():
    arrays = given()
    y, v = arrays["teacher_x"], arrays["teacher_w"]
    classes, q = recipe("top_of")(y, v, 3)
    np.testing.assert_array_equal(classes, arrays["classes"])
    chex.assert_trees_all_close(q, arrays["q"], rtol=1e-5)
    own = recipe("top_k_distillation")(y, v, arrays["mask"], classes, q)
    assert abs(own) < 1e-6
    log_q, log_p = log_softmax(y, v), log_softmax(arrays["x"], arrays["w"])
    whole = mean(jnp.sum(jnp.exp(log_q) * (log_q - log_p), -1), arrays["mask"])
    part = recipe("top_k_distillation")(arrays["x"], arrays["w"], arrays["mask"], classes, q)
    assert 0 < part < whole


def test_a_sample_is_scored_as_it_was_drawn():
    x, w = given()["x"], given()["w"]
    drawn, log_p = recipe("sampled")(jax.random.key(0), x, w)
    chex.assert_trees_all_close(recipe("scored")(x, w, drawn), log_p, rtol=1e-5)
    drawn, log_p = js.linear_sample(jax.random.key(0), x, w, temperature=0.7, top_k=3)
    kept = jax.lax.top_k(log_softmax(x, w, 0.7), 3)[0]
    scored = recipe("scored")(x, w, drawn)
    chex.assert_trees_all_close(log_p - scored, -jax.nn.logsumexp(kept, -1), rtol=1e-4)


def test_predictions_and_accuracy():
    x, w, tokens, mask = (given()[key] for key in ("x", "w", "tokens", "mask"))
    best = recipe("predicted")(x, w)
    np.testing.assert_array_equal(best, jnp.argmax(x @ w.T, -1))
    assert recipe("accuracy")(x, w, best, mask) == 1
    ranks = jnp.sum(x @ w.T > jnp.take_along_axis(x @ w.T, tokens[..., None], -1), -1)
    for k in (1, 9):
        right = recipe("accuracy")(x, w, tokens, mask, k=k)
        np.testing.assert_allclose(right, mean(ranks < k, mask), rtol=1e-6)
