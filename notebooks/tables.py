"""Tables in plain text, and numbers of several seeds in one cell."""

import numpy as np


def spread(values, digits=1):
    """Return the mean of several seeds, with the least and the most in brackets."""
    mean, least, most = (f"{f(values):.{digits}f}" for f in (np.mean, np.min, np.max))
    return f"{mean} ({least} to {most})"


def table(rows, *heads):
    """Print `{name: cells}` below headings, in columns as wide as need be."""
    lines = [heads, *((name, *cells) for name, cells in rows.items())]
    texts = [[x if isinstance(x, str) else f"{float(x):.4g}" for x in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for first, *cells in texts:
        aligned = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        print("   ".join((f"{first:{widths[0]}}", *aligned)))
