"""Where a row's columns change their recipe: the borders of concatenated pieces.

A column loop is cut there, so that in each part every concatenation along the last axis reads one
piece, known when the kernel is built.
"""

from __future__ import annotations

from collections.abc import Iterable

from tilewright.dsl.graph import Graph, Node, Value, producers
from tilewright.dsl.ident import Ident


def column_breaks(body: Graph, outputs: Iterable[Value], columns: int) -> list[int]:
    """Borders strictly inside (0, columns), sorted. Only the last axis is followed."""
    made = producers(body)
    found: set[int] = set()
    seen: set[tuple[Ident, int]] = set()
    stack = [(value, 0) for value in outputs]
    while stack:
        value, offset = stack.pop()
        node = made.get(value.name)
        if node is None or (value.name, offset) in seen:
            continue
        seen.add((value.name, offset))
        found.update(border + offset for border in _borders(node))
        stack.extend(_operands(node, value, offset))
    return sorted(border for border in found if 0 < border < columns)


def _last(node: Node) -> bool:
    rank = node.results[0].tensor.rank
    return node.attrs.int("axis") % rank == rank - 1


def _borders(node: Node) -> list[int]:
    if node.op != "concat" or not _last(node):
        return []
    borders: list[int] = []
    at = 0
    for operand in node.operands:
        size = operand.tensor.shape[-1]
        if not isinstance(size, int):
            return borders
        at += size
        borders.append(at)
    return borders[:-1]


def _operands(node: Node, value: Value, offset: int) -> list[tuple[Value, int]]:
    """Operands whose columns are the result's, moved; and by how much."""
    if node.op == "concat" and _last(node):
        moved: list[tuple[Value, int]] = []
        at = 0
        for operand in node.operands:
            moved.append((operand, offset + at))
            size = operand.tensor.shape[-1]
            if not isinstance(size, int):
                break
            at += size
        return moved
    if node.op == "slice":
        start = node.attrs.dims("start")[-1]
        return [(node.operands[0], offset - start)] if isinstance(start, int) else []
    if node.op in ("permute_dims", "reshape", "decode", "view"):
        return []
    width = value.tensor.shape[-1] if value.tensor.rank else 1
    return [
        (operand, offset)
        for operand in node.operands
        if operand.tensor.rank and operand.tensor.shape[-1] == width
    ]
