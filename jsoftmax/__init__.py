"""The softmax classification head for JAX, in the order in which data flows through it.

    features, weight -> scores -> margin -> LogitStats -> loss
    logits -> probabilities
    logits, labels -> loss, or how good they are

All functions are pure and can be composed with jit, grad, vmap and the rest. Losses on logits
return one value per example, linear losses their mean. Options are keyword-only, but for the
numbers of a margin; angles are in radians.
"""

from importlib.metadata import PackageNotFoundError, version

from jsoftmax import checks
from jsoftmax.linear.cross_entropy import linear_cross_entropy
from jsoftmax.linear.distillation import linear_distillation_loss
from jsoftmax.linear.logits import linear_logits
from jsoftmax.linear.loss import linear_loss
from jsoftmax.linear.sample import linear_sample
from jsoftmax.linear.sampling import ClassSample, sample_classes
from jsoftmax.linear.sharded import sharded_linear_loss
from jsoftmax.linear.stats import linear_stats
from jsoftmax.linear.top_k import linear_top_k
from jsoftmax.losses.bi_tempered import bi_tempered_loss
from jsoftmax.losses.binary import binary_cross_entropy
from jsoftmax.losses.brier import brier_loss
from jsoftmax.losses.cross_entropy import cross_entropy
from jsoftmax.losses.divergences import distillation_loss, js_divergence, kl_divergence
from jsoftmax.losses.entropy import confidence_penalty_loss, entropy
from jsoftmax.losses.fenchel_young import entmax15_loss, entmax_loss, sparsemax_loss
from jsoftmax.losses.long_tail import adjust_logits, class_balanced_weights
from jsoftmax.losses.of_cosines import (
    MarginAndLoss,
    adacos_scale,
    p2sgrad,
    sphereface2,
    sphereface2_bias,
    uniface,
    uniface_bias,
)
from jsoftmax.losses.of_stats import focal, gce, mae, nll, poly1, sce
from jsoftmax.losses.on_logits import (
    focal_loss,
    generalized_cross_entropy,
    mae_loss,
    poly_loss,
    symmetric_cross_entropy,
)
from jsoftmax.losses.protocol import shift_invariant
from jsoftmax.losses.reduction import weighted_mean
from jsoftmax.maps.alternatives import (
    ev_softmax,
    scalable_softmax,
    sigsoftmax,
    spherical_softmax,
    taylor_softmax,
)
from jsoftmax.maps.bounded import gaussian_softmax, log_gaussian_softmax, range_limited_softmax
from jsoftmax.maps.entmax import entmax, entmax15, sparsemax, tempered_softmax
from jsoftmax.maps.hard import gumbel_softmax, hardmax, straight_through
from jsoftmax.maps.softmax import log_softmax, logsumexp, softmax
from jsoftmax.maps.top_k import soft_top_k
from jsoftmax.margins.angular import AngularMargin, angular_margin
from jsoftmax.margins.by_norm import adaface, adaface_update, magface, magface_regularizer
from jsoftmax.margins.form import Margin
from jsoftmax.margins.hard_classes import (
    arcnegface,
    curricularface,
    curricularface_update,
    mv_softmax,
)
from jsoftmax.margins.npcface import npcface
from jsoftmax.margins.numbers import dynamic_margins, elastic_margin
from jsoftmax.margins.per_example import PerExample
from jsoftmax.margins.presets import (
    a_softmax,
    am_softmax,
    arcface,
    combined_margin,
    cosface,
    l_softmax,
    ldam,
    modified_softmax,
    normface,
)
from jsoftmax.margins.several import inter_top_k, nearest_center, sub_center
from jsoftmax.margins.similarities import circle, li_arcface, sphereface, sphereface_r, tvmf
from jsoftmax.metrics.accuracy import perplexity, top_k_accuracy
from jsoftmax.metrics.bootstrap import bootstrap_interval
from jsoftmax.metrics.calibration import (
    ReliabilityCurve,
    adaptive_calibration_error,
    classwise_calibration_error,
    expected_calibration_error,
    reliability_curve,
)
from jsoftmax.metrics.debiased import debiased_calibration_error
from jsoftmax.metrics.decomposition import LossDecomposition, loss_decomposition
from jsoftmax.metrics.folds import verification_accuracy
from jsoftmax.metrics.identification import IdentificationRates, identification_rates
from jsoftmax.metrics.open_set import OpenSetCurve, oscr
from jsoftmax.metrics.operating_points import equal_error_rate, min_dcf, tar_at_far
from jsoftmax.metrics.pairs import VerificationRates, verification_rates
from jsoftmax.metrics.retrieval import RetrievalRates, retrieval_rates
from jsoftmax.metrics.roc import auroc, fpr_at_tpr
from jsoftmax.metrics.selective import RiskCoverageCurve, aurc, risk_coverage_curve
from jsoftmax.metrics.smooth_calibration import (
    SmoothReliabilityCurve,
    smooth_calibration_error,
    smooth_reliability_curve,
)
from jsoftmax.metrics.temperature import fit_temperature
from jsoftmax.metrics.verification import VerificationCurve, verification_curve
from jsoftmax.stats.dense import logit_stats
from jsoftmax.stats.labels import SparseLabels
from jsoftmax.stats.logit_stats import LogitStats

