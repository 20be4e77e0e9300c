"""Identification and retrieval against loops over held scores."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js
from jsoftmax.blockwise import held_rows

pytestmark = pytest.mark.one_in(10)

RNG = np.random.default_rng(0)
G, Q, CLASSES, D = 60, 80, 15, 16
GALLERY_LABELS = RNG.integers(0, CLASSES - 5, G)  # five classes are unknown
PROBE_LABELS = RNG.integers(0, CLASSES, Q)
CENTRES = RNG.normal(size=(CLASSES, D))


def signs(labels):
    """Return vectors of 1 and -1, whose cosines are exact and often equal."""
    return np.sign(CENTRES[labels] + RNG.normal(size=(len(labels), D))).astype(np.float32)


GALLERY, PROBES = signs(GALLERY_LABELS), signs(PROBE_LABELS)
RANKS, FAR = (1, 2, 5, 40), (0.0, 0.05, 0.3, 1.0)
identify = partial(js.identification_rates, k=RANKS, far=FAR)


@pytest.fixture(params=[1 << 24, 7 * G], ids=["one block", "blocks"])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(held_rows, "_HELD", request.param)
    jax.clear_caches()


def by_loops(gallery, gallery_labels, probes, probe_labels):
    known, own, ahead, best = [], [], [], []
    for x, y in zip(probes, probe_labels, strict=True):
        scores = gallery @ x / D
        of_class = {c: scores[gallery_labels == c].max() for c in set(gallery_labels.tolist())}
        mine = of_class.pop(int(y), -np.inf)
        known.append(mine > -np.inf)
        own.append(mine)
        ahead.append(sum(s >= mine for s in of_class.values()))
        best.append(max(of_class.values(), default=-np.inf))
    known, own, ahead, best = map(np.array, (known, own, ahead, best))
    cmc = [(ahead[known] < k).mean() for k in RANKS]
    unknown = np.sort(best[~known])[::-1]
    rates = []
    for far in FAR:
        most = int(far * len(unknown) + 1e-9)
        reached = own > (unknown[most] if most < len(unknown) else -np.inf)
        rates.append((reached & (ahead == 0))[known].mean())
    return cmc, rates, known


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("images", ["one", "several"])
def test_identification_rates(images):
    gallery, labels = GALLERY, GALLERY_LABELS
    if images == "one":
        labels, first = np.unique(labels, return_index=True)
        gallery = gallery[first]
    got = identify(gallery, labels, PROBES, PROBE_LABELS)
    cmc, rates, known = by_loops(gallery, labels, PROBES, PROBE_LABELS)
    assert_allclose(got.cmc, cmc, rtol=1e-6)
    assert_allclose(got.dir, rates, rtol=1e-6)
    assert (got.known, got.unknown) == (known.sum(), (~known).sum())
    best = (PROBES @ gallery.T / D).max(1)[~known]
    for threshold, far in zip(np.asarray(got.threshold), FAR, strict=True):
        assert (best >= threshold).mean() <= far


def test_order_and_jit_do_not_matter():
    order = RNG.permutation(G)
    got = jax.jit(identify)(GALLERY[order], GALLERY_LABELS[order], PROBES, PROBE_LABELS)
    expected = identify(GALLERY, GALLERY_LABELS, PROBES, PROBE_LABELS)
    jax.tree.map(partial(assert_allclose, rtol=1e-6), got, expected)


def test_ignored():
    probe_labels = np.where(np.arange(Q) % 3 == 0, -1, PROBE_LABELS)
    labels = np.where(np.arange(G) % 4 == 0, -1, GALLERY_LABELS)
    hidden = np.where((probe_labels == -1)[:, None], np.nan, PROBES)
    hidden_gallery = np.where((labels == -1)[:, None], np.nan, GALLERY)
    got = identify(hidden_gallery, labels, hidden, probe_labels, ignore_index=-1)
    on, there = probe_labels != -1, labels != -1
    expected = identify(GALLERY[there], labels[there], PROBES[on], probe_labels[on])
    jax.tree.map(partial(assert_allclose, rtol=1e-6), got, expected)


def test_missing_kinds_of_probes():
    known = np.isin(PROBE_LABELS, GALLERY_LABELS)
    closed = identify(GALLERY, GALLERY_LABELS, PROBES[known], PROBE_LABELS[known])
    assert_allclose(closed.cmc, identify(GALLERY, GALLERY_LABELS, PROBES, PROBE_LABELS).cmc)
    assert np.isnan(closed.dir).all()
    assert not np.isnan(closed.cmc).any()
    unknown = identify(GALLERY, GALLERY_LABELS, PROBES[~known], PROBE_LABELS[~known])
    assert np.isnan(np.append(unknown.cmc, unknown.dir)).all()
    nothing = identify(GALLERY[:0], GALLERY_LABELS[:0], PROBES, PROBE_LABELS)
    assert (nothing.known, nothing.unknown) == (0, Q)
    hidden = np.where(np.arange(G)[:, None] == 7, np.nan, GALLERY)
    bad = identify(hidden, GALLERY_LABELS, PROBES, PROBE_LABELS)
    assert np.isnan([*bad.cmc, *bad.dir, *bad.threshold]).all()


def test_a_score_of_0_is_not_above_that_of_an_unknown_probe():
    """The next float32 number is one that may count as 0."""
    found = js.identification_rates(np.eye(3)[:1], [0], np.eye(3), [0, 0, 3], far=0.0)
    assert found.dir == 0.5
    assert found.threshold > 0


# --- retrieval ---


def retrieved(queries, labels, among, among_labels, one_set, numbers):
    recalls, precisions, means = [], [], []
    for i, (x, y) in enumerate(zip(queries, labels, strict=True)):
        order = np.argsort(-(among @ x / D), kind="stable")
        order = order[order != i] if one_set else order
        right = among_labels[order] == y
        relevant = right.sum()
        if relevant:
            recalls.append([right[:k].any() for k in numbers])
            precisions.append(right[:relevant].mean())
            at = np.cumsum(right)[:relevant] / np.arange(1, relevant + 1)
            means.append((at * right[:relevant]).sum() / relevant)
    return np.mean(recalls, 0), np.mean(precisions), np.mean(means), len(means)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("one_set", [True, False])
def test_retrieval_rates(one_set):
    numbers = (1, 3, 30)
    others = {} if one_set else {"other": GALLERY, "other_labels": GALLERY_LABELS}
    got = js.retrieval_rates(PROBES, PROBE_LABELS, k=numbers, **others)
    among = (PROBES, PROBE_LABELS) if one_set else (GALLERY, GALLERY_LABELS)
    expected = retrieved(PROBES, PROBE_LABELS, *among, one_set, numbers)
    for x, y in zip(got, expected, strict=True):
        assert_allclose(x, y, rtol=1e-5)
    compiled = jax.jit(partial(js.retrieval_rates, k=numbers, max_r=30, **others))
    jax.tree.map(partial(assert_allclose, rtol=1e-5), compiled(PROBES, PROBE_LABELS), got)


def test_retrieval_ignores_and_says_what_is_missing():
    labels = np.where(np.arange(Q) % 3 == 0, -1, PROBE_LABELS)
    got = js.retrieval_rates(PROBES, labels, ignore_index=-1)
    expected = js.retrieval_rates(PROBES[labels != -1], labels[labels != -1])
    jax.tree.map(partial(assert_allclose, rtol=1e-5), got, expected)
    alone = js.retrieval_rates(PROBES, np.arange(Q))
    assert np.isnan(alone.recall).all()
    assert alone.queries == 0
    with pytest.raises(ValueError, match="`max_r`"):
        jax.jit(js.retrieval_rates)(PROBES, PROBE_LABELS)
    too_few = js.retrieval_rates(PROBES, np.zeros(Q, int), max_r=3, k=1)
    assert np.isnan(too_few.map_at_r)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes(dtype):
    probes, gallery = (jnp.asarray(x, dtype) for x in (PROBES, GALLERY))
    got = identify(gallery, GALLERY_LABELS, probes, PROBE_LABELS)
    assert got.cmc.dtype == jnp.float32
    assert_array_equal(got.cmc, identify(GALLERY, GALLERY_LABELS, PROBES, PROBE_LABELS).cmc)
    assert_array_equal(
        js.retrieval_rates(probes, PROBE_LABELS).recall,
        js.retrieval_rates(PROBES, PROBE_LABELS).recall,
    )


def test_checked_says_what_is_missing():
    checked = js.checks.checked(jax.jit(js.identification_rates))
    with pytest.raises(Exception, match="class is in the gallery"):
        checked(GALLERY, GALLERY_LABELS, PROBES, PROBE_LABELS + CLASSES)
    with pytest.raises(Exception, match="is not in the gallery"):
        checked(GALLERY, GALLERY_LABELS, PROBES, np.full(Q, GALLERY_LABELS[0]))
    with pytest.raises(Exception, match="another embedding"):
        js.checks.checked(partial(js.retrieval_rates, k=1, max_r=1))(PROBES, np.arange(Q))


def test_a_closed_set_has_no_rates_of_unknown_probes():
    found = js.identification_rates(GALLERY, GALLERY_LABELS, PROBES, PROBE_LABELS, far=())
    assert found.dir.shape == found.threshold.shape == (0,)


def test_arguments():
    with pytest.raises(AssertionError, match="`probe_labels`"):
        identify(GALLERY, GALLERY_LABELS, PROBES, PROBE_LABELS[1:])
    with pytest.raises(AssertionError, match="`probes`"):
        identify(GALLERY, GALLERY_LABELS, PROBES[:, 1:], PROBE_LABELS)
    with pytest.raises(TypeError, match="`gallery_labels`"):
        identify(GALLERY, GALLERY_LABELS.astype(float), PROBES, PROBE_LABELS)
    with pytest.raises(ValueError, match="`k`"):
        js.identification_rates(GALLERY, GALLERY_LABELS, PROBES, PROBE_LABELS, k=0)
