"""Traced hyper-parameters: values, and derivatives against finite differences, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import LABELS, SOFT, Member, inputs, total_of, weighted_sum
from numpy.testing import assert_allclose

import jsoftmax as js

pytestmark = [pytest.mark.slow, pytest.mark.one_in(8)]

MIXED = 0.75 * SOFT + 0.05  # no zero, where there may be no derivative with respect to the labels


CE = js.cross_entropy


def sce(h, z):
    return js.symmetric_cross_entropy(z, LABELS, alpha=h[0], beta=h[1], log_zero=h[2])


def of_labels(h, z):
    return CE(z, LABELS, label_smoothing=h[0], z_loss=h[1], class_weight=jnp.full(5, h[2]))


# name: (h, logits) -> array, and values of h; a tuple has several, traced together
HYPERPARAMETERS = {
    "softmax temperature": (lambda h, z: js.softmax(z, temperature=h), 0.7),
    "log_softmax temperature": (lambda h, z: js.log_softmax(z, temperature=h), 1.7),
    "sink and temperature": (
        lambda h, z: js.softmax(z, sink=h[0], temperature=h[1]),
        (0.3, 2.0),
    ),
    "log sink": (lambda h, z: js.log_softmax(z, sink=h), 0.3),
    "gumbel": (lambda h, z: js.gumbel_softmax(jax.random.key(1), z, temperature=h), 0.5),
    "range_limited": (lambda h, z: js.range_limited_softmax(z, num_samples=h), 50.0),
    "gaussian": (lambda h, z: js.gaussian_softmax(z, num_samples=h), 50.0),
    "log_gaussian": (lambda h, z: js.log_gaussian_softmax(z, num_samples=h), 50.0),
    "ev epsilon": (lambda h, z: js.ev_softmax(z, epsilon=h), 0.1),
    "scalable scale": (lambda h, z: js.scalable_softmax(z, scale=h), 0.43),
    "alpha of entmax": (lambda h, z: js.entmax(z, alpha=h), 1.3, 1.0, 2.0),
    "alpha of entmax_loss": (lambda h, z: js.entmax_loss(z, LABELS, alpha=h), 1.3),
    "alpha of entmax_loss, soft": (lambda h, z: js.entmax_loss(z, SOFT, alpha=h), 1.0),
    "t": (lambda h, z: js.tempered_softmax(z, t=h), 1.4),
    "t1 and t2": (lambda h, z: js.bi_tempered_loss(z, LABELS, t1=h[0], t2=h[1]), (0.8, 1.4)),
    "t1, soft": (lambda h, z: js.bi_tempered_loss(z, SOFT, t1=h, t2=1.0), 0.99),
    "soft_top_k temperature": (lambda h, z: js.soft_top_k(z, 2, temperature=h), 0.5),
    "distillation temperature": (
        lambda h, z: js.distillation_loss(z, 4 * SOFT, temperature=h),
        2.0,
    ),
    "beta of penalty": (lambda h, z: js.confidence_penalty_loss(z, LABELS, beta=h), 0.1),
    "labels of entmax15_loss": (
        lambda h, z: js.entmax15_loss(z, MIXED + h * (MIXED[::-1] - MIXED)),
        0.5,
    ),
    "labels of bi_tempered": (
        lambda h, z: js.bi_tempered_loss(z, MIXED * (1 + h), t1=0.8, t2=1.4),
        0.5,
    ),
    "temperature": (lambda h, z: CE(z, LABELS, temperature=h), 0.7),
    "temperature, soft": (lambda h, z: CE(z, SOFT, temperature=h), 0.7),
    "temperature and z_loss": (
        lambda h, z: CE(z, LABELS, temperature=h[0], z_loss=h[1]),
        (2.0, 0.1),
    ),
    "label_smoothing, z_loss and class_weight": (of_labels, (0.1, 0.01, 3.0)),
    "label_smoothing and z_loss, soft": (
        lambda h, z: CE(z, SOFT, label_smoothing=h[0], z_loss=h[1]),
        (0.1, 0.01),
    ),
    "gamma": (lambda h, z: js.focal_loss(z, LABELS, gamma=h), 2.0),
    "gamma, soft": (lambda h, z: js.focal_loss(z, SOFT, gamma=h), 0.5),
    "epsilon": (lambda h, z: js.poly_loss(z, LABELS, epsilon=h), 2.0),
    "q": (lambda h, z: js.generalized_cross_entropy(z, LABELS, q=h), 0.7, 1e-3),
    "alpha, beta and log_zero": (sce, (0.1, 1.0, -4.0)),
    "pos_weight": (lambda h, z: js.binary_cross_entropy(z, SOFT, pos_weight=h), 3.0),
    "labels": (lambda h, z: CE(z, SOFT * (1 + h)), 0.5),
}


def nudged(h, i, by):
    """Return the number, or the tuple with its i-th number, moved."""
    if not isinstance(h, tuple):
        return h + by
    return (*h[:i], h[i] + by, *h[i + 1 :])


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_traced_hyperparameters(name):
    function, *values = HYPERPARAMETERS[name]
    member, step, count = Member(name, None), 1e-5, np.size(values[0])
    with jax.enable_x64(True):
        z = inputs(member, "float64")

        @jax.jit
        def run(h):
            def of(h):
                return function(h, z)

            zero = jax.tree.map(jnp.zeros_like, h)
            moved = [jax.jvp(of, (h,), (nudged(zero, i, 1.0),))[1] for i in range(count)]
            known = [function(value, z) for value in values]  # the values are constants here
            return of(h), jax.grad(weighted_sum(of))(h), moved, known

        for which, value in enumerate(values):
            got, slopes, moved, known = jax.tree.map(np.asarray, run(value))
            assert_allclose(got, known[which], rtol=1e-11, atol=1e-12)
            for i, slope in enumerate(jax.tree.leaves(slopes)):
                up, down = (np.asarray(run(nudged(value, i, d))[0]) for d in (step, -step))
                change = (up - down) / (2 * step)
                scale = max(np.abs(change).max(), np.abs(got).max())
                assert_allclose(moved[i], change, rtol=0, atol=2e-7 * scale)
                assert_allclose(slope, total_of(moved[i]), rtol=1e-11, atol=1e-12)
    z32, ones = inputs(member, "float32"), jax.tree.map(lambda _: 1.0, values[0])
    assert jax.eval_shape(function, ones, z32).dtype == jnp.float32 or "labels" in name
    # Values and tangents may be Python numbers.
    moved = jax.eval_shape(lambda: jax.jvp(lambda h: function(h, z32), (ones,), (ones,))[1])
    assert moved.shape == jax.eval_shape(function, ones, z32).shape
