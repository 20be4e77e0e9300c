r"""The three matrix products of a linear head: a = x wᵀ, and for the gradients da w and daᵀ x.

Operands keep their dtype and sums are float32 or wider. Gradients enter the products in the dtype
of the other operand, since XLA would otherwise widen that one.
"""

import jax
from jax import Array, lax

from jsoftmax.core.dtypes import product_dtype, sum_dtype


@jax.custom_jvp
def matmul(features: Array, weight: Array) -> Array:
    """Return `features @ weight.T`, `[..., classes]`; 16-bit operands are summed in float32."""
    return _contract(features, weight, features.ndim - 1, 1, sum_dtype(features, weight))


@matmul.defjvp
def _matmul_jvp(primals, tangents):
    # The tangent of bfloat16 operands is rounded to bfloat16, so that in the transpose the
    # cotangent is too: a product of a float32 cotangent with 16-bit operands would widen them.
    (features, weight), (d_features, d_weight) = primals, tangents
    out, last = matmul(features, weight), features.ndim - 1
    same = features.dtype == weight.dtype
    dtype = product_dtype(features.dtype) if same else out.dtype
    d_out = _contract(d_features, weight, last, 1, dtype)
    d_out = d_out + _contract(features, d_weight, last, 1, dtype)
    return out, d_out.astype(out.dtype)


def features_gradient(gradient: Array, weight: Array) -> Array:
    """Return `gradient @ weight`, the gradient of the features, in the dtype of the gradient."""
    return _contract(*_operands(gradient, weight), 1, 0, gradient.dtype)


def weight_gradient(gradient: Array, features: Array, transpose: Array) -> Array:
    """Return `gradient.T @ features`, the gradient of the weight, in the dtype of the gradient.

    The transpose of the features is to be made before a loop.

    On a CPU a bfloat16 product over leading axes, or one that follows a transposition, runs at a
    third of the speed of the others. The barrier keeps XLA from swapping the operands.
    """

    def plain(rounded, features, _):
        return _contract(rounded, features, 0, 0, gradient.dtype)

    def transposed(rounded, _, transpose):
        return lax.optimization_barrier(_contract(transpose, rounded, 1, 0, gradient.dtype)).T

    rounded, features = _operands(gradient, features)
    if features.dtype.itemsize > 2:
        return plain(rounded, features, transpose)
    return lax.platform_dependent(rounded, features, transpose, cpu=transposed, default=plain)


def _operands(gradient, operand):
    # float32 gradients are rounded to a 16-bit operand's dtype: else XLA widens the operand.
    dtype = gradient.dtype if operand.dtype.itemsize > 2 else product_dtype(operand.dtype)
    return gradient.astype(dtype), operand.astype(dtype)


def _contract(a, b, axis_a, axis_b, dtype):
    return lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=dtype)
