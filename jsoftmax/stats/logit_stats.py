r"""The few numbers per example that every single-label loss is a function of.

With logits z and true class y, the library splits the true class off:

    target = z[y]        others = logsumexp of z[j] over j != y        u = target - others

u is the log-odds of the true class: p = σ(u), 1 - p = σ(-u), -log p = softplus(-u). The usual pair,
logsumexp over all classes and the target, gives -log p by subtraction, and in float32 that is
exactly 0 once the model is right by more than 17. Split, neither p near 0 nor p near 1 loses a
digit, and the gradient over the classes sums to zero.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core.numerics import multiply_no_nan, sigmoid, softplus
from jsoftmax.maps.softmax import logsumexp

# The fields that are not logits, and do not move with a shift of these.
UNSHIFTED = "others_entropy", "others_softplus", "others_square"


class _Fields(NamedTuple):
    target: Array
    others: Array
    runner_up: Array
    mean: Array
    others_entropy: Array
    score: Array
    rival: Array
    others_softplus: Array
    others_square: Array


class LogitStats(_Fields):
    r"""What the single-label losses need of a row of logits: a few numbers per example.

    $$\begin{gathered} \mathrm{target} = z_y, \quad \mathrm{others} = \log\sum_{j \ne y} e^{z_j},
    \quad \mathrm{runner\_up} = \max_{j \ne y} z_j, \quad \mathrm{mean} = \frac1C \sum_j z_j, \\
    \mathrm{others\_entropy} = -\sum_{j \ne y} q_j \log q_j, \quad q_j = e^{z_j -
    \mathrm{others}} \end{gathered}$$

    Args:
      target: `[...]`, the logit of the true class, with its margin; -inf if that class is masked.
      others: `[...]`, logsumexp of the other classes; -inf if there are none.
      runner_up: `[...]`, the largest of the other logits. Its gradient goes to one class that
        attains it.
      mean: `[...]`, the mean logit of the unmasked classes.
      others_entropy: `[...]`, the entropy of the softmax over the other classes alone, in nats; 0
        if there are none or one. It does not follow from the rest: where it is not given, neither
        is `entropy`.
      score: `[...]`, the logit of the true class without its margin, which says what would be
        predicted; by default the target.
      rival: `[...]`, the largest of the other logits as it is without a margin, to compare with
        the score; a constant. By default, and unless a margin changes the other classes, it is
        `runner_up`.
      others_softplus: `[...]`, the sum of `log(1 + exp(z_j))` over the other classes, for losses of
        one class against the rest, such as `sphereface2`.
      others_square: `[...]`, the sum of `z_j²` over the other classes, for `p2sgrad`.

    All are float32, or float64 for float64 logits. An out-of-range label makes `target` and `score`
    NaN.

    Source: the log-odds form of the softmax, as in logistic regression.

    Example:
      >>> stats = js.logit_stats(jnp.array([2.0, 1.0, 0.0]), 0)
      >>> stats.prob, stats.correct
      (Array(0.6652, dtype=float32), Array(True, dtype=bool))
    """

    __slots__ = ()

    def __new__(
        cls,
        target: Array,
        others: Array,
        runner_up: Array,
        mean: Array,
        others_entropy: Any = None,
        score: Array | None = None,
        rival: Array | None = None,
        others_softplus: Any = None,
        others_square: Any = None,
    ) -> "LogitStats":
        """Fill in the fields that follow from the others."""
        score = target if score is None else score
        rival = runner_up if rival is None else rival
        given = target, others, runner_up, mean, others_entropy, score, rival
        return super().__new__(cls, *given, others_softplus, others_square)

    @property
    def logsumexp(self) -> Array:
        """The log-partition function over all classes, `log sum_j exp(z_j)`."""
        return logsumexp(jnp.stack([self.target, self.others], -1))

    @property
    def log_odds(self) -> Array:
        """The log-odds u of the true class: -inf if it is masked, +inf if it is the only one."""
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
    def entropy(self) -> Array:
        """The entropy of the softmax in nats, `h(p) + (1 - p) others_entropy`; h of two classes."""
        if self.others_entropy is None:
            raise ValueError(
                "`entropy`: expected LogitStats with `others_entropy`, got some without. "
                "logit_stats and linear_stats compute it."
            )
        u = self.log_odds
        p, q = sigmoid(u), sigmoid(-u)
        of_two = multiply_no_nan(p, softplus(-u)) + multiply_no_nan(q, softplus(u))
        return of_two + q * self.others_entropy

    @property
    def correct(self) -> Array:
        """Whether the true class has the largest logit, without a margin; a tie counts as wrong."""
        return self.score > self.rival


def absolute(stats: LogitStats, shift: Array) -> LogitStats:
    """Return the stats of `logits` from those of `logits - shift`."""
    unmoved = {name: getattr(stats, name) for name in UNSHIFTED}
    return jax.tree.map(lambda field: field + shift, stats)._replace(**unmoved)
