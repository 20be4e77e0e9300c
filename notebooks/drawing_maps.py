"""The pictures of notebook 8, Sparse and bounded maps."""

import matplotlib.pyplot as plt
import numpy as np
from drawing_style import BLUE, DASHED, GREEN, GREY, ORANGE, PALE, RED, show
from matplotlib.colors import LogNorm


def heat(logits, table):
    """Draw the probabilities of each map as a row of shaded cells."""
    values = np.asarray(list(table.values()))
    figure, axis = plt.subplots(figsize=(9, 3.9))
    axis.imshow(np.where(values == 0, np.nan, values), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(values.shape):
        p = values[i, j]
        text = "0" if p == 0 else f"{p:.3f}" if p > 0.0005 else "< .001"
        colour = PALE if p == 0 else "white" if p > 0.55 else "black"
        axis.text(j, i, text, ha="center", va="center", color=colour)
    axis.set_yticks(range(len(table)), list(table))
    axis.set_xticks(range(len(logits)), [f"{z:.1f}" for z in logits])
    axis.axhline(len(table) - 2.5, color="white", linewidth=6)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set(xlabel="logit", title="The same eight logits under eight maps (0: exactly zero)")
    show(
        figure,
        "A table of eight logits and eight maps, darker where the probability is larger. From "
        "tempered softmax to hardmax the rows become more extreme: softmax has no exact zero, "
        "entmax of 1.5 five, sparsemax six, hardmax seven.",
    )


def zeros_in_the_plane(line, corners, names, probabilities):
    """Draw where in the plane of three logits a map gives exact zeros."""
    figure, axes = plt.subplots(1, len(names), figsize=(9.6, 2.8))
    shades, levels = ["#FFFFFF", "#D3E6F3", "#9CC6E2"], [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99]
    for axis, name, p in zip(axes, names, map(np.asarray, probabilities), strict=True):
        axis.contourf(line, line, (p == 0).sum(-1), [-0.5, 0.5, 1.5, 2.5], colors=shades)
        axis.contour(line, line, p.max(-1), levels, colors="#1B3A57", linewidths=0.8)
        for letter, corner in zip("ABC", np.asarray(corners), strict=True):
            at = 0.86 * float(line[-1]) * corner
            axis.text(*at, letter, ha="center", va="center", weight="bold")
        axis.set(aspect="equal", xticks=[], yticks=[])
        axis.spines[:].set(visible=True, color=PALE)
        axis.set_title(name, loc="center")
    show(
        figure,
        "Four squares, the plane of three logits. Softmax: all white, no exact zero. Entmax of "
        "1.25: shaded far out. Entmax of 1.5 and sparsemax: only a small white middle is left, and "
        "the darkest regions, with two zeros, reach almost to it.",
    )


def triangles(corners, sizes, webs):
    """Draw the image of a web of circles and spokes under each map, in the triangle."""
    corners, angles = np.asarray(corners), next(iter(webs.values())).shape[1]
    notes = {"spherical": "all sizes\nland here", "evidential": "only the rim"}
    hollow = ("taylor", "spherical", "evidential")  # not one-to-one: only the web
    shade = plt.cm.ScalarMappable(LogNorm(sizes[0], sizes[-1]), "viridis_r")
    colours = shade.to_rgba(np.asarray(sizes))
    figure, axes = plt.subplots(3, 3, figsize=(8.4, 7.8))
    for axis, (name, rings) in zip(axes.flat, webs.items(), strict=True):
        rings = np.asarray(rings)
        axis.fill(*corners.T, facecolor="#F2F2F2", edgecolor="none")
        if name in hollow:
            for ring, colour in zip(rings, colours, strict=True):
                axis.plot(*ring.T, color=colour, linewidth=1.3)
        else:
            for ring, colour in zip(rings[::-1], colours[::-1], strict=True):
                axis.fill(*ring.T, color=colour, linewidth=0.5)
            for spoke in rings[:, :: angles // 12].swapaxes(0, 1):
                axis.plot(*spoke.T, color="white", linewidth=0.5, alpha=0.7)
            for ring in rings[::4]:
                axis.plot(*ring.T, color="white", linewidth=1)
        axis.plot(*rings[-1].T, color=colours[-1], linewidth=2.5)
        axis.text(0, 0, notes.get(name, ""), ha="center", va="center", color=GREY)
        for letter, corner in zip("ABC", corners, strict=True):
            axis.text(*(1.14 * corner), letter, ha="center", va="center", color=GREY)
        axis.set(aspect="equal", xlim=(-1.1, 1.1), ylim=(-0.7, 1.24))
        axis.set_axis_off()
        axis.set_title(name, loc="center")
    bar = figure.colorbar(shade, ax=axes, orientation="horizontal", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label("size of the logits, |z|")
    bar.set_ticks([0.125, 0.25, 0.5, 1, 2, 4, 8], labels=["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    bar.minorticks_off()
    bar.outline.set_visible(False)
    show(
        figure,
        "Nine triangles, each with the image of the plane of logits under a map. Softmax fills the "
        "triangle, entmax and sparsemax fill it with small logits, tempered softmax keeps away "
        "from the rim, Taylor folds back to a circle, spherical is that circle, evidential is the "
        "rim, and range-limited and Gaussian softmax fill a smaller triangle inside.",
    )


def bounded(line, curves):
    """Draw both bounded maps of two classes: probability above, its logarithm below."""
    figure, axes = plt.subplots(2, 2, figsize=(9.2, 5.4))
    colours = {50: BLUE, 10_000: ORANGE, 1_000_000: RED}
    for column, name in enumerate(("range-limited", "Gaussian")):
        top, bottom = axes[:, column]
        for n, colour in colours.items():
            log_p = np.asarray(curves[n][column])
            top.plot(line, np.exp(log_p), color=colour)
            bottom.plot(line, log_p, color=colour)
            bottom.text(-21.8, log_p[0] + 0.4, f"n = {n:,}", color=colour)
        for axis, curve in ((top, np.exp(curves[None])), (bottom, curves[None])):
            axis.plot(line, curve, color="black", linewidth=1.2, linestyle=DASHED)
        bottom.text(-14.4, -16.4, "softmax")
        top.set(title=f"{name} softmax: probability", ylim=(-0.02, 1.02), xlim=(-8, 8))
        bottom.set(title="its logarithm", ylim=(-17.5, 0.8), xlim=(-22, 4))
        bottom.set_xlabel("logit, against another class at 0")
    show(
        figure,
        "Probabilities of one of two classes over its logit, and their logarithms, with softmax "
        "dashed. Range-limited softmax lies on softmax and flattens at minus log n on the left. "
        "Gaussian softmax is steeper in the middle and has the same limits.",
    )


def costs_of_mistakes(prices, costs):
    """Draw the mean cost of an image over the price of a mistake; shaded: all seeds."""
    colours = {"softmax": GREY, "range-limited": BLUE, "Gaussian": RED, "softmax, fitted T": GREEN}
    figure, axis = plt.subplots(figsize=(8.6, 3.6))
    for name, cost in costs.items():
        cost = np.asarray(cost)
        axis.plot(prices, cost.mean(-1), "o-", color=colours[name], markersize=4, label=name)
        axis.fill_between(prices, cost.min(-1), cost.max(-1), color=colours[name], alpha=0.2, lw=0)
    axis.set(xscale="log", yscale="log", xlabel="price of a mistake (asking costs 1)")
    axis.set(title="Mean cost of an image", xlim=(prices[0], prices[-1]))
    axis.set_yticks([0.3, 0.5, 1, 2, 4], ["0.3", "0.5", "1", "2", "4"])
    axis.minorticks_off()
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    show(
        figure,
        "Mean cost of an image over the price of a mistake. Softmax rises above 1 where mistakes "
        "are dear, range-limited and Gaussian softmax stay at 1, and softmax with a fitted "
        "temperature is lowest in between.",
    )
