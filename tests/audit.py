"""One list with a small valid call of every public function, for what must hold of all of them.

A map, loss or margin is here by its line in cases.py; any other function needs a line below. Calls
go together into programs where that changes nothing. What fails is collected, so that one run names
all that do.
"""

import re
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from cases import (
    FORMULAS,
    GUMBEL,
    KEY,
    LOSSES,
    MAPS,
    MARGINS,
    STATS_LOSSES,
    STRAIGHT_THROUGH,
    weighted,
)

import jsoftmax as js

N, T, C, D, K = 4, 2, 8, 4, 2
_random = np.random.default_rng(0)


def _normal(*shape):
    return np.round(_random.normal(size=shape) * 16).astype(np.float32) / 16


def _shares(*shape):
    return _random.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)


class Given(NamedTuple):
    """An array, with a letter for each of its axes: n examples, c classes, any other is neither."""

    array: np.ndarray
    axes: str


# Multiples of 1/16 are exact in float8_e4m3fn up to 1.
GIVEN = {
    "logits": Given(_normal(N, C), "nc"),
    "teacher": Given(_normal(N, C), "nc"),
    "labels": Given(np.array([0, 7, 3, 4], np.int32), "n"),
    "distribution": Given(_shares(N, C), "nc"),
    "indices": Given(np.array([[0, 7], [3, 3], [1, 6], [4, 2]], np.int32), "nk"),
    "probs": Given(_shares(N, K), "nk"),
    "features": Given(_normal(N, D), "nd"),
    "tokens": Given(_normal(N, T, D), "ntd"),
    "words": Given(np.arange(N * T, dtype=np.int32).reshape(N, T), "nt"),
    "weight": Given(_normal(C, D), "cd"),
    "centers": Given(_normal(C, 2, D), "ctd"),
    "teacher_features": Given(_normal(N, K), "nk"),
    "teacher_weight": Given(_normal(C, K), "ck"),
    "bias": Given(_normal(C), "c"),
    "binary": Given(_random.integers(0, 2, (N, C)).astype(np.int32), "nc"),
    "sample_weight": Given(np.float32([1, 0.5, 2, 0]), "n"),
    "class_weight": Given(np.linspace(0.5, 2, C, dtype=np.float32), "c"),
    "counts": Given(np.arange(1, C + 1, dtype=np.int32) ** 2, "c"),
    "losses": Given(_normal(N), "n"),
    "scores": Given(_normal(N), "n"),
    "same": Given(np.array([True, False, True, False]), "n"),
    "folds": Given(np.array([0, 1, 1, 0], np.int32), "n"),
    "number": Given(np.float32(0.125), ""),
    "where": Given(_random.random((N, C)) < 0.7, "nc"),
    "kept": Given(np.arange(C) != 5, "c"),
}
GIVEN["where"].array[np.arange(N), GIVEN["labels"].array] = True


class Call(NamedTuple):
    """A call `function(*arrays, **options)`, of the arrays with these names."""

    name: str  # the public functions that it calls, and after a colon what else it is about
    function: Any
    given: tuple[str, ...]
    moving: int  # in how many of the arrays, the first ones, it is differentiated
    options: dict[str, Any]


def call(name, function, given, moving=1, **options):
    return Call(name, function, tuple(given.split()), moving, options)


def on_lists(loss, logits, indices, probs, **options):
    return loss(logits, js.SparseLabels(indices, probs), **options)


def of_stats(loss, logits, labels, **options):
    return loss(js.logit_stats(logits, labels), **options)


def linear_on_lists(features, weight, indices, probs, **options):
    return js.linear_loss(features, weight, js.SparseLabels(indices, probs), js.gce, **options)


def with_everything(features, weight, labels, bias, class_weight, kept, sample_weight, **options):
    return js.linear_cross_entropy(
        features,
        weight,
        labels,
        bias=bias,
        class_weight=class_weight,
        where=kept,
        sample_weight=sample_weight,
        **options,
    )


def bonus(stats, advantage):
    return advantage * stats.log_prob - stats.entropy


