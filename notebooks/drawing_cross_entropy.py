"""The pictures of notebook 2, Cross-entropy."""

import matplotlib.pyplot as plt
import numpy as np
from drawing_style import BLUE, BROWN, GREEN, ORANGE, PALE, RED, SKY, label_ends, show


def loss_and_slope(u, loss, slope):
    """Draw the loss over the log-odds with three tangents, and its slope beside it."""
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.3))
    axes[0].plot(u, loss, color=BLUE)
    axes[1].plot(u, slope, color=BLUE)
    for at, colour in ((-3.0, RED), (0.0, ORANGE), (3.0, GREEN)):
        y, push = np.interp(at, u, loss), np.interp(at, u, slope)
        near = np.array([at - 1.5, at + 1.5])
        axes[0].plot(near, y + push * (near - at), color=colour, linewidth=1.2)
        axes[0].plot(at, y, "o", color=colour)
        axes[0].text(at + 0.4, y + 0.3, f"p = {1 + push:.2f}\nloss {y:.2f}", color=colour)
        axes[1].plot(at, push, "o", color=colour)
        axes[1].text(at + 0.35, push - 0.04, f"{push:.2f}", color=colour, va="top")
    axes[0].set(xlabel="log-odds of the truth", ylabel="loss", title="The loss")
    axes[1].set(xlabel="log-odds of the truth", ylabel="slope", ylim=(-1.08, 0.05))
    axes[1].set_title("Its slope: minus what is missing, -(1 - p)")
    show(
        figure,
        "Left: the loss falls from 6 at log-odds of -6, first as a straight line, then flattens to "
        "0. Right: its slope rises from -1 through -0.5 at log-odds of 0 to 0.",
    )


def pushes(logits, labels, probabilities, losses, steps):
    """Draw the probabilities of each example as bars, with arrows for minus the gradient."""
    figure, axes = plt.subplots(1, len(labels), figsize=(9.2, 2.9), sharey=True)
    for i, axis in enumerate(axes):
        p, colours = probabilities[i], [BLUE if j == labels[i] else PALE for j in range(3)]
        axis.bar(range(3), p, color=colours, width=0.62)
        for j, step in enumerate(steps[i]):
            if abs(step) > 0.04:
                arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.4}
                axis.annotate("", (j, p[j] + step), (j, p[j]), arrowprops=arrow)
        axis.set_xticks(range(3), [f"{z:g}" for z in logits[i]])
        axis.set(ylim=(-0.02, 1.05), title=f"loss {losses[i]:.3f}", xlabel="logits")
        axis.tick_params(bottom=False)
    axes[0].set_ylabel("probability")
    show(
        figure,
        "Four examples of three classes, a bar for the probability of each. An arrow lifts the "
        "true class by what it lacks to 1, and lowers each other class to 0; the more is missing, "
        "the longer the arrows.",
    )


def entropy_and_divergence(p, losses, floors):
    """Draw cross-entropy over p for two labels, with the entropy below and the rest above it."""
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.3), sharey=True)
    for axis, (share, loss) in zip(axes, losses.items(), strict=True):
        axis.plot(p, loss, color=BLUE)
        axis.fill_between(p, floors[share], loss, color=SKY, alpha=0.3, linewidth=0)
        axis.fill_between(p, 0, floors[share], color=ORANGE, alpha=0.3, linewidth=0)
        axis.plot(share, floors[share], "o", color=RED, clip_on=False)
        axis.set(xlabel="p, what the model says of class A", xlim=(0, 1), ylim=(0, 3))
        axis.text(0.06, 1.0, "KL", color=BLUE, weight="bold")
    axes[0].set(title="Label: A with 0.7, B with 0.3", ylabel="cross-entropy")
    axes[1].set_title("Label: A, one-hot")
    axes[0].text(0.3, 0.26, "entropy of the label", color=BROWN)
    axes[0].text(0.7, 0.7, "p = q", color=RED, ha="center")
    show(
        figure,
        "Cross-entropy over the model's probability. For a label of 0.7 and 0.3 it is lowest, at "
        "the label's entropy of 0.61, where the model says 0.7. For a one-hot label the entropy is "
        "0, and the loss falls to 0 where the model says 1.",
    )


