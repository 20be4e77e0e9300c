"""The pictures of notebook 1, Softmax."""

import matplotlib.pyplot as plt
import numpy as np
from drawing_style import BLUE, DASHED, GREEN, GREY, ORANGE, PALE, RED, show


def bands(temperatures, heights, logits):
    """Draw the probability of each class over the temperature, one on top of the other."""
    heights = np.asarray(heights)
    figure, axis = plt.subplots(figsize=(9, 3.4))
    shades = plt.get_cmap("cividis")(np.linspace(0.05, 0.95, len(logits)))
    axis.stackplot(temperatures, heights.T, colors=shades, edgecolor="white", linewidth=0.8)
    for i, z in enumerate(logits):
        middle = heights[-1, :i].sum() + heights[-1, i] / 2
        axis.text(54, middle, f"z = {z:.1f}", va="center", color=GREY)
    axis.text(0.056, 0.5, "hardmax", color="white", va="center", weight="bold")
    axis.axvline(1, color="white", linewidth=1.2, linestyle=DASHED)
    axis.text(1.06, 0.04, "T = 1", color="white", weight="bold")
    axis.set(xscale="log", xlim=(0.05, 50), ylim=(0, 1))
    axis.set(xlabel="temperature T", ylabel="probability", title="Cold is sure, hot is uniform")
    axis.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    show(
        figure,
        "Five bands, the probabilities of five classes over the temperature. On the left, at 0.05, "
        "the class with the largest logit fills everything; towards 50 all five become equal.",
    )


def cliff(gaps, cliffs, true):
    """Draw the log of softmax in two dtypes, and log-softmax, over how far a class is behind."""
    figure, axis = plt.subplots(figsize=(9, 3.5))
    axis.plot(gaps, true, color=PALE, linewidth=7, solid_capstyle="butt")
    axis.text(104, -124, "log-softmax", color=GREY, ha="right")
    places = {"float32": (84, -100, "right", BLUE), "float16": (24, -14, "left", RED)}
    for dtype, (x, y, side, colour) in places.items():
        last = np.isfinite(cliffs[dtype]).nonzero()[0][-1]
        axis.plot(gaps[: last + 1], cliffs[dtype][: last + 1], color=colour)
        axis.plot(gaps[last], cliffs[dtype][last], "o", color=colour)
        text = f"log of softmax in {dtype}:\n-inf from a gap of {gaps[last + 1]:.1f} on"
        axis.text(x, y, text, color=colour, ha=side)
    axis.set(xlabel="how far the class is behind", ylabel="log-probability", xlim=(0, 130))
    axis.set_title("The logarithm of softmax falls off a cliff; log-softmax walks on")
    show(
        figure,
        "The log-probability of a class over how far its logit is behind. Log-softmax is a "
        "straight line down to -130. The logarithm of softmax follows it and then ends: in "
        "float16 at a gap of about 17, in float32 at about 87.",
    )


def prices(paid):
    """Draw what three ways to choose pay, step by step."""
    figure, axis = plt.subplots(figsize=(9, 2.9))
    labels = {
        "hardmax": ("hardmax: never moves", RED, 58, 3.08, "right"),
        "straight-through": ("straight-through: one choice at a time", BLUE, 18, 2.0, "left"),
        "softmax": ("softmax: a blend, never quite at 1", ORANGE, 27, 1.24, "left"),
    }
    for name, (text, colour, x, y, side) in labels.items():
        style = "steps-post" if name == "straight-through" else "default"
        axis.plot(paid[name], color=colour, drawstyle=style)
        axis.text(x, y, text, color=colour, ha=side)
    axis.set(xlabel="step of gradient descent", ylabel="price paid", yticks=[1, 2, 3])
    axis.set(ylim=(0.85, 3.4), title="Three options that cost 3, 2 and 1")
    show(
        figure,
        "The price paid over 60 steps of gradient descent. Hardmax stays at 3. Straight-through "
        "goes from 3 to 2 to 1 in steps. Softmax falls smoothly and stays a little above 1.",
    )


def triangle_of_samples(clouds):
    """Draw points of the simplex of three classes, a triangle for each temperature."""
    corners = np.array([[np.cos(a), np.sin(a)] for a in np.radians([90, 210, 330])])
    figure, axes = plt.subplots(1, len(clouds), figsize=(9, 2.9))
    for axis, (t, points) in zip(axes, clouds.items(), strict=True):
        axis.fill(*corners.T, facecolor="#F2F2F2", edgecolor=PALE, linewidth=1)
        axis.scatter(*(np.asarray(points) @ corners).T, s=5, color=GREEN, alpha=0.5, linewidths=0)
        for name, corner in zip("ABC", corners, strict=True):
            axis.text(*(1.14 * corner), name, ha="center", va="center", color=GREY)
        axis.set(aspect="equal", xlim=(-1.15, 1.15), ylim=(-0.72, 1.25))
        axis.set_axis_off()
        axis.set_title(f"T = {t}", loc="center")
    show(
        figure,
        "Random points of Gumbel softmax in a triangle, whose corners are the three classes. At a "
        "temperature of 0.1 they lie in the corners and on the edges, at 0.5 they are spread "
        "towards the corners, at 2 they gather inside.",
    )