def with_arguments(features, weight, labels, losses, number):
    options = {
        "loss_args": (losses,),
        "temperature": jnp.exp(jnp.asarray(losses)) + jnp.asarray(number),
    }
    return js.linear_loss(features, weight, labels, bonus, **options)


@cache
def head_over_mesh():
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    axes = {"batch_axis": "data", "class_axis": "model"}
    return js.sharded_linear_loss(mesh, **axes, num_classes=C, margin=js.arcface())


def over_mesh(*arrays):
    return head_over_mesh()(*arrays)


def distilled(*arrays, **options):
    *heads, kept = arrays
    return js.linear_distillation_loss(*heads, where=kept, **options)


def smoothed(features, weight, labels, number):
    return js.linear_cross_entropy(features, weight, labels, label_smoothing=number)


def smoothed_by_example(features, weight, labels, losses):
    smoothing = jnp.square(jnp.asarray(losses, float)) / 4
    return js.linear_cross_entropy(features, weight, labels, label_smoothing=smoothing)


def masked(logits, labels, where, **options):
    return js.cross_entropy(logits, labels, where=where, **options)


def by_example(logits, labels, gamma):
    return js.focal_loss(logits, labels, gamma=gamma)


def of_kept(function, logits, kept, **options):
    return function(logits, where=kept, **options)


def sampled(labels):
    return js.sample_classes(KEY, labels, num_classes=C, num_sampled=6)


def through_hardmax(logits):
    return js.straight_through(js.hardmax(logits), js.softmax(logits))


def rare_classes(logits, labels, counts):
    weights = js.class_balanced_weights(counts)
    loss = js.cross_entropy(logits, labels, class_weight=weights)
    return js.adjust_logits(logits, counts), loss


def under_ldam(features, weight, labels, counts):
    return js.linear_loss(features, weight, labels, margin=js.ldam(counts))


def per_example(features, weight, labels, numbers):
    return js.linear_loss(features, weight, labels, margin=js.arcface(js.PerExample(numbers)))


UNIT = {"scale": 8.0}


def under_heads(features, weight, labels):
    """Heads that change the true class only, or all of them by themselves."""
    adaface = js.adaface_update(js.adaface(norm_mean=1.0, norm_std=1.0, **UNIT), features)
    margins = (
        adaface,
        js.magface(l_norm=0.5, u_norm=6.0, **UNIT),
        js.sphereface(**UNIT),
        js.li_arcface(**UNIT),
        js.tvmf(4.0, 8.0),
    )
    losses = [js.linear_loss(features, weight, labels, margin=margin) for margin in margins]
    drawn = js.arcface(js.elastic_margin(KEY, jnp.shape(labels)), 8.0)
    losses.append(js.linear_loss(features, weight, labels, margin=drawn))
    return sum(losses), js.magface_regularizer(features, l_norm=0.5, u_norm=6.0), adaface.norm_std


def under_hard_heads(features, weight, labels, counts):
    """Heads that change the other classes."""
    curricular = js.curricularface(js.dynamic_margins(counts), 8.0)
    curricular = js.curricularface_update(curricular, features, weight, labels)
    margins = (
        curricular,
        js.mv_softmax(**UNIT),
        js.arcnegface(**UNIT),
        js.npcface(**UNIT),
        js.sphereface_r(**UNIT),
        js.circle(**UNIT),
    )
    losses = [js.linear_loss(features, weight, labels, margin=margin) for margin in margins]
    return sum(losses), curricular.t


def with_centers(features, centers, labels):
    margin = js.sub_center(js.inter_top_k(js.arcface(**UNIT), 2), 2)
    angles = js.nearest_center(features, centers, labels)[1]
    return js.linear_loss(features, centers, labels, margin=margin), angles


def one_against_the_rest(features, weight, labels, bias):
    options = {"bias": bias, "reduction": None}
    heads = js.sphereface2(r=8.0), js.uniface(scale=8.0)
    return sum(
        js.linear_loss(features, weight, labels, loss, margin=margin, **options)
        for margin, loss in heads
    )


def adaptive_scale(features, weight, labels):
    stats = js.linear_stats(features, weight, labels, margin=js.normface(8.0))
    return js.adacos_scale(stats, 8.0, C)


