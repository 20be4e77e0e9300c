"""What a training step over many devices costs: read from compiled programs, and by formula."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

pytest.importorskip("rich")

import jsoftmax as js
from jsoftmax.bench import plan as bench_plan
from jsoftmax.bench import run as bench
from jsoftmax.bench.hlo import Exchange, exchanges, group_size
from jsoftmax.bench.problem import Problem

pytestmark = [pytest.mark.thorough, pytest.mark.slow, pytest.mark.optimised]


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax is not strict
        yield


def mesh_of(data, model):
    return Mesh(np.reshape(jax.devices("cpu")[: data * model], (data, model)), ("data", "model"))


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{}", 8),
        ("{{0}}", 1),
        ("{{0,1},{2,3}}", 2),
        ("{{0,2,4},{1,3,5}}", 3),
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("mesh['axis_0'=8,'axis_1'=4] {'axis_1'}", 4),
        ("mesh[a=2,b=4] {a,b}", 8),
        ("mesh['x'=8,'y'=16] {'x':(2)4,'y'}", 64),
    ],
)
def test_group_sizes(groups, size):
    assert group_size(groups, 8) == size


def module(*lines, before=""):
    body = "\n".join(f"  {line}" for line in lines)
    head = "HloModule m, is_scheduled=true, replica_count=1, num_partitions=8"
    return f"{head}\n\n{before}\nENTRY %main (x: f32[16,4]) -> f32[16,4] {{\n{body}\n}}\n"


X = "%x = f32[16,4]{1,0} parameter(0)"  # 256 bytes
GATHER = """%gather (p: f32[16,4]) -> f32[64,4] {
  %p = f32[16,4]{1,0} parameter(0)
  ROOT %g = f32[64,4]{1,0} all-gather(%p), replica_groups=[2,4]<=[8], dimensions={0}
}
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%r = f32[16,4]{1,0} all-reduce(%x), replica_groups={}, to_apply=%add", 2 * 7 / 8 * 256),
        ("%r = f32[16,4]{1,0} all-reduce-start(%x), replica_groups={{0,1},{2,3}}", 256),
        ("%r = (f32[16,4]{1,0:T(8,128)}, f32[]) all-reduce(%x, %y), replica_groups={}", 455),
        (
            "%r = (f32[16,4]{1,0}, f32[64,4]{1,0}) all-gather-start(%x), "
            "replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}",
            3 * 256,
        ),
        ("%r = f32[8,4]{1,0} reduce-scatter(%x), replica_groups=[4,2]<=[8], to_apply=%add", 128),
        ("%r = f32[16,4]{1,0} all-to-all(%x), replica_groups={{0,1,2,3}}, dimensions={0}", 192),
        ("%r = f32[16,4]{1,0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}", 256),
        (
            "%r = ((f32[16,4]{1,0}), f32[64,4]{1,0}, u32[]) async-start(%x), calls=%gather\n"
            "  %d = f32[64,4]{1,0} async-done(%r), calls=%gather",
            3 * 256,
        ),
        ("%r = f32[64,4]{1,0} conditional(%i, %x, %x), branch_computations={%gather, %id}", 768),
        (
            "%r = f32[64,4]{1,0} conditional(%i, %x, %x), true_computation=%id, "
            "false_computation=%gather, metadata={}",
            768,
        ),
        (
            "%r = f32[64,4]{1,0} while(%x), condition=%id, body=%gather, "
            'backend_config={"known_trip_count":{"n":"5"}}',
            5 * 768,
        ),
        (
            "%n = bf16[16,4]{1,0} convert(%x)\n  %w = f32[16,4]{1,0} convert(%n)\n"
            "  %r = f32[64,4]{1,0} all-gather(%w), replica_groups=[2,4]<=[8], dimensions={0}",
            3 * 128,
        ),
        (
            "%n = bf16[16,4]{1,0} convert(%x)\n  %w = f32[16,4]{1,0} convert(%n)\n"
            "  %r = f32[16,4]{1,0} all-reduce(%w), replica_groups=[2,4]<=[8], to_apply=%add",
            2 * 3 / 4 * 256,
        ),
        ("%r = f32[16,4]{1,0} while(%x), condition=%id, body=%id", 0),  # any number of nothing
        ("%r = f32[16,4]{1,0} all-reduce(%x), replica_groups={{0},{1}}, to_apply=%add", 0),
        ("%r = f32[16,4]{1,0} collective-permute(%x), source_target_pairs={{0,0},{1,1}}", 0),
    ],
)
def test_collectives_of_every_form(line, expected):
    identity = "%id (q: f32[16,4]) -> f32[16,4] {\n  ROOT %q = f32[16,4]{1,0} parameter(0)\n}\n"
    text = module(X, "%y = f32[] constant(0)", line, before=GATHER + identity)
    assert sum(sent * times for _, sent, times in exchanges(text)) == expected


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%r = f32[64,4]{1,0} while(%x), condition=%c, body=%gather", "how often"),
        ("%r = f32[16,4]{1,0} ragged-all-to-all(%x), replica_groups={}", "is not known"),
        ("%r = f32[16,4]{1,0} all-reduce(%x), to_apply=%add", "no replica_groups"),
    ],
)
def test_nothing_is_guessed(line, said):
    condition = "%c (q: f32[64,4]) -> pred[] {\n  ROOT %q = pred[] parameter(0)\n}\n"
    with pytest.raises(ValueError, match=said):
        exchanges(module(X, line, before=GATHER + condition))


