"""The command line of the benchmark."""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from jsoftmax.bench.contestants import CONTESTANTS
from jsoftmax.bench.problem import (
    DISTILLATION,
    LOSSES,
    MARGINS,
    PRESETS,
    WITH_OWN_LOSS,
    Problem,
)

# The parts of the device check, in this order, and their shares of the time.
SHARES = {"accuracy": 100, "heads": 200, "tune": 90, "accumulate": 30, "logits": 60}


def options(arguments: list[str] | None = None) -> tuple[argparse.Namespace, Problem]:
    """Parse the command line into options and the problem; report errors before anything runs."""
    parser = argparse.ArgumentParser(
        prog="python -m jsoftmax.bench",
        description="Find out what is fastest, and what fits, on this device at your shape.",
        epilog="It needs the extra `bench`: pip install 'jsoftmax[bench]'. Others' libraries are "
        "measured if they are installed. Ctrl-C shows, and writes, what was measured until then.",
    )
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
    instead.add_argument(
        "--tune",
        action="store_true",
        help="instead: jsoftmax with a grid of block sizes; says how good the rule's are, and what "
        "to write for the best",
    )
    instead.add_argument(
        "--device-check",
        action="store_true",
        help="instead: all that is worth knowing of a new device, in a few minutes: accuracy, "
        "known heads, block sizes, how gradients are accumulated, losses on logits",
    )
    parser.add_argument(
        "--skip",
        nargs="+",
        choices=list(SHARES),
        default=[],
        metavar="PART",
        help=f"with --device-check: parts to leave out of {' '.join(SHARES)}",
    )
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="with --device-check: the time for it (8)"
    )
    number("--devices", nargs="+", help="with --plan: how many devices (8 64 512)")
    parser.add_argument(
        "--sample-rate",
        type=float,
        metavar="R",
        help="with --plan: the part of the classes that a step samples, as in Partial FC (all)",
    )
    chosen = parser.parse_args(arguments)
    _check(parser, chosen)
    for name in ("json", "plot"):
        if path := getattr(chosen, name):
            _writable(parser, f"--{name}", path)
    problem = _problem(chosen)
    if problem.loss == DISTILLATION and problem.margin != "none":
        parser.error(f"argument --margin: expected none with --loss {DISTILLATION}")
    if problem.margin in WITH_OWN_LOSS:
        if chosen.loss:
            parser.error(f"argument --loss: {problem.margin} has its own; leave it out")
        if chosen.plan:
            parser.error("argument --margin: --plan is for heads of cross-entropy and its kin")
    if chosen.plan and problem.centers:
        parser.error("argument --margin: --plan is for heads with one vector for each class")
    for mode in ("plan", "tune"):
        if getattr(chosen, mode) and (problem.loss_args() or problem.loss == DISTILLATION):
            parser.error(f"argument --loss: --{mode} is for losses of one head and its labels")
    return chosen, problem


def _check(parser, chosen):
    """Report options that are not sensible, or do not go together; fill in those of a mode."""
    for name in ("rows", "features", "classes", "repeats"):
        if (value := getattr(chosen, name)) is not None and value < 1:
            parser.error(f"argument --{name}: expected 1 or more, got {value}")
    for name in ("scale", "minutes"):
        if (value := getattr(chosen, name)) is not None and not 0 < value < float("inf"):
            parser.error(f"argument --{name}: expected a number above 0, got {value}")
    modes = ("maps", "sparse", "plan", "tune", "device_check")
    for mode in modes:
        if getattr(chosen, mode) and (chosen.plot or chosen.only):
            parser.error(f"--plot and --only do not go with --{mode.replace('_', '-')}")
    if not chosen.plan and (chosen.devices or chosen.sample_rate is not None):
        parser.error("--devices and --sample-rate only go with --plan")
    if not chosen.device_check and (chosen.skip or chosen.minutes is not None):
        parser.error("--skip and --minutes only go with --device-check")
    if chosen.device_check:
        for name in ("preset", *Problem._fields):
            if getattr(chosen, name, None) is not None:
                parser.error(
                    f"argument --{name}: --device-check has its own problems; leave it out, or "
                    "make all of them smaller with --scale"
                )
        if set(chosen.skip) == set(SHARES):
            parser.error("argument --skip: no part is left; leave one out of the list")
    chosen.devices = chosen.devices or [8, 64, 512]
    if min(chosen.devices) < 1:
        parser.error(f"argument --devices: expected 1 or more, got {min(chosen.devices)}")
    if chosen.sample_rate is not None and not 0 < chosen.sample_rate <= 1:
        parser.error(f"argument --sample-rate: expected in (0, 1], got {chosen.sample_rate}")
    if chosen.plot and chosen.plot.suffix not in (".png", ".pdf", ".svg"):
        parser.error(f"argument --plot: expected .png, .pdf or .svg, got {str(chosen.plot)!r}")


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
    return problem.scaled(chosen.scale)
