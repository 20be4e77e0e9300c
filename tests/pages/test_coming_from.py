"""The equations of docs/coming_from/trainers.md: others' means, and their label smoothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from page_code import names_of

import jsoftmax as js

LENGTHS = (8, 3, 0)


@pytest.fixture(autouse=True)
def _as_a_reader():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def page():
    return names_of("docs/coming_from/trainers.md")


def losses_of(page):
    """Return the loss of each token, a list for each sequence."""
    log_p = jax.nn.log_softmax(page["x"] @ page["kernel"], -1)
    losses = -jnp.take_along_axis(log_p, page["tokens"][..., None], -1)[..., 0]
    return [np.asarray(losses[i, :length]) for i, length in enumerate(LENGTHS)]


AVERAGES = {
    "token-mean": lambda losses: np.mean(np.concatenate(losses)),
    "sequence-mean-token-mean": lambda losses: np.mean([x.mean() for x in losses if len(x)]),
    "sequence-mean-token-scale": lambda losses: np.mean([x.sum() / 8 for x in losses if len(x)]),
    "seq-mean-token-sum": lambda losses: np.mean([x.sum() for x in losses if len(x)]),
    "sequence-mean-token-sum-norm": lambda losses: sum(x.sum() for x in losses) / (3 * 8),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", AVERAGES)
def test_averages(page, name):
    mask, sequences = page["mask"], page["sequences"]
    weight, reduction = {
        "token-mean": (mask, "mean"),
        "sequence-mean-token-mean": (page["per_sequence"], "mean"),
        "sequence-mean-token-scale": (mask / (8 * sequences), "sum"),
        "seq-mean-token-sum": (mask / sequences, "sum"),
        "sequence-mean-token-sum-norm": (mask / (3 * 8), "sum"),
    }[name]
    given = page["x"], page["kernel"].T, page["tokens"]
    found = js.linear_cross_entropy(*given, sample_weight=weight, reduction=reduction)
    np.testing.assert_allclose(found, AVERAGES[name](losses_of(page)), rtol=1e-5)


def test_a_fixed_number_of_tokens_is_the_same_loss(page):
    expected = np.mean(np.concatenate(losses_of(page)))
    np.testing.assert_allclose(page["shorter"], expected, rtol=1e-5)


def test_smoothing_over_the_other_words(page):
    def smoothed(kernel):
        log_p = jax.nn.log_softmax(page["x"] @ kernel, -1)
        q = jnp.full((3, 8, 100), 0.1 / 99)
        q = jnp.put_along_axis(q, page["tokens"][..., None], 0.9, -1, inplace=False)
        return jnp.mean(jnp.sum(q * (jnp.log(q) - log_p), -1))

    def ours(kernel):
        smoothing = 0.1 * 100 / 99
        return js.linear_cross_entropy(
            page["x"], kernel.T, page["tokens"], label_smoothing=smoothing
        )

    value, slope = jax.value_and_grad(smoothed)(page["kernel"])
    np.testing.assert_allclose(page["as_in_easydel"], value, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(ours)(page["kernel"]), slope, rtol=1e-4, atol=1e-7)


def test_the_divergence_without_the_squared_temperature():
    keys = jax.random.split(jax.random.key(0), 4)
    x, y = (jax.random.normal(key, (5, 8)) for key in keys[:2])
    w, v = (jax.random.normal(key, (30, 8)) for key in keys[2:])
    beta, temperature = 0.3, 2.0
    p, q = (jax.nn.softmax(z / temperature, -1) for z in (x @ w.T, y @ v.T))
    m = beta * q + (1 - beta) * p
    of_teacher, of_student = (jnp.sum(a * jnp.log(a / m), -1) for a in (q, p))
    expected = jnp.mean(beta * of_teacher + (1 - beta) * of_student)
    options = {"divergence": "js", "beta": beta, "temperature": temperature}
    found = js.linear_distillation_loss(x, w, y, v, **options) / temperature**2
    np.testing.assert_allclose(found, expected, rtol=1e-5)
