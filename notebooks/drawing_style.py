"""The style of notebooks 1 to 6 and 8 to 10: colours, dashes, and labels that do not overlap."""

import matplotlib.pyplot as plt
import numpy as np
from drawing import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, show, use_style

BROWN, PALE = "#8A5F00", "#CCCCCC"
DASHED, DOTTED = (0, (4, 3)), (0, (1, 1))
use_style()
plt.rcParams.update({"axes.titlelocation": "left"})

__all__ = ["BLUE", "BROWN", "DASHED", "DOTTED", "GREEN", "GREY", "ORANGE", "PALE", "PINK", "RED"]
__all__ += ["SKY", "label_ends", "show"]


def label_ends(axis, ends, x, side="left", gap=0.06):
    """Write {name: (height, colour)} at x, in data coordinates, pushed apart where too close."""
    axis.get_ylim()  # forces the limits to be computed
    to_axes = axis.transData + axis.transAxes.inverted()
    rows = sorted((to_axes.transform((x, y))[1], name, ink) for name, (y, ink) in ends.items())
    heights = np.array([row[0] for row in rows])
    for _ in range(50):
        short = np.maximum(gap - np.diff(heights), 0) / 2
        heights[:-1] -= short
        heights[1:] += short
    for height, (_, name, ink) in zip(heights, rows, strict=True):
        place = {"transform": axis.get_xaxis_transform(), "ha": side, "va": "center"}
        axis.text(x, height, name, color=ink, **place)
