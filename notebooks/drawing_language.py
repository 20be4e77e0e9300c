"""The pictures of notebook 4, A language model's head."""

import matplotlib.pyplot as plt
import numpy as np
from drawing_style import BLUE, BROWN, DASHED, GREY, ORANGE, PALE, RED, SKY, label_ends, show


def zipf(counts):
    """Draw each word's count by its rank, and the share of words and of text by how often."""
    counts = np.asarray(counts)[1:]
    rank = np.arange(1, len(counts) + 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.6), width_ratios=(1.1, 1))
    left.loglog(rank, counts[1] * 2.0 / rank, color=PALE, linestyle=DASHED, linewidth=1.4)
    left.loglog(rank, counts, color=BLUE)
    left.text(30, counts[1] * 2.6 / 30, "1 / rank", color=GREY)
    left.set(title="Each word's count, by its rank", xlabel="rank of the word", ylabel="count")
    edges = np.array([1, 2, 3, 6, 11, 101, 1001, 10**9])
    names = ["once", "twice", "3–5", "6–10", "11–100", "101–1,000", "more"]
    bins = np.digitize(counts, edges) - 1
    kinds = 100 * np.bincount(bins, minlength=len(names)) / len(counts)
    shares = 100 * np.bincount(bins, counts, len(names)) / counts.sum()
    height = np.arange(len(names))[::-1]
    for values, up, colour, ink in ((kinds, 0.2, BLUE, BLUE), (shares, -0.2, ORANGE, BROWN)):
        right.barh(height + up, values, 0.36, color=colour)
        for h, value in zip(height, values, strict=True):
            right.text(value + 1, h + up, f"{value:.1f}%", color=ink, va="center", fontsize=9)
    right.set_yticks(height, names)
    right.set(title="How often a word occurs", xlim=(0, 95), xticks=())
    right.spines["bottom"].set_visible(False)
    right.tick_params(left=False)
    right.text(94, 5.3, "% of the vocabulary", color=BLUE, ha="right")
    right.text(94, 4.6, "% of the text", color=BROWN, ha="right")
    show(
        figure,
        "Left: counts of words by rank on logarithmic axes, close to a line of slope -1. Right: "
        "bars by how often a word occurs; words that occur once or twice are a large part of the "
        "vocabulary and hardly any of the text, those above a thousand the reverse.",
    )


def memory(sizes, megabytes):
    """Draw the temporary memory of each head over the size of the vocabulary."""
    colours = {"held": BROWN, "held, by optax": RED, "fused": BLUE}
    figure, axis = plt.subplots(figsize=(8.4, 3.4))
    for name, values in megabytes.items():
        axis.plot(sizes, values, "o-", color=colours[name], markersize=4)
    axis.set(
        xscale="log", yscale="log", xlabel="words in the vocabulary", xlim=(sizes[0], sizes[-1])
    )
    axis.set_xticks(sizes, [f"{size / 1024:g}k" for size in sizes])
    axis.minorticks_off()
    axis.set_title("Temporary memory, MB, of 512 positions")
    ends = {name: (values[-1], colours[name]) for name, values in megabytes.items()}
    label_ends(axis, ends, sizes[-1] * 1.1)
    show(
        figure,
        "Temporary memory over the size of the vocabulary, on logarithmic axes. Up to 4,096 words "
        "fused is as high as the library's held scores; beyond, it drops far below both.",
    )


def loss_by_count(counts, costs):
    """Draw the mean loss of a word by how often it occurs in the training text."""
    edges = np.array([1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 10**9])
    names = ["1–2", "3–9", "10–29", "30–99", "100–299", "300–999", "1,000+", "3,000+", "10,000+"]
    group = np.digitize(counts, edges) - 1
    full = [g for g in range(len(names)) if (group == g).sum() >= 20]
    figure, axis = plt.subplots(figsize=(9, 3.7))
    styles = {"counts of words": (GREY, "-"), "counts of pairs": (ORANGE, "-")}
    for name, cost in costs.items():
        colour, style = styles.get(name, (BLUE, DASHED if name.endswith("1") else "-"))
        means = [cost[group == g].mean() for g in full]
        axis.plot(full, means, "o", linestyle=style, color=colour, markersize=4, label=name)
    axis.set_xticks(full, [names[g] for g in full])
    axis.set(xlabel="times that the word occurs in the training part", ylim=(0, None))
    axis.set(title="Mean loss of a word, nats", xlim=(full[0] - 0.1, full[-1] + 0.3))
    axis.legend(frameon=False)
    show(
        figure,
        "Mean loss of a word by how often it occurs in the training part, from 14 nats for "
        "the rarest words to below two for the most frequent ones. Both seeds of the model lie "
        "below the counts of pairs, and these below the counts of words, for frequent words.",
    )


def guesses(prompts):
    """Draw the most likely next words after each prompt as bars."""
    figure, axes = plt.subplots(1, len(prompts), figsize=(9.8, 2.6))
    for axis, (prompt, best) in zip(axes, prompts.items(), strict=True):
        axis.barh(range(len(best)), list(best.values()), color=SKY, height=0.72)
        for height, (word, p) in enumerate(best.items()):
            place = {"transform": axis.get_yaxis_transform(), "va": "center"}
            axis.text(0.02, height, word.replace("\n", "end of line"), **place)
            axis.text(1, height, f"{p:.1%}", color=GREY, ha="right", **place)
        axis.invert_yaxis()
        axis.set(title=f"{prompt} …", xticks=(), yticks=(), xlim=(0, 1.4 * max(best.values())))
        axis.spines[:].set_visible(False)
    firsts = ", ".join(f"{next(iter(best))} after “{prompt}”" for prompt, best in prompts.items())
    show(
        figure, f"The six most likely next words after each prompt, with bars; the first: {firsts}."
    )