def test_collectives_of_a_compiled_loop():
    def function(x):
        def body(carry, _):
            total = lax.psum(carry, "model")  # 4 devices, 512 bytes
            moved = lax.ppermute(total, "data", [(0, 1), (1, 0)])
            return moved + carry, lax.all_gather(carry, "data")

        carry, gathered = lax.scan(body, x, None, length=5)
        spread = lax.psum_scatter(carry, "model", tiled=True)
        return spread, gathered

    mesh = mesh_of(2, 4)
    spread = jax.shard_map(
        function, mesh=mesh, in_specs=P("data", "model"), out_specs=P("data"), check_vma=False
    )
    text = jax.jit(spread).lower(jnp.ones((16, 64))).compile().as_text()
    assert sorted(exchanges(text)) == [
        Exchange("all-gather", 512, 5),
        Exchange("all-reduce", 2 * 3 / 4 * 512, 5),
        Exchange("collective-permute", 512, 5),
        Exchange("reduce-scatter", 3 / 4 * 512, 1),
    ]


FACES = Problem(4096, 64, 40_000)
WORDS = Problem(2048, 256, 20_000, "bfloat16")


@pytest.mark.parametrize(
    ("problem", "rate", "data", "model"),
    [
        (FACES._replace(margin="arcface"), None, 1, 8),
        (FACES, None, 2, 4),
        (FACES, 0.1, 4, 2),
        (WORDS, None, 2, 4),
        (WORDS, None, 8, 1),
    ],
)
def test_formula_and_compiled_program_agree(problem, rate, data, model):
    plan = bench_plan.planned(problem, rate, mesh_of(data, model))
    found, formula = plan.found, plan.formula
    # A device holds its part: weight and two moments of C / model classes, and the step's number.
    per_class = problem.features * (8 + jnp.dtype(problem.dtype).itemsize)
    assert found.state == problem.classes // model * per_class + 4 == formula.state + 4
    assert found.sent == pytest.approx(formula.sent, rel=0.01)
    assert found.temporary == pytest.approx(formula.temporary, rel=0.1)
    assert found.memory == pytest.approx(formula.memory, rel=0.1)


def test_a_sampled_step_makes_nothing_as_large_as_the_weight():
    # Features, which do not get fewer with the classes, are few here.
    problem = Problem(64, 32, 80_000)
    plan = bench_plan.planned(problem, 0.01, mesh_of(1, 8))
    assert plan.found.temporary < 0.5 * 4 * problem.classes / 8 * problem.features


