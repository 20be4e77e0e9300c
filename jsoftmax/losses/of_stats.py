"""Single-label losses as functions of `LogitStats`.

Each formula stands here once, written on the log-odds u of the true class; the same losses on
logits and labels are in on_logits.py. Whoever needs another loss writes another function of
`LogitStats`.
"""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.numbers import at_least, at_most, is_static, like_examples, within
from jsoftmax.core.numerics import expm1, multiply_no_nan, sigmoid, softplus
from jsoftmax.losses.protocol import by_class_weight, centred_by, of_stats, shift_invariant
from jsoftmax.stats.logit_stats import LogitStats


def _centred_nll(stats, shift, *, label_smoothing=0.0, z_loss=0.0):
    """Return `nll` from the stats of `logits - shift`: only the z-loss depends on the shift."""
    loss = nll(stats, label_smoothing=label_smoothing)
    return loss + z_penalty(z_loss, stats.logsumexp + shift)


def _weighted_nll(stats, shift, of_label, *, average, label_smoothing=0.0, z_loss=0.0):
    """Return `nll` with class weights w_j on the terms of the smoothed label q'.

    sum_j w_j q'_j (-log p_j) = (sum_j w_j q'_j) (-log p_y) + ε average (z_y - weighted mean of z)
    """
    part = within("label_smoothing", label_smoothing, 0, 1)
    part = like_examples("label_smoothing", part, of_label)
    spread = part * average.astype(of_label.dtype)
    own = (1 - part) * of_label
    # A masked class of weight 0 as a label has no term: what is left of -log p_y + z_y is log Z.
    absent = (own == 0) & (stats.target == -jnp.inf)
    loss = jnp.where(absent, stats.others, nll(stats)) + z_penalty(z_loss, stats.logsumexp + shift)
    loss = multiply_no_nan(own + spread, loss)
    target = jnp.where(stats.target == -jnp.inf, 0, stats.target)
    return loss + multiply_no_nan(spread, target - stats.mean)


@of_stats
@by_class_weight(_weighted_nll)
@centred_by(_centred_nll)
def nll(stats: LogitStats, *, label_smoothing: ArrayLike = 0.0, z_loss: ArrayLike = 0.0) -> Array:
    r"""Negative log-likelihood of the true class, the loss behind `cross_entropy`.

    $$\ell = \mathrm{softplus}(-u) + \varepsilon\,(z_y - \bar z) + \lambda\,(\log Z)^2$$

    The second term turns the label into $(1 - \varepsilon)\,[j = y] + \varepsilon / C$.

    Args:
      stats: `LogitStats` of the examples, each field `[...]`.
      label_smoothing: ε in [0, 1], spread evenly over all unmasked classes, the true one
        included.
      z_loss: λ >= 0, a penalty on the log-partition function, which keeps logits from
        drifting.

    Returns:
      `[...]`, float32 or wider, never below 0; +inf if the true class is masked.

    Source: label smoothing: Szegedy et al., 2016, arXiv:1512.00567, section 7. z-loss: de
    Brébisson, Vincent, 2016, arXiv:1604.08859; with λ = 1e-4 in Chowdhery et al., "PaLM", 2022,
    arXiv:2204.02311.

    Example:
      >>> js.nll(js.logit_stats(jnp.array([0.0, 1.0]), 0))
      Array(1.3133, dtype=float32)
    """
    loss = _infinite_if_off(stats, softplus(-_finite_log_odds(stats)))
    if not is_static(label_smoothing, 0):
        smoothing = within("label_smoothing", label_smoothing, 0, 1)
        smoothing = like_examples("label_smoothing", smoothing, loss)
        # Of a masked class as a label nothing may be left: then of -log p_y + z_y it is log Z.
        absent = (smoothing == 1) & (stats.target == -jnp.inf) & (stats.others != -jnp.inf)
        loss = jnp.where(absent, stats.others, loss)
        # The mean is -inf if a class that counts has a logit of -inf: then so is the smoothed loss.
        target = jnp.where(stats.target == -jnp.inf, 0, stats.target)
        loss = loss + multiply_no_nan(smoothing, target - stats.mean)
    return loss + z_penalty(z_loss, stats.logsumexp)


