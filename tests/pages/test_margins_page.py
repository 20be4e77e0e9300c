"""docs/margins.md and coming_from/heads.md: defaults, other libraries; a margin of one's own."""

import ast
import inspect
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from margins import official
from margins.official import CENTERS, FEATURES, LABELS, WEIGHT
from numpy.testing import assert_allclose
from page_code import ROOT, names_of

import jsoftmax as js

PAGE = "docs/margins.md"
TEXT = (ROOT / PAGE).read_text() + (ROOT / "docs/coming_from/heads.md").read_text()
ROWS = [re.split(r"(?<!\\)\|", line)[1:-1] for line in TEXT.splitlines() if line[:2] == "| "]
CATALOGUE = TEXT.split("## Past π")[0]
CALLS = sorted(
    {c for c in re.findall(r"`([^`\n]+)`", TEXT) if re.match(r"(js\.\w+|Filtered)\(", c)}
)


@pytest.fixture(autouse=True)
def _as_a_reader():
    with jax.numpy_dtype_promotion("standard"):
        yield


@cache
def page():
    names = names_of(PAGE)
    stats = js.linear_stats(names["x"], names["w"], names["y"], margin=js.normface(16.0))
    params = names["params"] | {"log scale": 2.0}
    of_text = {"key": jax.random.key(1), "step": 7, "scale": 16.0, "num_classes": 10, "c": 10}
    return names | of_text | {"stats": stats, "params": params}


def evaluated(call):
    return eval(call, dict(page()))


@pytest.mark.one_in(12)
@pytest.mark.parametrize("call", CALLS)
def test_every_call_in_the_text_runs(call):
    found = evaluated(call)
    if hasattr(found, "target"):
        names = page()
        w = names["centers"] if hasattr(found, "centers") else names["w"]
        loss = js.linear_cross_entropy(names["x"], w, names["y"], margin=found)
        assert np.isfinite(loss)


