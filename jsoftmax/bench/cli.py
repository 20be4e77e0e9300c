"""The command line of the benchmark, and its presets."""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from jsoftmax.bench.contestants import CONTESTANTS
from jsoftmax.bench.problem import LOSSES, MARGINS, Problem

PRESETS = {
    "small": Problem(2048, 512, 32000),
    "gemma-2-2b": Problem(8192, 2304, 256000, "bfloat16"),
    "llama-3-8b": Problem(8192, 4096, 128256, "bfloat16"),
    "face-1m": Problem(512, 512, 1_000_000, margin="arcface"),
}


def options(arguments: list[str] | None, description: str) -> tuple[argparse.Namespace, Problem]:
    """Parse the command line into options and the problem; report errors before anything runs."""
    parser = argparse.ArgumentParser(prog="python -m jsoftmax.bench", description=description)
    names = [contestant.name for contestant in CONTESTANTS]
    number = partial(parser.add_argument, type=int, metavar="N")
    parser.add_argument("--preset", choices=list(PRESETS), help="(small)")
    number("--rows", help="examples in a batch; what is given here overrides the preset")
    number("--features", help="length of a feature vector")
    number("--classes")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--loss", choices=LOSSES, metavar="L", help=f"{', '.join(LOSSES)} (nll)")
    parser.add_argument(
        "--margin",
        choices=MARGINS,
        metavar="M",
        help=f"{', '.join(MARGINS)}; with its paper's numbers (the preset's: none but for face-1m)",
    )
    parser.add_argument(
        "--backward",
        action=argparse.BooleanOptionalAction,
        help="with the gradients of features and weight, or the loss alone (with)",
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="F",
        help="multiply rows and classes by F, given or preset, but not features: the products and "
        "the logits change by F², the weight by F (1)",
    )
    number("--repeats", default=5, help="rounds; the table shows their median (5)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"only these and the floor, {names[0]}; there are {' '.join(names[1:])}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="measure at five class counts up to the one asked for; draw time and memory",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--maps", action="store_true", help="instead: softmax and its kin on rows × classes logits"
    )
    instead.add_argument("--sparse", action="store_true", help="instead: sparse maps on logits")
    instead.add_argument(
        "--plan",
        action="store_true",
        help="instead: memory and communication of a training step over many devices, compiled "
        "but not run; of known heads, or of the one that the options describe",
    )
    number("--devices", nargs="+", help="with --plan: how many devices (8 64 512)")
    parser.add_argument(
        "--sample-rate",
        type=float,
        metavar="R",
        help="with --plan: the part of the classes that a step samples, as in Partial FC (all)",
    )
    chosen = parser.parse_args(arguments)
    for name in ("rows", "features", "classes", "repeats"):
        if (value := getattr(chosen, name)) is not None and value < 1:
            parser.error(f"argument --{name}: expected 1 or more, got {value}")
    if not 0 < chosen.scale < float("inf"):
        parser.error(f"argument --scale: expected a number above 0, got {chosen.scale}")
    if (chosen.maps or chosen.sparse or chosen.plan) and (chosen.plot or chosen.only):
        parser.error("--plot and --only do not go with --maps and --sparse, nor with --plan")
    if not chosen.plan and (chosen.devices or chosen.sample_rate is not None):
        parser.error("--devices and --sample-rate only go with --plan")
    chosen.devices = chosen.devices or [8, 64, 512]
    if min(chosen.devices) < 1:
        parser.error(f"argument --devices: expected 1 or more, got {min(chosen.devices)}")
    if chosen.sample_rate is not None and not 0 < chosen.sample_rate <= 1:
        parser.error(f"argument --sample-rate: expected in (0, 1], got {chosen.sample_rate}")
    if chosen.plot and chosen.plot.suffix not in (".png", ".pdf", ".svg"):
        parser.error(f"argument --plot: expected .png, .pdf or .svg, got {str(chosen.plot)!r}")
    for name in ("json", "plot"):
        if path := getattr(chosen, name):
            _writable(parser, f"--{name}", path)
    return chosen, _problem(chosen)


def _writable(parser, option, path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(None, "Is a directory")
    except OSError as error:
        parser.error(f"argument {option}: can not write {str(path)!r}: {error.strerror}")


def _problem(chosen):
    given = {name: getattr(chosen, name, None) for name in Problem._fields}
    problem = PRESETS[chosen.preset or "small"]
    problem = problem._replace(**{k: v for k, v in given.items() if v is not None})
    rows, classes = (max(1, round(chosen.scale * n)) for n in (problem.rows, problem.classes))
    return problem._replace(rows=rows, classes=classes)
