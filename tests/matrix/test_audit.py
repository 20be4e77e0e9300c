"""What must hold of every public function, over the list in audit.py.

Those on meshes are in mesh/test_arrays.py.
"""

import gc
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from audit import CALLS, FUNCTIONS, GIVEN, UNCALLED, arrays_of, each, evaluate
from compiling import compiles

import jsoftmax as js

pytestmark = pytest.mark.slow


def test_every_public_function_is_called():
    public = {*js.__all__} - {"__version__", "checks"}
    public |= {f"checks.{name}" for name in ("checked", "looks_like_probabilities")}
    called = {name for call in CALLS for name in call.name.split(":")[0].split()}
    assert called | {*UNCALLED} == public
    assert not called & {*UNCALLED}


ARRAYS = (
    *("logits", "teacher", "distribution", "labels", "binary", "features", "tokens", "weight"),
    *("scores", "same", "folds"),
)


def test_a_tuple_of_arrays_is_no_array():
    """As numpy has it, both would become one array, and the message be about its shape."""

    def check(call):
        for place, name in enumerate(call.given):
            if name in ARRAYS:
                arrays = arrays_of(call, lambda given: jnp.asarray(given.array))
                arrays[place] = (arrays[place],) * 2
                with pytest.raises(TypeError, match="of arrays"):
                    jax.eval_shape(partial(call.function, **call.options), *arrays)

    each(check, FUNCTIONS)


# --- integers of any width ---


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", ["int8", "int32", "int64"])
def test_integers_where_the_default_has_64_bits(dtype):
    """Under strict promotion integers of two widths do not mix."""

    def change(given):
        return jnp.asarray(given.array, dtype if given.array.dtype == np.int32 else None)

    def check(call):
        if dtype not in ("int32", "int64"):  # which have their gradients
            call = call._replace(moving=0)
        jax.eval_shape(partial(evaluate, call), arrays_of(call, change))

    given = [c for c in FUNCTIONS if any(GIVEN[n].array.dtype == np.int32 for n in c.given)]
    with jax.enable_x64(True):
        each(check, given)


# --- debugging tools ---


@pytest.mark.thorough
def test_debug_nans_and_rank_promotion():
    """Without jit JAX looks at every intermediate result. The second call compiles nothing."""

    def check(call):
        assert compiles(evaluate, call, arrays_of(call)) == 0

    with jax.debug_nans(True), jax.numpy_rank_promotion("raise"):
        each(check, FUNCTIONS)


@pytest.mark.thorough
def test_checking_leaks():
    def check(call):
        if call.name == "sharded_linear_loss":  # JAX 0.10 says so of the gradient of any shard_map
            call = call._replace(moving=0)
        jax.eval_shape(partial(evaluate, call), arrays_of(call))

    gc.collect()
    gc.freeze()  # JAX looks through all objects that are not frozen
    with jax.checking_leaks():
        leaked = []
        with pytest.raises(Exception, match="Leaked"):
            jax.make_jaxpr(leaked.append)(1.0)
        each(check, FUNCTIONS)
