"""The bi-tempered loss: a Tsallis divergence of one order on a tempered softmax of another."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.masking import centred
from jsoftmax.core.meshes import on_any_mesh, without_classes
from jsoftmax.core.numbers import within
from jsoftmax.losses.inputs import loss_inputs, per_example
from jsoftmax.losses.reduction import Reduction
from jsoftmax.losses.tsallis import divergence
from jsoftmax.maps.entmax_solver import broadcast_alpha, log_entmax
from jsoftmax.stats.labels import SparseLabels


@on_any_mesh(without_classes("logits", "axis"))
def bi_tempered_loss(
    logits: ArrayLike,
    labels: ArrayLike | SparseLabels,
    *,
    t1: ArrayLike,
    t2: ArrayLike,
    axis: int = -1,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = None,
) -> Array:
    r"""Bi-tempered logistic loss for noisy labels: t1 bounds it, t2 gives it heavy tails.

    $$\ell = \sum_j q_j (\log_{t_1} q_j - \log_{t_1} p_j) - \frac{q_j^{2 - t_1} - p_j^{2 - t_1}}{2 -
    t_1}, \qquad \log_t x = \frac{x^{1-t} - 1}{1 - t}$$

    for p = `tempered_softmax` of t2. Cross-entropy at t1 = t2 = 1.

    Args:
      logits: `[..., classes]`, any real dtype; computed in float32 or wider.
      labels: integers `[...]`, a distribution q or `SparseLabels`. The loss is 0 where p = q.
      t1: in [0, 1]. Below 1 the loss is at most 1 / (1 - t1), which limits the influence of wrong
        labels far from the boundary.
      t2: usually above 1, for heavy tails: a wrong label near the boundary counts for less. Both
        are scalars or go by example; they may be traced and have gradients, also at 1.
      axis: the class axis of `logits`, and of labels that are distributions.
      where: booleans that broadcast against `logits`; False masks a class.
      ignore_index: a label whose examples have loss 0 and gradient 0, whatever their logits.
      sample_weight: `[...]`, a factor on each example's loss; booleans are a mask. One of weight 0
        is left out whatever its logits.
      reduction: None for one value per example; "sum"; or "mean", which divides by the sum of the
        weights that count, and is 0 without any.

    Returns:
      `[...]`, float32 or wider, never below 0; NaN if a label is out of range.

    Source: Amid et al., "Robust bi-tempered logistic loss based on Bregman divergences", 2019,
    arXiv:1906.03361, eq. 5.

    Example:
      >>> z = jnp.array([[0.0, 9.0], [0.0, 90.0]])
      >>> js.bi_tempered_loss(z, jnp.array([0, 0]), t1=0.8, t2=1.2)
      Array([3.211 , 4.7368], dtype=float32)
    """
    aligned = loss_inputs(logits, labels, axis, where, ignore_index, sample_weight)
    z, q = aligned.whole()
    d, top = centred(z, -1, aligned.where)
    alpha1, alpha2 = (
        2 - broadcast_alpha(per_example(name, t, z, axis), top)
        for name, t in (("t1", within("t1", t1, 0, 1)), ("t2", t2))
    )
    # The checkpoint saves log p and q, not the dozen intermediate arrays of the divergence.
    log_p = log_entmax(d, alpha2)
    # Of a new function in each call: what JAX keeps of one may be of another mesh.
    divergences = jax.checkpoint(lambda *given: divergence(*given))(q, log_p, alpha1)
    losses = jnp.sum(divergences, -1)
    return aligned.reduced(losses, reduction)
