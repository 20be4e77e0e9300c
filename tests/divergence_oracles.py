"""Oracles of the losses that look at every class, and the size of what they add up.

The oracles are in float64. A function of p = softmax(z) whose derivative to p_j is s_j has the
gradient sum_k p_j p_k (s_j - s_k), and that is how it is computed here: differences of slopes keep
their digits in both tails. Each oracle also says how large the terms are that its results are sums
of; an error is relative to these, so that a sum that happens to cancel asks for no more digits than
float32 has of its terms.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles

import jsoftmax as js

BETA, TEMPERATURE, LOG_2 = 0.3, 4.0, np.log(2)


class Expected(NamedTuple):
    value: np.ndarray  # [...]
    value_size: np.ndarray
    bar: np.ndarray  # [..., classes], the gradient of the logits
    bar_size: np.ndarray


def probabilities(logits, where=None, temperature=1.0):
    """Return p, 1 - p and a finite log p, each to full relative precision."""
    p, rest, nll = oracles.probabilities(logits, where, temperature)
    return p, rest, np.where(np.isinf(nll), 0, -nll)


def gradient(p, slope, size=None):
    """Return the gradient and the size of its terms, from slopes and their size in float32."""
    size = abs(slope) if size is None else size
    bar, bar_size = np.empty_like(p), np.empty_like(p)
    for j in range(p.shape[-1]):
        bar[:, j] = p[:, j] * (p * (slope[:, [j]] - slope)).sum(-1)
        bar_size[:, j] = p[:, j] * (p * np.maximum(size[:, [j]], size)).sum(-1)
    return bar, bar_size


def from_top(p, slope):
    """Return the size of slopes relative to that of the largest probability."""
    return abs(slope - np.take_along_axis(slope, p.argmax(-1)[:, None], -1))


def total(q):
    return q.sum(-1, keepdims=True)


def of_distribution(p, q):
    """Return the size of the terms of p - q, which is measured from the largest logit: where that
    is one of many, its p = 1 - (1 - p) is right to 1e-7, not to 1e-7 of p (see test_tails)."""
    return np.where(p == p.max(-1, keepdims=True), np.maximum(p + q, 0.05), p + q)


def kl_divergence(logits, q, where=None):
    p, _, log_p = probabilities(logits, where)
    log_q = np.log(np.where(q == 0, 1, q))
    value_size = oracles.expected(q, abs(log_q) + abs(log_p))
    bar_size = of_distribution(p, q)
    return Expected(oracles.expected(q, log_q - log_p), value_size, total(q) * p - q, bar_size)


def js_divergence(logits, q, where=None):
    p, _, log_p = probabilities(logits, where)
    both = (q > 0) & (p > 0)
    log_q = np.where(both, np.log(np.where(both, q, 1)), 0)
    # log(2q / (q + p)) and log(2p / (q + p)), accurate where p = q
    over_q, over_p = (
        np.where(both, -np.maximum(x, 0) - np.log1p(np.expm1(-abs(x)) / 2), LOG_2)
        for x in (log_p - log_q, log_q - log_p)
    )
    logs = np.where(both, abs(log_p) + abs(log_q), 0)  # float32 has their difference to 1e-7 of it
    value = (q * over_q + p * over_p).sum(-1) / 2
    value_size = value + (p * abs(over_p) * (1 + logs)).sum(-1) / 2
    slope = over_p / 2
    return Expected(value, value_size, *gradient(p, slope, from_top(p, slope) + logs / 4))


def brier(logits, q, where=None):
    p, rest, _ = probabilities(logits, where)
    residual = np.where(p > 0.5, (1 - q) - rest, p - q)
    value = (residual**2).sum(-1)
    value_size = value + 2 * (abs(residual) * np.minimum(p, rest)).sum(-1)
    size = abs(residual) + np.minimum(p, rest)
    return Expected(value, value_size, *gradient(p, 2 * residual, 2 * size))


def entropy(logits, q=None, where=None):
    p, _, log_p = probabilities(logits, where)
    value = -(p * log_p).sum(-1)
    return Expected(value, value, *gradient(p, -log_p, from_top(p, log_p)))


def confidence_penalty(logits, q, where=None):
    p, rest, log_p = probabilities(logits, where)
    penalty = entropy(logits, None, where)
    of_label = (q == 1).any(-1).all()
    bar = np.where(q == 1, -rest, total(q) * p - q)
    size = abs(bar) if of_label else of_distribution(p, q)
    value = oracles.expected(q, -log_p)
    return Expected(
        value - BETA * penalty.value,
        value + BETA * penalty.value,
        bar - BETA * penalty.bar,
        size + BETA * penalty.bar_size,
    )


def distillation(logits, teacher, where=None, temperature=TEMPERATURE):
    p, _, log_p = probabilities(logits, where, temperature)
    q, _, log_q = probabilities(teacher, where, temperature)
    x = log_p - log_q
    value = temperature**2 * (q * (np.expm1(x) - x)).sum(-1)
    bar = temperature * q * np.expm1(x)
    return Expected(value, value, bar, abs(bar) + p * abs(bar).sum(-1, keepdims=True))


penalised = partial(js.confidence_penalty_loss, beta=BETA)
DIVERGENCES = {
    "kl": (js.kl_divergence, kl_divergence),
    "js": (js.js_divergence, js_divergence),
    "brier": (js.brier_loss, brier),
    "brier of labels": (js.brier_loss, brier),
    "entropy": (lambda z, q, **options: js.entropy(z, **options), entropy),
    "confidence penalty": (penalised, confidence_penalty),
    "confidence penalty of labels": (penalised, confidence_penalty),
    "distillation": (partial(js.distillation_loss, temperature=TEMPERATURE), distillation),
}


def of_oracle(oracle, given, logits, where=None):
    """Return the oracle's results for the library's arguments."""
    if jnp.issubdtype(given.dtype, jnp.integer):
        given = oracles.one_hot(given, logits.shape[-1])
    return oracle(oracles.float64(logits), oracles.float64(given), where)


def pulled_back(function, *arguments):
    """Return values, and the gradient of their sum to the first argument."""
    out, pullback = jax.vjp(lambda z: function(z, *arguments[1:]), arguments[0])
    return out, pullback(jnp.ones_like(out))[0]


def errors(got, expected, least=1e-37):
    """Return the errors of values `[...]` and gradients `[..., classes]`, relative to the sizes."""
    out, bar = (np.asarray(x.astype(jnp.float32), np.float64) for x in got)
    return (
        abs(out - expected.value) / np.maximum(expected.value_size, least),
        abs(bar - expected.bar) / np.maximum(expected.bar_size, least),
    )
