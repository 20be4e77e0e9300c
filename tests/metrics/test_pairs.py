"""Verification of all pairs, counted in tiles, against all pairs that are held."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js
from jsoftmax.core import wide
from jsoftmax.metrics import pair_tiles, pairs
from jsoftmax.metrics.rates import allowed, exact_rates

pytestmark = pytest.mark.one_in(8)

RNG = np.random.default_rng(0)
N, M, CLASSES = 150, 90, 12
FAR = (0.0, 0.01, 0.1, 0.35, 1.0)
LABELS = RNG.integers(0, CLASSES, N)
OTHER_LABELS = RNG.integers(0, CLASSES, M)


def signs(labels, size=64):
    """Return vectors of 1 and -1, whose cosines are exact and often equal."""
    of_class = np.random.default_rng(1).normal(size=(CLASSES + 1, size))
    noise = RNG.normal(size=(len(labels), size))
    return np.sign(of_class[labels] + 1.5 * noise).astype(np.float32)


X, OTHER = signs(LABELS), signs(OTHER_LABELS)
MASK = RNG.random((N, M)) < 0.7
SYMMETRIC = np.triu(RNG.random((N, N)) < 0.7)
SYMMETRIC |= SYMMETRIC.T


SIDE, SAMPLE = pair_tiles._SIDE_ON_CPU, pairs._SAMPLE
rates_of = partial(js.verification_rates, far=FAR, eer=True)


@pytest.fixture(autouse=True, scope="module")
def _small_tiles():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_tiles, "_SIDE_ON_CPU", 32)
        patch.setattr(pairs, "_SAMPLE", 24)
        jax.clear_caches()
        yield
    jax.clear_caches()


def held(x, labels, other=None, other_labels=None, where=None):
    """Return scores, and whether they are of the same class, of all pairs."""
    one_set = other is None
    other, other_labels = (x, labels) if one_set else (other, other_labels)
    x, other = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-9) for v in (x, other))
    some = np.ones((len(x), len(other)), bool) if where is None else where
    some = np.triu(some, 1) if one_set else some
    return (x @ other.T)[some], (labels[:, None] == other_labels[None])[some]


def whole(halves):
    return (np.asarray(halves, np.uint64) << np.array([32, 0], np.uint64)).sum(-1)


def check(rates, scores, same, far=FAR):
    """Compare with the lowest thresholds at which no more is accepted, exactly."""
    assert whole(rates.same_pairs) == same.sum()
    assert whole(rates.different_pairs) == (~same).sum()
    different = np.sort(scores[~same])[::-1]
    for i, f in enumerate(far):
        allowed = int(f * len(different) + 1e-9)
        threshold = (
            -1.5
            if allowed == len(different)
            else np.nextafter(np.float32(different[allowed]), np.float32(2))
        )
        assert_array_equal(rates.threshold[i], np.float32(threshold))
        assert whole(rates.false_accepts)[i] == (different >= threshold).sum()
        assert whole(rates.true_accepts)[i] == (scores[same] >= threshold).sum()
        assert_allclose(rates.far[i], (different >= threshold).mean(), rtol=1e-6)
        assert_allclose(rates.tar[i], (scores[same] >= threshold).mean(), rtol=1e-6)
    rate = js.equal_error_rate(scores, same)
    assert_allclose(rates.eer, rate, rtol=1e-5)
    tar = (scores[same] >= rates.eer_threshold).mean()
    assert (different >= rates.eer_threshold).mean() <= 1 - tar


def test_one_set():
    check(rates_of(X, LABELS), *held(X, LABELS))


def test_two_sets():
    rates = rates_of(X, LABELS, other=OTHER, other_labels=OTHER_LABELS)
    check(rates, *held(X, LABELS, OTHER, OTHER_LABELS))


def test_a_mask_of_pairs():
    mask = MASK[3]  # of columns, for all rows
    options = {"other": OTHER, "other_labels": OTHER_LABELS}
    rates = rates_of(X, LABELS, where=mask, **options)
    check(rates, *held(X, LABELS, where=np.broadcast_to(mask, (N, M)), **options))


@pytest.mark.thorough
def test_a_mask_of_the_pairs_of_one_set():
    rates = rates_of(X, LABELS, where=SYMMETRIC)
    check(rates, *held(X, LABELS, where=SYMMETRIC))


def test_ignored_embeddings():
    labels = np.where(np.arange(N) % 4 == 0, -1, LABELS)
    hidden = np.where((labels == -1)[:, None], np.nan, X)
    rates = rates_of(hidden, labels, ignore_index=-1)
    check(rates, *held(X[labels != -1], labels[labels != -1]))
    none = rates_of(hidden, np.where(np.arange(N) == 7, labels, -1), ignore_index=-1)
    assert whole(none.same_pairs) == whole(none.different_pairs) == 0
    assert np.isnan(np.array([*none.far, *none.tar, none.eer])).all()


@pytest.mark.parametrize(
    ("kind", "devices"), [("one set", 2), ("one set", 3), ("two sets", 3), ("masked", 8)]
)
def test_over_a_mesh(kind, devices):
    n, m = 144, 72
    types, given = (AxisType.Auto,), jax.devices()[:devices]
    mesh = jax.make_mesh((devices,), ("data",), axis_types=types, devices=given)
    options = {"other": OTHER[:m], "other_labels": OTHER_LABELS[:m]}
    where = MASK[:n, :m] if kind == "masked" else None
    if kind == "one set":
        options = {}

    def rates(x, labels, options, where):
        options = options | ({} if where is None else {"where": where})
        return rates_of(x, labels, batch_axis="data", **options)

    of_mask = P("data") if kind == "masked" else P()
    sharded = jax.shard_map(
        rates, mesh=mesh, in_specs=(P("data"), P("data"), P("data"), of_mask), out_specs=P()
    )
    got = jax.jit(sharded)(X[:n], LABELS[:n], options, where)
    check(got, *held(X[:n], LABELS[:n], *options.values(), where=where))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_random_cosines(dtype):
    """The scores are rounded otherwise than numpy's, so thresholds are compared up to that."""
    x = jnp.asarray(RNG.normal(size=(N, 24)) + 2 * RNG.normal(size=(CLASSES, 24))[LABELS], dtype)
    rates = rates_of(x, LABELS)
    scores, same = held(np.asarray(x, np.float64), LABELS)
    tar, threshold = js.tar_at_far(
        jnp.asarray(scores, jnp.float32), same, far=np.array(FAR[:-1]), return_threshold=True
    )
    assert_allclose(rates.tar[:-1], tar, atol=1.5 / same.sum())
    assert (np.asarray(rates.threshold[:-1]) < np.asarray(threshold) + 1e-6).all()
    assert_allclose(rates.eer, js.equal_error_rate(scores, same), rtol=1e-3)


