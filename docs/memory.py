"""Draw the README's picture, `python docs/memory.py`: memory against the number of classes.

It is read from compiled programs; nothing is run.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jsoftmax as js

EXAMPLES, FEATURES = 2048, 512
CLASSES = (8_000, 32_000, 64_000, 128_000, 192_000, 256_000)


def held(features, weight, labels):
    """Return the mean loss from logits in memory."""
    losses = optax.softmax_cross_entropy_with_integer_labels(features @ weight.T, labels)
    return losses.mean()


def temporary(loss, classes):
    """Return the megabytes that a loss and its gradients need beside arguments and results."""
    shapes = (EXAMPLES, FEATURES), (classes, FEATURES)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    labels = jax.ShapeDtypeStruct((EXAMPLES,), jnp.int32)
    gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))
    compiled = gradients.lower(*arrays, labels).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def size(megabytes):
    """Return a size as text."""
    return f"{megabytes / 1e3:.1f} GB" if megabytes >= 1e3 else f"{megabytes:.0f} MB"


def draw(path):
    """Write the picture."""
    lines = {
        "logits in memory (optax)": (held, "#b3402a", "o"),
        "jsoftmax": (js.linear_cross_entropy, "#1f5fa8", "s"),
    }
    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for name, (loss, colour, marker) in lines.items():
        found = [temporary(loss, classes) for classes in CLASSES]
        print(name, *(f"{classes:,}: {size(m)}" for classes, m in zip(CLASSES, found, strict=True)))
        thousands = np.array(CLASSES) / 1e3
        axis.plot(
            thousands, np.array(found) / 1e3, color=colour, marker=marker, lw=2.4, clip_on=False
        )
        axis.annotate(
            f"{name}: {size(found[-1])}",
            (thousands[-1], found[-1] / 1e3),
            xytext=(-6, 10),
            textcoords="offset points",
            ha="right",
            color=colour,
            fontsize=12,
            weight="bold",
        )
    axis.set(xlim=(0, 262), ylim=(0, None), xlabel="classes, in thousands", ylabel="GB")
    axis.set_title(
        f"Temporary memory of cross-entropy and its gradients\n{EXAMPLES:,} examples, "
        f"{FEATURES} features, float32",
        loc="left",
        fontsize=11,
    )
    axis.grid(axis="y", color="0.92")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    draw(Path(__file__).parent / "memory.png")