try:
    __version__ = version("jsoftmax")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"

__all__ = [
    # logits -> probabilities
    "entmax",
    "entmax15",
    "ev_softmax",
    "gaussian_softmax",
    "gumbel_softmax",
    "hardmax",
    "log_gaussian_softmax",
    "log_softmax",
    "logsumexp",
    "range_limited_softmax",
    "scalable_softmax",
    "sigsoftmax",
    "soft_top_k",
    "softmax",
    "sparsemax",
    "spherical_softmax",
    "straight_through",
    "taylor_softmax",
    "tempered_softmax",
    # features, weight -> scores, statistics, losses
    "linear_cross_entropy",
    "linear_distillation_loss",
    "linear_logits",
    "linear_loss",
    "linear_stats",
    # features, weight -> classes
    "linear_sample",
    "linear_top_k",
    # the same over a mesh, and with a sample of the classes
    "ClassSample",
    "sample_classes",
    "sharded_linear_loss",
    # a margin on the true class, or on all
    "AngularMargin",
    "Margin",
    "MarginAndLoss",
    "PerExample",
    "a_softmax",
    "adaface",
    "am_softmax",
    "angular_margin",
    "arcface",
    "arcnegface",
    "circle",
    "combined_margin",
    "cosface",
    "curricularface",
    "inter_top_k",
    "l_softmax",
    "ldam",
    "li_arcface",
    "magface",
    "modified_softmax",
    "mv_softmax",
    "normface",
    "npcface",
    "sphereface",
    "sphereface2",
    "sphereface_r",
    "sub_center",
    "tvmf",
    "uniface",
    # what goes with a margin: its state, numbers, regularizers
    "adacos_scale",
    "adaface_update",
    "curricularface_update",
    "dynamic_margins",
    "elastic_margin",
    "magface_regularizer",
    "nearest_center",
    "p2sgrad",
    "sphereface2_bias",
    "uniface_bias",
    # scores, labels -> statistics
    "LogitStats",
    "SparseLabels",
    "logit_stats",
    # statistics, or logits and labels -> losses
    "adjust_logits",
    "bi_tempered_loss",
    "binary_cross_entropy",
    "brier_loss",
    "class_balanced_weights",
    "confidence_penalty_loss",
    "cross_entropy",
    "distillation_loss",
    "entmax15_loss",
    "entmax_loss",
    "entropy",
    "focal",
    "focal_loss",
    "gce",
    "generalized_cross_entropy",
    "js_divergence",
    "kl_divergence",
    "mae",
    "mae_loss",
    "nll",
    "poly1",
    "poly_loss",
    "sce",
    "shift_invariant",
    "sparsemax_loss",
    "symmetric_cross_entropy",
    "weighted_mean",
    # how good logits are
    "LossDecomposition",
    "ReliabilityCurve",
    "SmoothReliabilityCurve",
    "adaptive_calibration_error",
    "classwise_calibration_error",
    "debiased_calibration_error",
    "expected_calibration_error",
    "fit_temperature",
    "loss_decomposition",
    "perplexity",
    "reliability_curve",
    "smooth_calibration_error",
    "smooth_reliability_curve",
    "top_k_accuracy",
    # what is answered if a model may abstain, and how sure a metric is
    "OpenSetCurve",
    "RiskCoverageCurve",
    "aurc",
    "bootstrap_interval",
    "oscr",
    "risk_coverage_curve",
    # how well embeddings tell unseen classes apart
    "IdentificationRates",
    "RetrievalRates",
    "VerificationCurve",
    "VerificationRates",
    "auroc",
    "equal_error_rate",
    "fpr_at_tpr",
    "identification_rates",
    "min_dcf",
    "retrieval_rates",
    "tar_at_far",
    "verification_accuracy",
    "verification_curve",
    "verification_rates",
    # guards
    "checks",
    "__version__",
]  # in the order of the flow
