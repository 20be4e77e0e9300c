"""Class imbalance: logit adjustment and class weights from the frequencies of the classes.

A margin for rare classes is `ldam`, in margins/presets.py.
"""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.arguments import as_logits, normalize_axis
from jsoftmax.core.dtypes import cast_like, to_compute_dtype
from jsoftmax.core.meshes import like, on_any_mesh
from jsoftmax.core.numbers import by_example, class_counts_like, one_number, within
from jsoftmax.core.numerics import expm1, per


@on_any_mesh(like("logits"))
def adjust_logits(
    logits: ArrayLike, class_counts: ArrayLike, *, axis: int = -1, tau: ArrayLike = 1.0
) -> Array:
    r"""Logit adjustment: add τ times the log-frequency of each class.

    $$z'_j = z_j + \tau \log \pi_j, \qquad \pi_j = n_j / \sum_k n_k$$

    Train with the cross-entropy of adjusted logits, and the unadjusted logits predict as if classes
    were balanced; with τ = 1 this is the balanced softmax. For a model trained without it, predict
    from `adjust_logits(logits, class_counts, tau=-1.0)`.

    Args:
      logits: `[..., classes]`, any real dtype.
      class_counts: `[classes]`, integers or floats: the number of examples per class, or its share.
        A class of count 0 gets the smallest positive count, so that its logit stays finite.
      axis: the class axis.
      tau: τ, one for all or by example; may be traced.

    Returns:
      Logits in the shape and dtype of `logits`. A negative count raises `ValueError`, or gives NaN
      if it is traced.

    Source: Menon et al., "Long-tail learning via logit adjustment", 2021, arXiv:2007.07314, eq. 10
    (for a trained model eq. 9, with the opposite sign); Ren et al., "Balanced meta-softmax",
    2020, arXiv:2007.10740, eq. 4.

    Example:
      >>> js.adjust_logits(jnp.zeros((1, 3)), jnp.array([90, 9, 1]))
      Array([[-0.1054, -2.4079, -4.6052]], dtype=float32)
    """
    logits = as_logits(logits)
    axis = normalize_axis("logits", logits, axis)
    z = to_compute_dtype(logits)
    counts = class_counts_like(class_counts, z, z.shape[axis])
    counts = jnp.where(counts == 0, jnp.min(counts, where=counts > 0, initial=jnp.inf), counts)
    # If no class has an example, all are equally frequent.
    counts = jnp.where(jnp.isinf(counts), 1, counts)
    log_prior = jnp.log(counts / jnp.sum(counts))
    along = [1] * z.ndim
    along[axis] = z.shape[axis]
    tau = by_example("tau", tau, z.shape, axis)
    return cast_like(z + cast_like(tau, z) * log_prior.reshape(along), logits)


@on_any_mesh(like("class_counts"))
def class_balanced_weights(class_counts: ArrayLike, *, beta: ArrayLike = 0.9999) -> Array:
    r"""Class weights by the effective number of examples, for `class_weight=` of a loss.

    $$w_j \propto \frac{1 - \beta}{1 - \beta^{n_j}}, \qquad \sum_j w_j = C$$

    Args:
      class_counts: `[classes]`, the number of examples of each class.
      beta: β in [0, 1]: 0 weighs all classes equally, 1 by the inverse of their counts. The
        paper tries 0.9, 0.99, 0.999 and 0.9999.

    Returns:
      `[classes]`, float32 or wider. A class of count 0 gets weight 0 and is not counted in C.

    Source: Cui et al., "Class-balanced loss based on effective number of samples", 2019,
    arXiv:1901.05555, eq. 2 and section 4.

    Example:
      >>> js.class_balanced_weights(jnp.array([1000, 100, 10]), beta=0.99)
      Array([0.2301, 0.363 , 2.4068], dtype=float32)
    """
    beta = within("beta", one_number("beta", beta), 0, 1)
    zero = to_compute_dtype(jnp.zeros((), jnp.result_type(float)))
    n = class_counts_like(class_counts, zero, jnp.size(jnp.asarray(class_counts, zero.dtype)))
    # Computed before β is rounded to float32: for 0.9999 the rounding costs 1 - β three digits.
    rate = cast_like(1 - beta, n)
    log_beta = jnp.log1p(-jnp.minimum(rate, 1 - jnp.finfo(n.dtype).eps))
    effective = jnp.where(rate == 0, n, expm1(n * log_beta) / jnp.where(rate == 0, 1, -rate))
    some = n != 0
    weight = jnp.where(some, 1 / jnp.where(some, effective, 1), 0)
    total = jnp.sum(weight)
    return per(weight * jnp.sum(some, dtype=n.dtype), total)
