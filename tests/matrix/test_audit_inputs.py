"""Every public function on inputs that are unusual but valid, over the list in audit.py."""

import inspect
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from audit import (
    CALLS,
    FILES,
    FUNCTIONS,
    GIVEN,
    UNDEFINED,
    C,
    N,
    all_at_once,
    arrays_of,
    each,
    evaluate,
    in_parts,
    in_programs,
)
from cases import close
from flax import nnx
from jax import export
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


class Wrapped:
    """What `jnp.asarray` takes, but is no array and no pytree."""

    def __init__(self, value):
        self.value = value

    def __jax_array__(self):
        return self.value


@cache
def values():
    return all_at_once([call._replace(moving=0) for call in FUNCTIONS])


@pytest.mark.thorough
@pytest.mark.parametrize("wrap", [Wrapped, nnx.Param])
def test_objects_with_jax_array(wrap):
    """In place of every array of floats, and of every number among the options."""

    def wrapped(x):
        is_float = isinstance(x, float) or getattr(x, "dtype", None) == np.float32
        return wrap(jnp.asarray(x)) if is_float else x

    def program(calls):
        found = {}

        def run(call):
            arrays = arrays_of(call, lambda given: wrapped(given.array))
            found[call.name] = call.function(*arrays, **jax.tree.map(wrapped, call.options))

        each(run, calls)
        return found

    found, expected = {}, values()
    for calls in in_parts(FUNCTIONS):
        found |= jax.jit(partial(program, calls))()
    each(lambda call: close(found[call.name], expected[call.name][0]), FUNCTIONS)


NARROW = ("logits", "teacher", "features", "tokens", "weight", "centers", "scores")


def takes_where(call):
    """Say whether a call on logits takes a class mask that it has not been given."""
    function = call.function
    while isinstance(function, partial):
        function = next(filter(callable, (*function.args, function.func)))
    takes = "where" in inspect.signature(function).parameters
    return takes and "logits" in call.given and not {"where", "kept"} & {*call.given}


@cache
def of_files():
    return in_programs(FILES)


@cache
def masked_calls():
    """Return calls with a class mask, and the programs of them."""
    more = {"where": GIVEN["kept"].array}
    calls = [c._replace(options=c.options | more) for c in FUNCTIONS if takes_where(c)]
    return calls, in_programs(calls)


def close_to_rounded(got, wide, parts=False):
    """Compare with float32 what comes back in 8 bits, rounded once, or in float32 itself.

    The parts of a gradient are rounded before they are added: it is compared with the largest.
    """
    if got.dtype == wide.dtype:
        return close(got, wide)
    bounds = jnp.finfo(got.dtype)
    least = np.float32(bounds.min if got.dtype == jnp.float8_e4m3fn else -np.inf)  # it has no inf
    wide = np.asarray(jnp.maximum(wide, least).astype(got.dtype), np.float32)
    rtol = float(bounds.eps)
    atol = rtol * np.abs(wide).max() if parts else float(bounds.smallest_subnormal)
    return assert_allclose(np.asarray(got, np.float32), wide, rtol=rtol, atol=atol)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("dtype", "masked"), [("float8_e4m3fn", False), ("float8_e4m3fn", True), ("float8_e5m2", True)]
)
def test_float8(dtype, masked):
    rounded = {id(GIVEN[name]): jnp.asarray(GIVEN[name].array).astype(dtype) for name in NARROW}
    calls, run = masked_calls() if masked else (FILES, of_files())
    found = run(lambda given: rounded.get(id(given), given.array))
    wide = run(lambda given: rounded.get(id(given), given.array).astype(given.array.dtype))

    def check(call):
        (results, gradients), (of_wide, gradients_of_wide) = found[call.name], wide[call.name]
        jax.tree.map(close_to_rounded, results, of_wide)
        jax.tree.map(partial(close_to_rounded, parts=True), gradients, gradients_of_wide)

    each(check, calls)


