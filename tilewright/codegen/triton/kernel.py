"""A kernel in Triton, and a region while it becomes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.codegen.triton.pull import POINTER, Dense, Puller, Unlowered
from tilewright.codegen.triton.rules import RULES
from tilewright.dsl.cost import most_bytes
from tilewright.dsl.dims import Dim, bounds, divisor, of_symbol, product
from tilewright.dsl.graph import Graph, Value
from tilewright.dsl.types import TensorType

ALIGNMENT = 16
"""Bytes by which every pointer that is passed to a kernel must be divisible."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A pointer parameter: an operand (`x`) or a result (`y`) of the region."""

    role: str
    place: int
    component: str = "data"


@dataclass(frozen=True, slots=True)
class TritonKernel:
    """One kernel: its text, and all that is needed to compile and start it.

    `entry` is called with a pointer for each of `arguments` and then the values of `symbols`;
    `parameters` has the types of both, then the block sizes of `constants`. `grid` is the number of
    programs along each axis; where it is zero, nothing is to be started.
    """

    entry: str
    source: str
    arguments: tuple[Argument, ...]
    symbols: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, int], ...]
    aligned: frozenset[str]
    short: frozenset[str]
    """Pointers whose arrays end within 2 GiB of their start."""
    grid: tuple[Dim, ...]
    warps: int
    stages: int


class RegionKernel:
    """One kernel under construction for one region."""

    def __init__(self, body: Graph) -> None:
        self.body = body
        self.puller = Puller(body, RULES)
        self.constants: dict[str, int] = {}
        self._arguments: list[tuple[str, Argument, TensorType]] = []
        for place, entry in enumerate(body.inputs):
            self.puller.sources[entry.value.name] = self._array("x", place, entry.value)
        self.results = [self._array("y", i, o.value) for i, o in enumerate(body.outputs)]

    def _array(self, role: str, place: int, value: Value) -> Dense:
        type_ = value.tensor
        word = f"{role}{place}"
        self._arguments.append((word, Argument(role, place), type_))
        pointer = self.puller.writer.parameter(word, POINTER[type_.dtype.name])
        return Dense(pointer, type_.shape, type_.dtype)

    def size(self, word: str, value: int) -> tuple[str, int]:
        """A block size: a constant of the kernel."""
        self.constants[word] = value
        return word, value

    def finish(self, entry: str, grid: Sequence[Dim], warps: int, stages: int) -> TritonKernel:
        """The kernel. Raises Unlowered for more programs than a grid can have."""
        writer, symbols = self.puller.writer, self.puller.symbols
        if bounds(product(grid))[1] >= 2**31:
            raise Unlowered("it may need more than 2**31 programs")
        for number, _ in enumerate(symbols):
            writer.parameter(f"s{number}", "i64" if self.puller.wide else "i32")
        for word in self.constants:
            writer.parameter(word, "constexpr")
        even = {f"s{i}" for i, s in enumerate(symbols) if divisor(of_symbol(s)) % ALIGNMENT == 0}
        return TritonKernel(
            entry,
            writer.source(entry, _summary(self.body)),
            tuple(argument for _, argument, _ in self._arguments),
            tuple(s.name for s in symbols),
            tuple(writer.parameters.items()),
            tuple(self.constants.items()),
            frozenset({word for word, _, _ in self._arguments} | even),
            frozenset(w for w, _, t in self._arguments if most_bytes(t) < 2**31),
            tuple(grid),
            warps,
            stages,
        )


def _summary(body: Graph) -> str:
    ops = list(dict.fromkeys(node.op for node in body.nodes))
    return ", ".join(ops[:8]) + (" ..." if len(ops) > 8 else "") + "."
