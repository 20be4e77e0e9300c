"""What the demo says of a trained head: on classes it was trained on, and on others."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from rich.table import Table

import jsoftmax as js
from jsoftmax.demo.characters import Task
from jsoftmax.demo.train import Net

FARS = (1e-2, 1e-3)
BINS = np.linspace(-1, 1, 101)  # of cosines


class Run(NamedTuple):
    """One head with one seed; `same` and `different` are densities of the pairs' cosines."""

    accuracy: float
    eer: float
    tar: np.ndarray
    threshold: float
    same: np.ndarray
    different: np.ndarray


def measure(net: Net, margin: Any, task: Task) -> Run:
    """Evaluate a trained network: margins are not applied."""
    logits = js.linear_logits(
        net(jnp.asarray(task.seen_images)), net.class_vectors[...], margin=margin
    )
    features, labels = net(jnp.asarray(task.unseen_images)), task.unseen_labels
    rates = js.verification_rates(features, labels, far=FARS, eer=True)
    eer, tar = (100 * np.asarray(rate) for rate in (rates.eer, rates.tar))
    # The picture needs all scores, which these few thousand images have room for.
    units = np.asarray(features / jnp.linalg.norm(features, axis=-1, keepdims=True))
    one, other = np.triu_indices(len(units), 1)
    scores, same = (units @ units.T)[one, other], labels[one] == labels[other]
    same, different = (np.histogram(scores[kind], BINS, density=True)[0] for kind in (same, ~same))
    return Run(
        accuracy=100 * float(js.top_k_accuracy(logits, task.seen_labels)),
        eer=float(eer),
        tar=tar,
        threshold=float(rates.threshold[-1]),
        same=same,
        different=different,
    )


class Result(NamedTuple):
    """The runs of a head, one for each seed, and the seconds that they took."""

    title: str
    runs: list[Run]
    seconds: float

    def over_seeds(self, of: str) -> np.ndarray:
        """Return a number of every run."""
        return np.array([getattr(run, of) for run in self.runs])

    @property
    def tar(self) -> np.ndarray:
        """Return the true accept rates at the last of `FARS`."""
        return self.over_seeds("tar")[:, -1]


class Plane(NamedTuple):
    """Features in the plane; `within` is the mean angle to the mean direction of their class."""

    title: str
    features: np.ndarray
    labels: np.ndarray
    class_vectors: np.ndarray
    accuracy: float
    within: float


def measure_in_plane(net: Net, margin: Any, task: Task, title: str) -> Plane:
    """Evaluate a network of two dimensions on images of the classes that it was trained on."""
    features, labels = net(jnp.asarray(task.seen_images)), task.seen_labels
    vectors = net.class_vectors[...]
    units = np.asarray(features / jnp.linalg.norm(features, axis=-1, keepdims=True))
    means = np.stack([units[labels == label].mean(0) for label in range(len(vectors))])
    means /= np.linalg.norm(means, axis=-1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip(np.sum(units * means[labels], -1), -1, 1)))
    accuracy = js.top_k_accuracy(js.linear_logits(features, vectors, margin=margin), labels)
    return Plane(
        title,
        np.asarray(features),
        labels,
        np.asarray(vectors),
        100 * float(accuracy),
        float(angles.mean()),
    )


def spread(numbers: np.ndarray) -> str:
    """Return the mean, and the standard deviation if there are several numbers."""
    mean = f"{np.mean(numbers):.1f}"
    return mean if len(numbers) < 2 else f"{mean} ± {np.std(numbers, ddof=1):.1f}"


def finding(results: Sequence[Result]) -> str:
    """Say which head accepts most, in words that depend on the numbers alone."""
    first, best = results[0], max(results, key=lambda result: result.tar.mean())
    at = f"At one false accept in {1 / FARS[-1]:,.0f}"
    if best is first:
        return (
            f"{at}, no head accepts more genuine pairs than {first.title}: {best.tar.mean():.0f}%"
        )
    seeds = min(len(first.runs), len(best.runs))
    gains = best.tar[:seeds] - first.tar[:seeds]  # of the same classes
    found = (
        f"{at}, {best.title} accepts {best.tar.mean():.0f}% of the genuine pairs, "
        f"{first.title} {first.tar.mean():.0f}%"
    )
    return found if (gains > 0).all() else f"{found}, but not with every seed"


def finding_in_plane(planes: Sequence[Plane]) -> str:
    """Say which head keeps the features of a letter closest together."""
    first, best = planes[0], min(planes, key=lambda found: found.within)
    found = f"Mean angle to the mean of a letter: {best.within:.1f}° with {best.title}"
    return found if best is first else f"{found}, {first.within:.1f}° with {first.title}"


def table(results: Sequence[Result]) -> Table:
    """Return the results as a table with the best of each column in bold."""
    columns = {
        "accuracy %": (lambda r: r.over_seeds("accuracy"), max),
        "EER %": (lambda r: r.over_seeds("eer"), min),
        **{
            f"TAR % at FAR {100 * far:g}%": (lambda r, i=i: r.over_seeds("tar")[:, i], max)
            for i, far in enumerate(FARS)
        },
    }
    rows = Table(
        caption="accuracy: on held-out images of the letters trained on; TAR at the given FAR\n"
        "and EER: over all pairs of images of the unseen letters"
    )
    rows.add_column("head", no_wrap=True)
    cells = []
    for name, (numbers, best) in columns.items():
        rows.add_column(name, justify="right")
        means = [numbers(result).mean() for result in results]
        texts = [spread(numbers(result)) for result in results]
        top = best(means)
        cells.append(
            [
                f"[bold]{text}[/bold]" if mean == top else text
                for text, mean in zip(texts, means, strict=True)
            ]
        )
    rows.add_column("s", justify="right")
    cells.append([f"{result.seconds:.0f}" for result in results])
    for result, row in zip(results, zip(*cells, strict=True), strict=True):
        rows.add_row(result.title, *row)
    return rows
