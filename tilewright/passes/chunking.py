"""A group of nodes in several parts: which dimensions can be cut, and the parts.

The parts are the ranks of a mesh axis that does not exist: what a rank of it would compute from its
shards is what one part computes from its slices. So the operations' own placement rules say what
can be cut, and `OpDef.localize` what a part's attributes are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tilewright.dsl.attrs import Attr
from tilewright.dsl.dims import Dim, quotient
from tilewright.dsl.graph import Node, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import checked_attrs, get
from tilewright.dsl.placement import Mesh, Partial, Shard
from tilewright.dsl.types import TensorType
from tilewright.passes.base import Refusal
from tilewright.passes.editor import Editor
from tilewright.passes.expand_composites import expanded
from tilewright.passes.sharding.options import Along, Option, options

_PARTS = Ident("parts_")
"""The axis that does not exist."""
_WHOLE = "attention"
"""The composite that has kernels of its own; all others are opened before they are cut."""

Dims = Mapping[Ident, int | None]
"""The dimension along which a result is cut; None where it is computed once, whole."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Nodes in order, with the option that each takes on the axis of parts."""

    nodes: tuple[Node, ...]
    options: tuple[Option, ...]
    dims: Dims
    count: int


def find_cut(
    nodes: Sequence[Node], editor: Editor, count: int, last: Value, dim: int | None
) -> Cut | Refusal:
    """How the nodes, in order, are computed in `count` equal parts, `last` along `dim`.

    What depends on nothing that is cut is computed once; of what the nodes read, as little as
    possible is cut. Composites are opened.
    """
    opened: list[Node] = []
    for node in nodes:
        made = expanded(node, editor, lambda op: op != _WHOLE)
        if made is not None and made.forward:
            return Refusal(f"{node.op} returns what it reads")
        opened.extend((node,) if made is None else made.after)
    along = Along(Mesh((*editor.mesh.axes, (_PARTS, count))), _PARTS, major=True)
    search = _Search(opened, along, last.name, dim)
    found = next(search.assignments(0, {}), None)
    if found is None:
        where = "" if dim is None else f" along dimension {dim}"
        return Refusal(f"%{last.name} cannot be computed in {count} equal parts{where}")
    taken, dims = found
    return Cut(tuple(opened), taken, dims, count)


@dataclass(frozen=True, slots=True)
class _Search:
    """Options that fit together, node by node."""

    nodes: Sequence[Node]
    along: Along
    last: Ident
    dim: int | None

    def assignments(self, at: int, dims: Dims) -> Iterator[tuple[tuple[Option, ...], Dims]]:
        """Options for the nodes from `at` on, those that cut fewest operands first."""
        if at == len(self.nodes):
            yield (), dims
            return
        node = self.nodes[at]
        for option in sorted(options(node, self.along), key=_cut_operands):
            made = self._made(node, option, dims)
            if made is not None:
                for rest, all_dims in self.assignments(at + 1, {**dims, **made}):
                    yield (option, *rest), all_dims

    def _made(self, node: Node, option: Option, dims: Dims) -> Dims | None:
        """Where the results are cut, where the option agrees with what the operands are."""
        for operand, place in zip(node.operands, option.operands, strict=True):
            cut = dims.get(operand.name)
            if isinstance(place, Partial) or (cut is not None and place != Shard(cut)):
                return None
        made = {
            result.name: place.dim if isinstance(place, Shard) else None
            for result, place in zip(node.results, option.results, strict=True)
        }
        is_whole = not option.divides
        if any((dim is None) != is_whole for dim in made.values()):
            return None
        if is_whole and (self.last in made or sends(node)):
            return None
        return None if self.dim not in (None, made.get(self.last, self.dim)) else made


def sends(node: Node) -> bool:
    """Whether a node needs other ranks."""
    return get(node.op).is_collective and node.op != "shard_slice"


def _cut_operands(option: Option) -> tuple[bool, int]:
    return not option.divides, sum(isinstance(place, Shard) for place in option.operands)


class Parts:
    """Makes the parts of a group, one by one."""

    def __init__(self, cut: Cut, editor: Editor) -> None:
        self._cut = cut
        self._editor = editor

    @property
    def whole(self) -> list[Node]:
        """The nodes that are computed once."""
        return [n for n in self._cut.nodes if self._cut.dims[n.results[0].name] is None]

    def part(self, index: int) -> list[tuple[Node, list[Node]]]:
        """For each node that is cut, in order, what computes one part of it, itself the last.

        Raises TilewrightError where the mesh forbids a slice.
        """
        values: dict[tuple[Ident, int], Value] = {}
        found: list[tuple[Node, list[Node]]] = []
        for node, option in zip(self._cut.nodes, self._cut.options, strict=True):
            if self._cut.dims[node.results[0].name] is None:
                continue
            made: list[Node] = []
            operands: list[Value] = []
            for operand, place in zip(node.operands, option.operands, strict=True):
                if not isinstance(place, Shard):
                    operands.append(operand)
                    continue
                key = operand.name, place.dim
                if key not in values:
                    made.append(self._slice(operand, place.dim, index))
                    values[key] = made[-1].result
                operands.append(values[key])
            made.append(self._node(node, operands))
            for result, own in zip(node.results, made[-1].results, strict=True):
                values[result.name, self._dim(result)] = own
            found.append((node, made))
        return found

    def joined(self, result: Value, parts: Sequence[Value]) -> Node:
        """The node that puts the parts of a result together, under its name."""
        attrs: dict[str, Attr] = {"axis": self._dim(result)}
        return self._editor.defining("concat", *parts, result=result, attrs=attrs)

    def _dim(self, result: Value) -> int:
        dim = self._cut.dims[result.name]
        assert dim is not None
        return dim

    def _slice(self, x: Value, dim: int, index: int) -> Node:
        shape = list(x.tensor.shape)
        shape[dim] = self._divided(shape[dim])
        start = tuple(shape[dim] * index if d == dim else 0 for d in range(len(shape)))
        attrs: dict[str, Attr] = {"start": start, "size": tuple(shape)}
        return self._editor.node("slice", x, like=x, attrs=attrs)

    def _node(self, node: Node, operands: Sequence[Value]) -> Node:
        op, editor = get(node.op), self._editor
        wanted = [self._local(result) for result in node.results]
        attrs = checked_attrs(op, op.localize(node.attrs, wanted))
        types = op.infer([o.type for o in operands], attrs, editor.mesh)
        results = (Value(editor.fresh(r), t) for r, t in zip(node.results, types, strict=True))
        return Node(node.op, tuple(operands), tuple(results), attrs)

    def _local(self, result: Value) -> TensorType:
        shape, dim = list(result.tensor.shape), self._dim(result)
        shape[dim] = self._divided(shape[dim])
        return result.tensor.with_shape(tuple(shape))

    def _divided(self, size: Dim) -> Dim:
        found = quotient(size, self._cut.count)
        assert found is not None  # options are even
        return found
