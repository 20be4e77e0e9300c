r"""Class scores and a label to the few numbers that every single-label loss is a function of.

With logits z and true class y, the library splits the true class off:

    target = z[y]        others = logsumexp of z[j] over j != y        u = target - others

u is the log-odds of the true class: p = σ(u), 1 - p = σ(-u), -log p = softplus(-u). The usual pair,
logsumexp over all classes and the target, gives -log p by subtraction, and in float32 that is
exactly 0 once the model is right by more than 17. Split, neither p near 0 nor p near 1 loses a
digit, and the gradient over the classes sums to zero.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.checks import check_values
from jsoftmax.core.arguments import as_labels, as_logits, is_distribution, normalize_axis
from jsoftmax.core.dtypes import to_compute_dtype
from jsoftmax.core.masking import mask_classes
from jsoftmax.core.numerics import exp_nonpositive, neg_inf_to_zero, sigmoid, softplus
from jsoftmax.maps.softmax import logsumexp
from jsoftmax.stats.labels import at_label, check_labels, is_label


class LogitStats(NamedTuple):
    r"""What the single-label losses need to know of a row of logits: four numbers per example.

    $$\mathrm{target} = z_y, \quad \mathrm{others} = \log\sum_{j \ne y} e^{z_j}, \quad
    \mathrm{runner\_up} = \max_{j \ne y} z_j, \quad \mathrm{mean} = \frac1C \sum_j z_j$$

    Args:
      target: `[...]`, the logit of the true class; -inf if that class is off.
      others: `[...]`, logsumexp of the other classes; -inf if there are none.
      runner_up: `[...]`, the largest of the other logits, without gradient.
      mean: `[...]`, the mean logit of the classes that `where` keeps.

    All are float32, or float64 for float64 logits. A label that names no class makes `target` NaN.

    Source: the log-odds form of the softmax, as in logistic regression.

    Example:
      >>> stats = js.logit_stats(jnp.array([2.0, 1.0, 0.0]), 0)
      >>> stats.prob, stats.correct
      (Array(0.6652, dtype=float32), Array(True, dtype=bool))
    """

    target: Array
    others: Array
    runner_up: Array
    mean: Array

    @property
    def logsumexp(self) -> Array:
        """The log-partition function over all classes, `log sum_j exp(z_j)`."""
        return logsumexp(jnp.stack([self.target, self.others], -1))

    @property
    def log_odds(self) -> Array:
        """The log-odds u of the true class: -inf if it is off, +inf if it is the only one."""
        return self.target - jnp.where(self.target == -jnp.inf, 0, self.others)

    @property
    def log_prob(self) -> Array:
        """The log-probability of the true class, `-softplus(-u)`."""
        return -softplus(-self.log_odds)

    @property
    def prob(self) -> Array:
        """The probability of the true class, `sigmoid(u)`."""
        return sigmoid(self.log_odds)

    @property
    def correct(self) -> Array:
        """Whether the true class has the largest logit; a tie counts as wrong."""
        return self.target > self.runner_up


def logit_stats(
    logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> LogitStats:
    r"""Reduce logits to the `LogitStats` of their true classes.

    $$(z, y) \mapsto \Bigl(z_y,\; \log\sum_{j \ne y} e^{z_j},\; \max_{j \ne y} z_j,\;
    \frac1C \sum_j z_j\Bigr)$$

    Args:
      logits: `[..., classes]`, any real dtype.
      labels: integers `[...]`. One outside [0, classes) makes `target` NaN, and so every loss and
        gradient of its example; it never names another class.
      where: booleans that broadcast against `logits`; False switches a class off.

    Returns:
      `LogitStats` of arrays `[...]`.

    Source: the formulas of `LogitStats`.

    Example:
      >>> js.logit_stats(jnp.array([[2.0, 1.0, 0.0]]), jnp.array([0])).others
      Array([1.3133], dtype=float32)
    """
    logits = as_logits(logits)
    labels = as_labels(labels)
    if is_distribution(labels):
        raise TypeError(f"`labels`: expected integers, got a distribution of dtype {labels.dtype}.")
    normalize_axis("logits", logits, -1)
    check_labels(logits, labels)
    check_values(logits, labels, logits.shape[-1])
    return _relative(_split(logits, labels, where), 0)


def centred_stats(
    logits: Array, labels: Array, where: ArrayLike | None
) -> tuple[LogitStats, Array]:
    """Return the stats of `logits - shift`, and the shift, which has no gradient.

    With logits around 1e6 a float32 `others` has only 0.06 of resolution left. Losses do not depend
    on the shift, so they use this form; `logsumexp` is the only statistic that must add it back.
    """
    split = _split(logits, labels, where)
    shift = lax.stop_gradient(neg_inf_to_zero(jnp.maximum(split.target, split.runner_up)))
    return _relative(split, shift), shift


def absolute(stats: LogitStats, shift: Array) -> LogitStats:
    """Return the stats of `logits` from those of `logits - shift`."""
    return LogitStats(*(field + shift for field in stats))


def class_stats(logits: Array, where: ArrayLike | None) -> LogitStats:
    """Return the centred stats of every class as if it were the label: fields `[..., classes]`.

    For the largest logit they come from `centred_stats`. Any other class has p <= 1/2, so that its
    `others` is `logsumexp + log1p(-p)` without loss.
    """
    z = mask_classes(to_compute_dtype(logits), where)
    first = jnp.argmax(z, -1)
    stats, shift = centred_stats(logits, first, where)
    top = jax.tree.map(lambda field: field[..., None], stats)
    is_top = is_label(z, first)
    d = jnp.where(z == -jnp.inf, -jnp.inf, z - shift[..., None])
    total = top.logsumexp
    p = jnp.where(is_top, 0, jnp.exp(d - neg_inf_to_zero(total)))
    return LogitStats(
        target=d,
        others=jnp.where(is_top, top.others, total + jnp.log1p(-p)),
        runner_up=jnp.where(is_top, top.runner_up, top.target),
        mean=jnp.broadcast_to(top.mean, d.shape),
    )


class _Split(NamedTuple):
    """Logits with the true class split off: others = runner_up + log_rest."""

    logits: Array
    where: Array | None
    target: Array
    runner_up: Array
    log_rest: Array


def _split(logits, labels, where):
    z = mask_classes(logits, where)
    return _Split(logits, where, *_reduce(z, labels))


def _relative(split, shift):
    """Return the stats of `logits - shift` for a constant shift."""
    z = to_compute_dtype(split.logits) - jnp.expand_dims(shift, -1)
    if split.where is None:
        mean = jnp.mean(z, -1)
    else:
        on = jnp.broadcast_to(split.where, z.shape)
        mean = jnp.sum(jnp.where(on, z, 0), -1) / jnp.maximum(jnp.sum(on, -1, dtype=z.dtype), 1)
    return LogitStats(
        target=split.target - shift,
        others=(neg_inf_to_zero(split.runner_up) - shift) + split.log_rest,
        runner_up=split.runner_up - shift,
        mean=jnp.where(mean == -jnp.inf, -jnp.inf, mean),  # no gradient to a logit of -inf
    )


@jax.custom_jvp
def _reduce(logits, labels):
    """Return `target`, `runner_up` and `log_rest = log sum_{j != y} exp(z_j - runner_up)`."""
    rest = jnp.where(is_label(logits, labels), -jnp.inf, to_compute_dtype(logits))
    runner_up = jnp.max(rest, -1, initial=-jnp.inf)
    log_rest = jnp.log(jnp.sum(exp_nonpositive(rest - neg_inf_to_zero(runner_up)[..., None]), -1))
    return at_label(logits, labels), runner_up, log_rest


@_reduce.defjvp
def _reduce_jvp(primals, tangents):
    target, runner_up, log_rest = _reduce(*primals)
    d_target, d_log_rest = _reduce_tangent(*primals, runner_up, log_rest, tangents[0])
    d_target = jnp.where(target == -jnp.inf, 0, d_target)  # a class that is off has no gradient
    return (target, runner_up, log_rest), (d_target, jnp.zeros_like(runner_up), d_log_rest)


# The runner-up is a constant to differentiation, so log_rest has the derivative of `others`:
#   d target = dz_y        d log_rest = sum_{j != y} w_j dz_j,  w_j = exp(z_j - others)
# Each w_j is one exponential, accurate however small; together they sum to 1; a class that is off
# has w_j = 0. The checkpoint recomputes w in the backward pass, so that the logits, which are there
# anyway, are the only array of their size that it keeps.
@jax.checkpoint
def _reduce_tangent(logits, labels, runner_up, log_rest, dlogits):
    label = is_label(logits, labels)
    z, dz = to_compute_dtype(logits), to_compute_dtype(dlogits)
    relative = (z - neg_inf_to_zero(runner_up)[..., None]) - neg_inf_to_zero(log_rest)[..., None]
    w = jnp.exp(jnp.where(label, -jnp.inf, relative))
    return jnp.sum(jnp.where(label, dz, 0), -1), jnp.sum(w * dz, -1)
