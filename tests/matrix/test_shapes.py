"""Wrong shapes: the error names the argument, the shape expected and the shape got."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    FORMULAS,
    over,
    weighted,
)

import jsoftmax as js

pytestmark = pytest.mark.one_in(5)

WITHOUT_WEIGHT = [case for case in FORMULAS if case.function != weighted]


WRONG = {
    "labels too long": ("labels", (3, 4), (4,), {}),
    "labels too short": ("labels", (3, 4), (1,), {}),
    "labels as a column": ("labels", (3, 4), (3, 1), {}),
    "a scalar label": ("labels", (3, 4), (), {}),
    "where too large": ("where", (3, 4), (3,), {"where": np.ones((2, 3, 4), bool)}),
    "where of other classes": ("where", (3, 4), (3,), {"where": np.ones((3, 5), bool)}),
    "axis": ("logits", (3, 4), (3,), {"axis": 2}),
    "no class": ("logits", (3, 0), (3,), {}),
}


@pytest.mark.parametrize("wrong", WRONG)
@over([case for case in WITHOUT_WEIGHT if case.options == {}])
def test_wrong_shapes_are_named(case, wrong):
    name, logits_shape, labels_shape, options = WRONG[wrong]
    expected, got = {
        "labels": (logits_shape[:-1], labels_shape),
        "where": (logits_shape, np.shape(options.get("where"))),
        "logits": ("", logits_shape),
    }[name]
    with pytest.raises(AssertionError) as error:
        jax.eval_shape(
            lambda z, y: case.function(z, y, **options),
            jnp.zeros(logits_shape),
            jnp.zeros(labels_shape, int),
        )
    message = str(error.value)
    assert f"`{name}`" in message
    assert f"expected shape {expected}" in message or name == "logits"
    assert str(got) in message


def zeros(shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def ones(shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("name", "function", "shape"),
    [
        ("labels", lambda: js.cross_entropy(zeros((3, 4)), zeros((3, 5))), "(3, 5)"),
        (
            "class_weight",
            lambda: js.cross_entropy(zeros((3, 4)), zeros(3, int), class_weight=ones(3)),
            "(3,)",
        ),
        ("target_probs", lambda: js.kl_divergence(zeros((3, 4)), zeros(4)), "(4,)"),
        ("labels", lambda: js.binary_cross_entropy(zeros((3, 4)), zeros((3, 1))), "(3, 1)"),
        (
            "pos_weight",
            lambda: js.binary_cross_entropy(zeros(3), zeros(3), pos_weight=ones((2, 3))),
            "(2, 3)",
        ),
        ("sample_weight", lambda: js.weighted_mean(ones(3), ones((3, 1))), "(3, 1)"),
        ("temperature", lambda: js.softmax(ones((3, 4)), temperature=ones(4)), "(4,)"),
        ("sink", lambda: js.softmax(ones((3, 4)), sink=ones(4)), "(4,)"),
        ("hard", lambda: js.straight_through(ones(3), ones(4)), "(3,)"),
        ("labels", lambda: js.logit_stats(ones((3, 4)), zeros(4, int)), "(4,)"),
        ("weight", lambda: js.linear_logits(ones((3, 4)), ones((4, 3))), "(4, 3)"),
        (
            "labels",
            lambda: js.linear_logits(
                ones((3, 4)), ones((2, 4)), zeros((3, 1), int), margin=js.arcface()
            ),
            "(3, 1)",
        ),
        (
            "bias",
            lambda: js.linear_logits(ones((3, 4)), ones((2, 4)), bias=ones(1)),
            "(1,)",
        ),
        ("labels", lambda: js.top_k_accuracy(ones((3, 4)), zeros(2, int)), "(2,)"),
    ],
)
def test_other_wrong_shapes_are_named(name, function, shape):
    with pytest.raises(AssertionError) as error:
        function()
    assert f"`{name}`" in str(error.value)
    assert "expected shape" in str(error.value)
    assert shape in str(error.value)
