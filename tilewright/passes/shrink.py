"""Smaller legal shapes for the two sides of a rewrite, so that checking it is cheap.

Large static dims are divided by one common factor everywhere: in types, and in attributes that are
dims. A factor is legal where every type is inferred again without a mistake, so relations such as
`heads * head_dim = hidden` survive (one factor of each product shrinks with the product).
"""

from __future__ import annotations

from dataclasses import replace

from tilewright.dsl.attrs import Attr, Attrs
from tilewright.dsl.dims import Dim
from tilewright.dsl.errors import TilewrightError
from tilewright.dsl.graph import Graph, Node, Output, Value
from tilewright.dsl.op import get
from tilewright.dsl.placement import Mesh
from tilewright.dsl.types import CacheType, TensorType, Type

_FACTORS = (64, 32, 16, 8, 4, 2)
_LARGE = 48
"""Static dims below this are left alone."""
_ENOUGH = 1 << 16
"""Elements of the largest value that are cheap enough to check as they are."""


def shrink(before: Graph, after: Graph, mesh: Mesh) -> tuple[Graph, Graph]:
    """Both graphs at the largest legal factor; the same graphs where none is legal or needed."""
    if _largest(before) <= _ENOUGH and _largest(after) <= _ENOUGH:
        return before, after
    for factor in _FACTORS:
        pair = _scale(before, factor, mesh), _scale(after, factor, mesh)
        if pair[0] is not None and pair[1] is not None:
            return pair[0], pair[1]
    return before, after


def _largest(graph: Graph) -> int:
    sizes = [1]
    for type_ in _types(graph):
        count = 1
        for size in type_.shape if isinstance(type_, TensorType) else type_.part.shape:
            count *= size if isinstance(size, int) else 1
        sizes.append(count)
    return max(sizes)


def _types(graph: Graph) -> list[Type]:
    found = [entry.value.type for entry in graph.inputs]
    found.extend(result.type for node in graph.nodes for result in node.results)
    return found


def _scale(graph: Graph, factor: int, mesh: Mesh) -> Graph | None:
    try:
        return _scaled(graph, factor, mesh)
    except TilewrightError:
        return None


def _scaled(graph: Graph, factor: int, mesh: Mesh) -> Graph | None:
    def value(v: Value) -> Value:
        return Value(v.name, _scaled_type(v.type, factor))

    nodes: list[Node] = []
    for node in graph.nodes:
        attrs = _scaled_attrs(node, factor, mesh)
        operands = tuple(map(value, node.operands))
        results = tuple(map(value, node.results))
        types = get(node.op).infer([o.type for o in operands], attrs, mesh)
        if types != tuple(r.type for r in results):
            return None
        nodes.append(Node(node.op, operands, results, attrs))
    inputs = tuple(replace(i, value=value(i.value)) for i in graph.inputs)
    outputs = tuple(Output(o.name, value(o.value), o.replaces) for o in graph.outputs)
    return Graph(graph.name, inputs, tuple(nodes), outputs)


def _scaled_dim(size: Dim, factor: int) -> Dim:
    small = not isinstance(size, int) or size < _LARGE or size % factor
    return size if small else size // factor


def _scaled_type(type_: Type, factor: int) -> Type:
    if isinstance(type_, CacheType):
        head_dim = _scaled_dim(type_.head_dim, factor)
        assert isinstance(head_dim, int)
        return replace(type_, head_dim=head_dim, capacity=_scaled_dim(type_.capacity, factor))
    return type_.with_shape(tuple(_scaled_dim(size, factor) for size in type_.shape))


def _scaled_attrs(node: Node, factor: int, mesh: Mesh) -> Attrs:
    specs = get(node.op).attrs
    found: dict[str, Attr] = {}
    for name, value in node.attrs.items():
        kind = specs[name].kind
        if kind == "dim" and isinstance(value, int):
            found[name] = _scaled_dim(value, factor)
        elif kind == "dims":
            sizes = node.attrs.dims(name)
            found[name] = tuple(_scaled_dim(size, factor) for size in sizes)
        elif isinstance(value, Graph):
            body = _scaled(value, factor, mesh)
            found[name] = value if body is None else body
        else:
            found[name] = value
    return Attrs(found)
