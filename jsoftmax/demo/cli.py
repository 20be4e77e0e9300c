"""Train softmax heads on letters, and verify on unseen letters.

    python -m jsoftmax.demo [--losses L ...] [--classes N] [--epochs N] [--seeds N] [--out DIR]

A small convolutional network is trained once per head and seed; only the margin differs.
`train_step` in `train.py` shows all it takes to use the library in a training loop.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from jsoftmax.demo.heads import DEFAULT, HEADS


def options(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line, and check before training that the folder is writable."""
    parser = argparse.ArgumentParser(
        prog="python -m jsoftmax.demo", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add(
        "--losses",
        nargs="+",
        choices=list(HEADS),
        default=DEFAULT,
        metavar="L",
        help=f"{', '.join(HEADS)} (the first five)",
    )
    add("--classes", type=int, metavar="N", help="of how many letters, 30 or more (all, 525)")
    add("--epochs", type=int, default=6, metavar="N", help="1 or more (6)")
    add("--seeds", type=int, default=3, metavar="N", help="how many, 1 or more (3)")
    add("--out", type=Path, default=Path("demo"), metavar="DIR", help="for figures")
    chosen = parser.parse_args(arguments)
    for name, least in (("epochs", 1), ("seeds", 1), ("classes", 30)):
        number = getattr(chosen, name)
        if number is not None and number < least:
            parser.error(f"argument --{name}: expected {least} or more, got {number}")
    try:
        chosen.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=chosen.out):
            pass
    except OSError as error:
        parser.error(f"argument --out: can not write to {str(chosen.out)!r}: {error.strerror}")
    return chosen


def main(arguments: list[str] | None = None) -> list:
    """Run the demo and return its results, a `Result` per head."""
    chosen = options(arguments)
    try:  # what the options and their help do not need
        from jsoftmax.demo.run import Demo
    except ModuleNotFoundError as missing:
        sys.exit(f"The demo needs {missing.name!r}: pip install 'jsoftmax[demo]'")
    demo = Demo(chosen)
    try:
        demo.train()
    except KeyboardInterrupt:
        demo.report()
        sys.exit(130)
    return demo.report()
