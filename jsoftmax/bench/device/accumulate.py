"""Whether the weight's gradient is added up over blocks of rows by the products themselves.

By rows, each block adds its `dzᵀ x` to the gradient of the weight. A matrix product that adds to
what is there, which BLAS calls beta = 1, saves an array of that size and a pass over it per block.
Whether XLA does so is read from the compiled program.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Group
from rich.markup import escape
from rich.table import Table

import jsoftmax as js
from jsoftmax.bench.device.part import THREADS, Finding, Limits
from jsoftmax.bench.hlo import Instruction, dimensions, executed
from jsoftmax.bench.measure import ahead, check_time, reason
from jsoftmax.bench.problem import PRESETS, Problem
from jsoftmax.bench.report import TIGHT

_PRODUCT = re.compile(r'custom_call_target="[^"]*(gemm|matmul|dot)', re.IGNORECASE)
_BETA = re.compile(r'"beta":1(\.0*)?[,}]')
_PASSED_ON = ("parameter", "tuple", "get-tuple-element", "bitcast", "while")  # nothing is computed
HEAD = PRESETS["llama-3-8b"]._replace(rows=4096)
_BLOCKS = 4  # of rows


class Accumulation(NamedTuple):
    """How often a step makes an array, or a block of classes, of the size of the weight's gradient.

    `products`: by a matrix product; `accumulating`: those that add to what is there; `in_place`:
    those of them whose result is where that was. `adds`: by an addition on its own; `copies`.
    """

    products: int
    accumulating: int
    in_place: int
    adds: int
    copies: int

    def in_words(self) -> str:
        """Say what the numbers mean."""
        if not self.products:
            return "no product of that size was recognised"
        if self.accumulating == self.products:
            return "the products add" + ", in place" * (self.in_place == self.products)
        if self.accumulating:
            return "some products add, others do not"
        return "products, then additions of their own" if self.adds else "products that do not add"


class _Found(NamedTuple):
    """An instruction that makes such an array, how often it runs, and its parts of that size."""

    instruction: Instruction
    times: int
    parts: list[Instruction]

    def line(self) -> str:
        """Return the instruction as it stands in the program, cut off where it gets long."""
        name, shape, opcode, rest = self.instruction
        inside = f", of {', '.join(part.opcode for part in self.parts)}" if self.parts else ""
        return f"{self.times} times{inside}: {name} = {shape} {opcode}({rest}"[:2000]


def _instructions(text: str, problem: Problem, class_block: int) -> list[_Found]:
    features = problem.features
    sizes = [sorted((problem.classes, features)), sorted((class_block, features))]

    def is_large(each: Instruction) -> bool:
        found = (sorted(n for n in lengths if n != 1) for lengths in dimensions(each.shape))
        return any(lengths in sizes for lengths in found)

    return [
        _Found(each, times, [part for part in parts if is_large(part)])
        for each, times, parts in executed(text)
        if is_large(each) and each.opcode not in _PASSED_ON
    ]


def _counted(instructions: list[_Found]) -> Accumulation:
    products = accumulating = in_place = adds = copies = 0
    for each, times, parts in instructions:
        sums = any(part.opcode == "add" for part in parts)
        texts = [part.rest for part in (each, *parts)]
        if any(map(_is_product, (each, *parts))):
            products += times
            adding = sums or any(map(_BETA.search, texts))
            accumulating += times * adding
            in_place += times * (adding and any("output_to_operand_aliasing" in t for t in texts))
        elif sums or each.opcode == "add":
            adds += times
        elif each.opcode == "copy":
            copies += times
    return Accumulation(products, accumulating, in_place, adds, copies)


def _is_product(each):
    return each.opcode == "dot" or bool(_PRODUCT.search(each.rest))


def accumulation(text: str, problem: Problem, class_block: int) -> tuple[Accumulation, list[str]]:
    """Read from a compiled program how the weight's gradient is accumulated, and in which lines."""
    found = _instructions(text, problem, class_block)
    return _counted(found), [each.line() for each in found]


def inspected(limits: Limits) -> Iterator[Finding]:
    """Yield what was found in programs of a known head, with all classes at once and in blocks."""
    head = HEAD.scaled(limits.scale)
    shown = Table(
        title=f"The weight's gradient, {head.classes:,} × {head.features:,}, over {_BLOCKS} blocks "
        "of rows",
        caption="How often a step makes an array of that size, or of that of a block of classes."
        "\nadding: products that add to what is there (beta = 1, or in a fusion).",
        caption_justify="left",
        **TIGHT,
    )
    for name in ("dtype", "classes", "products", "adding", "in place", "adds", "copies"):
        shown.add_column(name, justify="left" if name == "dtype" else "right")
    cases = [
        (head._replace(dtype=dtype), -(-head.classes // parts))
        for dtype in ("bfloat16", "float32")
        for parts in (1, 4)
    ]
    found, words = [], []
    with ahead({case: partial(_text, *case) for case in cases}, THREADS) as texts:
        for case in cases:
            problem, block = case
            entry: dict[str, Any] = {"problem": problem._asdict(), "class_block": block}
            limits.advance(f"{problem.dtype}, {block:,} classes")
            try:
                check_time(limits.deadline)
                counts, lines = accumulation(texts[case](), *case)
                entry |= counts._asdict() | {"in_words": counts.in_words(), "lines": lines}
                shown.add_row(problem.dtype, f"{block:,}", *map(str, counts))
            except Exception as failure:
                entry |= {"failure": reason(failure), "in_words": reason(failure)}
            found.append(entry)
            words.append(escape(f"{problem.dtype}, {block:,} classes: {entry['in_words']}"))
    yield Finding({"programs": found}, Group(shown, *words))


def _text(problem: Problem, class_block: int) -> str:
    """Compile a step by rows, without data, and return the optimised program."""

    def loss(x, w, labels):
        blocks: dict[str, Any] = {
            "row_block": -(-problem.rows // _BLOCKS),
            "class_block": class_block,
        }
        return js.linear_loss(x, w, labels, **blocks)

    x = jax.ShapeDtypeStruct((problem.rows, problem.features), problem.dtype)
    w = jax.ShapeDtypeStruct((problem.classes, problem.features), problem.dtype)
    labels = jax.ShapeDtypeStruct((problem.rows,), jnp.int32)
    program = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(x, w, labels).compile()
    return program.as_text() or ""