@of_stats
@shift_invariant
def focal(stats: LogitStats, *, gamma: ArrayLike = 2.0) -> Array:
    r"""Focal loss: cross-entropy that fades for examples the model has right.

    $$\ell = -(1 - p)^\gamma \log p = e^{-\gamma\,\mathrm{softplus}(u)}\,\mathrm{softplus}(-u)$$

    Args:
      stats: `LogitStats` of the examples, each field `[...]`.
      gamma: γ >= 0; 0 is cross-entropy. Derivatives are finite for γ < 1 too.

    Returns:
      `[...]`, float32 or wider.

    Source: Lin et al., "Focal loss for dense object detection", 2017, arXiv:1708.02002, eq. 4.

    Example:
      >>> js.focal(js.logit_stats(jnp.array([0.0, 1.0]), 0))
      Array(0.7019, dtype=float32)
    """
    u = _finite_log_odds(stats)
    gamma = like_examples("gamma", at_least("gamma", gamma, 0), u)
    # Far below 0 the factor is 1, and in its derivative a 0 would meet a loss that may overflow.
    faded = jnp.exp(-gamma * softplus(jnp.where(u < -1e3, -1e3, u))) * softplus(-u)
    return _infinite_if_off(stats, faded)


@of_stats
@shift_invariant
def poly1(stats: LogitStats, *, epsilon: ArrayLike = 2.0) -> Array:
    r"""Poly-1 loss: cross-entropy with another weight on the first term of its series in 1 - p.

    $$\ell = -\log p + \epsilon\,(1 - p)$$

    Args:
      stats: `LogitStats` of the examples, each field `[...]`.
      epsilon: ε, 2 for ImageNet in the paper and -1 for detection.

    Returns:
      `[...]`, float32 or wider.

    Source: Leng et al., "PolyLoss", 2022, arXiv:2204.12511, eq. 3.

    Example:
      >>> js.poly1(js.logit_stats(jnp.array([0.0, 1.0]), 0))
      Array(2.7754, dtype=float32)
    """
    u = _finite_log_odds(stats)
    return nll(stats) + like_examples("epsilon", epsilon, u) * sigmoid(-u)


@of_stats
@shift_invariant
def gce(stats: LogitStats, *, q: ArrayLike = 0.7) -> Array:
    r"""Generalised cross-entropy: between cross-entropy (q = 0) and the robust 1 - p (q = 1).

    $$\ell = \frac{1 - p^q}{q}$$

    Args:
      stats: `LogitStats` of the examples, each field `[...]`.
      q: q >= 0; the closer to 1, the more label noise it tolerates and the slower it learns. May be
        traced.

    Returns:
      `[...]`, float32 or wider, at most 1/q. The paper's truncated loss, which gives up on examples
      with p < k, is `jnp.minimum(gce(stats, q=q), (1 - k**q) / q)`.

    Source: Zhang, Sabuncu, "Generalized cross entropy loss", 2018, arXiv:1805.07836, eq. 6.

    Example:
      >>> js.gce(js.logit_stats(jnp.array([0.0, 1.0]), 0))
      Array(0.8589, dtype=float32)
    """
    log_p = -softplus(-_finite_log_odds(stats))
    q = like_examples("q", at_least("q", q, 0), log_p)
    x = q * log_p
    # (1 - e^x) / q is 0/0 at q = 0, and its derivative with respect to q cancels near it: there,
    # the series, whose remainder x^4/120 is below rounding. Each branch is given arguments at which
    # it is finite.
    near = jnp.abs(x) < float(jnp.finfo(x.dtype).eps) ** 0.25
    small = jnp.where(near, x, 0)
    series = -log_p * (1 + small / 2 * (1 + small / 3 * (1 + small / 4)))
    power = -expm1(jnp.where(near, -1, x)) / jnp.where(near, 1, q)
    return jnp.where(near, _infinite_if_off(stats, series), power)