def of_trials(metric, scores, same, sample_weight, **options):
    return metric(scores, same, sample_weight=sample_weight, **options)


def in_folds(scores, same, folds, sample_weight):
    options = {"num_folds": 2, "sample_weight": sample_weight}
    return js.verification_accuracy(scores, same, folds, **options)


def of_all_pairs(features, folds):
    return js.verification_rates(features, folds, far=0.5)


def of_gallery(weight, counts, features, labels):
    return js.identification_rates(weight, counts, features, labels, k=(1, 2), far=0.5)


def of_neighbours(features, folds):
    return js.retrieval_rates(features, folds, max_r=3)


def of_open_set(scores, same, folds, sample_weight):
    return js.oscr(scores, same, folds, sample_weight=sample_weight)


def of_losses(metric, scores, losses, sample_weight, **options):
    return metric(scores, losses, sample_weight=sample_weight, **options)


def of_samples(scores, losses):
    return js.bootstrap_interval(KEY, js.aurc, scores, losses, num_samples=3)


def reported(metric, logits, labels, where, sample_weight, **options):
    return metric(logits, labels, where=where, sample_weight=sample_weight, **options)


@js.shift_invariant
def hinge(stats):
    return jax.nn.relu(1 - stats.log_odds) + jax.nn.relu(1 + stats.runner_up - stats.target)


HEAD = "features weight labels"
TWO_HEADS = "features weight teacher_features teacher_weight kept"


def margin_name(case):
    return re.match(r"\w+", case.name)[0]


def loss_name(case):
    return "cross_entropy" if case.function is weighted else case.function.__name__


