"""Matching backwards from a node: what was recognised so far, and the rewrite made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tilewright.dsl.dims import DimExpr
from tilewright.dsl.graph import Node, Value
from tilewright.dsl.ident import Ident
from tilewright.passes.base import Rewrite
from tilewright.passes.editor import Editor

Number = bool | int | float


@dataclass
class Match:
    """The nodes that a pattern has gone through.

    It may go through too many: what others still read, or the replacement itself reads, is kept.
    """

    editor: Editor
    nodes: dict[int, Node] = field(default_factory=dict[int, Node])

    def take(self, value: Value, *ops: str) -> Node | None:
        """The node behind a value if it applies one of `ops`; it joins the match."""
        node = self.editor.producer(value)
        if node is None or node.op not in ops:
            return None
        self.nodes[id(node)] = node
        return node

    def through(self, value: Value, *ops: str) -> Value:
        """The value before any number of applications of these one-operand operations."""
        while (node := self.take(value, *ops)) is not None:
            value = self.editor.resolve(node.operands[0])
        return value

    def number(self, value: Value) -> Number | None:
        """The number that every element of a value is, as its dtype rounds it."""
        node = self.take(value, "full")
        if node is None:
            return None
        return full_number(node)

    def scalar(self, value: Value) -> float | None:
        """As `number`, through repetitions of it, for a float."""
        inner = self.through(value, "broadcast_to", "reshape", "permute_dims")
        found = self.number(inner)
        return float(found) if isinstance(found, float) else None

    def is_number(self, value: Value, wanted: float) -> bool:
        """True where every element is this number (-0.0 and 0.0 are the same here)."""
        found = self.number(value)
        return found is not None and not isinstance(found, bool) and found == wanted

    def same(self, one: Value, other: Value) -> bool:
        """True where two values are one."""
        return self.editor.resolve(one).name == self.editor.resolve(other).name

    def rewrite(
        self,
        root: Node,
        after: Sequence[Node],
        reason: str,
        forward: Mapping[Ident, Value] | None = None,
    ) -> Rewrite:
        """`root`, and what only the match needed, gives way to `after` and `forward`."""
        self.nodes[id(root)] = root
        matched = sorted(self.nodes.values(), key=self.editor.position)
        read = {v.name for node in after for v in node.operands}
        read |= {v.name for v in (forward or {}).values()}
        kept = self._kept(matched, root, read)
        return Rewrite(tuple(matched), (*kept, *after), forward or {}, reason)

    def _kept(self, matched: Sequence[Node], root: Node, read: set[Ident]) -> list[Node]:
        gone = {id(node) for node in matched}
        kept: list[Node] = []
        for node in reversed(matched):
            if node is root:
                continue
            results = node.results
            if any(r.name in read or self.editor.used_outside(r, gone) for r in results):
                gone.discard(id(node))
                kept.append(node)
        return kept[::-1]


def full_number(node: Node) -> Number | None:
    """The number of a `full`, as its dtype rounds it; None where it is a symbol's value."""
    value = node.attrs["value"]
    dtype = node.result.tensor.dtype
    if isinstance(value, DimExpr) or not isinstance(value, bool | int | float):
        return None
    if not dtype.is_float:
        return value
    return float(np.asarray(value).astype(dtype.numpy))


def forward_to(node: Node, value: Value, match: Match, reason: str) -> Rewrite | None:
    """The node's result replaced by `value`, repeated to its shape where it is smaller.

    None where the types do not allow it.
    """
    result = node.result
    if value.type == result.type:
        return match.rewrite(node, (), reason, {result.name: value})
    shape = {"shape": result.tensor.shape}
    grown = match.editor.try_defining("broadcast_to", value, result=result, attrs=shape)
    return None if grown is None else match.rewrite(node, (grown,), reason)
