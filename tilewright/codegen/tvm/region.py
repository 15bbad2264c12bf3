"""A region while it is lowered: its operands and results as pointers of one kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.codegen.tvm.emit import KernelBuilder, KernelFunction, Pointer
from tilewright.codegen.tvm.pull import Cached, Dense, Puller, Rule, Source, dense
from tilewright.codegen.tvm.pull_decode import DECODE_RULES, Encoded
from tilewright.codegen.tvm.pull_math import MATH_RULES
from tilewright.codegen.tvm.pull_movement import MOVEMENT_RULES
from tilewright.codegen.tvm.pull_random import RANDOM_RULES
from tilewright.codegen.tvm.pull_reduce import REDUCE_RULES
from tilewright.dsl.graph import Graph, Node, Value
from tilewright.dsl.types import CacheType, Type
from tilewright.passes.memory import parts
from tilewright.target.cpu import CpuIsa

RULES: Mapping[str, Rule] = {
    **MATH_RULES,
    **MOVEMENT_RULES,
    **RANDOM_RULES,
    **REDUCE_RULES,
    **DECODE_RULES,
}
"""How each operation is computed at an index; anchors of their own kernels are not among them."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A pointer parameter: a component of an operand or of a result of the region."""

    role: str
    place: int
    component: str


@dataclass(frozen=True, slots=True)
class LoweredRegion:
    """A kernel, and what its pointers stand for, in their order."""

    function: KernelFunction
    arguments: tuple[Argument, ...]


class RegionKernel:
    """One kernel under construction for one region."""

    def __init__(self, name: str, node: Node, body: Graph, isa: CpuIsa) -> None:
        self.kernel = KernelBuilder(name, isa)
        self.node = node
        self.body = body
        self._arguments: dict[str, Argument] = {}
        sources = {
            entry.value.name: self._source("x", place, entry.value.type)
            for place, entry in enumerate(body.inputs)
        }
        self.puller = Puller(self.kernel, body, sources, RULES)
        self._results = [
            self._source("y", place, output.value.type) for place, output in enumerate(body.outputs)
        ]

    def _pointers(self, role: str, place: int, type_: Type) -> dict[str, Pointer]:
        found: dict[str, Pointer] = {}
        for component, part in parts(type_).items():
            name = f"{role}{place}_{component}"
            found[component] = self.kernel.pointer(name, part.dtype.name)
            self._arguments[name] = Argument(role, place, component)
        return found

    def _source(self, role: str, place: int, type_: Type) -> Source:
        pointers = self._pointers(role, place, type_)
        arrays = {
            name: dense(self.kernel, pointers[name], part.shape, part.dtype)
            for name, part in parts(type_).items()
        }
        if isinstance(type_, CacheType):
            return Cached(arrays)
        return arrays["data"] if type_.is_dense else Encoded(type_, arrays)

    def result(self, place: int) -> Dense:
        """Where a dense result goes."""
        found = self._results[place]
        assert isinstance(found, Dense)
        return found

    def operand(self, value: Value) -> Source:
        """The source of one of the body's inputs."""
        return self.puller.sources[value.name]

    def finish(self) -> LoweredRegion:
        """The kernel and its arguments."""
        function = self.kernel.finish()
        order = tuple(self._arguments[name] for name, _ in function.pointers)
        return LoweredRegion(function, order)
