"""The losses of the sparse maps.

A map p(z) that maximises <z, p> - Ω(p) over the simplex has a matching loss, as softmax has
cross-entropy: the Fenchel-Young loss Ω*(z) + Ω(q) - <z, q>, whose gradient is p - q. Written with
the Bregman divergence of Ω it is a sum of non-negative terms, so nothing cancels:

    sum_j D(q_j, p_j) + sum_j q_j gap_j        gap_j: how far z_j is below the support of p
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jsoftmax.core.box_cox import box_cox
from jsoftmax.core.masking import centred
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.core.numbers import at_least
from jsoftmax.core.numerics import change, has_log, multiply_no_nan, safe_sqrt
from jsoftmax.losses.inputs import loss_inputs, per_example
from jsoftmax.losses.reduction import Reduction
from jsoftmax.losses.tsallis import divergence, negative_entropy
from jsoftmax.maps.entmax_solver import broadcast_alpha, log_entmax
from jsoftmax.maps.power_map import power_map
from jsoftmax.stats.labels import SparseLabels, at_label


@on_any_mesh(without_classes("logits", "axis"))
def sparsemax_loss(
    logits: ArrayLike,
    labels: ArrayLike | SparseLabels,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
) -> Array:
    r"""The loss of `sparsemax`, exactly 0 once the true class leads by a margin of 1.

    $$\ell = \tfrac12 \|q - z\|^2 - \tfrac12 \|p - z\|^2, \qquad p = \mathrm{sparsemax}(z)$$

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      labels: integers `[...]`, or a distribution q that sums to 1: floats of the shape of `logits`,
        or `SparseLabels`. The loss is 0 where p = q.
      axis: the class axis of `logits`.
      where: booleans that broadcast against `logits`; False masks a class.
      ignore_index: a label whose examples have loss 0 and gradient 0.
      sample_weight: `[...]`, a factor on each example's loss; booleans are a mask. One of weight 0
        is left out whatever its logits.
      reduction: None for one value per example; "sum"; or "mean", which divides by the sum of the
        weights that count, and is 0 without any.

    Returns:
      `[...]`, float32 or wider, never below 0; +inf if the label's class is masked, NaN
      if a label is out of range.

    Source: Martins, Astudillo, 2016, arXiv:1602.02068, eq. 18; for distributions: Blondel, Martins,
    Niculae, "Learning with Fenchel-Young losses", 2020, arXiv:1901.02324, table 1.

    Example:
      >>> js.sparsemax_loss(jnp.array([[1.0, 0.8, -2.0], [1.0, 0.0, -2.0]]), jnp.array([0, 0]))
      Array([0.16, 0.  ], dtype=float32)
    """
    return _entmax_loss(2.0, reduction, logits, labels, axis, where, ignore_index, sample_weight)


@on_any_mesh(without_classes("logits", "axis"))
def entmax15_loss(
    logits: ArrayLike,
    labels: ArrayLike | SparseLabels,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
) -> Array:
    r"""The loss of `entmax15`, exactly 0 once the true class leads by a margin of 2.

    $$\ell = \langle p - q, z \rangle + H(p) - H(q), \qquad H(p) = \tfrac43 \Bigl(1 - \sum_j
    p_j^{3/2}\Bigr), \quad p = \mathrm{entmax}_{1.5}(z)$$

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      labels: integers `[...]`, or a distribution q that sums to 1: floats of the shape of `logits`,
        or `SparseLabels`. The loss is 0 where p = q.
      axis: the class axis of `logits`, and of labels that are distributions.
      where: booleans that broadcast against `logits`; False masks a class.
      ignore_index: a label whose examples have loss 0 and gradient 0, whatever their logits.
      sample_weight: `[...]`, a factor on each example's loss; booleans are a mask. One of weight 0
        is left out whatever its logits.
      reduction: None for one value per example; "sum"; or "mean", which divides by the sum of the
        weights that count, and is 0 without any.

    Returns:
      `[...]`, float32 or wider, never below 0; +inf if the label's class is masked, NaN
      if a label is out of range.

    Source: Peters, Niculae, Martins, 2019, arXiv:1905.05702, eq. 12.

    Example:
      >>> js.entmax15_loss(jnp.array([[1.0, 0.8, -2.0], [1.0, -1.0, -2.0]]), jnp.array([0, 0]))
      Array([0.2976, 0.    ], dtype=float32)
    """
    return _entmax_loss(1.5, reduction, logits, labels, axis, where, ignore_index, sample_weight)


@on_any_mesh(without_classes("logits", "axis"))
def entmax_loss(
    logits: ArrayLike,
    labels: ArrayLike | SparseLabels,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
    alpha: ArrayLike = 1.5,
) -> Array:
    r"""The loss of `entmax`: from cross-entropy (α = 1) to the loss of sparsemax (α = 2).

    $$\ell = \langle p - q, z \rangle + H_\alpha(p) - H_\alpha(q), \qquad H_\alpha(p) = \frac{1 -
    \sum_j p_j^\alpha}{\alpha (\alpha - 1)}, \quad p = \mathrm{entmax}_\alpha(z)$$

    Above α = 1 it is exactly 0 once the true class leads by $1 / (\alpha - 1)$. At α = 1 it is the
    Kullback-Leibler divergence, which for integer labels is the cross-entropy.

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      labels: integers `[...]`, or a distribution q that sums to 1: floats of the shape of `logits`,
        or `SparseLabels`. The loss is 0 where p = q.
      axis: the class axis of `logits`, and of labels that are distributions.
      where: booleans that broadcast against `logits`; False masks a class.
      ignore_index: a label whose examples have loss 0 and gradient 0, whatever their logits.
      sample_weight: `[...]`, a factor on each example's loss; booleans are a mask. One of weight 0
        is left out whatever its logits.
      reduction: None for one value per example; "sum"; or "mean", which divides by the sum of the
        weights that count, and is 0 without any.
      alpha: α > 0, a scalar or by example; may be traced and has a gradient.

    Returns:
      `[...]`, float32 or wider, never below 0; +inf if the label's class is masked, NaN
      if a label is out of range.

    Source: Peters, Niculae, Martins, 2019, arXiv:1905.05702, eq. 12; Blondel, Martins, Niculae,
    2020, arXiv:1901.02324, section 4.3.

    Example:
      >>> z, y = jnp.array([[1.0, 0.8, -2.0]]), jnp.array([0])
      >>> js.entmax_loss(z, y, alpha=1.0), js.entmax_loss(z, y, alpha=2.0)
      (Array([0.6251], dtype=float32), Array([0.16], dtype=float32))
    """
    return _entmax_loss(alpha, reduction, logits, labels, axis, where, ignore_index, sample_weight)


def _entmax_loss(alpha, reduction, logits, labels, axis, *options):
    alpha = at_least("alpha", alpha, 0, strict=True)
    aligned = loss_inputs(logits, labels, axis, *options)
    z, q = aligned.whole()
    d, top = centred(z, -1, aligned.where)
    order = broadcast_alpha(per_example("alpha", alpha, z, axis), top)
    power = {2.0: 1, 1.5: 2}.get(alpha) if isinstance(alpha, (int, float)) else None
    p = power_map(d, power) if power else log_entmax(d, order)
    return aligned.reduced(_fenchel_young(power, d, q, p, order), reduction)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _fenchel_young(power, d, q, p, alpha):
    """Return the loss of centred logits `[..., classes]`, with α `[..., 1]`.

    `p` holds the probabilities if the power 1/β is static, and otherwise their logarithms.
    """
    beta = alpha - 1
    if power:
        on, terms = p > 0, _power_divergence(q, p, power)
    else:
        on, terms = p > -jnp.inf, divergence(q, p, alpha)
    # On the support (p^β - 1) / β = z - λ; where p is 0 and β > 0, z is below λ - 1/β.
    gap = _level(power, d, p, beta) - 1 / jnp.where(beta == 0, 1, beta) - d
    gap = jnp.where(on | (beta <= 0), 0, jnp.maximum(gap, 0))
    return jnp.sum(terms + multiply_no_nan(q, gap), -1)


@partial(_fenchel_young.defjvp, symbolic_zeros=True)
def _fenchel_young_jvp(power, primals, tangents):
    # The loss is the maximum over p of <z, p> - Ω(p), plus Ω(q) - <z, q>, so to first order it does
    # not change with p:   dL/dz = p - q,   dL/dα = dΩ(q)/dα - dΩ(p)/dα at constant p, and, for the
    # form that is computed, dL/dq = (q^β - 1) / β - (z - λ).
    d, q, p, alpha = primals
    dd, dq, _, d_alpha = tangents
    moved = jnp.zeros(d.shape[:-1], d.dtype)
    probability = p if power else jnp.exp(p)
    if not isinstance(dd, SymbolicZero):
        # 0 for a masked class, even if it is the label.
        moved += jnp.sum(jnp.where(d == -jnp.inf, 0, probability - q) * dd, -1)
    log_q = jnp.where(has_log(q), jnp.log(jnp.where(has_log(q), q, 1)), -jnp.inf)
    if not isinstance(dq, SymbolicZero):
        slope = box_cox(log_q, alpha - 1) - d + _level(power, d, p, alpha - 1)
        moved += jnp.sum(jnp.where(jnp.isinf(slope), 0, slope) * dq, -1)
    if not (power or isinstance(d_alpha, SymbolicZero)):
        change = jax.jvp(
            lambda alpha: negative_entropy(log_q, alpha) - negative_entropy(p, alpha),
            (alpha,),
            (d_alpha,),
        )
        moved += change[1]
    return _fenchel_young(power, *primals), moved


def _level(power, d, p, beta):
    """Return λ from probabilities or their logarithms at the largest logit, which is 0."""
    top = jnp.argmax(d, -1)
    largest, highest = (at_label(x, top)[..., None] for x in (p, d))
    return change(highest) - box_cox(jnp.log(largest) if power else largest, beta)


def _power_divergence(q, p, power):
    """Return `divergence` for β = 1 and 1/2, as polynomials in p and in its square root."""
    if power == 1:
        return jnp.square(q - p) / 2
    root_q, root_p = safe_sqrt(q), safe_sqrt(p)
    return jnp.square(root_q - root_p) * (2 * root_q + root_p) * (2 / 3)