SMALL = Problem(16, 8, 44)  # 8 devices hold 48 rows


@pytest.mark.parametrize("rate", [None, 0.75])
def test_steps_do_what_one_device_would(rate):
    step, arguments = bench_plan.training_step(SMALL, rate, mesh_of(2, 4))
    keys = jax.random.split(jax.random.key(1), 2)
    features, weight = (jax.random.normal(k, (n, 8)) for k, n in zip(keys, (16, 48), strict=True))
    labels, state = 5 * jnp.arange(16) % 44, optax.adam(1e-3).init(weight)
    given = jax.random.key(0), features, labels, weight, state
    shardings = jax.tree.map(lambda x: x.sharding, arguments)
    found = step(*jax.device_put(jax.tree.map(jnp.copy, given), shardings))

    taken = np.any(found[2] != weight, -1)
    assert set(np.asarray(labels)) <= set(np.flatnonzero(taken)) <= set(range(44))
    # Of the 12 rows of each of 4 devices 9, of which the last may be none of the 44 classes.
    assert taken.sum() == 44 if rate is None else 32 <= taken.sum() <= 36

    @jax.jit
    def expected(features, weight, state):
        gradients = jax.value_and_grad(js.linear_loss, (0, 1))
        loss, (d_features, d_weight) = gradients(features, weight, labels, where=taken)
        updates, state = optax.adam(1e-3).update(d_weight, state)
        return loss, d_features, optax.apply_updates(weight, updates), state

    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, found, expected(features, weight, state))


def test_the_mesh_spares_bytes_and_memory():
    devices = jax.devices("cpu")

    def best(problem, rate=None):
        return bench_plan.best_mesh(problem, rate, devices).devices.shape

    assert best(Problem(2**16, 512, 10**7)) == (1, 8)  # classes are many: over all devices
    assert best(Problem(2**20, 64, 1000)) == (8, 1)  # few: on each device
    few = Problem(2**16, 512, 10**6)
    splits = [bench_plan.predicted(few, 0.1, data, 8 // data) for data in (1, 2)]
    assert splits[1].sent < splits[0].sent  # but the weight would be held twice
    assert best(few, 0.1) == (1, 8)


def test_command_line(tmp_path, capsys, monkeypatch):
    path = tmp_path / "plan.json"
    shape = ["--rows", "64", "--features", "8", "--classes", "1001", "--loss", "focal"]
    (plan,) = bench.main(
        ["--plan", *shape, "--devices", "8", "--sample-rate", "0.5", "--json", str(path)]
    )
    assert plan.problem == Problem(64, 8, 1001, loss="focal")
    assert plan.data * plan.model == 8
    printed = " ".join(capsys.readouterr().out.split())
    assert "64 rows × 8 features, float32, focal, no margin, 0.5 of the classes sampled" in printed
    assert "1,001" in printed
    written = json.loads(path.read_text())["plans"]
    assert [entry["found"] for entry in written] == [plan.found._asdict()]

    monkeypatch.setattr(bench_plan, "STANDARD", [(SMALL, None)])
    plans = bench.main(["--plan", "--devices", "1"])
    assert [(plan.problem, plan.found.sent, plan.messages) for plan in plans] == [(SMALL, 0, 0)]
    with pytest.raises(SystemExit, match="a plan for 9 devices needs as many CPU devices"):
        bench.main(["--plan", "--devices", "9"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--plan", "--devices", "0"], "--devices: expected 1 or more, got 0"),
        (["--plan", "--sample-rate", "2"], "--sample-rate: expected in (0, 1], got 2.0"),
        (["--sample-rate", "0.1"], "--devices and --sample-rate only go with --plan"),
        (["--plan", "--only", "jsoftmax"], "--plot and --only do not go with --plan"),
        (["--plan", "--maps"], "not allowed with argument"),
    ],
)
def test_bad_options_are_explained(arguments, said, capsys):
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert said in capsys.readouterr().err