def test_one_rate_and_progress():
    calls = []
    rates = js.verification_rates(
        X, LABELS, far=0.1, progress=lambda *numbers: calls.append(numbers)
    )
    jax.effects_barrier()
    assert {int(number) for number, *_ in calls} >= {0, 1}
    assert {int(block) for _, block, _ in calls} == set(range(int(calls[0][2])))
    several = rates_of(X, LABELS)
    assert rates.eer is None
    assert_allclose(rates.tar, several.tar[2], rtol=1e-6)
    assert rates.tar.shape == ()
    assert rates.false_accepts.shape == (2,)


def test_all_scores_are_equal():
    rates = rates_of(np.ones((N, 64), np.float32), LABELS)
    assert_array_equal(rates.tar, [0, 0, 0, 0, 1])
    assert_array_equal(rates.far, [0, 0, 0, 0, 1])
    assert_allclose(rates.eer, 0.5, rtol=1e-6)


def test_zero_embeddings_have_the_cosine_0():
    x = np.where(np.arange(N)[:, None] == 7, 0, X)
    check(rates_of(x, LABELS), *held(x, LABELS))


@pytest.mark.thorough
def test_one_kind_alone():
    alone = rates_of(X, np.arange(N))
    assert np.isnan(np.append(alone.tar, alone.eer)).all()
    assert whole(alone.same_pairs) == 0
    assert_allclose(alone.far[-1], 1)
    together = rates_of(X, np.zeros(N, int))
    assert np.isnan([*together.far, *together.tar, *together.threshold, together.eer]).all()
    checked = js.checks.checked(jax.jit(partial(js.verification_rates, far=0.1)))
    with pytest.raises(Exception, match="same class"):
        checked(X[:40], np.arange(40))
    with pytest.raises(Exception, match="different classes"):
        checked(X[:40], np.zeros(40, int))


