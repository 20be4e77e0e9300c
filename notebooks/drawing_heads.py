"""The pictures of notebook 10, Every margin, and the blur of its images."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from drawing_demands import demands
from drawing_style import BLUE, GREEN, GREY, ORANGE, label_ends, show

import jsoftmax as js

LENGTHS = {"adaface": (20.0, 60.0), "magface": (20.0, 60.0)}  # low and high quality

__all__ = ["angles_of_labels", "blurred", "demands", "heads", "quality"]


def _curves(margin, length, angles):
    """Return scores / s of the true class over its angle, and of another class over that."""
    first, second, third = jnp.eye(3)

    def scores(*weight):
        z = js.linear_logits(length * first, jnp.stack(weight), 0, margin=margin)
        return z / margin.scale

    def turned(a, axis):
        return jnp.cos(a) * first + jnp.sin(a) * axis

    near = turned(jnp.radians(50), second)
    target = jax.vmap(lambda a: scores(turned(a, second), third)[0])(angles)
    return target, jax.vmap(lambda a: scores(near, turned(a, third))[1])(angles)


def heads(margins):
    """Draw the score of the true class and of another one over its angle, for each margin."""
    angles = jnp.radians(jnp.linspace(0.5, 179.5, 181))
    at, cosine = np.degrees(angles), np.cos(angles)
    every = {name: [(m, n) for n in LENGTHS.get(name, (1.0,))] for name, m in margins.items()}
    found = jax.jit(
        lambda: {name: [_curves(*each, angles) for each in of] for name, of in every.items()}
    )()
    figure, axes = plt.subplots(4, 5, figsize=(10, 7.8), sharex=True, sharey=True)
    for axis in axes.flat[len(found) :]:
        axis.set_axis_off()
    for axis, (name, pairs) in zip(axes.flat, found.items(), strict=False):
        axis.plot(at, cosine, color=GREY, linestyle=":", linewidth=1)
        for (target, _), shade in zip(pairs, (0.5, 1.0) if pairs[1:] else (1.0,), strict=True):
            axis.plot(at, target, color=BLUE, linewidth=1.4, alpha=shade)
        others = pairs[-1][1]
        if np.abs(others - cosine).max() > 1e-3:
            axis.plot(at, others, color=ORANGE, linewidth=1.4, linestyle=(0, (4, 1.5)))
        axis.set_title(name, fontsize=9.5, loc="center")
        axis.set(xlim=(0, 180), ylim=(-2.4, 1.4), xticks=(0, 90, 180), yticks=(-2, -1, 0, 1))
        if name in LENGTHS:
            axis.text(6, -2.3, "pale: short\nfeatures", color=BLUE, fontsize=8.5)
    figure.supxlabel("angle to the class vector (degrees)", fontsize=10)
    figure.supylabel("score / scale", fontsize=10)
    show(
        figure,
        "A small picture for each head: the score of the true class over its angle in blue, below "
        "the dotted cosine for most heads, and the score of another class in orange where it is "
        "not the cosine, mostly with a step upwards where that class becomes hard.",
    )


def angles_of_labels(found):
    """Draw histograms of angles to the dominant vector, of right and of wrong labels."""
    figure, axes = plt.subplots(1, len(found), figsize=(9.4, 2.8))
    for axis, (name, (angles, wrong)) in zip(axes, found.items(), strict=True):
        bins = np.linspace(angles.min(), angles.max(), 60)
        for part, colour, text in ((~wrong, BLUE, "right label"), (wrong, ORANGE, "wrong label")):
            axis.hist(angles[part], bins, color=colour, alpha=0.6, label=text)
        axis.set(title=f"{name}, first seed", yticks=())
        axis.set_xlabel("angle to the label's dominant vector (degrees)")
        axis.spines["left"].set_visible(False)
    axes[0].legend(frameon=False)
    show(
        figure,
        "Histograms of the angle of training images to the dominant vector of their label's class, "
        "of the first seed. Right labels are at smaller angles, wrong ones at larger ones.",
    )


def blurred(images, sigma):
    """Return images of 14 × 14 pixels after a Gaussian blur of `sigma` pixels, one for each."""
    offsets = jnp.arange(-6, 7)
    kernel = jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, 1e-3)[:, None]) ** 2)
    kernel /= kernel.sum(-1, keepdims=True)

    def one(image, kernel):
        for axis in (0, 1):
            image = jnp.apply_along_axis(jnp.convolve, axis, image, kernel, mode="same")
        return image.ravel()

    return jax.vmap(one)(images.reshape(-1, 14, 14), kernel)


def quality(levels, image, lengths, right):
    """Draw an image at each blur, the lengths of features, and how many images are right."""
    colours = dict(zip(lengths, (GREY, BLUE, GREEN), strict=True))
    figure, axes = plt.subplot_mosaic(
        [[str(i) for i in range(len(levels))], ["length"] * 2 + ["."] + ["right"] * 2],
        figsize=(9.4, 4.8),
        height_ratios=(1, 2),
    )
    for i, sigma in enumerate(levels):
        shown = blurred(image[None], jnp.array([sigma]))
        axes[str(i)].imshow(shown.reshape(14, 14), cmap="gray_r")
        axes[str(i)].set_axis_off()
        title = "sharp" if sigma == 0 else f"blur {sigma:g} pixels"
        axes[str(i)].set_title(title, fontsize=9.5, loc="center")
    for key, values, title in (
        ("length", lengths, "median length, sharp = 1"),
        ("right", right, "test images right (%)"),
    ):
        ends = {}
        for name, rows in values.items():
            rows = np.asarray(rows)
            axes[key].plot(levels, rows.mean(0), "o-", color=colours[name], markersize=4)
            low, high = rows.min(0), rows.max(0)
            axes[key].fill_between(levels, low, high, color=colours[name], alpha=0.2, linewidth=0)
            ends[name] = rows[:, -1].mean(), colours[name]
        axes[key].set(title=title, xlabel="blur (pixels)", xlim=(0, levels[-1]))
        label_ends(axes[key], ends, levels[-1] * 1.03, gap=0.09)
    show(
        figure,
        "Top: one digit, sharp and ever more blurred. Bottom: over the blur, the median length of "
        "the features falls for all three heads, and so does the share of test images that are "
        "right; shaded is the range of seeds.",
    )
