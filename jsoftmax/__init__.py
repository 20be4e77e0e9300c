"""The softmax classification head for JAX, in the order in which data flows through it.

    features, weight -> scores -> margin -> LogitStats -> loss
    logits -> probabilities
    logits, labels -> loss, or how good they are

All functions are pure and can be composed with jit, grad, vmap and the rest. Hyper-parameters are
keyword-only, angles are in radians, losses return one value per example.
"""

from importlib.metadata import version

from jsoftmax import checks
from jsoftmax.calibration import (
    ReliabilityCurve,
    adaptive_calibration_error,
    classwise_calibration_error,
    expected_calibration_error,
    fit_temperature,
    reliability_curve,
)
from jsoftmax.closed_maps import (
    ev_softmax,
    gaussian_softmax,
    log_gaussian_softmax,
    range_limited_softmax,
    scalable_softmax,
    sigsoftmax,
    spherical_softmax,
    taylor_softmax,
)
from jsoftmax.divergences import (
    brier_loss,
    confidence_penalty_loss,
    distillation_loss,
    entropy,
    js_divergence,
    kl_divergence,
)
from jsoftmax.entmax import entmax, entmax15, sparsemax, tempered_softmax
from jsoftmax.entmax_losses import bi_tempered_loss, entmax15_loss, entmax_loss, sparsemax_loss
from jsoftmax.linear import linear_cross_entropy, linear_logits, linear_loss, linear_stats
from jsoftmax.logit_losses import (
    binary_cross_entropy,
    cross_entropy,
    focal_loss,
    generalized_cross_entropy,
    mae_loss,
    poly_loss,
    symmetric_cross_entropy,
)
from jsoftmax.long_tail import adjust_logits, class_balanced_weights
from jsoftmax.losses import focal, gce, mae, nll, poly1, sce, weighted_mean
from jsoftmax.maps import (
    gumbel_softmax,
    hardmax,
    log_softmax,
    logsumexp,
    softmax,
    straight_through,
)
from jsoftmax.margins import (
    AngularMargin,
    a_softmax,
    am_softmax,
    angular_margin,
    arcface,
    combined_margin,
    cosface,
    l_softmax,
    ldam,
    modified_softmax,
    normface,
)
from jsoftmax.metrics import perplexity, top_k_accuracy
from jsoftmax.parallel import sharded_linear_loss
from jsoftmax.rest import SparseLabels
from jsoftmax.sampling import ClassSample, sample_classes
from jsoftmax.stats import LogitStats, logit_stats
from jsoftmax.top_k import soft_top_k

__version__ = version("jsoftmax")

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
    "linear_logits",
    "linear_loss",
    "linear_stats",
    # the same over a mesh, and with a sample of the classes
    "ClassSample",
    "sample_classes",
    "sharded_linear_loss",
    # a margin on the true class
    "AngularMargin",
    "a_softmax",
    "am_softmax",
    "angular_margin",
    "arcface",
    "combined_margin",
    "cosface",
    "l_softmax",
    "ldam",
    "modified_softmax",
    "normface",
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
    "sparsemax_loss",
    "symmetric_cross_entropy",
    "weighted_mean",
    # how good logits are
    "ReliabilityCurve",
    "adaptive_calibration_error",
    "classwise_calibration_error",
    "expected_calibration_error",
    "fit_temperature",
    "perplexity",
    "reliability_curve",
    "top_k_accuracy",
    # guards
    "checks",
    "__version__",
]  # in the order of the flow
