"""The evaluators' options, edges, dtypes, and what they cost in products and memory."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import head
from numpy.testing import assert_allclose, assert_array_equal

import jsoftmax as js
from jsoftmax.blockwise.block_sizes import block_sizes

N, D, C = 5, 3, 7
BIAS = jnp.linspace(-1, 1, C)
BLOCKS = {"one": {}, "rows": {"row_block": 2, "class_block": 3}, "classes": {"class_block": 4}}
KEEP = jnp.array([True, True, False, True, True, False, True])
over_blocks = pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)


def close(got, expected, name="", rtol=2e-5, atol=2e-6):
    jax.tree.map(partial(assert_allclose, rtol=rtol, atol=atol, err_msg=name), got, expected)


def jitted(function, *args, **options):
    """Compile at once what would be compiled operation by operation."""
    return jax.jit(lambda: function(*args, **options))()


# --- options, against the same on dense logits ---

OPTIONS = {
    "bias": {"bias": BIAS},
    "softcap": {"softcap": 0.5},
    "where": {"where": KEEP, "label_smoothing": 0.2},
    "weights": {"sample_weight": jnp.array([1, 0, 2, 1, 3]), "class_weight": jnp.arange(C)},
    "ignore": {"ignore_index": 3, "class_weight": jnp.linspace(1, 2, C)},
    "everything": {
        "bias": BIAS,
        "softcap": 2.0,
        "where": KEEP,
        "sample_weight": jnp.arange(5) > 1,
        "label_smoothing": 0.1,
        "z_loss": 0.1,
        "ignore_index": 4,
        "reduction": "sum",
        "margin": js.cosface(0.2, 4.0),
    },
}


FACTORS = jnp.arange(1.0, 1 + N)  # different cotangents of the losses of the examples


def on_dense_logits(x, w, labels, options):
    """Return what the options mean, by the functions on logits: reduced, and per example."""
    options = dict(options)
    sample_weight = options.pop("sample_weight", jnp.ones(N)).astype(jnp.float32)
    class_weight = options.pop("class_weight", jnp.ones(C)).astype(jnp.float32)
    score = {k: options.pop(k) for k in ("bias", "softcap", "margin") if k in options}
    ignore, reduction = options.get("ignore_index"), options.pop("reduction", "mean")
    losses = js.cross_entropy(js.linear_logits(x, w, labels, **score), labels, **options)
    weights = sample_weight * class_weight[labels]
    weights = weights if ignore is None else jnp.where(labels == ignore, 0, weights)
    total = jnp.sum(losses * weights) / (jnp.sum(weights) if reduction == "mean" else 1)
    return jnp.stack([total, jnp.sum(losses * weights * FACTORS)])


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name):
    x, w, labels = head(examples=N, size=D, classes=C)
    options = OPTIONS[name]

    def given(bias):
        return options | ({"bias": bias} if "bias" in options else {})

    def by_blocks(blocks, **more):
        """Return a scalar and its gradients."""

        def total(x, w, bias):
            out = js.linear_cross_entropy(x, w, labels, **given(bias) | blocks | more)
            return jnp.sum(out * FACTORS) if out.ndim else out

        return jax.value_and_grad(total, (0, 1, 2))(x, w, BIAS)

    def dense(x, w, bias):
        out = on_dense_logits(x, w, labels, given(bias))
        return out, out

    @jax.jit
    def run():
        got = {
            "rows": by_blocks(BLOCKS["rows"]),
            "classes": by_blocks(BLOCKS["classes"]),
            "none": by_blocks(BLOCKS["rows"], reduction=None),
        }
        bars, values = jax.jacrev(dense, (0, 1, 2), has_aux=True)(x, w, BIAS)
        return got, (values, bars)

    got, expected = run()
    reduced, per_example = (jax.tree.map(lambda x, i=i: x[i], expected) for i in (0, 1))
    close(got["rows"], reduced, "rows")
    close(got["classes"], reduced, "classes")
    close(got["none"], per_example, "none")


def test_only_the_library_s_losses_are_centred():
    """Any other function gets the stats themselves."""
    x, w, labels = head(examples=N, size=D, classes=C)

    def own(stats):
        return stats.target - 2 * stats.others + 3 * stats.mean + 4 * stats.runner_up

    @jax.jit
    def run():
        by_rows = js.linear_loss(x, w, labels, own, reduction=None, **BLOCKS["rows"])
        expected = own(js.logit_stats(js.linear_logits(x, w), labels))
        return by_rows, js.linear_loss(x, w, labels, own), expected

    by_rows, mean, expected = run()
    close(by_rows, expected)
    close(mean, expected.mean())


ARCFACE = js.arcface(scale=4.0)


@cache
def stats_on_dense_logits():
    """Return the stats of `test_statistics`, and the mean loss."""
    x, w, labels = head(examples=N, size=D, classes=C)

    @jax.jit
    def run():
        logits = js.linear_logits(x, w, labels, margin=ARCFACE)
        stats = js.logit_stats(logits, labels, where=KEEP)
        return stats, js.nll(stats).mean()

    return run()


@over_blocks
def test_statistics(blocks):
    x, w, labels = head(examples=N, size=D, classes=C)
    options = {"margin": ARCFACE, "where": KEEP, **blocks}

    def only_stats(x):
        loss, stats = js.linear_loss(x, w, labels, return_stats=True, **options)
        return 0 * loss + sum(jnp.sum(field) for field in stats), (loss, stats)

    @jax.jit
    def run(x):
        alone = js.linear_stats(x, w, labels, **options)
        return alone, *jax.grad(only_stats, has_aux=True)(x)

    alone, bar, (loss, stats) = run(x)
    expected, expected_loss = stats_on_dense_logits()
    close(alone, expected)
    close(stats, expected)
    close(loss, expected_loss)
    assert_array_equal(bar, jnp.zeros_like(x))


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_leading_shapes(shape):
    x, labels = jnp.ones((*shape, D)), jnp.zeros(shape, jnp.uint8)
    options = {"reduction": None, "return_stats": True, "sample_weight": jnp.ones(shape)}
    arguments = x, jnp.eye(C, D), labels
    (losses, stats), mean = jax.jit(
        lambda: (js.linear_loss(*arguments, **options), js.linear_loss(*arguments))
    )()
    assert losses.shape == stats.target.shape == shape
    assert mean.shape == ()


# --- lists of labels ---

LISTS = jnp.array([[0, 3, 6], [2, 2, 1], [6, 0, 6], [4, 5, 3], [1, 1, 1]])
PROBS = jnp.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [1, 0, 0.5], [0.2, 0.3, 0.5], [1, 0, 0]])


def spread(probs):
    """Return the distributions that the lists stand for."""
    return jnp.sum(jax.nn.one_hot(LISTS, C) * probs[..., None], -2)


SPARSE_OPTIONS = {"label_smoothing": 0.1, "z_loss": 0.1, "class_weight": jnp.linspace(1, 2, C)}


def sparse_arguments():
    x, w, _ = head(examples=N, size=D, classes=C)
    return x, w, BIAS, PROBS


@cache
def mean_of_distributions():
    """Return the mean loss of the same on dense logits, and its gradients."""

    def mean(x, w, bias, probs):
        logits = js.linear_logits(x, w, bias=bias)
        return jnp.mean(js.cross_entropy(logits, spread(probs), **SPARSE_OPTIONS))

    return jax.jit(jax.value_and_grad(mean, range(4)))(*sparse_arguments())


@over_blocks
def test_sparse_labels(blocks):
    def mean(x, w, bias, probs, reduction):
        labels = js.SparseLabels(LISTS, probs)
        options = {"bias": bias, "reduction": reduction} | SPARSE_OPTIONS | blocks
        return jnp.mean(js.linear_cross_entropy(x, w, labels, **options))

    @jax.jit
    def run(*arguments):
        return [
            jax.value_and_grad(partial(mean, reduction=reduction), range(4))(*arguments)
            for reduction in ("mean", None)
        ]

    for got in run(*sparse_arguments()):
        close(got, mean_of_distributions())


def test_sparse_labels_on_logits():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(N, C)) * 3, jnp.float32)
    labels = js.SparseLabels(LISTS, PROBS)
    options = {"label_smoothing": 0.1, "where": KEEP | (spread(PROBS) > 0)}
    others = [(js.focal_loss, oracles.focal), (js.mae_loss, oracles.mae)]
    temperatures = 1.0, 0.5

    @jax.jit
    def run(logits):
        of_temperatures = [
            js.cross_entropy(logits, labels, temperature=t, **options) for t in temperatures
        ]
        along = js.cross_entropy(logits.T, labels, axis=0), js.cross_entropy(logits, labels)
        return of_temperatures, along, [loss(logits, labels) for loss, _ in others]

    of_temperatures, (along_first, along_last), of_others = run(logits)
    q = spread(PROBS)
    for got, t in zip(of_temperatures, temperatures, strict=True):
        close(got, oracles.cross_entropy(logits, q, temperature=t, **options), f"{t}", rtol=2e-6)
    close(along_first, along_last)
    for got, (loss, oracle) in zip(of_others, others, strict=True):
        close(got, oracle(logits, q), loss.__name__, rtol=5e-6)


def test_sparse_labels_of_a_margin_or_of_no_class():
    x, w, _ = head(examples=N, size=D, classes=C)
    labels = js.SparseLabels(LISTS.at[0, 0].set(C).at[1, 0].set(-1), PROBS)
    bad = jnp.array([True, True, False, False, False])

    @jax.jit
    def run():
        by_rows = js.linear_loss(x, w, labels, reduction=None, **BLOCKS["rows"])
        return by_rows, js.cross_entropy(js.linear_logits(x, w), labels)

    for losses in run():
        assert_array_equal(jnp.isnan(losses), bad)
    with pytest.raises(ValueError, match="margin"):
        js.linear_loss(x, w, labels, margin=js.arcface())
    with pytest.raises(ValueError, match="ignore_index"):
        js.linear_loss(x, w, labels, ignore_index=-1)
    with pytest.raises(AssertionError, match=r"labels\.probs"):
        js.linear_loss(x, w, labels._replace(probs=PROBS[:, :2]))


# --- edges ---


def value_and_grads(x, w, labels, **options):
    run = jax.jit(
        lambda x, w: jax.value_and_grad(partial(js.linear_loss, **options), (0, 1))(x, w, labels)
    )
    return run(x, w)


@over_blocks
def test_a_bad_label_is_nan_in_its_own_row(blocks):
    x, w, labels = head(examples=N, size=D, classes=C)
    on = jnp.arange(C) < C - 1  # a bad label is not taken for the class next to it, which is off

    @jax.jit
    def run(labels):
        options = {"where": on, **blocks}
        loss = partial(js.linear_loss, **options)
        losses = js.linear_loss(x, w, labels, reduction=None, **options)
        return losses, *jax.value_and_grad(loss, (0, 1))(x, w, labels)

    for bad in (-1, C, -C):
        losses, loss, (dx, _) = run(jnp.asarray(labels).at[1].set(bad).at[-1].set(0))
        assert_array_equal(jnp.isnan(losses), jnp.arange(N) == 1)
        assert jnp.isnan(loss)
        assert_array_equal(jnp.isnan(dx).any(-1), jnp.arange(N) == 1)


# Class 0, the label that ignored rows are given on the way, is off.
KEEP_LABELS = KEEP.at[0].set(False).at[head(examples=N, size=D, classes=C)[2][2:]].set(True)


@cache
def without_the_first_two():
    """Return loss and gradients of the other examples alone, in one block."""
    x, w, labels = head(examples=N, size=D, classes=C)
    return value_and_grads(x[2:], w, labels[2:], where=KEEP_LABELS)


@over_blocks
def test_what_does_not_count_leaves_no_trace(blocks):
    x, w, labels = head(examples=N, size=D, classes=C)
    spoilt, counts = x.at[1].set(jnp.nan), jnp.arange(N) != 1
    ignored = jnp.where(counts, labels, -100).at[0].set(-100)
    options = {"ignore_index": -100, "where": KEEP_LABELS, **blocks}
    got = value_and_grads(spoilt, w, ignored, **options)
    expected = without_the_first_two()
    close(got[0], expected[0])
    close(got[1][1], expected[1][1])
    close(got[1][0][2:], expected[1][0])
    assert_array_equal(got[1][0][:2], 0)

    # An example without weight is left out even if its loss is NaN, as in weighted_mean.
    @jax.jit
    def weighted(labels):
        loss = partial(js.linear_loss, sample_weight=counts.astype(jnp.float32), **blocks)
        return jax.value_and_grad(loss, (0, 1))(x, w, labels)

    close(weighted(jnp.where(counts, labels, C)), weighted(jnp.asarray(labels, jnp.int32)))


@over_blocks
def test_nothing_left(blocks):
    x, w, labels = head(examples=N, size=D, classes=C)
    none = jnp.zeros(N)

    @jax.jit
    def run(x, w):
        loss = jax.value_and_grad(js.linear_loss, (0, 1))
        return {
            "all ignored": loss(x, w, jnp.full(N, -1), ignore_index=-1, **blocks),
            "no weight": loss(x, w, labels, sample_weight=none, **blocks),
            "empty": loss(x[:0], w, labels[:0], **blocks),
        }

    for case, (loss, grads) in run(x, w).items():
        assert loss == 0, case
        assert all((g == 0).all() for g in grads), case


@over_blocks
def test_classes_that_are_off(blocks):
    x, w, labels = head(examples=N, size=D, classes=C)
    off = jnp.arange(C) != labels[1]

    @jax.jit
    def run(where):
        options = {"where": where, **blocks}
        bias = jnp.where(where, 0.0, -jnp.inf)  # does the same
        return {
            "losses": js.linear_loss(x, w, labels, reduction=None, **options),
            "by bias": js.linear_loss(x, w, labels, bias=bias, reduction=None, **blocks),
            "mean": jax.value_and_grad(partial(js.linear_loss, **options), (0, 1))(x, w, labels),
            "stats": js.linear_stats(x, w, labels, **options),
        }

    found = run(off)
    assert_array_equal(jnp.isinf(found["losses"]), labels == labels[1])
    close(found["by bias"], found["losses"])
    _, (dx, dw) = found["mean"]
    assert_array_equal(dx[labels == labels[1]], 0)
    assert_array_equal(dw[labels[1]], 0)
    assert jnp.isfinite(dw).all()
    none = run(jnp.zeros(C, bool))
    loss, grads = none["mean"]
    assert loss == jnp.inf
    assert all((g == 0).all() for g in grads)
    assert (none["stats"].logsumexp == -jnp.inf).all()
    assert not none["stats"].correct.any()


@over_blocks
def test_a_common_offset_and_sure_examples(blocks):
    x, w, labels = head(examples=N, size=D, classes=C)
    offset = jnp.full(C, 1e6)

    @jax.jit
    def run():
        options = {"bias": offset, "reduction": None, **blocks}
        by_blocks = js.linear_cross_entropy(x, w, labels, **options)
        return by_blocks, js.cross_entropy(js.linear_logits(x, w, bias=offset), labels)

    close(*run(), rtol=1e-6)
    # One class far ahead: loss and gradient keep their digits where lse - target is 0.
    x, w = jnp.array([[40.0]]), jnp.array([[1.0], [0.0], [0.0]])
    loss, (dx, _) = value_and_grads(x, w, jnp.array([0]), **blocks)
    assert_allclose(loss, 2 * np.exp(-40.0), rtol=1e-5)
    assert_allclose(dx[0, 0], -2 * np.exp(-40.0), rtol=1e-5)


def test_parallel_and_zero_vectors():
    w = jnp.concatenate([jnp.eye(3), -jnp.eye(3), jnp.zeros((1, 3))])
    x, labels = (
        jnp.array([[2.0, 0, 0], [0, -3.0, 0], [0, 0, 0], [1, 1, 1]]),
        jnp.array([0, 1, 2, 6]),
    )
    margins = js.arcface(), js.l_softmax(), js.a_softmax(), js.combined_margin()

    @jax.jit
    def run(x, w):
        losses = [partial(js.linear_loss, margin=m, **BLOCKS["rows"]) for m in margins]
        return [jax.value_and_grad(loss, (0, 1))(x, w, labels) for loss in losses]

    for margin, (loss, grads) in zip(margins, run(x, w), strict=True):
        assert jnp.isfinite(loss), margin
        assert all(jnp.isfinite(g).all() for g in grads), margin


def test_near_uniform_logits_and_a_ragged_end():
    """Padding that counted as a class would change log C, not what random normals give."""
    classes = 1009
    x, w = jnp.full((3, 2), 1e-3), jnp.full((classes, 2), 1e-3)
    labels = jnp.array([0, 1000, 1008])
    options = {"softcap": 1e-3, "reduction": None, "row_block": 2, "class_block": 100}
    losses = jitted(js.linear_loss, x, w, labels, **options)
    assert_allclose(losses, np.log(classes), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_more_classes_than_float16_counts(dtype):
    classes = 70_001
    x, w = jnp.ones((2, 2), dtype), jnp.zeros((classes, 2), dtype)
    loss, (dx, dw) = value_and_grads(x, w, jnp.array([0, 70_000]))
    assert_allclose(loss, np.log(classes), rtol=1e-6)
    assert dx.dtype == dw.dtype == dtype
    assert_allclose(dw[1, 0], 1 / classes, rtol=2**-7)
    assert_allclose(dw[0, 0], -0.5 + 1 / classes, rtol=2**-7)


@pytest.mark.parametrize(("x_dtype", "w_dtype"), [("bfloat16", "float32"), ("float16", "float16")])
def test_mixed_and_narrow_dtypes(x_dtype, w_dtype):
    x, w, labels = head(examples=N, size=D, classes=C)
    x, w = x.astype(x_dtype), w.astype(w_dtype)
    margin = js.cosface(scale=4.0)
    loss, grads = value_and_grads(x, w, labels, margin=margin, **BLOCKS["rows"])
    wide = value_and_grads(x.astype("float32"), w.astype("float32"), labels, margin=margin)
    assert [g.dtype for g in grads] == [x_dtype, w_dtype]
    assert_allclose(loss, wide[0], rtol=1e-6)
    for got, expected in zip(grads, wide[1], strict=True):
        assert_allclose(oracles.float64(got), expected, atol=2**-7 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": jnp.zeros((N, C))}, TypeError, "labels"),
        ({"labels": jnp.zeros(N + 1, int)}, AssertionError, "labels"),
        ({"weight": jnp.zeros((C, D + 1))}, AssertionError, "weight"),
        ({"weight": jnp.zeros((0, D))}, AssertionError, "weight"),
        ({"bias": jnp.zeros(C + 1)}, AssertionError, "bias"),
        ({"where": jnp.ones((N, C), bool)}, AssertionError, "where"),
        ({"where": jnp.ones(C)}, TypeError, "where"),
        ({"sample_weight": jnp.ones(1)}, AssertionError, "sample_weight"),
        ({"class_weight": jnp.ones(1)}, AssertionError, "class_weight"),
        ({"softcap": -1.0}, ValueError, "softcap"),
        ({"reduction": "none"}, ValueError, "reduction"),
        ({"row_block": 0}, ValueError, "row_block"),
        ({"loss": lambda stats: js.nll(stats) * jnp.ones(N)}, AssertionError, "sample_weight"),
    ],
)
def test_wrong_arguments(change, error, message):
    x, w, labels = head(examples=N, size=D, classes=C)
    with pytest.raises(error, match=message):
        js.linear_loss(**({"features": x, "weight": w, "labels": labels} | change))


def test_checked_finds_bad_labels():
    x, w, labels = head(examples=N, size=D, classes=C)
    step = js.checks.checked(jax.jit(jax.grad(partial(js.linear_loss, **BLOCKS["rows"]))))
    step(x, w, labels)
    with pytest.raises(Exception, match="labels"):
        step(x, w, labels + 1)


# --- what it costs ---


@pytest.mark.parametrize(
    ("wrt", "reduction", "products"),
    [((), "mean", 1), ((0, 1), "mean", 3), ((0,), "mean", 2), ((1,), "mean", 2), ((0, 1), None, 3)],
)
def test_number_of_products(wrt, reduction, products):
    """In one block; of several, the value per example alone computes the logits twice."""
    x, w, labels = head(examples=N, size=D, classes=C)

    def total(x, w):
        return jnp.sum(js.linear_loss(x, w, labels, reduction=reduction))

    function = jax.grad(total, wrt) if wrt else total
    compiled = jax.jit(function).lower(x, w).compile().as_text()
    assert compiled.count(" dot(") == products


def memory(n, classes, dtype="float32", features=32, **options):
    """Return the bytes of the temporaries of loss and gradients."""
    shapes = (n, features), (classes, features)
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    labels = jax.ShapeDtypeStruct((n,), jnp.int32)
    loss = partial(js.linear_loss, **options)
    function = jax.jit(lambda x, w, y: jax.value_and_grad(loss, (0, 1))(x, w, y))
    return function.lower(*arguments, labels).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("margin", [None, js.arcface()], ids=["plain", "arcface"])
def test_memory_by_rows_is_one_block(margin):
    options = {"row_block": 64, "class_block": 256, "margin": margin}
    sizes = (2048, 8192), (512, 8192), (2048, 4096)
    found = {(n, c): memory(n, c, **options) for n, c in sizes}
    for (n, c), got in found.items():
        # The products of a block of rows, a few blocks of classes, and features and their gradient.
        few_blocks = 8 * (64 * 256 + 256 * 32 + 64 * 32)
        assert got <= 4 * (64 * c + few_blocks + 2 * 32 * n + 8 * n + 4 * c)
    assert found[2048, 8192] < 2048 * 8192 * 4 / 16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_by_classes_does_not_grow_with_the_classes(dtype):
    few, many = (memory(256, c, dtype, class_block=256) for c in (4096, 65536))
    # Of the weight there is no copy; a bfloat16 one's gradient is summed in float32.
    per_class = 32 * 4 if dtype == "bfloat16" else 0
    assert many - few <= (65536 - 4096) * (per_class + 4)
    assert few <= 4096 * per_class + 8 * 4 * (256 * 256 + 256 * 32)


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        ((64, 1000, 32), (None, None), (64, 1000, True)),  # small: one block
        ((2048, 32000, 512), (None, None), (410, 1600, True)),  # by rows
        ((512, 100_000, 256), (None, None), (512, 5000, False)),  # by classes
        ((2048, 32000, 512), (None, 4000), (2048, 4000, False)),
        ((2048, 32000, 512), (512, None), (512, 1600, True)),
        ((2048, 32000, 512), (512, 4000), (512, 4000, True)),
        ((5, 7, 3), (2, 3), (2, 3, True)),
        ((5, 7, 3), (100, 100), (5, 7, True)),
        ((0, 7, 3), (None, None), (1, 7, True)),
    ],
)
def test_rule_of_the_blocks(shape, given, expected):
    assert block_sizes(*shape, *given) == expected


def test_rule_for_few_classes_on_each_of_many_devices():
    assert block_sizes(65_536, 1024, 512).rows == 410
    assert block_sizes(65_536, 1024, 512, sharded=True) == (2048, 1024, True)
    assert block_sizes(65_536, 32_000, 512, sharded=True).rows == 410


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2048, 32000, 512), (2048, 1600, False)),
        ((8192, 128_256, 4096), (2731, 5344, True)),  # long rows: products cost more than passes
        ((65_536, 256_000, 2304), (65_536, 8000, False)),  # a block as large as the gradient
    ],
)
def test_rule_for_16_bit_operands(shape, expected):
    assert block_sizes(*shape, is_16_bit=True) == expected