CALLS = [
    *[call(c.name.replace(",", ":"), c.function, "logits", **c.options) for c in [*MAPS, *GUMBEL]],
    call("softmax: masked", partial(of_kept, js.softmax), "logits kept", temperature=2.0),
    call("log_softmax: masked", partial(of_kept, js.log_softmax), "logits kept", sink=0.5),
    call("logsumexp: masked", partial(of_kept, js.logsumexp), "logits kept", keepdims=True),
    call("entmax: masked", partial(of_kept, js.entmax), "logits kept", alpha=1.3),
    call("straight_through hardmax softmax", through_hardmax, "logits"),
    *[call(f"{loss_name(c)}: {c.name}", c.function, "logits labels", **c.options) for c in LOSSES],
    *[
        call(f"{loss_name(c)}: {c.name}, soft", c.function, "logits distribution", 2, **c.options)
        for c in FORMULAS
    ],
    *[
        call(
            f"{loss_name(c)} SparseLabels: {c.name}",
            partial(on_lists, c.function),
            "logits indices probs",
            **c.options,
        )
        for c in FORMULAS
    ],
    call("cross_entropy: masked, ignored", masked, "logits labels where", ignore_index=3),
    call("focal_loss: by example", by_example, "logits labels sample_weight"),
    call("kl_divergence", js.kl_divergence, "logits distribution", 2),
    call("js_divergence", js.js_divergence, "logits distribution", 2),
    call("distillation_loss", js.distillation_loss, "logits teacher", temperature=2.0),
    call("entropy", js.entropy, "logits"),
    call("binary_cross_entropy", js.binary_cross_entropy, "logits binary", pos_weight=2.0),
    call("adjust_logits class_balanced_weights", rare_classes, "logits labels counts"),
    call("weighted_mean", js.weighted_mean, "losses sample_weight", 2),
    call("logit_stats LogitStats", js.logit_stats, "logits labels"),
    *[
        call(
            f"{c.function.__name__}: {c.name}",
            partial(of_stats, c.function),
            "logits labels",
            **c.options,
        )
        for c in STATS_LOSSES
    ],
    *[
        call(
            f"linear_logits {margin_name(c)}: {c.name}",
            js.linear_logits,
            HEAD,
            2,
            margin=c.function,
        )
        for c in MARGINS
    ],
    *[
        call(f"linear_loss {margin_name(c)}: {c.name}", js.linear_loss, HEAD, 2, margin=c.function)
        for c in MARGINS
    ],
    call(
        "elastic_margin adaface adaface_update magface magface_regularizer sphereface li_arcface "
        "tvmf",
        under_heads,
        HEAD,
        2,
    ),
    call(
        "curricularface curricularface_update dynamic_margins mv_softmax arcnegface npcface "
        "sphereface_r circle",
        under_hard_heads,
        f"{HEAD} counts",
        2,
    ),
    call("sub_center inter_top_k nearest_center", with_centers, "features centers labels", 2),
    call("sphereface2 uniface MarginAndLoss", one_against_the_rest, f"{HEAD} bias", 2),
    call("p2sgrad", js.linear_loss, HEAD, 2, loss=js.p2sgrad, margin=js.normface(1.0)),
    call("adacos_scale", adaptive_scale, HEAD, 0),
    call("linear_loss: straight_through", js.linear_loss, HEAD, 2, margin=STRAIGHT_THROUGH),
    call("linear_loss ldam", under_ldam, f"{HEAD} counts", 2),
    call("linear_loss: tokens", js.linear_loss, "tokens weight words", 2),
    call("linear_loss: blocks", js.linear_loss, HEAD, 2, row_block=2, class_block=3),
    call("linear_loss: per example", js.linear_loss, HEAD, 2, reduction=None),
    call("linear_loss shift_invariant", js.linear_loss, HEAD, 2, loss=hinge),
    call("linear_cross_entropy: a traced number", smoothed, f"{HEAD} number", 2),
    call("linear_cross_entropy: by example", smoothed_by_example, f"{HEAD} losses", 2),
    call("linear_loss SparseLabels", linear_on_lists, "features weight indices probs", 2),
    call(
        "linear_cross_entropy",
        with_everything,
        f"{HEAD} bias class_weight kept sample_weight",
        2,
        label_smoothing=0.1,
        z_loss=0.01,
        softcap=3.0,
        ignore_index=3,
        return_stats=True,
    ),
    call("linear_loss PerExample", per_example, f"{HEAD} sample_weight", 2),
    *[
        call(f"linear_distillation_loss: {name}", distilled, TWO_HEADS, 4, **options)
        for name, options in (
            ("forward", {"temperature": 2.0}),
            ("js", {"divergence": "js", "row_block": 2}),
            ("per example", {"divergence": "reverse", "reduction": None}),
        )
    ],
    call("linear_top_k", partial(js.linear_top_k, k=3), "features weight", 2, temperature=2.0),
    call("linear_sample", partial(js.linear_sample, KEY), "features weight", 0, top_p=0.9),
    call("linear_loss: arguments", with_arguments, f"{HEAD} losses number", 2),
    call("linear_stats", js.linear_stats, HEAD, 2, softcap=3.0),
    call("sharded_linear_loss", over_mesh, HEAD, 2),
    call("sample_classes ClassSample", sampled, "labels", 0),
    *[
        call(metric.__name__, partial(reported, metric), "logits labels where sample_weight", 0)
        for metric in (
            js.top_k_accuracy,
            js.perplexity,
            js.fit_temperature,
            js.expected_calibration_error,
            js.adaptive_calibration_error,
            js.classwise_calibration_error,
            js.reliability_curve,
            js.smooth_calibration_error,
            js.smooth_reliability_curve,
            js.debiased_calibration_error,
            js.loss_decomposition,
        )
    ],
    *[
        call(metric.__name__, partial(of_trials, metric), "scores same sample_weight", 0)
        for metric in (
            js.verification_curve,
            js.equal_error_rate,
            js.min_dcf,
            js.tar_at_far,
            js.auroc,
            js.fpr_at_tpr,
        )
    ],
    call("verification_accuracy", in_folds, "scores same folds sample_weight", 0),
    call("verification_rates", of_all_pairs, "features folds", 0),
    call("identification_rates", of_gallery, "weight counts features labels", 0),
    call("retrieval_rates", of_neighbours, "features folds", 0),
    call("oscr", of_open_set, "scores same folds sample_weight", 0),
    *[
        call(name, partial(of_losses, metric), "scores losses sample_weight", 0, **options)
        for name, metric, options in (
            ("risk_coverage_curve", js.risk_coverage_curve, {}),
            ("aurc", js.aurc, {}),
            ("aurc: generalized", js.aurc, {"generalized": True}),
        )
    ],
    call("bootstrap_interval", of_samples, "scores losses", 0),
    call("checks.looks_like_probabilities", js.checks.looks_like_probabilities, "logits", 0),
]
# What has no call of its own, and why.
UNCALLED = {
    "AngularMargin": "what the margins are",
    "Margin": "what any margin is",
    "sphereface2_bias": "a Python number",
    "uniface_bias": "a Python number",
    "ReliabilityCurve": "what reliability_curve returns",
    "SmoothReliabilityCurve": "what smooth_reliability_curve returns",
    "LossDecomposition": "what loss_decomposition returns",
    "IdentificationRates": "what identification_rates returns",
    "RetrievalRates": "what retrieval_rates returns",
    "OpenSetCurve": "what oscr returns",
    "RiskCoverageCurve": "what risk_coverage_curve returns",
    "VerificationCurve": "what verification_curve returns",
    "VerificationRates": "what verification_rates returns",
    "checks.checked": "takes a function, and is not to be jitted: core/test_checks.py",
}
# Of no examples these are NaN by definition, not 0: a rate of no pairs says nothing.
UNDEFINED = (
    "verification_curve",
    "equal_error_rate",
    "min_dcf",
    "tar_at_far",
    "auroc",
    "fpr_at_tpr",
    "verification_accuracy",
    "verification_rates",
    "identification_rates",
    "retrieval_rates",
    "oscr",
)


