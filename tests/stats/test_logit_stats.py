"""The fields of LogitStats against float64 numpy."""

import numpy as np
import oracles
import pytest
from cases import (
    CLASSES,
    hard_logits,
    labels_for,
    some_mask,
)
from numpy.testing import assert_allclose

import jsoftmax as js

ALL_CLASSES = pytest.mark.parametrize("classes", CLASSES)


@ALL_CLASSES
def test_logit_stats_fields(classes):
    logits, labels, where = hard_logits(classes), labels_for(classes), some_mask(classes)
    stats = js.logit_stats(logits, labels, where=where)
    z = oracles.masked(logits, where)
    true = oracles.one_hot(labels, classes).astype(bool)
    rest = np.where(true, -np.inf, z)
    assert_allclose(stats.target, z[true], rtol=0)
    assert_allclose(stats.runner_up, rest.max(-1), rtol=0)
    assert_allclose(stats.mean, np.nanmean(np.where(where, z, np.nan), -1), rtol=2e-6, atol=1e-6)
    assert_allclose(stats.others, np.logaddexp.reduce(rest, -1), rtol=2e-6, atol=1e-6)
    assert_allclose(stats.logsumexp, np.logaddexp.reduce(z, -1), rtol=2e-6, atol=1e-6)
    p = oracles.softmax(logits, where=where)[true]
    assert_allclose(stats.prob, p, rtol=6e-5, atol=1e-37)
    assert np.array_equal(stats.correct, z[true] > rest.max(-1))
