"""Several processes, as on several machines: the same losses as one, and what happens on faults.

Each job is one or two processes of a few CPU devices, joined by `jax.distributed`; what they run is
in `process_worker.py`. A killed process ends its job, for JAX has no way to go on without it: the
others start again, as a smaller job, from the last checkpoint.
"""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import process_worker as worker
import pytest
from jax.experimental import checkify
from numpy.testing import assert_allclose

import jsoftmax as js

pytestmark = [pytest.mark.thorough, pytest.mark.processes, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
STEPS = 8


def environment():
    """Return the environment of a process that sees the CPU only, and no proxy on its way."""
    kept = {name: value for name, value in os.environ.items() if "_proxy" not in name.lower()}
    kept.pop("XLA_FLAGS", None)
    path = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(path)}


@contextmanager
def job(folder, processes, **options):
    """Start the processes of one job; none of them is left afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    shared = {"coordinator": coordinator, "processes": processes, "folder": str(folder)} | options
    started = []
    try:
        for process in range(processes):
            command = [sys.executable, worker.__file__, json.dumps(shared | {"process": process})]
            with open(folder / f"output-{process}.txt", "w") as output:
                started.append(
                    subprocess.Popen(
                        command, stdout=output, stderr=subprocess.STDOUT, env=environment()
                    )
                )
        yield started
    finally:
        for each in started:
            each.kill()
        for each in started:
            each.wait(10)


def wait_for(expected, started, folder):
    """Wait for the exit codes expected of some processes; at any other, show what all printed."""
    until = time.monotonic() + worker.PATIENCE + 10
    while (codes := {i: started[i].poll() for i in expected}) != expected:
        wrong = {i: code for i, code in codes.items() if code not in (None, expected[i])}
        if wrong or time.monotonic() > until:
            outputs = sorted(folder.glob("output-*.txt"))
            texts = [f"--- {path.name}\n{path.read_text()[-6000:]}" for path in outputs]
            pytest.fail("\n".join([f"exit codes {codes}, expected {expected}", *texts]))
        time.sleep(0.05)


def run(folder, processes, **options):
    """Run a job to its end; return the steps that each process has written down."""
    with job(folder, processes, **options) as started:
        wait_for(dict.fromkeys(range(processes), 0), started, folder)
    return [steps(folder, process) for process in range(processes)]


def steps(folder, process):
    lines = (folder / f"steps-{process}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@cache
def losses(without=None):
    """Return the losses of one process and one device, on logits, a batch left out: the oracle."""

    def loss_fn(features, weight, labels):
        logits = js.linear_logits(features, weight, labels, margin=worker.MARGIN)
        return js.cross_entropy(logits, labels).mean()

    step_fn = worker.training_step(loss_fn, worker.ADAM)
    state, found = worker.beginning(worker.ADAM), {}
    for step in range(STEPS):
        if step != without:
            state, loss, _ = step_fn(state, *worker.batch(step))
            found[step] = float(loss)
    return found


def assert_losses(lines, expected):
    assert_allclose([line["loss"] for line in lines], [expected[x["step"]] for x in lines], 2e-5)


@pytest.mark.parametrize(
    ("devices", "across", "classes"),
    [(2, "data", [[0, 14], [0, 14]]), (4, "model", [[0, 7], [7, 14]])],
)
def test_two_processes_train_as_one_does(tmp_path, devices, across, classes):
    """A batch with a NaN in it, on one device, changes no parameter on any; then training goes on.

    The oracle never sees that batch. `change` is the largest of all devices of all processes.
    """
    bad = 3
    options = {"devices": devices, "across": across, "steps": STEPS, "bad_step": bad}
    first, second = run(tmp_path, 2, **options)
    assert [line["classes"] for line in (first[0], second[0])] == classes
    for lines in (first, second):
        assert [line["step"] for line in lines] == list(range(STEPS))
        skipped = lines.pop(bad)
        assert math.isnan(skipped["loss"])
        assert skipped["change"] == 0
        assert all(line["change"] > 0 for line in lines)
        assert_losses(lines, losses(without=bad))


def test_a_smaller_job_resumes_what_a_killed_one_began(tmp_path):
    """The job dies with one process; the last checkpoint that was complete is what is gone on from.

    Three devices instead of four, and 15 rows of class vectors instead of 14.
    """
    dies = 6
    with job(tmp_path, 2, devices=2, across="model", steps=1000, die_at=dies) as started:
        wait_for({1: -signal.SIGKILL}, started, tmp_path)
    before = steps(tmp_path, 1)
    assert [line["step"] for line in before] == list(range(dies))
    assert_losses(before, losses())
    assert len(steps(tmp_path, 0)) <= dies + 1  # the other one did not go on by itself

    (after,) = run(tmp_path, 1, devices=3, across="data", steps=STEPS)
    # The save after the last step was still going on, or just finished.
    assert after[0]["step"] in (dies - worker.SAVE_EVERY, dies)
    assert after[-1]["step"] == STEPS - 1
    assert after[0]["classes"] == [0, 15]
    assert_losses(after, losses())


def whole(features, weight, labels):
    return js.linear_loss(features, weight, labels, margin=worker.MARGIN)


def over_a_mesh(features, weight, labels):
    mesh = jax.make_mesh((2, 2), ("data", "model"), devices=jax.devices()[:4])
    return js.sharded_linear_loss(
        mesh,
        batch_axis="data",
        class_axis="model",
        num_classes=worker.CLASSES,
        margin=worker.MARGIN,
    )(features, weight, labels)


@pytest.mark.parametrize(
    "loss_fn",
    [jax.value_and_grad(whole, (0, 1)), over_a_mesh],
    ids=["gradients on one device", "loss on a mesh"],
)
def test_checked_reports_the_bad_batch(loss_fn):
    parameters, _ = worker.beginning(worker.ADAM)

    @jax.jit
    def loss_of(x, y):
        return loss_fn(jnp.tanh(x @ parameters["layer"]), parameters["classes"], y)

    checked = js.checks.checked(loss_of)
    got, expected = checked(*worker.batch(3)), loss_of(*worker.batch(3))
    jax.tree.map(partial(assert_allclose, rtol=1e-5, atol=1e-6), got, expected)
    with pytest.raises(checkify.JaxRuntimeError, match="nan generated"):
        checked(*worker.batch(3, bad_step=3))
