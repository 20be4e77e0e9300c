"""The picture of what a margin demands of two classes in a plane, in notebooks 3 and 10."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from drawing_style import BLUE, GREY, RED, show
from matplotlib.colors import ListedColormap

import jsoftmax as js

SIDES = ListedColormap(["#F5C77E", "#FFFFFF", "#9CCBE8"])
BY_NORM = ("adaface", "magface")  # the rim is at a length of 110
PAIR = np.array([[-1.0, 1.0], [1.0, 1.0]]) / 2**0.5  # two class vectors, 90° apart
_TOWARDS = np.radians([[135.0, 160.0, 290.0], [45.0, 20.0, 0.0]])
CENTERS = np.stack([np.cos(_TOWARDS), np.sin(_TOWARDS)], -1)


def _verdict(margin, weight, points, yes_or_no):
    """Return 1 where class 1 wins with the handicap when it is the label, -1 for class 2."""

    def wins(y):
        labels, bias = jnp.full(points.shape[:2], y), jnp.full(2, -4.0) if yes_or_no else None
        z = js.linear_logits(points, weight, labels, margin=margin, bias=bias)
        if yes_or_no:  # yes to the one and no to the other
            return (z[..., y] > 0) & (z[..., 1 - y] < 0)
        return z[..., y] > z[..., 1 - y]

    return 1.0 * wins(0) - wins(1)


def demands(margins):
    """Draw where in the plane each of two classes wins although it is handicapped."""
    side = np.linspace(-1.02, 1.02, 160)  # without 0, where the two are equal
    plane = np.stack(np.meshgrid(side, side), -1).astype(np.float32)
    rows = -(-len(margins) // 5)
    figure, axes = plt.subplots(rows, 5, figsize=(10, 2.1 * rows))
    for axis in axes.flat:
        axis.set_axis_off()
    verdict = jax.jit(_verdict, static_argnums=3)
    for axis, (name, margin) in zip(axes.flat, margins.items(), strict=False):
        weight = CENTERS if name == "sub_center" else PAIR
        reach = 110.0 if name in BY_NORM else 1.0
        won = verdict(margin, jnp.float32(weight), reach * plane, name == "sphereface2")
        axis.imshow(
            np.where(np.hypot(*plane.T) > 1, np.nan, won),
            cmap=SIDES,
            vmin=-1,
            vmax=1,
            origin="lower",
            extent=(-1.02, 1.02, -1.02, 1.02),
            interpolation="nearest",
        )
        axis.add_patch(plt.Circle((0, 0), 1, fill=False, color=GREY, linewidth=0.8))
        for vectors, colour in zip(weight, (BLUE, RED), strict=True):
            for vector in np.atleast_2d(vectors):
                arrow = {"arrowstyle": "-|>", "color": colour, "lw": 1.4}
                axis.annotate("", 0.62 * vector, (0, 0), arrowprops=arrow)
        axis.set_title(name, fontsize=9.5, loc="center")
    show(
        figure,
        "A disc for each head, the plane of the features with two class vectors: blue where "
        "class 1 wins with the handicap, orange where class 2 does, white between them where "
        "neither does. Without a margin there is no white strip.",
    )
