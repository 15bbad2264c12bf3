"""A scan's body written out, once for each time that it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilewright.dsl.graph import Graph, Input, Node, Output, Value, map_values
from tilewright.dsl.ident import Ident, ident, value_name
from tilewright.dsl.op import checked_attrs, get
from tilewright.dsl.placement import Mesh, Placement, Shard
from tilewright.dsl.types import TensorType, Type


def unrolled(body: Graph, xs: Sequence[Type], trips: int, carries: int, stacked: int) -> Graph:
    """The graph of the scan's operands x0, x1 ... with outputs out0, out1 ...

    Types inside are the body's own, with their placements: nothing is inferred anew.
    """
    inputs = tuple(Input(Value(ident(f"x{i}"), t), "input", f"x{i}") for i, t in enumerate(xs))
    values = [entry.value for entry in inputs]
    fixed = values[carries + stacked :]
    carried, nodes = values[:carries], list[Node]()
    columns: list[list[Value]] = [[] for _ in body.outputs[carries:]]
    rows = body.input_values[carries : carries + stacked]
    for trip in range(trips):
        sliced = [
            row_at(x, row.type, trip, f"t{trip}.x{i}", nodes)
            for i, (x, row) in enumerate(zip(values[carries:], rows, strict=False))
        ]
        made = _run(body, [*carried, *sliced, *fixed], f"t{trip}", nodes)
        carried = made[:carries]
        for column, value in zip(columns, made[carries:], strict=True):
            column.append(value)
    stacks: list[Value] = []
    for i, column in enumerate(columns):
        stacks.append(Value(value_name(f"y{i}"), stacked_type(column[0].tensor, trips)))
        nodes.append(_node("stack", column, stacks[-1]))
    outputs = tuple(Output(f"out{i}", v) for i, v in enumerate([*carried, *stacks]))
    return Graph(body.name, inputs, tuple(nodes), outputs)


def _run(body: Graph, operands: Sequence[Value], prefix: str, nodes: list[Node]) -> list[Value]:
    """Adds the body's nodes over these operands; its results."""
    table: dict[Ident, Value] = dict(
        zip((v.name for v in body.input_values), operands, strict=True)
    )

    def value(v: Value) -> Value:
        if v.name not in table:
            table[v.name] = Value(value_name(f"{prefix}.of.{v.name}"), v.type)
        return table[v.name]

    found = map_values(body, value)
    nodes.extend(found.nodes)
    return list(found.output_values)


def row_at(x: Value, row: Type, trip: int, name: str, nodes: list[Node]) -> Value:
    """x[trip], a view."""
    found = Value(value_name(name), row)
    nodes.append(_node("row", [x], found, at=trip))
    return found


def row_type(x: TensorType) -> Type:
    """The type of a row. Raises EncodingError, PlacementError where rows are not whole."""
    op = get("row")
    attrs = checked_attrs(op, {"at": 0})
    (found,) = op.types([x], attrs)
    (place,) = op.placements([x], attrs, [found], Mesh())
    return found.with_placement(place) if isinstance(found, TensorType) else found


def stacked_type(row: TensorType, count: int) -> TensorType:
    """The type of so many rows along a new dimension 0."""
    places = row.placement.entries
    moved = ((axis, Shard(p.dim + 1) if isinstance(p, Shard) else p) for axis, p in places)
    return row.with_shape((count, *row.shape)).with_placement(Placement(tuple(moved)))


def _node(op: str, operands: Sequence[Value], result: Value, **attrs: Any) -> Node:
    return Node(op, tuple(operands), (result,), checked_attrs(get(op), attrs))
