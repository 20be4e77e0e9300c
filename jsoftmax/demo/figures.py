"""The two figures of the demo: the features in the plane, and the curves of the margins."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

# Ten colours of equal weight that most colour-blind readers can tell apart, also in print.
COLOURS = plt.get_cmap("tab10")(range(10))
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.dpi": 160,
}


def embeddings(results, labels, path: Path) -> Path:
    """Draw the 2-D features of the test images, one panel per head; rays are class vectors."""
    across = min(3, len(results))
    down = -(-len(results) // across)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            down, across, figsize=(3.2 * across, 3.5 * down), squeeze=False, layout="constrained"
        )
        for axis in axes.flat[len(results) :]:
            axis.set_axis_off()
        for axis, result in zip(axes.flat, results, strict=False):
            _embedding(axis, result, labels)
        figure.savefig(path)
        plt.close(figure)
    return path


def _embedding(axis, result, labels):
    # Without the few farthest features, which would shrink all others.
    reach = np.quantile(np.linalg.norm(result.features, axis=-1), 0.99)
    features = result.features / reach
    for digit, vectors in enumerate(result.class_vectors):
        directions = np.atleast_2d(vectors)  # of several centers
        directions = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
        for ray in directions:
            axis.plot(*np.outer(ray, [0, 1.08]), color=COLOURS[digit], linewidth=0.8, zorder=1)
        direction = directions.mean(0) / np.linalg.norm(directions.mean(0))
        axis.text(
            *(1.2 * direction),
            str(digit),
            color=COLOURS[digit],
            weight="bold",
            ha="center",
            va="center",
        )
    axis.scatter(
        *features.T, c=[COLOURS[y] for y in labels], s=5, linewidths=0, alpha=0.6, zorder=2
    )
    axis.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
    axis.set_axis_off()
    axis.set_title(
        f"{result.title}\n{100 * result.accuracy:.1f}% right, {result.within:.1f}° within a class"
    )


def target_curves(margins: dict, path: Path) -> Path:
    """Draw the score of the true class over the angle to its vector, one curve per margin."""
    degrees = np.linspace(0, 180, 721)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.0, 4.2), layout="constrained")
        for (name, margin), colour in zip(margins.items(), ([0.55] * 3, *COLOURS), strict=False):
            phi = np.asarray(margin(np.cos(np.radians(degrees)).astype(np.float32)))
            axis.plot(degrees, phi, color=colour, label=name, linewidth=1.6)
        axis.axhline(0, color="0.85", linewidth=0.8, zorder=0)
        axis.set(
            xlim=(0, 180),
            ylim=(-3.2, 1.1),
            xticks=range(0, 181, 30),
            xlabel="angle θ between the feature and its class vector (degrees)",
            ylabel="score of the true class / s",
            title="What each margin asks for: to score the same, a feature must be closer",
        )
        figure.legend(loc="outside right center", frameon=False)
        figure.savefig(path)
        plt.close(figure)
    return path
