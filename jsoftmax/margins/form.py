r"""The one form of all margins, and what the engine asks a margin for.

    z_j = s f(c_j)        f(c_y) = target(c_y),  f(c_j) = others(c_j, c_y) for j ≠ y

A margin is a frozen dataclass that is a pytree, with

    target(c_y)           in place of the cosine of the true class
    others(c_j, c_y)      in place of those of the other classes, elementwise; if they change
    similarity(c)         what both start from, if that is not the cosine itself: it makes the
                          logits where there are no labels
    scale                 s, 1 without
    normalize_features, normalize_weight    booleans, True without: what is divided by its norm

The cosine of the true class is known before the product with all classes: its row is gathered, over
a mesh by the device that has it. So all classes are changed in the passes that there are anyway,
and autodiff makes the gradient.

Two further things a method gets if it has an argument of that name:

    norm                  the norm of the features, `[...]`
    summary               what `summary(c_j, c_y)` makes of cosines `[..., classes]`: a tree of
                          arrays `[...]` or `[..., any]`, without gradients. It is called with some
                          classes at a time, those that are no others at -inf; `join(a, b)` makes of
                          the summaries of two sets of classes that of both

Cosines are float32 or wider. In the methods of a margin that is evaluated, a number by class is
that of the true class, and numbers broadcast against the cosines.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jsoftmax.core.dtypes import cast_like
from jsoftmax.margins.per_example import PerExample, is_per_example


class Margin(Protocol):
    r"""What `margin=` of a `linear_*` function takes: a frozen dataclass with these methods.

    $$z_y = s\,\mathrm{target}(\cos\theta_y), \qquad z_j = s\,\mathrm{others}(\cos\theta_j,
    \cos\theta_y)$$

    To write one, register a frozen dataclass as a pytree and give it `target`. Its numbers may then
    be traced, one by class (an array `[classes]`: the true class's counts) or `PerExample`, and all
    functions take it, with its gradients. There is nothing to inherit from.

    Args:
      target: a method of the cosine of the true class, elementwise.
      others: a method of the cosines of the other classes and of that of the true class, which
        broadcast. Without it the others keep their cosines. It needs unit vectors.
      similarity: a method of any cosine, which takes its place for all classes, also where there
        are no labels.
      scale: a field or an attribute; 1 without.
      normalize_features: an attribute: whether features become unit vectors; True without.
      normalize_weight: an attribute: whether class vectors do; True without.

    With an argument `norm` a method also gets the norm of the features, with an argument `summary`
    what the margin's method `summary(c_j, c_y)` makes of the cosines `[..., classes]` of the other
    classes beforehand, such as the largest. That is called with some of the classes at a time, -inf
    in place of what is no other class, and a method `join(a, b)` makes of the summaries of two sets
    of classes that of both. They have no gradient. A cosine may be rounded differently in the two
    calls: compare with what lies between two of them, not for equality.

    Source: the form is that of Deng et al., "ArcFace", 2019, arXiv:1801.07698, eq. 4, with the
    other classes changed as in Wang et al., "MV-Softmax", 2019, arXiv:1912.00833, eq. 8.

    Example:
      >>> import dataclasses
      >>> @jax.tree_util.register_dataclass
      ... @dataclasses.dataclass(frozen=True)
      ... class Squeezed:
      ...     margin: float = 0.2
      ...     scale: float = 16.0
      ...
      ...     def target(self, c_y):
      ...         return c_y - self.margin * (1 + c_y)
      ...
      ...     def others(self, c_j, c_y):
      ...         return jnp.where(c_j > self.target(c_y), c_j + 0.1, c_j)
      >>> x, w, y = jnp.array([[3.0, 4.0]]), jnp.eye(2), jnp.array([0])
      >>> js.linear_logits(x, w, y, margin=Squeezed())
      Array([[ 4.48, 14.4 ]], dtype=float32)
    """

    @property
    def target(self) -> Callable[..., Any]:
        """What takes the place of the cosine of the true class: a method."""
        ...


def scale_of(margin: Margin | None) -> Any:
    """Return the factor on all scores, or None for 1."""
    return getattr(margin, "scale", None)


def normalizes_features(margin: Margin | None) -> bool:
    """Say whether a margin divides features by their norm."""
    return margin is not None and getattr(margin, "normalize_features", True)


def normalizes_weight(margin: Margin | None) -> bool:
    """Say whether a margin divides class vectors by their norm."""
    return margin is not None and getattr(margin, "normalize_weight", True)


def centers_of(margin: Margin | None) -> int | None:
    """Return how many vectors a class has, None for one without an axis for it."""
    return getattr(margin, "centers", None)


def changes_others(margin: Margin | None) -> bool:
    """Say whether the scores of the other classes depend on more than their own cosine."""
    return hasattr(margin, "others")


def has_summary(margin: Margin | None) -> bool:
    """Say whether a margin needs something of the cosines of all classes first."""
    return hasattr(margin, "summary")


def reads_norm(margin: Margin | None) -> bool:
    """Say whether a method of a margin has an argument for the norm of the features."""
    methods = (getattr(margin, name, None) for name in ("target", "others", "summary"))
    return any("norm" in _named(method) for method in methods if method is not None)


def follows_target(margin: Any, cosine: Array) -> bool:
    """Say whether the other classes' scores have a derivative in the true class's cosine `[N]`.

    In the published margins they have none: they compare with it.
    """
    found = []

    @jax.custom_jvp
    def look(x):
        return x

    @partial(look.defjvp, symbolic_zeros=True)
    def _look_jvp(primals, tangents):
        found.append(not isinstance(tangents[0], SymbolicZero))
        return primals[0], primals[0]

    def others(of_label):
        of_label = of_label[:, None]
        c = lax.stop_gradient(of_label)
        known = {"norm": c, "summary": None}
        if has_summary(margin):
            summary = call(margin.summary, c, c, norm=c)
            known["summary"] = jax.tree.map(lambda x: x[:, None], summary)
        return look(call(margin.others, c, of_label, **known))

    margin = at_cosines(margin, cosine, axes=1)
    jax.eval_shape(lambda x: jax.jvp(others, (x,), (x,)), cosine)
    return found == [True]


def call(method: Callable[..., Any], *cosines: Array, **known: Any) -> Any:
    """Call a method of a margin with cosines, and with what it has an argument for."""
    return method(*cosines, **{name: x for name, x in known.items() if name in _named(method)})


def similarity(margin: Margin | None, c: Array) -> Array:
    """Return what takes the place of a cosine whatever the label."""
    return margin.similarity(c) if hasattr(margin, "similarity") else c  # type: ignore


def at_cosines(margin: Any, c: Array, axes: int = 0) -> Any:
    """Return a margin whose numbers by example have further axes of size 1, in the cosines' dtype.

    Then its methods can be called. A whole number that makes a polynomial stays a Python number.
    """

    def number(x):
        x = x.values if isinstance(x, PerExample) else x
        if isinstance(x, (int, float)):
            return x
        x = cast_like(x, c)
        return x.reshape(*x.shape, *[1] * axes) if x.ndim else x

    return jax.tree.map(number, margin, is_leaf=is_per_example)


def is_margin(x: Any) -> bool:
    """Say whether this is a margin: a dataclass, not its class, with a target."""
    return dataclasses.is_dataclass(x) and not isinstance(x, type) and hasattr(x, "target")


def check_is_margin(x: Any) -> None:
    """Check that this is a margin, and has the methods that go with those that it has."""
    if not is_margin(x):
        raise _not_a_margin(x)
    if jax.tree_util.all_leaves([x]):
        raise TypeError(
            f"`margin`: expected a dataclass that is a pytree, got {type(x).__name__}. Write "
            "@jax.tree_util.register_dataclass above @dataclasses.dataclass(frozen=True)."
        )
    if has_summary(x) and not hasattr(x, "join"):
        raise TypeError(
            f"`margin`: expected a method `join(a, b)` beside `summary`, got {type(x).__name__} "
            "without. A summary is of some of the classes, and `join` makes of those of two sets "
            "that of both: for the largest cosine, jnp.maximum(a, b)."
        )


def _not_a_margin(x: Any) -> TypeError:
    """Return the error of what is none, which says what to write instead."""
    name = getattr(x, "__name__", type(x).__name__)
    use = "A margin of your own is a dataclass with a method `target`, see Margin."
    if isinstance(x, (str, int, float)):
        use = "Write margin=js.arcface(), and its numbers in that call."
    elif callable(x):
        use = f"Call it: margin={name}()."
    elif hasattr(x, "loss"):
        use = "Write head.loss for the loss, and margin=head.margin."
    return TypeError(f"`margin`: expected a margin such as arcface(), got {name}. {use}")


def _named(method):
    return inspect.signature(method).parameters
