"""What one region costs: its FLOPs, and the bytes that cross its border."""

from __future__ import annotations

from collections.abc import Iterable

from tilewright.codegen.kernels import as_graph
from tilewright.dsl.cost import Cost, nbytes
from tilewright.dsl.dims import Dim, quotient
from tilewright.dsl.graph import Graph, Node, Value
from tilewright.dsl.op import get
from tilewright.dsl.types import CacheType, TensorType, Type

_PICKS = frozenset({"gather", "embedding", "view", "slice", "row", "part"})


def region_cost(region: Node) -> Cost:
    """FLOPs of a region, or of an operation alone, and the bytes that cross its border.

    Of a table or a cache only what is looked up counts, not what it could hold.
    """
    read: Dim = 0
    for _, size in region_reads(region):
        read = read + size
    flops, written = region_work(region)
    return Cost(flops, read, written)


def region_work(region: Node) -> tuple[Dim, Dim]:
    """The FLOPs of a region and the bytes that it writes."""
    if region.op == "fused":
        return _body_flops(region.attrs.graph("body")), nbytes([r.type for r in region.results])
    alone = _alone(region)
    return alone.flops, alone.bytes_written


def region_reads(region: Node) -> list[tuple[Value, Dim]]:
    """The operands of a region, each once, with the bytes of them that it reads."""
    if region.op != "fused" and any(isinstance(o.type, CacheType) for o in region.operands):
        return _state_reads(region)
    body = region.attrs.graph("body") if region.op == "fused" else as_graph(region)
    operands = region.operands if region.op == "fused" else body.input_values
    entries = {
        entry.value.name: (operand, _read_of(entry.value, body))
        for operand, entry in zip(operands, body.inputs, strict=True)
    }
    return [*entries.values()]


def _state_reads(node: Node) -> list[tuple[Value, Dim]]:
    """Of a state operation: all of its tensors, and of its cache what else it reads."""
    found: dict[str, tuple[Value, Dim]] = {}
    rest = _alone(node).bytes_read
    for operand in node.operands:
        if not isinstance(operand.type, CacheType):
            found[operand.name] = operand, operand.type.nbytes
            rest = rest - operand.type.nbytes
    caches = {o.name: o for o in node.operands if isinstance(o.type, CacheType)}
    return [*found.values(), *((cache, rest) for cache in caches.values())]


def _alone(node: Node) -> Cost:
    xs, out = [o.type for o in node.operands], [r.type for r in node.results]
    return get(node.op).cost(xs, node.attrs, out)


def _body_flops(body: Graph) -> Dim:
    flops: Dim = 0
    for node in body.nodes:
        xs, out = [o.type for o in node.operands], [r.type for r in node.results]
        found = get(node.op).flops(xs, node.attrs, out)
        picked = _picked(node.results[0], body) if node.op == "decode" else None
        if picked is not None:
            each = quotient(found, node.results[0].tensor.numel)
            found = picked * (1 if each is None else each)
        flops = flops + found
    return flops


def _read_of(value: Value, body: Graph) -> Dim:
    """Bytes of an input that a region reads: all of it, unless every reader picks a part."""
    picked = _picked(value, body)
    return value.type.nbytes if picked is None else picked * _bytes_each(value.type)


def _picked(value: Value, body: Graph) -> Dim | None:
    """How many numbers the readers of a value pick; None where one of them needs all."""
    total: Dim = 0
    pending = [value]
    while pending:
        read = pending.pop()
        if any(output.value.name == read.name for output in body.outputs):
            return None
        for node in body.nodes:
            if all(operand.name != read.name for operand in node.operands):
                continue
            if node.op == "decode":
                pending.append(node.results[0])
            elif node.op in _PICKS and node.operands[0].name == read.name:
                total = total + _numbers(r.type for r in node.results)
            else:
                return None
    return total


def _numbers(types: Iterable[Type]) -> Dim:
    """The numbers of several dense values together."""
    total: Dim = 0
    for type_ in types:
        total = total + (type_.numel if isinstance(type_, TensorType) else type_.part.numel)
    return total


def _bytes_each(type_: Type) -> int:
    """Stored bytes for each number, rounded up."""
    part = type_.part if isinstance(type_, CacheType) else type_
    count, size = part.numel, part.nbytes
    if isinstance(count, int) and isinstance(size, int) and count:
        return -(-size // count)
    return part.dtype.itemsize
