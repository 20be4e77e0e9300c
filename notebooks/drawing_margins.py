"""The pictures of notebook 3, Margins."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from drawing_demands import demands
from drawing_style import BLUE, DASHED, GREEN, GREY, ORANGE, PALE, PINK, RED, SKY, show

COLOURS = {
    "NormFace": GREY,
    "CosFace, m = 0.35": ORANGE,
    "ArcFace, m = 0.5": BLUE,
    "combined 1, 0.3, 0.2": SKY,
    "A-Softmax, m = 2": PINK,
    "A-Softmax, m = 4": RED,
}
DIGITS = plt.get_cmap("tab10")(range(10))

__all__ = ["curves", "demands", "pairs_of", "past_pi", "planes", "strips"]


def curves(margins):
    """Draw φ over the angle, and its derivative in the cosine."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.8, 4.4))
    degrees = np.linspace(0.25, 180, 720)
    for name, margin in margins.items():
        phi, pull = jax.vmap(jax.value_and_grad(margin))(jnp.cos(jnp.radians(degrees)))
        left.plot(degrees, phi, color=COLOURS[name], label=name)
        right.plot(degrees, pull, color=COLOURS[name])
    left.set(ylim=(-3.2, 1.1), title="Score of the true class, φ(θ)")
    right.set(ylim=(0, 5), title="Pull towards the class vector, dφ / d cos θ")
    for axis in (left, right):
        axis.set(xlim=(0, 180), xticks=range(0, 181, 30), xlabel="angle θ (degrees)")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    show(
        figure,
        "Left: φ over the angle for six margins, all below the cosine; CosFace parallel to it, "
        "ArcFace shifted to the left, A-Softmax falling fastest, to -3 for m = 2 and beyond the "
        "picture for m = 4. Right: their pulls; CosFace 1 everywhere, ArcFace large near 0 degrees,"
        " A-Softmax in waves.",
    )


def strips(margins):
    """Draw the width of the strip between two classes over the angle of their vectors.

    Return for each margin the least angle at which a feature can win, and the strip at 90°.
    """
    apart = np.linspace(2, 150, 75)
    turn = np.linspace(-90, 90, 3601)  # the feature's angle from its own vector to the other one
    found, numbers = {}, {}
    for name, margin in margins.items():
        phi = np.asarray(margin(jnp.cos(jnp.radians(np.abs(turn)))))
        won = (phi > np.cos(np.radians(apart[:, None] - turn))) & (turn < apart[:, None] / 2)
        nearest = np.max(np.where(won, turn, -np.inf), axis=1)
        found[name] = np.where(won.any(1), apart - 2 * nearest, np.nan)
        least, width = apart[won.any(1)].min(), found[name][apart == 90][0]
        numbers[name] = f"{least:.0f}°", f"{width:.0f}°"
    figure, axis = plt.subplots(figsize=(9.4, 4.1))
    axis.plot(apart, apart, color=GREY, linewidth=1, linestyle=DASHED, label="the whole angle")
    for name, width in found.items():
        axis.plot(apart, width, color=COLOURS[name], label=name)
    for x, text, side in (
        (36, " ten classes\n in a plane", "left"),
        (90, "many \ndimensions ", "right"),
    ):
        axis.axvline(x, color=PALE, zorder=0)
        axis.text(x, 108, text, color=GREY, va="top", ha=side)
    axis.set(xlim=(0, 150), ylim=(-2, 110), xlabel="angle Δ between the class vectors (degrees)")
    axis.set(title="Width of the strip between the classes (degrees)")
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    show(
        figure,
        "The width of the strip over the angle between two class vectors. ArcFace: constant, 29 "
        "degrees, from 30 degrees on. CosFace: large at small angles, falling towards 90 degrees. "
        "A-Softmax: a share of the angle, from 0 on. NormFace: zero.",
    )
    return numbers