def softmax_twice(accuracies):
    """Draw the test accuracy over epochs, a panel for each optimiser; shaded: all seeds."""
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.4), sharey=True)
    for axis, name in zip(axes, ("SGD", "Adam"), strict=True):
        ends = {}
        for kind, colour in (("once", BLUE), ("twice", RED)):
            seen = np.asarray(accuracies[name, kind])
            epochs = np.arange(1, seen.shape[1] + 1)
            axis.plot(epochs, seen.mean(0), color=colour)
            axis.fill_between(epochs, seen.min(0), seen.max(0), color=colour, alpha=0.2, lw=0)
            ends[f"softmax {kind}"] = seen[:, -1].mean(), colour
        label_ends(axis, ends, epochs[-1] * 1.02, gap=0.08)
        axis.set(title=name, xlabel="epoch", xlim=(1, epochs[-1]), ylim=(30, 100))
    axes[0].set_ylabel("test accuracy (%)")
    show(
        figure,
        "Test accuracy over the epochs. With SGD softmax twice starts far below softmax once and "
        "stays below it. With Adam the two curves lie close together.",
    )


def precision(u, exact, found):
    """Draw losses on a logarithmic scale over the log-odds, and their relative errors."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.7))
    left.plot(u, exact, color=PALE, linewidth=7, solid_capstyle="butt")
    for name, loss in found.items():
        loss, colour = np.asarray(loss, np.float64), BLUE if name.startswith("js") else RED
        left.plot(u, np.where(loss > 0, loss, np.nan), color=colour, linewidth=1.6)
        error = np.abs(loss / exact - 1)
        right.plot(u, np.maximum(error, 1e-9), color=colour, linewidth=1.5)
    left.set(yscale="log", ylim=(1e-36, 10), xlim=(0, 80), xlabel="log-odds", title="The loss")
    left.text(22, 1e-5, "optax, logsumexp - target:\nend here, then 0", color=RED)
    left.text(43, 1e-30, "js.cross_entropy, on\nfloat64 (grey)", color=BLUE, ha="right")
    right.set(yscale="log", ylim=(5e-10, 30), xlim=(0, 80), xlabel="log-odds")
    right.set_title("Its relative error")
    right.text(78, 2.2, "all digits lost", color=RED, ha="right")
    right.text(78, 3e-5, "js.cross_entropy", color=BLUE, ha="right")
    show(
        figure,
        "Left: the loss over the log-odds from 0 to 80, on a logarithmic scale. js.cross_entropy "
        "follows float64 down to 1e-35; the other two end near log-odds of 14. Right: the relative "
        "error of js.cross_entropy stays below 1e-5, that of the others rises to 1.",
    )


def lost_losses(kept, lost):
    """Draw a histogram of losses, with those that the usual way rounds to 0 in red."""
    kept, lost = np.log10(np.asarray(kept)), np.asarray(lost)
    figure, axis = plt.subplots(figsize=(9, 2.9))
    bins = np.linspace(kept.min(), kept.max(), 60)
    axis.hist(kept, bins, color=PALE)
    axis.hist(kept[lost == 0], bins, color=RED)
    powers = np.arange(np.ceil(bins[0]), 1)[::2]
    axis.set_xticks(powers, [f"$10^{{{p:.0f}}}$" for p in powers])
    axis.set(xlabel="loss of a training image, by js.cross_entropy (last seed)", yticks=[])
    axis.spines["left"].set_visible(False)
    axis.set_title("Red: images whose loss is exactly 0 as logsumexp - target")
    show(
        figure,
        "A histogram of the losses of all training images on a logarithmic scale. The smallest "
        "ones, below about 1e-6, are red: the usual way gives exactly 0 for them.",
    )