def test_what_is_not_finite_gives_nan():
    for value in (np.nan, np.inf):
        rates = rates_of(np.where(np.arange(N)[:, None] == 7, value, X), LABELS)
        for rate in rates[:5]:
            assert np.isnan(rate).all()
    labels = np.where(np.arange(N) == 7, 2**40, LABELS)  # not held by 32 bits
    assert np.isnan(rates_of(X, labels).tar).all()


def test_lengths_do_not_matter():
    x = X + RNG.normal(size=X.shape).astype(np.float32)  # no equal cosines, which rounding parts
    lengths = 10.0 ** RNG.integers(-18, 18, N)
    got = rates_of(x * np.float32(lengths)[:, None], LABELS)
    assert_allclose(got.tar, rates_of(x, LABELS).tar, atol=1e-2)


def test_arguments():
    with pytest.raises(AssertionError, match="`labels`"):
        js.verification_rates(X, LABELS[:-1])
    with pytest.raises(ValueError, match="`far`"):
        js.verification_rates(X, LABELS, far=1.5)
    with pytest.raises(ValueError, match="`far`"):
        js.verification_rates(X, LABELS, far=())
    with pytest.raises(ValueError, match="`other`"):
        js.verification_rates(X, LABELS, other=OTHER)
    with pytest.raises(AssertionError, match="`where`"):
        js.verification_rates(X, LABELS, where=MASK)
    with pytest.raises(TypeError, match="`labels`"):
        js.verification_rates(X, LABELS.astype(float))
    with pytest.raises(TypeError, match="`other_labels`"):
        js.verification_rates(X, LABELS, other=X, other_labels=LABELS.astype(float))
    with pytest.raises(TypeError, match="`where`"):
        js.verification_rates(X, LABELS, where=np.ones((N, N), int))
    with pytest.raises(TypeError, match="`far`"):
        jax.jit(lambda far: js.verification_rates(X, LABELS, far=far).tar)(0.1)


@pytest.mark.parametrize("dtype", [float, np.float32, jnp.float32])
@pytest.mark.parametrize("pairs", [3, 7, 49, 100, 1000])
def test_a_rate_is_the_decimal_that_it_is_written_as(dtype, pairs):
    for k in (0, 1, 2, pairs):
        (rate,) = exact_rates(dtype(k / pairs))
        number = wide.wide(jnp.int32(pairs))
        assert whole(wide.halves(allowed(number, rate))) == k


def test_embeddings_without_features_have_the_cosine_0():
    assert_array_equal(
        js.verification_rates(np.zeros((4, 0)), [0, 0, 1, 1], far=(0.5, 1)).tar, [0, 1]
    )


@pytest.mark.thorough
def test_larger_tiles_give_the_same(monkeypatch):
    x = RNG.normal(size=(N, 64)).astype(np.float32)
    expected = rates_of(x, LABELS)
    monkeypatch.setattr(pair_tiles, "_SIDE_ON_CPU", 1024)
    jax.clear_caches()
    got = rates_of(x, LABELS)
    jax.clear_caches()
    assert_allclose(got.threshold, expected.threshold, rtol=1e-5, atol=1e-6)
    assert_allclose(whole(got.false_accepts), whole(expected.false_accepts), atol=1)


@pytest.mark.optimised
def test_memory(monkeypatch):
    monkeypatch.setattr(pair_tiles, "_SIDE_ON_CPU", SIDE)
    monkeypatch.setattr(pairs, "_SAMPLE", SAMPLE)
    jax.clear_caches()
    x, labels = jnp.zeros((20_000, 128)), jnp.zeros(20_000, jnp.int32)
    program = jax.jit(js.verification_rates).lower(x, labels).compile()
    assert program.memory_analysis().temp_size_in_bytes < 50e6
