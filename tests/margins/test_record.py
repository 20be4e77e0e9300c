"""Margins as values: which are equal, which can be hashed, and what is printed of them."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import HEADS

import jsoftmax as js

PRESETS = {
    "normface(scale=20.0)": js.normface(),
    "arcface(margin=0.5, scale=64.0)": js.arcface(),
    "cosface(margin=0.35, scale=30.0)": js.am_softmax(),
    "modified_softmax()": js.modified_softmax(),
    "a_softmax(m=4)": js.a_softmax(),
    "l_softmax(m=2)": js.l_softmax(2),
    "AngularMargin(m1=2, anneal=3.0, normalize_features=False)": js.a_softmax(2, 3.0),
    "AngularMargin(m2=0.3, m3=0.2, scale=64.0)": js.combined_margin(),
    "AngularMargin(m1=1.7, scale=30.0, gradient='straight_through')": js.sphereface(),
}
COUNTS = np.array([5, 3, 1])


@pytest.mark.parametrize("shown", PRESETS)
def test_a_preset_is_printed_as_what_makes_it(shown):
    assert repr(PRESETS[shown]) == shown
    assert eval(shown, vars(js)) == PRESETS[shown]


@pytest.mark.parametrize("name", HEADS)
def test_of_python_numbers(name):
    margin = HEADS[name]
    same = copy.deepcopy(margin), pickle.loads(pickle.dumps(margin)), jax.tree.map(float, margin)
    assert all(margin == other and hash(margin) == hash(other) for other in same)
    assert margin != jax.tree.map(lambda x: x + 1, margin)
    assert [each for each, other in HEADS.items() if other == margin] == [name]
    kind = type(margin).__name__.strip("_")
    assert repr(margin).startswith((kind, "AngularMargin"))


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_of_arrays(make):
    def margin(last):
        return js.sub_center(js.ldam(make([5, 3, last])), 2)

    assert margin(1) == margin(1)
    assert margin(1) != margin(2)
    assert margin(1) != js.sub_center(js.ldam(make([5, 3])), 2)
    assert repr(margin(1)) == "SubCenter(margin=cosface(margin=float32[3], scale=30.0), centers=2)"
    with pytest.raises(TypeError, match="hand it to a jitted function as an argument"):
        hash(margin(1))


def test_an_array_of_one_number_equals_the_number():
    assert js.arcface(jnp.float32(0.5)) == js.arcface(np.float32(0.5)) == js.arcface(0.5)
    assert repr(js.arcface(jnp.float32(0.5))) == repr(js.arcface())
    assert js.cosface(js.PerExample(COUNTS)) == js.cosface(js.PerExample(jnp.asarray(COUNTS)))
    assert js.cosface(js.PerExample(COUNTS)) != js.cosface(COUNTS)
    assert repr(js.PerExample(COUNTS)) == "PerExample(values=int64[3])"


def test_options_and_kinds_differ():
    assert js.arcface() != js.angular_margin(1.0, 0.5, beyond="easy")
    assert js.arcface() != js.li_arcface(0.5)
    assert js.arcface() != "arcface"


def test_traced():
    texts = []

    @jax.jit
    def trace(margin):
        assert margin == margin
        with pytest.raises(jax.errors.TracerArrayConversionError):
            _ = margin == js.arcface()
        texts.append(repr(margin))

    trace(js.arcface())
    assert "m2=float32[], m3=float32[]" in texts[0]
