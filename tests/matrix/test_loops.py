"""Second derivatives inside of loops: the same as outside of them.

Reverse mode over a loop drops the `custom_jvp` rules of what stays in its body, and differentiates
values, and the rules themselves, as they are written. So the derivatives of what is written must be
right without any rule. A member is here with one line; all members are one program.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from cases import LOSSES, MAPS, MARGINS, STATS_LOSSES, STRAIGHT_THROUGH
from members import LABELS, SOFT, Member

import jsoftmax as js

WEIGHT = np.array([[1, 0.5, -1], [0.25, -1, 1], [-1, 1, 0.5], [1.5, 0.75, 0.25], [-0.5, 0.5, 1]])
INDICES = np.array([[1, 4], [0, 0], [2, 3]], np.int32)
PROBS = np.array([[0.75, 0.25], [0.5, 0.5], [0.125, 0.5]])


def of_labels(case):
    return lambda z: case.function(z, LABELS, **case.options)


def of_distribution(loss, **options):
    return lambda z: loss(z, jnp.asarray(SOFT).astype(z.dtype), **options)


def of_lists(case):
    def function(z):
        labels = js.SparseLabels(INDICES, jnp.asarray(PROBS).astype(z.dtype))
        return case.function(z, labels, **case.options)

    return function


def of_stats(function):
    return lambda z: function(js.logit_stats(z, LABELS))


def hinge(stats):
    return jnp.square(stats.runner_up - stats.target + 3) + stats.others * stats.mean


def of_logits(margin):
    def function(x):
        z = js.linear_logits(x, jnp.asarray(WEIGHT).astype(x.dtype), LABELS, margin=margin)
        return jnp.square(z) / 16

    return function


def linear(loss, labels=LABELS, **options):
    def function(x):
        y = labels
        if isinstance(y, tuple):
            y = js.SparseLabels(y[0], jnp.asarray(y[1]).astype(x.dtype))
        weight = jnp.asarray(WEIGHT).astype(x.dtype) * (1 + x[0, 0] / 8)
        return jnp.atleast_1d(js.linear_loss(x, weight, y, loss, **options))

    return function


def statistics(x):
    stats = js.linear_stats(x, jnp.asarray(WEIGHT).astype(x.dtype), LABELS, class_block=2)
    return jnp.square(stats.target) + stats.others + stats.runner_up * stats.mean


BLOCKS = {
    "at once": {},
    "by rows": {"row_block": 2, "class_block": 2},
    "by classes": {"class_block": 2},
    "each": {"reduction": None, "class_block": 2},
    "each by rows": {"reduction": None, "row_block": 2, "class_block": 2},
}
ALPHAS = [("entmax 2.5", 2.5), ("entmax 0.7", 0.7), ("entmax 1.25", 1.25)]
MEMBERS = [
    *[Member(c.name, lambda z, c=c: c.function(z, **c.options)) for c in MAPS],
    *[Member(n, partial(js.entmax, alpha=a)) for n, a in ALPHAS],
    *[Member(f"{c.name}, labels", of_labels(c)) for c in LOSSES],
    *[Member(f"{c.name}, soft", of_distribution(c.function, **c.options)) for c in LOSSES],
    *[Member(f"{c.name}, lists", of_lists(c)) for c in LOSSES],
    *[
        Member(f"{c.name} of stats", of_stats(partial(c.function, **c.options)))
        for c in STATS_LOSSES
    ],
    Member("hinge", of_stats(hinge)),
    Member("kl_divergence", of_distribution(js.kl_divergence)),
    Member("js_divergence", of_distribution(js.js_divergence)),
    Member("distillation", of_distribution(lambda z, q: js.distillation_loss(z, 4 * q))),
    Member("binary_cross_entropy", of_distribution(js.binary_cross_entropy)),
    Member("entropy", js.entropy),
    Member("adjust_logits", lambda z: jnp.square(js.adjust_logits(z, jnp.arange(1, 6)))),
    Member("perplexity", lambda z: js.perplexity(z, LABELS)[None]),
    Member("expected_calibration_error", lambda z: js.expected_calibration_error(z, LABELS)[None]),
    Member("straight_through", lambda z: js.straight_through(js.hardmax(z), js.softmax(z))),
    Member("gumbel", lambda z: js.gumbel_softmax(jax.random.key(0), z)),
    *[Member(f"{c.name}, margin", of_logits(c.function), 3) for c in MARGINS],
    Member("straight_through margin", of_logits(STRAIGHT_THROUGH), 3),
    *[
        Member(f"{loss.__name__} {margin} {name}", linear(loss, margin=m, **blocks), 3)
        for name, blocks in BLOCKS.items()
        for loss in (js.nll, js.focal, hinge)
        for margin, m in (("none", None), ("arcface", js.arcface(scale=4.0)))
        if not (margin == "arcface" and loss is js.focal)
    ],
    *[
        Member(f"lists {name}", linear(js.gce, (INDICES, PROBS), **blocks), 3)
        for name, blocks in BLOCKS.items()
    ],
    Member("linear_stats", statistics, 3),
]
