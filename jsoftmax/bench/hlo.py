"""What a device does in one run of a compiled program, read from its optimised HLO.

`executed` lists the instructions, `exchanges` what is sent. The collectives of a program are not
those in its source: XLA adds some for shardings, merges them, and moves them out of loops. So they
are read from the text of the compiled program. If something would have to be guessed, such as the
trip count of a loop with a collective, it raises an error.
"""

import math
import re
from typing import NamedTuple

# What each of n devices sends in a ring algorithm, as a multiple of its operand.
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: n - 1,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}
_UNKNOWN = ("collective-broadcast", "ragged-all-to-all", "send", "recv")

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r" +(?:ROOT )?%?([\w.-]+) = (.*?) ([\w-]+)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[(.*?)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\b(?:true|false|branch)_computations?=(\{.*?\}|[^,]*)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_GROUPS = re.compile(r"\breplica_groups=(\{\{.*?\}\}|\{\}|\[\S*\]|mesh\[.*?\{.*?\})")
_PAIRS = re.compile(r"\bsource_target_pairs=\{(.*?)\}(?:,|$)")


class Exchange(NamedTuple):
    """A collective: the bytes that a device sends each time, and how many times it runs."""

    kind: str
    sent: float
    times: int


class Instruction(NamedTuple):
    """A line of HLO; `rest` holds operands and attributes."""

    name: str
    shape: str
    opcode: str
    rest: str


def parsed(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Return the instructions of each computation of an HLO module, and the name of its entry."""
    computations, entry, lines = {}, "", []
    for line in text.splitlines():
        if found := _INSTRUCTION.match(line):
            lines.append(Instruction(*found.groups()))
        elif found := _COMPUTATION.match(line):
            lines = computations[found[2]] = []
            entry = found[2] if found[1] else entry
    return computations, entry


def executed(text: str) -> list[tuple[Instruction, int, list[Instruction]]]:
    """Return each instruction that runs, how often, and what it is made of if it is a fusion.

    A loop whose trip count is not known counts as one trip; of a conditional, all branches count.
    """
    computations, entry = parsed(text)

    def inside(name):
        for each in computations.get(name, []):
            yield each
            for called in _CALLED.findall(each.rest):
                yield from inside(called)

    def of(name, times):
        for each in computations.get(name, []):
            called = _CALLED.findall(each.rest)
            if each.opcode == "fusion":
                yield each, times, [part for name in called for part in inside(name)]
                continue
            yield each, times, []
            trips = _TRIPS.search(each.rest) if each.opcode == "while" else None
            called += re.findall(r"[\w.-]+", " ".join(_BRANCHES.findall(each.rest)))
            for name in called:
                yield from of(name, times * int(trips[1]) if trips else times)

    return list(of(entry, 1))


def dimensions(shape: str) -> list[tuple[int, ...]]:
    """Return the dimensions of an array, or of each array of a tuple."""
    return [
        tuple(int(length.strip("<=")) for length in lengths.split(",") if length)
        for *_, lengths in _ARRAY.findall(shape)
    ]


def exchanges(text: str) -> list[Exchange]:
    """Return the collectives of an HLO module that involve more than one device.

    A CPU makes 16-bit numbers float32 to gather them: counted are the 16 bits, as elsewhere.
    """
    computations, entry = parsed(text)
    counts = re.findall(r"\b(?:replica_count|num_partitions)=(\d+)", text.partition("\n")[0])
    everyone, known = math.prod(map(int, counts)), {}

    def of(name):
        if name not in known:
            sizes = {each.name: _size(each.shape) for each in computations[name]}
            narrow = sizes | {
                each.name: min(sizes[each.name], sizes[_operands(each)[0]])
                for each in computations[name]
                if _is_convert(each, computations)
            }
            known[name] = [
                exchange
                for each in computations[name]
                for exchange in _of_instruction(
                    each, narrow if "all-gather" in each.opcode else sizes, everyone, of
                )
            ]
        return known[name]

    return of(entry)


def _operands(each):
    """Return the names of the operands of an instruction."""
    return re.findall(r"%([\w.-]+)", each.rest.partition(")")[0])


def _is_convert(each, computations):
    """Say whether an instruction does nothing but convert to another dtype."""
    if each.opcode != "fusion":
        return each.opcode == "convert"
    made_of = computations.get(_CALLED.findall(each.rest)[0], [])
    return [part.opcode for part in made_of] == ["parameter", "convert"]


def _of_instruction(each, sizes, everyone, of):
    """Return the exchanges of one instruction, including the computations it calls."""
    kind = each.opcode.removesuffix("-start")
    if kind in _UNKNOWN:
        raise ValueError(f"{each.name}: what a {kind} sends is not known here.")
    if kind in _SENT:
        devices = _devices(each.rest, everyone)
        sent = _SENT[kind](devices) * sum(sizes[name] for name in _operands(each))
        return [Exchange(kind, sent, 1)] if devices > 1 else []
    if each.opcode in ("async-update", "async-done"):  # counted at async-start
        return []
    if each.opcode == "conditional":  # the branch that sends most
        names = re.findall(r"[\w.-]+", " ".join(_BRANCHES.findall(each.rest)))
        return max(map(of, names), key=lambda found: sum(x.sent * x.times for x in found))
    called = [exchange for name in _CALLED.findall(each.rest) for exchange in of(name)]
    if each.opcode != "while" or not called:
        return called
    trips = _TRIPS.search(each.rest)
    if trips is None:
        raise ValueError(f"{each.name}: how often this loop with collectives runs is not known.")
    return [exchange._replace(times=exchange.times * int(trips[1])) for exchange in called]


def _devices(attributes, everyone):
    """Return the number of devices in one group of a collective."""
    if pairs := _PAIRS.search(attributes):
        moved = [a for a, b in re.findall(r"(\d+),(\d+)", pairs[1]) if a != b]
        return 2 if moved else 1
    groups = _GROUPS.search(attributes)
    if groups is None:
        raise ValueError(f"no replica_groups in {attributes!r}")
    return group_size(groups[1], everyone)


def group_size(groups: str, everyone: int) -> int:
    """Return the size of a group, from any syntax of `replica_groups`."""
    if groups == "{}":
        return everyone
    if groups.startswith("{"):  # {{0,1},{2,3}}
        return max(group.count(",") + 1 for group in groups.split("},"))
    if groups.startswith("["):  # [groups,devices]<=[2,4]T(1,0)
        return math.prod(map(int, groups[1 : groups.index("]")].split(",")[1:]))
    # mesh['a'=2,'b'=4] {'b'}, or {'b':(1)2} for a part of an axis
    sizes = dict(re.findall(r"'?(\w+)'?=(\d+)", groups))
    axes = re.findall(r"\b([a-zA-Z]\w*)\b'?(?::\(\d+\)(\d+))?", groups[groups.rindex("{") :])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)


def _size(shape):
    """Return the bytes of an array, or of all arrays of a tuple."""
    bits = 0
    for _, width, dimensions in _ARRAY.findall(shape):
        lengths = [int(length.strip("<=")) for length in dimensions.split(",") if length]
        bits += (int(width) if width else 8) * math.prod(lengths)
    return bits / 8
