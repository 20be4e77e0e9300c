"""The two figures of the demo: scores of pairs of unseen letters, and features in the plane."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from jsoftmax.demo.measure import BINS, FARS, Plane, Result, finding, finding_in_plane, spread

# Colours of Okabe and Ito, which colour-blind readers can tell apart; features in the plane have
# their letters, too.
SAME, DIFFERENT, INK = "#0072B2", "#E69F00", "#444444"
CLASSES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "figure.facecolor": "white",
    "figure.titlesize": 12,
    "savefig.dpi": 160,
}


@contextmanager
def _figure(path: Path, title: str, *shape: int, **options: Any) -> Iterator[np.ndarray]:
    """Make axes, and write what was drawn on them."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(*shape, squeeze=False, layout="constrained", **options)
        figure.suptitle(textwrap.fill(title, round(9.7 * figure.get_figwidth())))
        yield axes
        figure.savefig(path)
        plt.close(figure)


def scores(results: Sequence[Result], path: Path) -> Path:
    """Draw the cosines of genuine and of impostor pairs, one row per head, on the same axes."""
    middles, size = (BINS[1:] + BINS[:-1]) / 2, (8, 1.6 + 0.85 * len(results))
    options = {"figsize": size, "sharex": True, "sharey": True}
    with _figure(path, finding(results), len(results), 1, **options) as axes:
        for axis, result in zip(axes.flat, results, strict=True):
            for kind, colour in (("different", DIFFERENT), ("same", SAME)):
                density = result.over_seeds(kind).mean(0)
                label = "genuine: one letter" if kind == "same" else "impostor: two letters"
                axis.fill_between(
                    middles, density, color=colour, alpha=0.5, linewidth=0, label=label
                )
                axis.plot(middles, density, color=colour, linewidth=1.2)
            axis.axvline(
                result.over_seeds("threshold").mean(),
                color=INK,
                label=f"accepts one impostor pair in {1 / FARS[-1]:,.0f}",
            )
            axis.text(0, 0.7, result.title, weight="bold", transform=axis.transAxes)
            axis.text(1.01, 0.35, f"{spread(result.tar)} %", transform=axis.transAxes)
            axis.set(yticks=[], xlim=(-0.8, 1))
        axes[0, 0].set_ylim(0, None)  # of all rows
        axes[0, 0].text(1.01, 0.7, "genuine pairs\naccepted ± s.d.", transform=axes[0, 0].transAxes)
        axes[-1, 0].set_xlabel("cosine of a pair of images of unseen letters")
        handles = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    return path


def plane(planes: Sequence[Plane], letters: Sequence[str], path: Path) -> Path:
    """Draw features in the plane, one panel per head; rays are class vectors."""
    across = len(planes) if len(planes) <= 3 else -(-len(planes) // -(-len(planes) // 3))
    down = -(-len(planes) // across)
    legend = "rays: class vectors\ndots: held-out images\n°: mean angle to their class's mean"
    size = (2.67 * across, 0.5 + 2.8 * down)
    with _figure(path, finding_in_plane(planes), down, across, figsize=size) as axes:
        for axis in axes.flat[len(planes) :]:
            axis.set_axis_off()
        if len(planes) < axes.size:
            axes[-1, -1].text(0.5, 0.5, legend, ha="center", va="center")
        for axis, found in zip(axes.flat, planes, strict=False):
            _panel(axis, found, letters)
    return path


def _panel(axis, found, letters):
    # It is the directions that matter: classes whose features are short are drawn larger.
    lengths = np.linalg.norm(found.features, axis=-1, keepdims=True)
    medians = np.array([np.median(lengths[found.labels == y]) for y in range(len(letters))])
    drawn = np.minimum(0.65 * lengths / medians[found.labels, None], 1)
    features = drawn * found.features / lengths
    for vectors, letter, colour in zip(found.class_vectors, letters, CLASSES, strict=True):
        rays = np.atleast_2d(vectors)  # of several centers
        rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
        for ray in rays:
            axis.plot(*np.outer(ray, [0, 1.08]), color=colour, linewidth=0.8, zorder=1)
        middle = rays.mean(0) / np.linalg.norm(rays.mean(0))
        axis.text(*(1.2 * middle), letter, color=colour, weight="bold", ha="center", va="center")
    axis.scatter(
        *features.T, c=[CLASSES[y] for y in found.labels], s=6, linewidths=0, alpha=0.6, zorder=2
    )
    axis.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
    axis.set_axis_off()
    axis.set_title(f"{found.title}\n{found.within:.1f}°, {found.accuracy:.1f}% right")