@of_stats
@shift_invariant
def mae(stats: LogitStats) -> Array:
    r"""Mean absolute error between the one-hot label and the probabilities, summed over classes.

    $$\ell = \sum_j |p_j - [j = y]| = 2\,(1 - p)$$

    Args:
      stats: `LogitStats` of the examples, each field `[...]`.

    Returns:
      `[...]`, float32 or wider, in [0, 2]. It tolerates label noise but learns slowly.

    Source: Ghosh, Kumar, Sastry, "Robust loss functions under label noise", 2017, arXiv:1712.09482.

    Example:
      >>> js.mae(js.logit_stats(jnp.array([0.0, 1.0]), 0))
      Array(1.4621, dtype=float32)
    """
    return 2 * sigmoid(-_finite_log_odds(stats))


@of_stats
@shift_invariant
def sce(
    stats: LogitStats,
    *,
    alpha: ArrayLike = 0.1,
    beta: ArrayLike = 1.0,
    log_zero: ArrayLike = -4.0,
) -> Array:
    r"""Symmetric cross-entropy: cross-entropy plus its reverse, whose log 0 is a constant A.

    $$\ell = -\alpha \log p - \beta A\,(1 - p)$$

    Args:
      stats: `LogitStats` of the examples, each field `[...]`.
      alpha: α, the weight of cross-entropy: 0.1 for CIFAR-10 in the paper, 6 for CIFAR-100.
      beta: β, the weight of reverse cross-entropy.
      log_zero: A <= 0. The paper's -4; many ports clip at 1e-4 instead, which makes it -9.21.

    Returns:
      `[...]`, float32 or wider.

    Source: Wang et al., "Symmetric cross entropy", 2019, arXiv:1908.06112, eq. 5 to 7.

    Example:
      >>> js.sce(js.logit_stats(jnp.array([0.0, 1.0]), 0))
      Array(3.0556, dtype=float32)
    """
    u = _finite_log_odds(stats)
    alpha, beta = like_examples("alpha", alpha, u), like_examples("beta", beta, u)
    log_zero = like_examples("log_zero", at_most("log_zero", log_zero, 0), u)
    # With a finite u: the derivative in α of what is infinite could meet a factor of 0.
    own = jnp.where(alpha == 0, 0, _infinite_if_off(stats, alpha * softplus(-u)))
    return own - beta * log_zero * sigmoid(-u)


def _finite_log_odds(stats):
    """Return u, with ±inf held at the largest float: 0 * inf in a derivative would be NaN."""
    if not hasattr(type(stats), "log_odds"):
        raise TypeError(
            f"`stats`: expected LogitStats, got {type(stats).__name__}. They are made by "
            "logit_stats(logits, labels); on logits and labels use a loss such as cross_entropy."
        )
    u = stats.log_odds
    largest = float(jnp.finfo(u.dtype).max)
    # Not by clipping, of which the largest itself would have half the derivative.
    return jnp.where(jnp.isinf(u), jnp.where(u > 0, largest, -largest), u)


def _infinite_if_off(stats, loss):
    return jnp.where(stats.log_odds == -jnp.inf, jnp.inf, loss)


def z_penalty(z_loss, logsumexp):
    """Return λ (log Z)², or the number 0 if λ is statically 0."""
    if is_static(z_loss, 0):
        return 0
    # Where every class is masked, log Z is -inf and the loss is +inf without it.
    log_z = jnp.where(logsumexp == -jnp.inf, 0, logsumexp)
    # In this order it is 0 for a λ of 0 where the square would overflow.
    return like_examples("z_loss", at_least("z_loss", z_loss, 0), log_z) * log_z * log_z
