"""The pictures of notebooks 5, Wrong labels, and 9, Rare classes and calibration."""

import matplotlib.pyplot as plt
import numpy as np
from drawing_style import BLUE, DASHED, GREEN, GREY, ORANGE, PALE, PINK, RED, label_ends, show

OF_LOSS = {
    "cross-entropy": GREY,
    "generalised CE": BLUE,
    "symmetric CE": GREEN,
    "bi-tempered": RED,
    "CE, clean labels": GREY,
}
OF_REMEDY = {
    "cross-entropy": GREY,
    "focal": PINK,
    "class weights": ORANGE,
    "logit adjustment": BLUE,
    "LDAM": GREEN,
    "afterwards, τ = 1": RED,
}


def labelled(images, labels, wrong):
    """Draw the first images with the labels that they were given, wrong ones in red."""
    figure, axes = plt.subplots(1, 14, figsize=(9.4, 1.15))
    for axis, image, label, is_wrong in zip(axes, images, labels, wrong, strict=False):
        axis.imshow(1 - np.asarray(image).reshape(14, 14), cmap="gray")
        axis.set_title(f"“{label}”", color=RED if is_wrong else "black", loc="center")
        axis.set_axis_off()
    show(figure, "Fourteen handwritten digits with their labels; those in red are wrong.")


def pulls(curves):
    """Draw how hard a label pulls on its logit, over the probability of the label's class."""
    figure, axis = plt.subplots(figsize=(8.4, 3.3))
    places = {
        "cross-entropy": (0.53, 0.55, "left"),
        "generalised CE": (0.8, 0.42, "right"),
        "symmetric CE": (0.8, 0.8, "left"),
        "bi-tempered": (0.3, 0.3, "left"),
    }
    for name, (p, strength) in curves.items():
        axis.plot(p, strength / strength.max(), color=OF_LOSS[name])
        x, y, side = places[name]
        axis.text(x, y, name, color=OF_LOSS[name], ha=side)
    axis.set(xlim=(0, 1), ylim=(0, 1.08), ylabel="pull on its logit")
    axis.set(xlabel="probability that the network gives to the label's class")
    show(
        figure,
        "How hard a label pulls, over the probability of its class. Cross-entropy falls from 1 on "
        "the left to 0 on the right. The three robust losses start near 0, rise to a maximum in "
        "the middle and fall to 0 on the right.",
    )


def learning(seen):
    """Draw test accuracy and labels learnt by heart over the epochs; shaded: all seeds."""
    figure, axes = plt.subplots(1, 2, figsize=(9.8, 3.7))
    titles = "Test accuracy, %", "Wrong labels learnt by heart, %"
    for axis, title, part in zip(axes, titles, (0, 1), strict=True):
        ends = {}
        for name, rows in seen.items():
            if part and name == "CE, clean labels":
                continue
            values, style = rows[part], DASHED if name == "CE, clean labels" else "-"
            epochs = np.arange(1, values.shape[1] + 1)
            axis.plot(epochs, values.mean(0), color=OF_LOSS[name], linestyle=style)
            low, high = values.min(0), values.max(0)
            axis.fill_between(epochs, low, high, color=OF_LOSS[name], alpha=0.15, linewidth=0)
            ends[name] = values[:, -1].mean(), OF_LOSS[name]
        axis.set(title=title, xlabel="epoch", xlim=(1, epochs[-1]))
        axis.set_ylim((60, 98) if part == 0 else (0, None))
        label_ends(axis, ends, epochs[-1] + 0.4, gap=0.07)
    show(
        figure,
        "Left: test accuracy over the epochs on wrong labels. That of cross-entropy rises and then "
        "falls, those of the robust losses fall later and less, all stay below that on clean "
        "labels. Right: cross-entropy learns far more of the wrong labels by heart than others.",
    )


def trade(results, taus):
    """Draw balanced accuracy over accuracy as the classes come, for each remedy and each seed."""
    figure, axis = plt.subplots(figsize=(8.4, 4.1))
    path = np.array([rows[:2].mean(-1) for rows in taus])
    axis.plot(*path.T, color=RED, linewidth=1.2, marker=".", markersize=4)
    text = "line: cross-entropy,\nadjusted afterwards,\nτ from 0 to 1.2"
    axis.text(0.03, 0.05, text, color=RED, transform=axis.transAxes)
    for name, rows in results.items():
        axis.scatter(rows[0], rows[1], s=12, color=OF_REMEDY[name], alpha=0.6, linewidths=0)
        axis.scatter(rows[0].mean(), rows[1].mean(), s=52, color=OF_REMEDY[name], label=name)
    axis.set(xlabel="accuracy as the training classes come, %", ylabel="balanced accuracy, %")
    axis.set_title("What rare classes cost (small dots: single seeds)")
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    show(
        figure,
        "Balanced accuracy over accuracy in the training proportions, a large dot for each remedy "
        "and a curve for adjustment afterwards with τ from 0 to 1.2: the numbers are in the table.",
    )


def reliability(panels):
    """Draw accuracy over confidence in bins, before a temperature is fitted and after it."""
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 3.5), sharey=True)
    for axis, (name, curves) in zip(axes, panels.items(), strict=True):
        axis.plot([0, 1], [0, 1], color=PALE, linewidth=1.2, zorder=0)
        for curve, colour in zip(curves, (RED, BLUE), strict=True):
            full = np.asarray(curve.weight) >= 20
            x, y = np.asarray(curve.confidence)[full], np.asarray(curve.accuracy)[full]
            axis.plot(x, y, color=colour, linewidth=1.2)
            sizes = 6 + 90 * np.asarray(curve.weight)[full] / float(curve.weight.sum())
            axis.scatter(x, y, sizes, color=colour, linewidths=0)
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1), aspect=1, xlabel="confidence")
        axis.set_title(name)
    axes[0].set(yticks=(0, 0.5, 1), ylabel="accuracy")
    axes[0].text(0.97, 0.14, "before", color=RED, ha="right")
    axes[0].text(0.97, 0.04, "with T", color=BLUE, ha="right")
    show(
        figure,
        "Accuracy over confidence for three networks, before and after a temperature. Before, the "
        "first is close to the diagonal, and the other two are above it, not sure enough. After it "
        "all three are close to the diagonal.",
    )
