"""Composite operations: defined by a body graph, from which everything else follows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from tilewright.dsl.attrs import Attrs
from tilewright.dsl.builder import GraphBuilder, building
from tilewright.dsl.dims import Dim
from tilewright.dsl.errors import CompilerBug
from tilewright.dsl.graph import Graph, Value
from tilewright.dsl.ident import Ident, ident
from tilewright.dsl.op import OpDef, get
from tilewright.dsl.placement import Mesh, Placement
from tilewright.dsl.sharding import Rule
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType, Type

_BODIES = 1024
"""Bodies kept: many more than a model has, few enough for a process that sees many models."""


class Composite(OpDef):
    """An operation given by smaller ones. Subclasses write `body` with the user's own words."""

    @abstractmethod
    def body(self, *xs: Tensor, a: Attrs) -> Tensor | tuple[Tensor, ...]:
        """The definition; operands that were left out are not passed."""

    def expand(self, xs: Sequence[Type], a: Attrs, mesh: Mesh | None = None) -> Graph:
        """The body graph for operands of these types: inputs x0, x1 ..., outputs out0, out1 ..."""
        return _traced(self, tuple(xs), a, mesh or Mesh())

    def evaluated(
        self,
        xs: Sequence[Type],
        a: Attrs,
        operands: Sequence[Any],
        run: Callable[[Graph, Sequence[Any]], list[Any]],
    ) -> list[Any]:
        """The results for operands of types without placement; `run` evaluates a graph."""
        return run(self.expand(xs, a), operands)

    def check(self, xs: Sequence[TensorType], a: Attrs) -> None:
        """Raises the mistakes that the body would report less clearly."""

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        plain = [_unplaced(x) for x in xs]
        self.check([x for x in plain if isinstance(x, TensorType)], a)
        return tuple(v.type for v in self.expand(plain, a).output_values)

    def placements(
        self, xs: Sequence[Type], a: Attrs, out: Sequence[Type], mesh: Mesh
    ) -> Sequence[Placement]:
        if not any(isinstance(x, TensorType) and x.placement for x in xs):
            return [Placement()] * len(out)
        body = self.expand(xs, a, mesh)
        return [v.tensor.placement for v in body.output_values]

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        raise CompilerBug(f"{self.name} is a composite: its placement follows from its body")

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        raise CompilerBug(f"{self.name} is a composite: the evaluator runs its body")

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        total: Dim = 0
        for node in self.expand([_unplaced(x) for x in xs], a).nodes:
            total = total + get(node.op).flops(
                [o.type for o in node.operands], node.attrs, [r.type for r in node.results]
            )
        return total


@lru_cache(maxsize=_BODIES)
def _traced(op: Composite, xs: tuple[Type, ...], a: Attrs, mesh: Mesh) -> Graph:
    builder = GraphBuilder(ident(op.name), mesh)
    operands: list[Tensor] = []
    for index, x in enumerate(xs):
        operand = builder.add_input("input", f"x{index}", x)
        if not isinstance(operand, Tensor):
            raise CompilerBug(f"composite {op.name} over a cache")
        operands.append(operand)
    with building(builder):
        made = op.body(*operands, a=a)
    outs = made if isinstance(made, tuple) else (made,)
    return builder.finish({f"out{index}": out for index, out in enumerate(outs)})


def inline(graph: Graph, operands: Sequence[Value], results: Sequence[Value]) -> Graph:
    """The body with its inputs renamed to `operands` and its outputs to `results`.

    Inner values get the first result's name as prefix, so bodies of several nodes never collide.
    """
    from tilewright.dsl.graph import map_values

    table: dict[Ident, Value] = dict(
        zip((i.value.name for i in graph.inputs), operands, strict=True)
    )
    for output, result in zip(graph.outputs, results, strict=True):
        table.setdefault(output.value.name, result)
    prefix = results[0].name

    def value(v: Value) -> Value:
        if v.name not in table:
            table[v.name] = Value(Ident(f"{prefix}_{v.name}"), v.type)
        return table[v.name]

    return map_values(graph, value)


def _unplaced(x: Type) -> Type:
    return x.with_placement(Placement()) if isinstance(x, TensorType) else x
