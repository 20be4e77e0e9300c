r"""What the engine asks of a loss of `LogitStats`: may its logits be shifted, what does it read.

Logits with a common offset of 1e6 have a resolution of 0.06 in float32; their statistics relative
to the largest logit have all digits. A loss says that it may be given those by its attribute
`on_centred`, a function of (stats of `logits - shift`, shift, and the loss's further arguments).
`shift_invariant` makes it for a loss that does not depend on the shift. A loss without the
attribute gets the stats of the logits themselves.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import Array

from jsoftmax.core.calls import explaining_calls
from jsoftmax.core.numbers import is_concrete, is_static, number
from jsoftmax.margins.form import is_margin
from jsoftmax.stats.logit_stats import LogitStats, absolute
from jsoftmax.stats.statistics import OPTIONAL

Loss = TypeVar("Loss", bound=Callable[..., Any])


def shift_invariant(loss: Loss) -> Loss:
    r"""Declare that a loss of `LogitStats` depends on differences of logits only.

    $$\ell(\mathrm{stats}(z + c)) = \ell(\mathrm{stats}(z))$$

    Such a loss is given the statistics relative to the largest logit, and so keeps its digits for
    logits with a large common offset. All single-label losses of the library are declared so,
    but for the z-loss of `nll`.

    Args:
      loss: a function of `LogitStats`, such as one that is made of `stats.log_odds`.

    Returns:
      The same function, with an attribute `on_centred`. What you wrap it in loses that: decorate a
      `lambda` around it as well. A `functools.partial` of it keeps it.

    Source: the softmax does not change with a common offset of the logits.

    Example:
      >>> @js.shift_invariant
      ... def hinge(stats):
      ...     return jax.nn.relu(1 - stats.log_odds)
      >>> x, w, y = jnp.ones((1, 1)), jnp.array([[0.5], [0.0]]), jnp.array([0])
      >>> js.linear_loss(x, w, y, hinge, bias=jnp.full(2, 2.0**20))
      Array(0.5, dtype=float32)
    """

    if not callable(loss):
        raise TypeError(
            f"`loss`: expected a function of LogitStats, got {type(loss).__name__}. Write "
            "shift_invariant(loss), not shift_invariant(loss(stats))."
        )
    return centred_by(lambda stats, shift, *args, **options: loss(stats, *args, **options))(loss)


def centred_by(rule: Callable[..., Array]) -> Callable[[Loss], Loss]:
    """Declare `rule(stats of logits - shift, shift, ...)` as what a loss is of centred stats."""

    def declare(loss):
        setattr(loss, "on_centred", rule)  # noqa: B010, functions have no such attribute by type
        return loss

    return declare


def by_class_weight(rule: Callable[..., Array]) -> Callable[[Loss], Loss]:
    """Declare what a loss with an option `label_smoothing` is if it takes class weights itself.

    The rule is a function of (stats of `logits - shift`, shift, the label's weight, and what else
    the loss gets), in which the mean of the stats is by class weights, and by name of their average
    and the loss's options.
    """

    def declare(loss):
        setattr(loss, "by_class_weight", rule)  # noqa: B010, as above
        return loss

    return declare


def takes_class_weight(loss: Callable[..., Array], loss_args: Any) -> bool:
    """Return whether a loss smooths labels, so that class weights are no factor on all of it.

    It may smooth them by a `label_smoothing` for all, or one by example in a dict that it gets.
    """
    function, args, options = _taken_apart(loss)
    by_example = any(isinstance(x, dict) and "label_smoothing" in x for x in loss_args)
    smoothed = by_example or not is_static(options.get("label_smoothing", 0.0), 0)
    return smoothed and not args and hasattr(function, "by_class_weight")


def with_class_weight(loss: Callable[..., Array], average: Array) -> Callable[..., Array]:
    """Return a loss that takes class weights as a function of what its rule is one of."""
    function, _, options = _taken_apart(loss)
    rule: Any = function
    return functools.partial(rule.by_class_weight, average=average, **options)


def _taken_apart(loss):
    if isinstance(loss, functools.partial):
        return loss.func, loss.args, loss.keywords
    return loss, (), {}


# The losses on logits and labels, and what they are of LogitStats.
_OF_LOGITS = {
    "cross_entropy": "nll",
    "focal_loss": "focal",
    "poly_loss": "poly1",
    "generalized_cross_entropy": "gce",
    "mae_loss": "mae",
    "symmetric_cross_entropy": "sce",
}


def check_loss(loss: Any, loss_args: Any) -> None:
    """Raise unless a loss can be called with LogitStats and the further arguments."""
    expected = "`loss`: expected a function of LogitStats such as js.focal"
    if is_margin(loss):
        raise TypeError(f"{expected}, got a margin. Write margin={loss!r}.")
    if not callable(loss):
        use = " Write head.loss, and margin=head.margin." if hasattr(loss, "margin") else ""
        use = use or (" Write loss=js.focal." if isinstance(loss, str) else "")
        use = use or " A loss is handed over, not called."
        raise TypeError(f"{expected}, got {type(loss).__name__}.{use}")
    try:
        signature = inspect.signature(loss)
    except (TypeError, ValueError):  # it has none that is known
        return
    try:
        signature.bind(None, *loss_args)
    except TypeError as wrong:
        function, *_ = _taken_apart(loss)
        name = getattr(function, "__name__", type(function).__name__)
        count = f" and of {len(loss_args)} loss_args" if loss_args else ""
        use = "What it needs besides goes to `loss_args`, or to functools.partial."
        if name in _OF_LOGITS:
            use = f"It is one of logits and labels: write js.{_OF_LOGITS[name]}."
        call = f"{name}({', '.join(signature.parameters)})"
        raise TypeError(f"{expected}{count}, got {call}: {wrong}. {use}") from None


def of_stats(loss: Loss) -> Loss:
    """Let the error of a loss of the library that is called like others say how it is used."""
    name = f"js.{getattr(loss, '__name__', '')}"
    options = inspect.signature(loss).parameters
    given = "".join(f", {p.name}={p.default}" for p in options.values() if p.kind == p.KEYWORD_ONLY)
    with_options = f", with options functools.partial({name}{given})" if given else ""
    return explaining_calls(loss, f" As `loss` write {name}{with_options}.")


def on_centred(loss: Callable[..., Array]) -> Callable[..., Array]:
    """Return a loss of stats as a function of the stats of `logits - shift`, and the shift."""
    function, args, options = _taken_apart(loss)
    if hasattr(function, "on_centred") and not args:
        return functools.partial(function.on_centred, **options)
    return lambda stats, shift, *more: loss(absolute(stats, shift), *more)


def fields_read(loss: Callable[..., Array], stats: LogitStats, *more: Any) -> tuple[str, ...]:
    """Return which of the `OPTIONAL` fields a loss reads: those without which it fails.

    A field that is not computed is None, with which nothing can be computed.
    """
    # Handed over, not closed over: after an error JAX would say that these have leaked.
    options = loss.keywords if isinstance(loss, functools.partial) else {}
    traced = {name: number(x) for name, x in options.items() if not is_concrete(x)}

    def evaluate(stats, more, traced):
        return loss(stats, *more, **traced)

    def needs(*names):
        absent: dict[str, Any] = dict.fromkeys(names)
        without = stats._replace(**absent)
        try:
            jax.eval_shape(evaluate, without, more, traced)
        except Exception:  # of whatever kind: an error that is not ours comes back with all fields
            return True
        return False

    return tuple(filter(needs, OPTIONAL)) if needs(*OPTIONAL) else ()
