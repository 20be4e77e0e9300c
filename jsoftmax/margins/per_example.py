"""A margin's number that is another one for every example."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core.dtypes import cast_like
from jsoftmax.core.numbers import is_concrete
from jsoftmax.margins.record import record


@record
class PerExample:
    r"""Numbers of a margin by example; an array alone has one for every class.

    $$z_{iy_i} = s_i\,\varphi(\theta_{iy_i};\; m_i), \qquad z_{ij} = s_i \cos\theta_{ij}$$

    Any number of any margin may be one: `js.arcface(PerExample(m))`, `js.cosface(scale=
    PerExample(s))`. A frozen pytree: its values may be traced, and get gradients.

    Args:
      values: `[...]`, the shape of the labels.

    Source: margins that depend on the quality of an image, such as Kim, Jain, Liu, "AdaFace", 2022,
    arXiv:2204.00964; drawn at random: Boutros et al., "ElasticFace", 2022, arXiv:2109.09416.

    Example:
      >>> x, w, y = jnp.eye(2), jnp.eye(2), jnp.array([0, 1])
      >>> margin = js.cosface(js.PerExample(jnp.array([0.1, 0.4])), scale=10.0)
      >>> js.linear_logits(x, w, y, margin=margin)
      Array([[9., 0.],
             [0., 6.]], dtype=float32)
    """

    values: ArrayLike


Number = ArrayLike | PerExample


def number_like(number: Any, cosine: Array) -> Array:
    """Return a number of a margin for cosines `[...]`, in their dtype."""
    return cast_like(number.values if isinstance(number, PerExample) else number, cosine)


def radians(name: str, number: Any) -> Any:
    """Return an angle: an error if it is known to be above π, which degrees are."""
    value = number.values if isinstance(number, PerExample) else number
    if is_concrete(value) and np.any(np.asarray(value) > math.pi):
        raise ValueError(
            f"`{name}`: expected an angle in radians, at most π, got {value}. Of degrees write "
            f"{name}=jnp.deg2rad(degrees)."
        )
    return number


def by_example(tree: Any) -> Any:
    """Return the values of all `PerExample` in a tree, the examples as one axis."""

    def values(x):
        return jnp.ravel(x.values) if isinstance(x, PerExample) else x

    return jax.tree.map(values, tree, is_leaf=is_per_example)


def is_per_example(x: Any) -> bool:
    """Say whether this is a number by example."""
    return isinstance(x, PerExample)
