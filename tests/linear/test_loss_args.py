"""Losses with arguments per example, the entropy and the temperature, by every evaluator."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close, head
from compiling import compiles
from heads import WAYS, dense, over_ways
from numpy.testing import assert_array_equal

import jsoftmax as js

pytestmark = pytest.mark.one_in(19)

N, D, C = 5, 3, 7
X, W, LABELS = map(jnp.asarray, head(examples=N, size=D, classes=C))
BIAS = jnp.linspace(-1, 1, C)
ADVANTAGES = jnp.array([0.5, -1.0, 2.0, 0.0, -0.3])
OLD = {"log_prob": jnp.linspace(-3, -1, N), "more": jnp.arange(2.0 * N).reshape(N, 2) / N}
TRUSTED = jnp.array([3, 0, 1, 2, 0])
TEMPERATURES = jnp.linspace(0.5, 2, N)
HEAT = {"by example": TEMPERATURES, "one": 0.7}


def ppo(stats, advantage, old, trusted):
    """A clipped policy gradient with a penalty towards old log-probabilities, and the entropy."""
    ratio = jnp.exp(stats.log_prob - old["log_prob"])
    policy = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
    penalty = jnp.where(trusted > 0, jnp.square(stats.logsumexp), 0)
    return -policy - old["more"][0] * stats.entropy + 0.1 * old["more"][1] * penalty


def total(way, x, w, advantages, old, temperature, bias, softcap):
    arguments = advantages, old, TRUSTED
    options = {"temperature": temperature, "bias": bias, "softcap": softcap}
    return way(x, w, LABELS, ppo, loss_args=arguments, **options)


@cache
def everything(way, temperature):
    """Return value, gradients with respect to all that moves, and a Hessian times a vector."""
    given = X, W, ADVANTAGES, OLD, jnp.asarray(HEAT[temperature]), BIAS, jnp.asarray(3.0)
    tangents = jax.tree.map(lambda x: jnp.ones_like(x) / 4, given)
    gradient = jax.value_and_grad(lambda *given: total(way, *given), range(len(given)))
    return jax.jit(lambda given: jax.jvp(gradient, given, tangents))(given)


@pytest.mark.parametrize("temperature", HEAT)
@over_ways
def test_arguments_entropy_and_temperature(way, temperature):
    got, expected = (everything(each, temperature) for each in (way, dense))
    close(got, expected, rtol=1e-4, atol=2e-5)


@over_ways
def test_a_row_that_does_not_count_may_hold_anything(way):
    if way is WAYS["stats"]:
        pytest.skip("has no weights")

    def loss(stats, advantage):
        return jnp.log(advantage) * stats.log_prob

    def run(labels, advantages, temperature):
        def weighed(x, w, advantages, temperature):
            options = {"ignore_index": -1, "temperature": temperature}
            return way(x, w, labels, loss, loss_args=(advantages,), **options)

        given = X, W, advantages, temperature
        return jax.jit(jax.value_and_grad(weighed, range(4)))(*given)

    labels, advantages = LABELS.at[2].set(-1), jnp.abs(ADVANTAGES) + 1
    expected = run(labels, advantages, TEMPERATURES)
    for bad in (0, jnp.nan):  # both the logarithm and its slope are infinite at 0
        close(run(labels, advantages.at[2].set(bad), TEMPERATURES.at[2].set(bad)), expected)


def test_lists_of_labels():
    """Each listed class gets the arguments of its example."""
    lists = js.SparseLabels(
        jnp.array([[0, 6], [3, 3], [1, 2], [5, 4], [6, 0]]), jnp.linspace(0, 1, 2 * N).reshape(N, 2)
    )

    def loss(stats, advantage, old):
        return advantage * stats.log_prob + stats.entropy * old["more"][1]

    @jax.jit
    def run(advantages):
        options = {"loss_args": (advantages, OLD), "temperature": TEMPERATURES}
        return js.linear_loss(X, W, lists, loss, reduction=None, **options)

    log_p = jax.nn.log_softmax(X @ W.T / TEMPERATURES[:, None])
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, -1)[:, None]
    listed = jnp.take_along_axis(log_p, lists.indices, -1)
    losses = ADVANTAGES[:, None] * listed + entropy * OLD["more"][:, 1:]
    close(run(ADVANTAGES), jnp.sum(lists.probs * losses, -1))
    slope = jax.jacrev(run)(ADVANTAGES)
    close(slope, jnp.diag(jnp.sum(lists.probs * listed, -1)))


def test_transformations():
    """A batch of arguments under vmap; leading axes; a loop."""

    def loss(stats, advantage):
        return advantage * stats.log_prob

    def run(advantages):
        return js.linear_loss(X, W, LABELS, loss, loss_args=(advantages,))

    several = jnp.stack([ADVANTAGES, -ADVANTAGES, 2 * ADVANTAGES])
    close(jax.vmap(run)(several), run(ADVANTAGES) * jnp.array([1.0, -1, 2]))
    shaped = js.linear_loss(
        X[None], W, LABELS[None], loss, loss_args=(ADVANTAGES[None],), reduction=None
    )
    assert shaped.shape == (1, N)
    close(shaped.mean(), run(ADVANTAGES))

    def summed(w):
        def step(total, advantages):
            return total + js.linear_loss(X, w, LABELS, loss, loss_args=(advantages,)), None

        return jax.lax.scan(step, 0.0, several)[0]

    close(jax.grad(summed)(W), 2 * jax.grad(lambda w: run_with(w, loss))(W))


def run_with(w, loss):
    return js.linear_loss(X, w, LABELS, loss, loss_args=(ADVANTAGES,))


def test_one_program_for_all_values():
    """Integers, and trees that JAX can not hash; values compile nothing new."""

    def loss(stats, given):
        return jnp.where(given["kept"], stats.log_prob, 0) * given["factor"]

    def run(given):
        return jax.grad(lambda x: js.linear_loss(x, W, LABELS, loss, loss_args=(given,)))(X)

    given = {"kept": TRUSTED > 0, "factor": ADVANTAGES}
    assert_array_equal(run(given)[1], jnp.zeros(D))
    assert compiles(run, given | {"factor": OLD["log_prob"]}) == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss_args": (jnp.ones(N - 1),)}, AssertionError, r"loss_args\[0\]"),
        ({"loss_args": (OLD | {"more": jnp.ones(())},)}, AssertionError, r"\['more'\]"),
        ({"loss_args": jnp.ones(N)}, TypeError, "tuple"),
        ({"loss_args": (jnp.ones(N), OLD)}, TypeError, "positional"),
        ({"temperature": jnp.ones(N - 1)}, AssertionError, "temperature"),
        ({"temperature": 0.0}, ValueError, "temperature"),
    ],
)
@pytest.mark.parametrize("is_sharded", [False, True], ids=["alone", "sharded"])
def test_wrong_arguments(options, error, message, is_sharded):
    def loss(stats, argument):
        return stats.log_prob * jnp.sum(jax.tree.leaves(argument)[0])

    way = WAYS["sharded"] if is_sharded else WAYS["rows"]
    with pytest.raises(error, match=message):
        way(X, W, LABELS, loss, **({"loss_args": (jnp.ones(N),)} | options))


def test_temperature_by_linear_logits():
    """The functions on logits agree; the margin, the bias and the softcap come before it."""
    given = {"bias": BIAS, "softcap": 2.0, "margin": js.arcface(scale=4.0)}
    plain = js.linear_logits(X, W, LABELS, **given)
    for temperature in (TEMPERATURES, 3.0, np.float32(0.5)):
        hot = js.linear_logits(X, W, LABELS, temperature=temperature, **given)
        close(hot, plain / jnp.broadcast_to(temperature, (N,))[:, None])
        loss = js.linear_cross_entropy(
            X, W, LABELS, temperature=temperature, z_loss=0.1, reduction=None, **given
        )
        close(loss, js.cross_entropy(hot, LABELS, z_loss=0.1))