def test_no_examples():
    """Results have their shapes, and are no NaN, but for rates of pairs; gradients are 0."""

    def none(given):
        return given.array[:0] if given.axes[:1] == "n" else given.array

    found = all_at_once(FUNCTIONS, none)

    def check(call):
        results, gradients = found[call.name]
        usual, _ = jax.eval_shape(partial(evaluate, call), arrays_of(call))
        for x, y in zip(*map(jax.tree.leaves, (results, usual)), strict=True):
            assert x.shape[1:] == y.shape[1:]
            assert x.shape[:1] in (y.shape[:1], (0,), (y.shape and y.shape[0] - N,))
            assert call.name in UNDEFINED or not np.isnan(x).any()
        for x in gradients:
            assert_array_equal(x, 0)

    each(check, FUNCTIONS)


# What needs to know how many examples there are, and says so.
KNOWN = {
    "adaptive_calibration_error": "their number",
    "linear_loss: blocks": "With `row_block`",
    "linear_distillation_loss: js": "With blocks of a given size",
    "verification_rates": "Blocks are cut",
    "identification_rates": "Blocks are cut",
    "retrieval_rates": "Blocks are cut",
    "bootstrap_interval": "So many examples",
    "sharded_linear_loss": r"as in '2\*n'",
}


def test_a_number_of_examples_that_is_left_open():
    """As `jax.export` has it: one program for any number of examples."""

    def left_open(text):
        (n,) = export.symbolic_shape(text)

        def change(given):
            sizes = zip(given.axes, given.array.shape, strict=True)
            shape = tuple(n if axis == "n" else size for axis, size in sizes)
            return jax.ShapeDtypeStruct(shape, given.array.dtype)

        return change

    def traced(call, text="n"):
        jax.eval_shape(partial(evaluate, call), arrays_of(call, left_open(text)))

    def exported(call, text="n"):
        return export.export(jax.jit(partial(evaluate, call)))(arrays_of(call, left_open(text)))

    named = {call.name: call for call in CALLS}
    each(traced, [call for call in FILES if call.name not in KNOWN])  # where JAX would refuse
    for name, message in KNOWN.items():
        with pytest.raises(ValueError, match=message):
            traced(named[name])
    exported(named["sharded_linear_loss"], "2*n")
    for name in ("linear_cross_entropy", "expected_calibration_error", "linear_top_k"):
        call = named[name]
        close(exported(call).call(arrays_of(call)), evaluate(call, arrays_of(call)))


LOWEST = np.finfo(np.float32).min
HUGE = {  # the names of what changes, and how: what is 5 there is no label
    "a class masked by -1e30": (("logits", "teacher", "bias"), lambda x: np.where(IS_5, -1e30, x)),
    "a class masked by the lowest": (
        ("logits", "teacher", "bias"),
        lambda x: np.where(IS_5, LOWEST, x),
    ),
    "a class at 1e30": (("logits", "teacher", "bias"), lambda x: np.where(IS_5, 1e30, x)),
    "all of size 1e30": (("logits", "teacher", "bias"), lambda x: 1e30 * x),
    "large features": (("features", "tokens"), lambda x: 1e30 * x),
    "small features": (("features", "tokens"), lambda x: 1e-30 * x),
    "large weight": (("weight", "centers"), lambda x: 1e30 * x),
    "small weight": (("weight", "centers"), lambda x: 1e-30 * x),
}
IS_5 = np.arange(C) == 5


def test_huge_gaps():
    """Nothing is NaN, and nothing infinite but what overflows: squares of logits, and sums.

    What is infinite by definition is so without gaps, too.
    """
    usual = of_files()(lambda given: given.array)

    def check(name, found, call):
        results, gradients = found[call.name]
        for x in jax.tree.leaves((results, gradients)):
            assert not np.isnan(x).any(), name
        if isinstance(results, js.LogitStats):
            results = results._replace(others_square=results.target)
        if "z_loss" not in call.options and "lowest" not in name:
            without = jax.tree.leaves(usual[call.name])
            for x, plain in zip(jax.tree.leaves((results, gradients)), without, strict=True):
                assert (np.isfinite(x) | np.isinf(plain)).all(), name

    for name, (names, scaled) in HUGE.items():
        changed = {id(GIVEN[n]): np.float32(scaled(GIVEN[n].array)) for n in names}
        found = of_files()(lambda given, changed=changed: changed.get(id(given), given.array))
        each(partial(check, name, found), FILES)