# --- evaluation ---


def first_of_each(key):
    """Return the first of the calls with the same key, but for what they are given."""
    return [*{(key(call), call.given): call for call in reversed(CALLS)}.values()][::-1]


def source(call):
    """Return the file of a function, and of a linear one which options it is given."""
    function = call.function
    if isinstance(function, partial):
        function = next(filter(callable, (*function.args, function.func)))
    file = function.__module__
    return file, *([] if "maps" in file or "losses" in file else call.options)


# Where each call has to be compiled, not all are: what takes time is that.
FUNCTIONS = first_of_each(lambda call: call.name.split(":")[0])
FILES = first_of_each(source)


def total(call, *arrays):
    """Return a number with another derivative in each result, and the results."""
    results = call.function(*arrays, **call.options)
    added = 0.0
    for x in jax.tree.leaves(results):
        if jnp.issubdtype(x.dtype, jnp.floating):
            weight = 1 + jnp.arange(x.size) % 4 / 4  # exact in 8 bits
            added += jnp.sum(weight.reshape(x.shape) * x.astype(float))
    return added, results


def evaluate(call, arrays):
    """Return the results, and the gradients of `total`."""
    if not call.moving:
        return call.function(*arrays, **call.options), ()
    moving = tuple(range(call.moving))
    gradients, results = jax.grad(partial(total, call), moving, has_aux=True)(*arrays)
    return results, gradients


def each(check, calls=CALLS):
    """Check every call, and say which of them failed, and why."""
    failed = {}
    for call in calls:
        try:
            check(call)
        except Exception as error:
            failed[call.name] = f"{type(error).__name__}: {str(error)[:300]}"
    assert not failed, "\n".join(f"{name}: {error}" for name, error in failed.items())


def arrays_of(call, change=lambda given: given.array):
    return [change(GIVEN[name]) for name in call.given]


def in_parts(calls, size=6):
    """Return the calls a few at a time: to compile all in one program takes XLA twice as long."""
    return [calls[i : i + size] for i in range(0, len(calls), size)]


def program_of(calls):
    @jax.jit
    def program(given):
        found = {}
        each(lambda c: found.update({c.name: evaluate(c, given[c.name])}), calls)
        return found

    return program


def in_programs(calls):
    """Return a function of changes, of `name -> what evaluate returns of changed arrays`."""
    programs = [(part, program_of(part)) for part in in_parts(calls)]

    def run(change):
        found, failed = {}, []
        for part, program in programs:
            try:
                found |= program({call.name: arrays_of(call, change) for call in part})
            except AssertionError as error:
                failed.append(str(error))
        assert not failed, "\n".join(failed)
        return found

    return run


def all_at_once(calls, change=lambda given: given.array):
    return in_programs(calls)(change)
