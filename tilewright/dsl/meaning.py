"""What a graph means, computed: the meaning of every operation, read in one of two ways.

The *ideal* reading is float64 throughout; casts between floats are the identity. The *faithful*
reading computes each operation in float64 and rounds once to its result's number format. Integers
and bools are exact in their own width in both.

A tensor is an array, an encoded tensor a dict of component arrays by name, a cache a pair (keys,
values) of such; collectives are the identity on the global value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from tilewright.dsl.composite import Composite
from tilewright.dsl.encoding import components
from tilewright.dsl.errors import CompilerBug
from tilewright.dsl.graph import Graph, Node, substitute_graph
from tilewright.dsl.ident import Ident
from tilewright.dsl.inputs import bind, load
from tilewright.dsl.op import get
from tilewright.dsl.ops.index import Gather
from tilewright.dsl.ops.movement import BroadcastTo, Copy, PermuteDims, Slice
from tilewright.dsl.ops.reshape import Reshape
from tilewright.dsl.placement import Placement
from tilewright.dsl.rounding import Array, rounded
from tilewright.dsl.types import CacheType, TensorType, Type

Reading = Literal["ideal", "faithful"]


class Nudge(Protocol):
    """Moves floats by about a rounding, to see what becomes of it."""

    def result(self, op: str, x: Array, type_: TensorType) -> Array:
        """A result of the operation of that name, before it is rounded."""
        ...

    def operand(self, x: Array, type_: TensorType) -> Array:
        """An operand of an operation that is backward stable."""
        ...


_ANY_FORMAT = (BroadcastTo, Copy, Gather, PermuteDims, Reshape, Slice)
"""These move the elements of one operand, in whatever array format it comes."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How graphs are evaluated; symbols must have been replaced by numbers."""

    reading: Reading = "faithful"
    checked: bool = True
    """True where an index out of range is an error; otherwise it is clamped, as in kernels."""
    xp: Any = np
    nudge: Nudge | None = None
    """Applied to every float result before it is rounded, and to some operands."""

    def graph(self, graph: Graph, operands: Sequence[Any]) -> list[Any]:
        """The outputs of a graph for its inputs, both in order."""
        values: dict[Ident, Any] = dict(
            zip((i.value.name for i in graph.inputs), operands, strict=True)
        )
        dying = _last_uses(graph)
        for index, node in enumerate(graph.nodes):
            results = self.node(node, [values[operand.name] for operand in node.operands])
            values.update(zip((r.name for r in node.results), results, strict=True))
            for name in dying.get(index, ()):
                del values[name]
        return [values[value.name] for value in graph.output_values]

    def node(self, node: Node, operands: Sequence[Any]) -> list[Any]:
        """The results of one node.

        Raises IndexOutOfRange in checked evaluation.
        """
        op = get(node.op)
        if isinstance(op, Composite):
            types = [unplaced(operand.type) for operand in node.operands]
            return op.evaluated(types, node.attrs, operands, self.graph)
        wide = isinstance(op, _ANY_FORMAT)
        xs = operands if wide else [_each(x, _float64) for x in operands]
        if self.nudge is not None and op.is_backward_stable:
            xs = [self.nudge.operand(x, v.tensor) for x, v in zip(xs, node.operands, strict=True)]
        if self.checked:
            op.check_values(xs, node.attrs)
        types = [result.type for result in node.results]
        results = op.meaning(self.xp, xs, node.attrs, types)
        return [self.stored(x, t, node.op) for x, t in zip(results, types, strict=True)]

    def stored(self, x: Any, type_: Type, op: str) -> Any:
        """A result as the reading keeps it. Raises CompilerBug where it contradicts its type."""
        if isinstance(type_, CacheType):
            keys, values = x
            return self.stored(keys, type_.part, op), self.stored(values, type_.part, op)
        if not type_.is_dense:
            parts = components(type_)
            return {name: self._stored_array(x[name], part, op) for name, part in parts.items()}
        return self._stored_array(x, type_, op)

    def _stored_array(self, x: Any, type_: TensorType, op: str) -> Any:
        array = np.asarray(x)
        if array.shape != type_.shape:
            raise CompilerBug(f"{op} gives an array of shape {list(array.shape)} for {type_}")
        if type_.dtype.is_float and self.nudge is not None:
            array = self.nudge.result(op, array, type_)
        if type_.dtype.is_float and self.reading == "ideal":
            return array
        return rounded(array, type_.dtype)


def evaluate(
    graph: Graph,
    inputs: Mapping[str, Any],
    *,
    reading: Reading = "faithful",
    symbols: Mapping[str, int] | None = None,
    checked: bool = True,
    xp: Any = np,
) -> dict[str, Any]:
    """The outputs of a graph, by name.

    inputs: arrays by path (component dicts where encoded, pairs for caches, integers for symbols);
    entries that the graph does not know are ignored. Symbols are bound by the inputs' shapes, by
    symbol inputs and by `symbols`. Results have the declared formats in the faithful reading, and
    float64 for every float in the ideal one.

    Raises GraphError for a missing input, ShapeError, DTypeError and SymbolRangeError where one
    does not fit, and IndexOutOfRange if `checked`.
    """
    bound = substitute_graph(graph, bind(graph, inputs, symbols or {}))
    return run(bound, inputs, Evaluation(reading, checked, xp))


def run(graph: Graph, inputs: Mapping[str, Any], how: Evaluation) -> dict[str, Any]:
    """The outputs, by name, of a graph whose symbols have been replaced by numbers."""
    ideal = how.reading == "ideal"
    operands = [load(entry, inputs[entry.path], exact=ideal) for entry in graph.inputs]
    with np.errstate(all="ignore"):
        found = how.graph(graph, operands)
    named = zip((output.name for output in graph.outputs), found, strict=True)
    return {name: _each(x, _float64) if ideal else x for name, x in named}


def unplaced(type_: Type) -> Type:
    """The type on a single device."""
    return type_.with_placement(Placement()) if isinstance(type_, TensorType) else type_


def _last_uses(graph: Graph) -> dict[int, list[Ident]]:
    """The values that nobody reads after each node, by the node's position."""
    last: dict[Ident, int] = {}
    for index, node in enumerate(graph.nodes):
        for value in (*node.operands, *node.results):
            last[value.name] = index
    kept = {value.name for value in graph.output_values}
    dying: dict[int, list[Ident]] = {}
    for name, index in last.items():
        if name not in kept:
            dying.setdefault(index, []).append(name)
    return dying


def _each(x: Any, change: Any) -> Any:
    """`change` of every array in a value."""
    if isinstance(x, dict):
        return {name: change(part) for name, part in x.items()}  # pyright: ignore[reportUnknownVariableType]  # any dict may come
    if isinstance(x, tuple):
        return tuple(_each(part, change) for part in x)  # pyright: ignore[reportUnknownVariableType]  # any tuple may come
    return change(x)


def _float64(x: Any) -> Any:
    return x if x.dtype.kind in "biu" else x.astype(np.float64, copy=False)
