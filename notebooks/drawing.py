"""What the notebooks draw with: one style, figures with alternative text, rows of pictures."""

import base64
import io
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from PIL import Image

# Colours of Okabe and Ito, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, PINK, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
GREY, PALE = "#666666", "#DDDDDD"
LINES = [(GREY, "--"), (BLUE, "-"), (ORANGE, "-"), (GREEN, "-."), (PINK, (0, (1, 1))), (SKY, "-")]


def use_style() -> None:
    """Set the style of all figures."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 10.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 1.8,
        }
    )


def show(figure: plt.Figure, alt: str) -> None:
    """Show a figure with a text that says what is to be seen, for those who do not see it."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    plt.close(figure)
    data = {"image/png": base64.b64encode(compact(drawn)).decode(), "text/plain": alt}
    display(data, metadata={"image/png": {"alt": alt}}, raw=True)


def compact(png: io.BytesIO) -> bytes:
    """Return a PNG of 128 colours, which is a third as large."""
    few = Image.open(png).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    written = io.BytesIO()
    few.save(written, format="png", optimize=True)
    return written.getvalue()


def pictures(
    rows: Sequence[Sequence[np.ndarray]],
    alt: str,
    *,
    captions: Sequence[Sequence[str]] | None = None,
    wrong: np.ndarray | None = None,
    sides: Sequence[str] | None = None,
    heads: Sequence[str] | None = None,
    size: float = 0.7,
) -> None:
    """Show rows of images; captions stand below, and a frame around each that is wrong."""
    down, across = len(rows), max(map(len, rows))
    height = size * (1.3 if captions else 1.05)
    figure, axes = plt.subplots(
        down, across, figsize=(size * across + 0.9 * bool(sides), height * down), squeeze=False
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01)
    for i, j in np.ndindex(down, across):
        axis = axes[i, j]
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        if j >= len(rows[i]):
            continue
        axis.imshow(rows[i][j], cmap="gray_r", vmin=0, vmax=1)
        if captions:
            axis.set_xlabel(captions[i][j], fontsize=8, labelpad=2)
        if heads and i == 0:
            axis.set_title(heads[j], fontsize=8)
        if wrong is not None and wrong[i, j]:
            axis.spines[:].set(visible=True, color=RED, linewidth=2.5)
    for axis, side in zip(axes[:, 0], sides or [], strict=False):
        axis.set_ylabel(side, rotation=0, ha="right", va="center")
    show(figure, alt)


def histograms(scores: Mapping[str, tuple], alt: str, *, kinds: tuple[str, str]) -> None:
    """Show the scores of different and of same pairs, a row for each name, on the same axes.

    `scores[name]` is scores `[n]`, booleans `[n]` for the same pairs, and a threshold; `kinds` says
    what different and same pairs are.
    """
    figure, axes = plt.subplots(
        len(scores), 1, figsize=(8, 0.9 * len(scores) + 1), sharex=True, sharey=True, squeeze=False
    )
    bins = np.linspace(-1, 1, 101)
    for axis, (name, (score, same, threshold)) in zip(axes.flat, scores.items(), strict=True):
        for kind, colour, text in zip((~same, same), (ORANGE, BLUE), kinds, strict=True):
            drawn = {"density": True, "color": colour, "alpha": 0.6}
            axis.hist(score[kind], bins, label=text, **drawn)
        axis.axvline(threshold, color=GREY, label="threshold")
        axis.text(0.0, 0.7, name, weight="bold", transform=axis.transAxes)
        axis.set(yticks=[], xlim=(-0.7, 1))
        axis.spines["left"].set_visible(False)
    axes[-1, 0].set_xlabel("cosine of the two features")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, frameon=False)
    show(figure, alt)


def curves(lines: Mapping[str, tuple], alt: str, **options) -> None:
    """Show a line for each name, `lines[name]` is x and y; options are those of the axes."""
    figure, axis = plt.subplots(figsize=(8, 4))
    for (name, (x, y)), (colour, dashes) in zip(lines.items(), LINES, strict=False):
        axis.plot(x, y, color=colour, linestyle=dashes, label=name)
    axis.set(**options)
    axis.grid(color=PALE, linewidth=0.6)
    figure.legend(loc="outside right center", frameon=False)
    show(figure, alt)


def intervals(rates: Mapping[str, tuple], alt: str, *, label: str) -> None:
    """Show `rates[name]`, a number with the lower and the upper end of its interval."""
    figure, axis = plt.subplots(figsize=(8, 0.4 * len(rates) + 0.9))
    for row, (rate, low, high) in enumerate(rates.values()):
        axis.plot([low, high], [row, row], color=BLUE, linewidth=3, alpha=0.5)
        axis.plot(rate, row, "o", color=BLUE)
        axis.text(high, row, f"  {rate:.1f} [{low:.1f}, {high:.1f}]", va="center", fontsize=9)
    axis.set(
        yticks=range(len(rates)), yticklabels=rates, xlabel=label, ylim=(len(rates) - 0.5, -0.5)
    )
    axis.margins(x=0.25)
    axis.spines["left"].set_visible(False)
    axis.tick_params("y", length=0)
    show(figure, alt)