def test_every_head_is_in_the_tables_with_its_defaults():
    home = {name: getattr(getattr(js, name), "__module__", "") for name in js.__all__}
    heads = {n for n in home if home[n].startswith(("jsoftmax.margins.", "jsoftmax.losses.of_cos"))}
    heads -= {"AngularMargin", "MarginAndLoss"}  # types
    assert {name for name in heads if f"js.{name}" not in TEXT} == set()
    calls = [
        node
        for line in CATALOGUE.splitlines()
        for code in re.findall(r"^\| `(js\.[^`]+\))`", line)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    assert len(calls) > 25
    for call in calls:
        given = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
        if not given:
            continue  # one that is in another, or has no defaults
        taken = inspect.signature(getattr(js, call.func.attr)).parameters.values()
        defaults = {p.name: p.default for p in taken if p.default is not inspect.Parameter.empty}
        assert given == defaults, call.func.attr


# --- past π ---

RULES = {
    "continue": lambda a, c, m: -np.cos(a) - 2,
    "linear": lambda a, c, m: c - m * np.sin(m),
    "shift": lambda a, c, m: c - (1 - np.cos(m)),
    "clamp": lambda a, c, m: np.full_like(c, -1),
    "easy": lambda a, c, m: c,
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_past_pi(rule):
    (row,) = [row for row in ROWS if row[0].strip() == f'`"{rule}"`' and len(row) == 6]
    continuous, falls = (cell.strip().split(",")[0] == "yes" for cell in row[3:5])
    theta, m = np.linspace(0.001, np.pi - 0.001, 20_001), 0.5
    c = np.cos(theta)
    with jax.enable_x64(True):
        phi = np.asarray(js.angular_margin(1, m, beyond=rule)(c))
    past = c <= 0 if rule == "easy" else theta + m >= np.pi
    expected = np.where(past, RULES[rule](theta + m, c, m), np.cos(theta + m))
    assert_allclose(phi, expected, atol=1e-12)
    assert continuous == (np.abs(np.diff(phi)).max() < 1e-3)
    assert falls == bool(np.all(np.diff(phi) < 0))


# --- other libraries ---


def here(there):
    """Return what a table says is ours, of the row that begins so."""
    rows = [row for row in ROWS if there in row[0] and len(row) == 3]
    assert rows, there
    (code,) = {re.fullmatch(r" `(.+)` ", row[1])[1] for row in rows}
    return code


def test_mean_over_classes_of_p2sgrad():
    text = (ROOT / "docs/coming_from/pytorch_metric_learning.md").read_text()
    (code,) = re.findall(r"`P2SGradLoss\(d, c\)` is `([^`]+)`", text)
    given = {"js": js, "x": FEATURES, "w": WEIGHT, "labels": LABELS, "c": len(WEIGHT)}
    cosines, _ = official.cosines_of(FEATURES, WEIGHT)
    expected = np.mean((cosines - np.eye(5)[LABELS]) ** 2)
    with jax.enable_x64(True):
        assert_allclose(eval(code, given), expected, rtol=1e-9)


def wespeaker(c, labels, *, easy=False, m=0.2):
    own = official.own(c, labels)
    turned = np.cos(np.arccos(own) + m)
    if easy:
        turned = np.where(own > 0, turned, own)
    else:
        turned = np.where(own > np.cos(np.pi - m), turned, own - (1 + np.cos(np.pi - m)))
    return 32 * official.put(turned, c, labels)


def hardest(c, labels):
    found = wespeaker(c, labels)
    for row, label, cosines in zip(found, labels, c, strict=True):
        others = np.where(np.arange(len(cosines)) == label, -2, cosines)
        for j in np.argsort(-others)[:5]:
            if j != label:
                row[j] = 32 * np.cos(np.arccos(cosines[j]) - 0.06)
    return found


def opensphere_arc(c, labels):
    turned = np.cos(np.clip(np.arccos(official.own(c, labels)) + 0.5, 0, np.pi))
    return 64 * official.put(turned, c, labels)


def subtracted(m, s):
    return lambda c, labels: s * (c - m * (np.arange(c.shape[1]) == labels[:, None]))


LOGITS = {
    "`ArcMarginProduct(d": wespeaker,
    "`ArcMarginProduct(...": lambda c, labels: wespeaker(c, labels, easy=True),
    "`AddMarginProduct": subtracted(0.2, 32),
    "ArcMarginProduct_intertopk_subcenter": hardest,
    "`ArcFace(d, c, s=64.0": opensphere_arc,
    "`CosFace(d, c, s=64.0": subtracted(0.35, 64),
    "CoCoLoss": subtracted(0, 30),
    "`CosFace(s=64.0, m=0.40)": subtracted(0.4, 64),
    "`CombinedMarginLoss(64, 1, 0, 0.4)": subtracted(0.4, 64),
    "`CombinedMarginLoss(64, 1, 0.3, 0.2)": subtracted(0.2, 64),
    "`CombinedMarginLoss(64, 1, 0.5, 0)": lambda c, labels: official.arcface(c, None, labels),
}


@pytest.mark.parametrize("there", LOGITS)
def test_logits_of_other_libraries(there):
    centers = CENTERS if "subcenter" in there else WEIGHT
    if "subcenter" in there:
        centers = np.concatenate([CENTERS, CENTERS[:, :1] + 0.3], 1)
    cosines, _ = official.cosines_of(FEATURES, centers)
    labels = np.argmin(cosines, -1)  # the farthest, so that some are past π
    with jax.enable_x64(True):
        margin = evaluated(here(there))
        found = js.linear_logits(FEATURES, centers, labels, margin=margin)
    assert_allclose(found, LOGITS[there](cosines, labels), rtol=1e-9)


@pytest.mark.parametrize("there", ["`ArcFace(d, c, s=64.0", "`ArcFace(s=64.0"])
def test_slopes_that_go_straight_through(there):
    with jax.enable_x64(True):
        margin = evaluated(here(there))
        slopes = jax.vmap(jax.grad(margin.target))(jnp.linspace(-0.99, 0.99, 9))
    assert_allclose(slopes, np.ones(9), rtol=1e-12)


def test_bias_of_uniface_is_added():
    cosines, _ = official.cosines_of(FEATURES, WEIGHT)
    theirs = 1.5
    with jax.enable_x64(True):
        head = evaluated(here("UniFace, `UCE`"))
        bias = jnp.full(len(WEIGHT), -theirs)
        given = FEATURES, WEIGHT, LABELS, head.loss
        found = js.linear_loss(*given, margin=head.margin, bias=bias)
    z = subtracted(0.4, 64)(cosines, LABELS) - theirs
    of = np.where(np.arange(5) == LABELS[:, None], -z, z)
    assert_allclose(found, np.logaddexp(0, of).sum(-1).mean(), rtol=1e-9)


def test_sphereface2_of_wespeaker_has_no_factor():
    cosines, _ = official.cosines_of(FEATURES, WEIGHT)
    with jax.enable_x64(True):
        head = evaluated(here("SphereFace2(d, c, scale"))
        found = js.linear_loss(FEATURES, WEIGHT, LABELS, head.loss, margin=head.margin)
    g = 2 * ((cosines + 1) / 2) ** 3 - 1
    mine = np.arange(5) == LABELS[:, None]
    each = np.where(
        mine, 0.7 * np.logaddexp(0, -32 * (g - 0.2)), 0.3 * np.logaddexp(0, 32 * (g + 0.2))
    )
    assert_allclose(found, each.sum(-1).mean(), rtol=1e-9)


# --- the page's own functions ---


def test_states_are_updated_before_the_loss():
    names = page()
    x, w, y = (names[name] for name in "xwy")
    n = np.linalg.norm(x, axis=-1).clip(0.001, 100)
    state = names["adaface_state"]
    assert_allclose(state.norm_mean, 0.99 * 20 + 0.01 * n.mean(), rtol=1e-5)
    assert_allclose(state.norm_std, 0.99 * 100 + 0.01 * n.std(ddof=1), rtol=1e-5)
    loss = js.linear_cross_entropy(x, w, y, margin=state)
    assert_allclose(names["adaface_mean"], loss, rtol=1e-5)
    cosines, _ = official.cosines_of(np.asarray(x, np.float64), np.asarray(w, np.float64))
    own = official.own(cosines, np.asarray(y))
    assert_allclose(names["curricular_state"].t, 0.01 * own.mean(), rtol=1e-4)
    s = np.sqrt(2) * np.log(9)
    expected = official.adacos_scale(cosines, np.asarray(y), s)
    assert_allclose(names["adacos_state"], expected, rtol=1e-5)
    loss = js.linear_cross_entropy(x, w, y, margin=js.normface(expected))
    assert_allclose(names["adacos_mean"], loss, rtol=1e-5)


def test_a_schedule_compiles_once():
    names = page()
    assert names["voice_loss"]._cache_size() == 1
    given = names["x"], names["centers"], names["y"]
    for found, m in ((names["early"], 0.0), (names["late"], 0.2 * 0.999)):
        margin = js.inter_top_k(js.sub_center(js.arcface(m, 32.0)), penalty=0.3 * m)
        assert_allclose(found, js.linear_cross_entropy(*given, margin=margin), rtol=1e-5)
    assert_allclose(names["raised"](0.35), 0.2 * (1 - 1e-3**0.5), rtol=1e-6)


def test_learned_margins_have_slopes():
    names = page()
    counts = np.asarray(names["counts"])
    slopes = np.asarray(names["slopes"]["margins"])
    # What the regulariser pulls, and for classes with examples what the loss pushes, at most s n/N.
    assert_allclose(slopes[counts == 0], -7)
    pushed = slopes[counts > 0] + 7
    assert np.all(pushed > 0)
    assert np.all(pushed <= 30 * counts[counts > 0] / counts.sum() * (1 + 1e-5))


def test_cleaning_drops_what_is_mislabelled():
    rng = np.random.default_rng(0)
    centers = np.linalg.qr(rng.normal(size=(6, 6)))[0].reshape(2, 3, 6)
    y = np.repeat([0, 1], 20)
    k = np.where(np.arange(40) % 5 == 0, 1, 2)  # one of five is at another vector
    x = centers[y, k] + 0.05 * rng.normal(size=(40, 6))
    weight, keep = page()["cleaned"](x, centers, y)
    assert_allclose(weight, centers[:, 2], rtol=1e-6)
    np.testing.assert_array_equal(keep, k == 2)


def test_filtered_classes_count_as_zero():
    cosines, _ = official.cosines_of(FEATURES, WEIGHT)
    expected = subtracted(0.4, 64)(np.where(cosines > 0.4, 0, cosines), LABELS)
    own = official.own(cosines, LABELS)
    expected = official.put(64 * (own - 0.4), expected, LABELS)
    assert np.any(cosines > 0.4)
    with jax.enable_x64(True):
        margin = evaluated(here("interclass_filtering"))
        found = js.linear_logits(FEATURES, WEIGHT, LABELS, margin=margin)
    assert_allclose(found, expected, rtol=1e-9)


# --- CONTRIBUTING.md ---


@cache
def contributing():
    return names_of("CONTRIBUTING.md")


def test_a_margin_in_fifteen_lines():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    source = text.split("@jax.tree_util")[1].split("```")[0]
    assert len([line for line in source.splitlines() if line.strip()]) <= 15


def test_a_margin_of_ones_own_and_a_loss():
    names = contributing()
    x, w, y = (np.asarray(names[name], np.float64) for name in "xwy")
    y = y.astype(int)

    def logits(x, w, margin):
        x, w = (v / jnp.linalg.norm(v, axis=-1, keepdims=True) for v in (x, w))
        c = x @ w.T
        own = jnp.take_along_axis(c, y[:, None], -1)
        target = own - margin * (1 + own) / 2
        others = jnp.where(c > target, c + 0.2, c)
        return 32 * jnp.where(np.arange(len(w)) == y[:, None], target, others)

    def mean(x, w, margin):
        z = logits(x, w, margin)
        log_p = jax.nn.log_softmax(z, -1)
        return -jnp.take_along_axis(log_p, y[:, None], -1).mean()

    with jax.enable_x64(True):
        found = jax.value_and_grad(mean, (0, 1, 2))(x, w, 0.3)
        p = jax.nn.softmax(logits(x, w, 0.3), -1)[np.arange(4), y]
    assert_allclose(names["loss"], found[0], rtol=1e-5)
    for got, expected in zip((*names["slopes"], names["learned"]), found[1], strict=True):
        assert np.any(expected)
        assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert_allclose(names["doubt"], np.mean((1 - np.asarray(p)) ** 2), rtol=1e-5)