def pairs_of(features, labels):
    """Draw histograms of the angles of pairs, of one digit and of two, for each head."""
    labels = np.asarray(labels)
    same, upper = labels[:, None] == labels, np.triu(np.ones((len(labels),) * 2, bool), 1)
    figure, axes = plt.subplots(len(features), 1, figsize=(9, 5.6), sharex=True)
    bins = np.arange(0, 181, 2.0)
    for axis, (name, f) in zip(axes, features.items(), strict=True):
        unit = np.asarray(f) / np.linalg.norm(f, axis=-1, keepdims=True)
        angles = np.degrees(np.arccos(np.clip(unit @ unit.T, -1, 1)))
        for chosen, colour in ((same & upper, BLUE), (~same & upper, ORANGE)):
            height = np.histogram(angles[chosen], bins, density=True)[0]
            axis.fill_between(bins[:-1] + 1, height, color=colour, alpha=0.55, linewidth=0)
            axis.plot([angles[chosen].mean()] * 2, [0, height.max()], color=colour, linewidth=1.2)
        axis.text(179, axis.get_ylim()[1] * 0.6, name, ha="right", va="center")
        axis.set(yticks=(), xlim=(0, 180), xticks=range(0, 181, 30))
        axis.set_ylim(0)
        axis.spines["left"].set_visible(False)
    axes[0].text(100, axes[0].get_ylim()[1] * 0.85, "same digit", color=BLUE, va="top")
    axes[0].text(122, axes[0].get_ylim()[1] * 0.85, "different", color="#8A5F00", va="top")
    axes[-1].set_xlabel("angle between the features of two images of unseen digits (degrees)")
    show(
        figure,
        "For each head two histograms of angles between images of the unseen digits 6 to 9: pairs "
        "of one digit at smaller angles, pairs of different digits at larger ones, overlapping. "
        "Vertical lines are the means.",
    )


def planes(features, labels):
    """Draw two-dimensional features, a colour for each digit."""
    figure, axes = plt.subplots(1, len(features), figsize=(9.4, 3.3))
    for axis, (name, f) in zip(axes, features.items(), strict=True):
        f = np.asarray(f) / np.quantile(np.linalg.norm(f, axis=-1), 0.99)
        for digit in range(6):
            chosen = np.asarray(labels) == digit
            axis.scatter(*f[chosen].T, s=5, color=DIGITS[digit], linewidths=0, alpha=0.6)
            mean = (f[chosen] / np.linalg.norm(f[chosen], axis=-1, keepdims=True)).mean(0)
            at = 1.2 * mean / np.linalg.norm(mean)
            axis.text(*at, digit, color=DIGITS[digit], weight="bold", ha="center", va="center")
        axis.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal")
        axis.set_title(name, loc="center", y=0.93)
        axis.set_axis_off()
    show(figure, "Features of six digits in a plane, for three heads: each digit is a ray from 0.")


def past_pi(rules, paths):
    """Draw φ past π for each rule, and the paths of features that follow the gradient."""
    inks = dict(zip(rules, (BLUE, ORANGE, GREEN, PINK, "black", RED, GREY), strict=True))
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.2))
    first, *rest = axes.flat
    degrees = np.linspace(90, 179.9, 400)
    for name, phi in rules.items():
        first.plot(degrees, phi(jnp.cos(jnp.radians(degrees))), color=inks[name], linewidth=1.4)
    first.axvline(180 - np.degrees(0.5), color=PALE, zorder=0)
    first.set(xlim=(90, 180), ylim=(-1.6, 0), xticks=(90, 120, 150, 180), title="φ of each rule")
    for axis, (name, path) in zip(rest, paths.items(), strict=True):
        axis.plot(np.asarray(path).T, color=inks[name], linewidth=0.6, alpha=0.8)
        home = np.mean(np.asarray(path)[:, -1] < 45)
        axis.set(ylim=(0, 180), yticks=(0, 90, 180), xlim=(0, path.shape[1]))
        axis.set_title(f"{name}: {home:.0%} arrive", color=inks[name], fontsize=10)
    for axis in axes[1]:
        axis.set_xlabel("step")
    show(
        figure,
        "Top left: φ of ArcFace between 90 and 180 degrees under seven rules. The other panels: "
        "angles over 400 steps of features that start between 90 and 180 degrees, one panel for "
        "each rule, with the share that ends below 45 degrees in its title.",
    )
