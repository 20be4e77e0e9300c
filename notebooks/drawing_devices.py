"""The pictures of notebook 6, From one device to many."""

import matplotlib.pyplot as plt
import numpy as np
from drawing_style import BLUE, GREEN, GREY, ORANGE, PALE, RED, SKY, label_ends, show
from matplotlib.colors import ListedColormap

TINTS = ("#CFE5F2", "#FBE5BD", "#CDE9DF", "#F3D3C3")


def _pieces(x):
    """Return where in the global array the shard of each device starts and ends."""
    return {s.device.id: s.index[0].indices(len(x))[:2] for s in x.addressable_shards}


def layout(batch, class_vectors):
    """Draw the scores as a rectangle of examples and classes, a part for each device."""
    figure, axis = plt.subplots(figsize=(9, 3.9))
    mine, theirs = _pieces(batch), _pieces(class_vectors)
    middle = {"ha": "center", "va": "center"}

    def box(left, top, width, height, colour, text, edge="black"):
        axis.add_patch(plt.Rectangle((left, top), width, height, fc=colour, ec=edge, lw=0.8))
        axis.text(left + width / 2, top + height / 2, text, **middle)

    for device, (top, bottom) in mine.items():
        start, end = theirs[device]
        tint, rows, columns = TINTS[start // (end - start)], bottom - top, end - start
        text = f"device {device}\n{rows} × {columns} scores,\nwhich never leave it"
        box(start, top, columns, rows, tint, text, edge="white")
        if top == 0:
            box(start, -9, columns, 6, tint, f"class vectors\n{start} to {end - 1}")
        if start == 0:
            box(-150, top, 120, rows, "#EEEEEE", f"features\n{top} to {bottom - 1}")
    axis.text(1016, -6, "over\nmodel", color=GREY, va="center")
    axis.text(-90, 33, "over data", color=GREY, ha="center", va="top")
    axis.set(xlim=(-160, 1090), ylim=(36, -10))
    axis.set_axis_off()
    show(
        figure,
        "A rectangle of 32 examples and 1,004 classes in eight parts, one for each device: two "
        "halves of the examples, four parts of the classes. Each part of the class vectors and of "
        "the features is on the devices of its column or row; scores never leave a device.",
    )


def sampled(labels, drawn, classes):
    """Draw the class vectors of each device: those of the batch, those drawn, all others."""
    kind = np.zeros(classes, int)
    kind[np.asarray(drawn)] = 1
    kind[np.asarray(labels)] = 2
    figure, axis = plt.subplots(figsize=(9.4, 2.7))
    axis.pcolormesh(kind.reshape(8, -1), cmap=ListedColormap([PALE, SKY, RED]), rasterized=True)
    axis.hlines(range(1, 8), 0, classes // 8, color="white", linewidth=4)
    axis.set(yticks=np.arange(8) + 0.5, yticklabels=[f"device {i}" for i in range(8)])
    axis.set(xlabel="its class vectors")
    axis.invert_yaxis()
    axis.tick_params(left=False)
    axis.spines[:].set_visible(False)
    names = ("class of the batch", RED), ("drawn at random", BLUE), ("not touched", GREY)
    for at, (text, colour) in zip((0.0, 0.26, 0.5), names, strict=True):
        axis.text(at, 1.05, text, color=colour, weight="bold", transform=axis.transAxes)
    show(
        figure,
        "Eight rows, the class vectors of each device. A few are classes of the batch, about twice "
        "as many were drawn at random, and nine tenths are not touched in this step.",
    )


def scaling(plans):
    """Draw what a device holds and what it sends over the number of devices."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.9))
    inks = dict(zip(plans, (BLUE, GREEN, ORANGE, RED), strict=False))
    axes[0].set(yscale="log", title="A device holds (GB)")
    axes[1].set(title="A device sends in a step (MB)", ylim=(0, 300))
    for axis, key, unit in zip(axes, ("memory", "sent"), (1e9, 1e6), strict=True):
        ends = {}
        for name, found in plans.items():
            devices = [plan["data"] * plan["model"] for plan in found]
            values = [plan["found"][key] / unit for plan in found]
            axis.plot(devices, values, "o-", color=inks[name], markersize=5)
            ends[name] = values[-1], inks[name]
        axis.set(xscale="log", xlabel="devices", xlim=(devices[0], devices[-1]))
        axis.set_xticks(devices, devices)
        axis.minorticks_off()
        label_ends(axis, ends, devices[-1] * 1.12, gap=0.08)
    axes[0].axhline(80, color=GREY, linewidth=1, linestyle=":")
    axes[0].text(devices[-1], 85, "80 GB", color=GREY, va="bottom", ha="right")
    show(
        figure,
        "Left: the memory of a device falls in proportion to the number of devices, from 180 GB on "
        "eight to 4.3 GB on 512 for 100 million classes. Right: what a device sends hardly depends "
        "on the number of devices or classes, and is below 300 MB.",
    )
