r"""The three matrix products of a linear head: a = x wᵀ, and for the gradients da w and daᵀ x.

Operands keep their dtype and sums are float32 or wider. Gradients enter the products in the dtype
of the other operand, since XLA would otherwise widen that one. All three are asked for the same
precision, which is that of `lax.dot_general`.
"""

from functools import partial

import jax
from jax import Array, lax
from jax.lax import PrecisionLike

from jsoftmax.core.dtypes import product_dtype, sum_dtype


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def matmul(features: Array, weight: Array, precision: PrecisionLike) -> Array:
    """Return `features @ weight.T`, `[..., classes]`; 16-bit operands are summed in float32."""
    axes = features.ndim - 1, 1
    return _contract(features, weight, *axes, sum_dtype(features, weight), precision)


@matmul.defjvp
def _matmul_jvp(precision, primals, tangents):
    # The tangent of bfloat16 operands is rounded to bfloat16, so that in the transpose the
    # cotangent is too: a product of a float32 cotangent with 16-bit operands would widen them.
    (features, weight), (d_features, d_weight) = primals, tangents
    out, axes = matmul(features, weight, precision), (features.ndim - 1, 1)
    same = features.dtype == weight.dtype
    dtype = product_dtype(features.dtype) if same else out.dtype
    d_out = _contract(d_features, weight, *axes, dtype, precision)
    d_out = d_out + _contract(features, d_weight, *axes, dtype, precision)
    return out, d_out.astype(out.dtype)


def features_gradient(gradient: Array, weight: Array, precision: PrecisionLike) -> Array:
    """Return `gradient @ weight`, the gradient of the features, in the dtype of the gradient."""
    return _contract(*_operands(gradient, weight), 1, 0, gradient.dtype, precision)


def weight_gradient(
    gradient: Array, features: Array, transpose: Array, precision: PrecisionLike
) -> Array:
    """Return `gradient.T @ features`, the gradient of the weight, in the dtype of the gradient.

    The transpose of the features is to be made before a loop.

    On a CPU a bfloat16 product over leading axes, or one that follows a transposition, runs at a
    third of the speed of the others. The barrier keeps XLA from swapping the operands.
    """

    def plain(rounded, features, _):
        return _contract(rounded, features, 0, 0, gradient.dtype, precision)

    def transposed(rounded, _, transpose):
        product = _contract(transpose, rounded, 1, 0, gradient.dtype, precision)
        return lax.optimization_barrier(product).T

    rounded, features = _operands(gradient, features)
    if features.dtype.itemsize > 2:
        return plain(rounded, features, transpose)
    return lax.platform_dependent(rounded, features, transpose, cpu=transposed, default=plain)


def _operands(gradient, operand):
    # float32 gradients are rounded to a 16-bit operand's dtype: else XLA widens the operand.
    dtype = gradient.dtype if operand.dtype.itemsize > 2 else product_dtype(operand.dtype)
    return gradient.astype(dtype), operand.astype(dtype)


def _contract(a, b, axis_a, axis_b, dtype, precision):
    axes = ((axis_a,), (axis_b,)), ((), ())
    return lax.dot_general(a, b, axes, precision=precision, preferred_element_type=dtype)
