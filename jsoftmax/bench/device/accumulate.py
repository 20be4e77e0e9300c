"""Whether the weight's gradient is added up over blocks of rows by the products themselves.

By rows, each block adds its `dzᵀ x` to the gradient of the weight. A matrix product that adds to
what is there, which BLAS calls beta = 1, saves an array of that size and a pass over it per block.
Whether XLA does so is read from the compiled program.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Group
from rich.markup import escape
from rich.table import Table

import jsoftmax as js
from jsoftmax.bench.device.part import TIGHT, Finding, Limits
from jsoftmax.bench.hlo import Instruction, dimensions, executed
from jsoftmax.bench.measure import check_time, reason
from jsoftmax.bench.problem import PRESETS, Problem

_PRODUCT = re.compile(r'custom_call_target="[^"]*(gemm|matmul|dot)', re.IGNORECASE)
_BETA = re.compile(r'"beta":1(\.0*)?[,}]')
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


def accumulation(text: str, classes: int, class_block: int, features: int) -> Accumulation:
    """Read from a compiled program how the weight's gradient is accumulated."""
    sizes = [sorted((classes, features)), sorted((class_block, features))]
    products = accumulating = in_place = adds = copies = 0

    def is_large(each: Instruction) -> bool:
        found = (sorted(n for n in lengths if n != 1) for lengths in dimensions(each.shape))
        return any(lengths in sizes for lengths in found)

    for each, times, parts in executed(text):
        if not is_large(each):
            continue
        large = [part for part in parts if is_large(part)]
        sums = any(part.opcode == "add" for part in large)
        if _is_product(each) or any(map(_is_product, large)):
            products += times
            adding = sums or any(_BETA.search(part.rest) for part in (each, *large))
            accumulating += times * adding
            aliased = any("output_to_operand_aliasing" in part.rest for part in (each, *large))
            in_place += times * (adding and aliased)
        elif sums or each.opcode == "add":
            adds += times
        elif each.opcode == "copy":
            copies += times
    return Accumulation(products, accumulating, in_place, adds, copies)


def _is_product(each):
    return each.opcode == "dot" or bool(_PRODUCT.search(each.rest))


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
    found, words = [], []
    for dtype in ("bfloat16", "float32"):
        for parts in (1, 4):
            problem = head._replace(dtype=dtype)
            block = -(-problem.classes // parts)
            entry: dict[str, Any] = {"problem": problem._asdict(), "class_block": block}
            limits.advance(f"{dtype}, {block:,} classes")
            try:
                check_time(limits.deadline)
                counts = accumulation(
                    _text(problem, block), problem.classes, block, problem.features
                )
                entry |= counts._asdict() | {"in_words": counts.in_words()}
                shown.add_row(dtype, f"{block:,}", *map(str, counts))
            except Exception as failure:
                entry |= {"failure": reason(failure), "in_words": reason(failure)}
            found.append(entry)
            words.append(escape(f"{dtype}, {block:,} classes at once: {entry['in_words']}"))
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
