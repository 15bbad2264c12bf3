"""Collectives in the local view, over dimension 0: the runtime's are flat.

Rank i's part of a flat message is its i-th block. That is a block of dimension `dim` where all
dimensions before it have size one; elsewhere the dimension is moved to the front and back.
"""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.dsl.attrs import Attr
from tilewright.dsl.dims import quotient
from tilewright.dsl.errors import PlacementError
from tilewright.dsl.graph import Graph, Node, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import checked_attrs, get
from tilewright.dsl.placement import Mesh


class LocalCollectives:
    """Lowers the collectives of one graph for the rank at some coordinates."""

    def __init__(self, graph: Graph, mesh: Mesh, at: Mapping[str, int]) -> None:
        self._mesh = mesh
        self._at = at
        self._taken = {v.name for v in graph.input_values}
        self._taken.update(r.name for node in graph.nodes for r in node.results)
        self._made: list[Node] = []
        self._like = Ident("x")

    def lower(self, node: Node, x: Value) -> tuple[list[Node], Value]:
        """The nodes that stand for a collective of the global view, and its local result.

        x: the operand in the local view. Raises PlacementError for what has no steps yet.
        """
        self._made = []
        axis = node.attrs.str("axis")
        size = self._mesh.size(axis)
        self._like = name = node.result.name
        if size == 1:
            return [], x
        if not x.tensor.is_dense:
            raise PlacementError(
                f"%{name}: {node.op} of {x.tensor}: encoded values are not exchanged yet",
                fix="decode it before, or encode it behind the collective",
            )
        match node.op:
            case "all_reduce":
                found = self._add(node.op, x, name, **{**node.attrs, "size": size})
            case "all_gather" | "reduce_scatter":
                found = self._along(node, x, size)
            case "all_to_all":
                found = self._all_to_all(node, x, size)
            case "shard_slice":
                found = self._slice(node, x, self._at[axis], size)
            case _:
                raise PlacementError(
                    f"%{name}: {node.op} has no step in a plan yet",
                    fix="use all_reduce, reduce_scatter, all_gather or all_to_all",
                )
        return self._made, found

    def _along(self, node: Node, x: Value, size: int) -> Value:
        """Over `dim`, moved to the front where it does not stand there."""
        dim = node.attrs.int("dim")
        attrs: dict[str, Attr] = {**node.attrs, "size": size}
        if all(before == 1 for before in x.tensor.shape[:dim]):
            return self._add(node.op, x, node.result.name, **attrs)
        rest = [d for d in range(x.tensor.rank) if d != dim]
        front = self._permuted(x, [dim, *rest])
        moved = self._add(node.op, front, None, **{**attrs, "dim": 0})
        back = [*range(1, dim + 1), 0, *range(dim + 1, x.tensor.rank)]
        return self._permuted(moved, back, node.result.name)

    def _all_to_all(self, node: Node, x: Value, size: int) -> Value:
        """Blocks of `to_dim` go out, and come in as blocks of `from_dim`: both in front."""
        source, target = node.attrs.int("from_dim"), node.attrs.int("to_dim")
        rest = [d for d in range(x.tensor.rank) if d != target]
        front = self._permuted(x, [target, *rest])
        rows = self._reshaped(front, (1, *front.tensor.shape))
        attrs: dict[str, Attr] = {"axis": node.attrs["axis"], "size": size}
        moved = self._add("all_to_all", rows, None, **attrs, from_dim=0, to_dim=1)
        # [rank, target, *rest] -> the order of x, with the rank before `source`.
        places = {target: 1, **{d: i + 2 for i, d in enumerate(rest)}}
        order: list[int] = []
        for d in range(x.tensor.rank):
            order += [0, places[d]] if d == source else [places[d]]
        merged = self._permuted(moved, order)
        shape = list(x.tensor.shape)
        shape[source] = shape[source] * size
        part = quotient(shape[target], size)
        assert part is not None  # the local type of the result was checked
        shape[target] = part
        return self._reshaped(merged, tuple(shape), node.result.name)

    def _slice(self, node: Node, x: Value, index: int, size: int) -> Value:
        dim, shape = node.attrs.int("dim"), list(x.tensor.shape)
        part = quotient(shape[dim], size)
        assert part is not None  # the local type of the result was checked
        shape[dim] = part
        start = [part * index if d == dim else 0 for d in range(len(shape))]
        return self._add("slice", x, node.result.name, start=tuple(start), size=tuple(shape))

    def _permuted(self, x: Value, order: list[int], name: Ident | None = None) -> Value:
        return self._add("permute_dims", x, name, axes=tuple(order))

    def _reshaped(self, x: Value, shape: tuple[Attr, ...], name: Ident | None = None) -> Value:
        return self._add("reshape", x, name, shape=shape)

    def _add(self, op: str, x: Value, name: Ident | None, **attrs: object) -> Value:
        found = checked_attrs(get(op), attrs)
        (type_,) = get(op).infer([x.type], found, self._mesh)
        made = Value(self._fresh() if name is None else name, type_)
        self._made.append(Node(op, (x,), (made,), found))
        return made

    def _fresh(self) -> Ident:
        number = 0
        while (name := f"{self._like}_{number}") in self._taken:
            number += 1
        self._taken.add(Ident(name))
        return Ident(name)
