"""A sample of the classes: what it keeps, how it draws, and a step that leaves the others alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import head
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js

pytestmark = [pytest.mark.slow, pytest.mark.one_in(13)]

C, SAMPLED = 40, 12
LABELS = jnp.array([[7, 39, 7], [0, -1, 40]])


def test_keeps_the_classes_of_the_batch():
    sample = jax.jit(partial(js.sample_classes, num_classes=C, num_sampled=SAMPLED))
    for seed in range(5):
        indices, labels, count = sample(jax.random.key(seed), LABELS)
        assert indices.shape == count.shape == (SAMPLED,)
        assert np.all(np.diff(indices) > 0)
        assert indices[0] >= 0
        assert indices[-1] < C
        known = (LABELS >= 0) & (LABELS < C)
        assert_array_equal(indices[labels[known]], LABELS[known])
        assert_array_equal(labels[~known], LABELS[~known])
        own = np.isin(indices, LABELS)
        assert own.sum() == 3
        assert_allclose(count, np.where(own, 0, np.log((SAMPLED - 3) / (C - 3))), rtol=1e-6)


def test_draws_the_others_alike():
    """Each is in the sample as often as `log_expected_count` says; so are pairs of them."""

    @jax.vmap
    def member(key):
        indices = js.sample_classes(key, LABELS, num_classes=C, num_sampled=SAMPLED).indices
        return jnp.zeros(C).at[indices].set(1)

    found = np.asarray(jax.jit(member)(jax.random.split(jax.random.key(1), 20_000)))
    others = np.setdiff1d(np.arange(C), LABELS)
    chance = (SAMPLED - 3) / (C - 3)
    error = np.sqrt(chance * (1 - chance) / len(found))
    assert_allclose(found[:, others].mean(0), chance, atol=5 * error)
    pairs = (found.T @ found / len(found))[np.ix_(others, others)]
    both = chance * (SAMPLED - 4) / (C - 4)
    assert_allclose(pairs[~np.eye(len(others), dtype=bool)], both, atol=5 * error)


def test_correction_by_the_expected_count():
    """With it the sum over the other classes is right on average."""
    x, w, labels = head(examples=2, size=3, classes=C)

    @jax.vmap
    def others(key):
        sample = js.sample_classes(key, labels, num_classes=C, num_sampled=SAMPLED)
        rows, bias = w[sample.indices], -sample.log_expected_count
        return jnp.exp(js.linear_stats(x, rows, sample.labels, bias=bias).others)

    found = np.asarray(jax.jit(others)(jax.random.split(jax.random.key(2), 4000)), np.float64)
    expected = jnp.exp(js.logit_stats(js.linear_logits(x, w), labels).others)
    error = found.std(0) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(0) - expected) < 4 * error)
    assert np.all(error < 0.02 * expected)


@pytest.mark.parametrize("ignore_index", [0, 7, -1, -100])
def test_ignored_labels_are_no_class(ignore_index):
    """No class of the sample can have their number, whatever it was."""
    labels = jnp.where(LABELS == 7, ignore_index, LABELS).at[1, 0].set(12)  # -1 and 40 are mistakes
    draw = jax.jit(partial(js.sample_classes, num_classes=C, num_sampled=SAMPLED))
    named = np.asarray((labels >= 0) & (labels < C) & (labels != ignore_index))
    ignored = np.asarray(labels == ignore_index)
    classes = set()
    for seed in range(5):
        sample = draw(jax.random.key(seed), labels, ignore_index=ignore_index)
        assert_array_equal(sample.labels[ignored], -1)
        assert_array_equal(sample.indices[sample.labels[named]], labels[named])
        assert np.all(sample.labels[~named & ~ignored] == np.iinfo(np.int32).max)
        classes |= set(np.asarray(sample.indices)[np.asarray(sample.log_expected_count) == 0])
    assert classes == set(np.asarray(labels)[named])


def test_ignored_labels_in_a_loss():
    """Class 9 has the number 0 in the sample, and counts."""
    x, w, _ = head(examples=4, size=3, classes=C)
    labels = jnp.array([9, 0, 11, 0])
    sample = js.sample_classes(
        jax.random.key(3), labels, num_classes=C, num_sampled=2, ignore_index=0
    )
    assert_array_equal(sample.labels, [0, -1, 1, -1])
    got = js.linear_cross_entropy(x, w[sample.indices], sample.labels, ignore_index=-1)
    expected = js.cross_entropy(js.linear_logits(x, w[sample.indices])[::2], jnp.array([0, 1]))
    assert_allclose(got, expected.mean(), rtol=1e-6)


def test_all_classes_are_the_loss_itself():
    labels = jnp.array([1, 5, 1, 30])
    sample = js.sample_classes(jax.random.key(0), labels, num_classes=C, num_sampled=C)
    assert_array_equal(sample.indices, np.arange(C))
    assert_array_equal(sample.log_expected_count, 0)
    assert_array_equal(sample.labels, labels)


def test_more_classes_than_fit():
    """What does not fit is not taken for another class."""
    x, w, labels = head(examples=6, size=3, classes=C)
    assert len(set(np.asarray(labels))) == 6
    sample = js.sample_classes(jax.random.key(0), labels, num_classes=C, num_sampled=4)
    assert_array_equal(sample.indices, np.sort(labels)[:4])
    losses = js.linear_loss(x, w[sample.indices], sample.labels, reduction=None)
    assert_array_equal(jnp.isnan(losses), labels > np.sort(labels)[3])


def test_gradients_reach_the_sampled_rows_only():
    x, w, labels = head(examples=4, size=3, classes=C)
    sample = js.sample_classes(jax.random.key(0), labels, num_classes=C, num_sampled=SAMPLED)

    def loss_fn(w):
        return js.linear_loss(x, w[sample.indices], sample.labels, margin=js.cosface(scale=8.0))

    reached = jnp.any(jax.jit(jax.grad(loss_fn))(w) != 0, -1)
    assert_array_equal(reached, jnp.zeros(C, bool).at[sample.indices].set(True))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_sampled": C + 1}, ValueError, "`num_sampled`: expected at most"),
        ({"num_sampled": 0}, ValueError, "`num_sampled`: expected an integer of at least 1"),
        ({"labels": jnp.ones(3)}, TypeError, "`labels`: expected integers"),
        ({"class_axis": "model"}, NameError, "`class_axis`"),
        ({"batch_axis": "data"}, NameError, "`batch_axis`"),
    ],
)
def test_wrong_arguments(change, error, message):
    options = {"labels": LABELS, "num_classes": C, "num_sampled": SAMPLED} | change
    with pytest.raises(error, match=message):
        js.sample_classes(jax.random.key(0), options.pop("labels"), **options)


# --- over a mesh ---

DEVICES = 4
MESH = ((2, DEVICES), ("data", "model"))
MARGIN = js.cosface(margin=0.2, scale=4.0)


def mesh():
    return jax.make_mesh(*MESH, axis_types=(AxisType.Auto,) * 2)


over_batch = pytest.mark.parametrize("batch_axis", ["data", ("data", "model")], ids=str)


@over_batch
def test_every_device_samples_its_own_classes(batch_axis):
    labels = jnp.array([3, 39, 12, 13, -1, 3, 12, 39])
    here, share = C // DEVICES, SAMPLED // DEVICES

    def on_each(labels):
        return js.sample_classes(
            jax.random.key(5),
            labels,
            num_classes=here,
            num_sampled=share,
            class_axis="model",
            batch_axis=batch_axis,
        )

    # That the results do not differ along "data" is what shard_map checks here.
    specs = js.ClassSample(P("model"), P(batch_axis), P("model"))
    spread = jax.shard_map(on_each, mesh=mesh(), in_specs=P(batch_axis), out_specs=specs)
    indices, found, count = jax.jit(spread)(labels)
    classes = indices + here * np.repeat(np.arange(DEVICES), share)
    assert_array_equal(classes[found[labels >= 0]], labels[labels >= 0])
    assert found[4] == -1
    assert len(set(np.asarray(classes))) == SAMPLED
    own = np.isin(classes, labels)
    assert own.sum() == 4
    batch = np.array([1, 2, 0, 1])  # how many classes of the batch each device has
    chance = (share - batch) / (here - batch)
    assert_allclose(count, np.where(own, 0, np.log(np.repeat(chance, share))), rtol=1e-6)
    draws = np.asarray(indices).reshape(DEVICES, share)
    assert len({tuple(row) for row in draws}) == DEVICES  # each device draws for itself


def partial_fc_step(optimizer, share, batch_axis="data"):
    """Return a step that reads and writes nothing of the classes that are not sampled."""

    axes = {"class_axis": "model", "batch_axis": batch_axis}

    def step(weight, state, features, labels, key):
        here = weight.shape[0]
        sample = js.sample_classes(key, labels, num_classes=here, num_sampled=share, **axes)
        at = sample.indices
        rows, rows_state = jax.tree.map(lambda x: x[at] if x.ndim else x, (weight, state))

        def loss_fn(features, rows):
            return js.linear_loss(features, rows, sample.labels, margin=MARGIN, **axes)

        loss, (_, grads) = jax.value_and_grad(loss_fn, (0, 1))(features, rows)
        updates, rows_state = optimizer.update(grads, rows_state, rows)
        rows = optax.apply_updates(rows, updates)
        weight, state = jax.tree.map(
            lambda x, new: x.at[at].set(new) if x.ndim else new,
            (weight, state),
            (rows, rows_state),
        )
        return weight, state, loss

    by_class, by_row = P("model"), P(batch_axis)
    state_specs = jax.tree.map(
        lambda x: by_class if x.ndim else P(), jax.eval_shape(optimizer.init, jnp.ones((8, 3)))
    )
    return jax.jit(
        jax.shard_map(
            step,
            mesh=mesh(),
            in_specs=(by_class, state_specs, by_row, by_row, P()),
            out_specs=(by_class, state_specs, P()),
        )
    )


@jax.numpy_dtype_promotion("standard")  # which optax needs
def test_a_step_leaves_the_other_rows_alone():
    optimizer = optax.adam(0.1)
    x, w, labels = head(examples=6, size=3, classes=C)
    step = partial_fc_step(optimizer, SAMPLED // DEVICES)
    state = optimizer.init(w)
    weight, state, before = step(w, state, x, labels, jax.random.key(0))
    moved = np.any(weight != w, -1)
    assert moved.sum() == SAMPLED
    assert moved[np.asarray(labels)].all()
    for moments in (state[0].mu, state[0].nu):
        assert_array_equal(np.any(moments != 0, -1), moved)
    losses = [before]
    for seed in range(1, 20):
        weight, state, loss = step(weight, state, x, labels, jax.random.key(seed))
        losses.append(loss)
    assert losses[-1] < losses[0] / 2


@over_batch
@jax.numpy_dtype_promotion("standard")
def test_a_step_over_all_classes_is_the_usual_one(batch_axis):
    optimizer = optax.adam(0.1)
    x, w, labels = head(examples=8, size=3, classes=C)
    step = partial_fc_step(optimizer, C // DEVICES, batch_axis)
    got, _, loss = step(w, optimizer.init(w), x, labels, jax.random.key(0))

    @jax.jit
    def usual(w):
        loss, grads = jax.value_and_grad(lambda w: js.linear_loss(x, w, labels, margin=MARGIN))(w)
        updates, _ = optimizer.update(grads, optimizer.init(w), w)
        return loss, optax.apply_updates(w, updates)

    expected_loss, expected = usual(w)
    assert_allclose(loss, expected_loss, rtol=1e-6)
    assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
