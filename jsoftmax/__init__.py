"""The softmax classification head for JAX, in the order in which data flows through it.

    features, weight -> scores (linear) -> margin (margins) -> LogitStats (stats) -> loss (losses)
    logits -> probabilities (maps)          logits, labels -> how good they are (metrics)

All functions are pure and can be composed with jit, grad, vmap and the rest. Hyper-parameters are
keyword-only, angles are in radians, losses return one value per example.
"""

from importlib.metadata import version

from jsoftmax import checks
from jsoftmax.linear import linear_cross_entropy, linear_logits, linear_loss, linear_stats
from jsoftmax.logit_losses import (
    binary_cross_entropy,
    cross_entropy,
    focal_loss,
    generalized_cross_entropy,
    kl_divergence,
    mae_loss,
    poly_loss,
    symmetric_cross_entropy,
)
from jsoftmax.losses import focal, gce, mae, nll, poly1, sce, weighted_mean
from jsoftmax.maps import (
    gaussian_softmax,
    gumbel_softmax,
    hardmax,
    log_gaussian_softmax,
    log_softmax,
    logsumexp,
    range_limited_softmax,
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
    modified_softmax,
    normface,
)
from jsoftmax.metrics import (
    ReliabilityCurve,
    expected_calibration_error,
    perplexity,
    reliability_curve,
    top_k_accuracy,
)
from jsoftmax.rest import SparseLabels
from jsoftmax.stats import LogitStats, logit_stats

__version__ = version("jsoftmax")

__all__ = [
    # logits -> probabilities
    "gaussian_softmax",
    "gumbel_softmax",
    "hardmax",
    "log_gaussian_softmax",
    "log_softmax",
    "logsumexp",
    "range_limited_softmax",
    "softmax",
    "straight_through",
    # features, weight -> scores, statistics, losses
    "linear_cross_entropy",
    "linear_logits",
    "linear_loss",
    "linear_stats",
    # a margin on the true class
    "AngularMargin",
    "a_softmax",
    "am_softmax",
    "angular_margin",
    "arcface",
    "combined_margin",
    "cosface",
    "l_softmax",
    "modified_softmax",
    "normface",
    # scores, labels -> statistics
    "LogitStats",
    "SparseLabels",
    "logit_stats",
    # statistics, or logits and labels -> losses
    "binary_cross_entropy",
    "cross_entropy",
    "focal",
    "focal_loss",
    "gce",
    "generalized_cross_entropy",
    "kl_divergence",
    "mae",
    "mae_loss",
    "nll",
    "poly1",
    "poly_loss",
    "sce",
    "symmetric_cross_entropy",
    "weighted_mean",
    # how good logits are
    "ReliabilityCurve",
    "expected_calibration_error",
    "perplexity",
    "reliability_curve",
    "top_k_accuracy",
    # guards
    "checks",
    "__version__",
]  # in the order of the flow
