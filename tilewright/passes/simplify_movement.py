"""Movement of elements that cancels or merges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.attrs import Attr
from tilewright.dsl.dims import known_eq
from tilewright.dsl.graph import Node
from tilewright.passes.base import PassContext, Rewrite, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.match import Match, forward_to
from tilewright.passes.sweep import LocalPass

Merge = Callable[[Node, Node], Mapping[str, Attr]]


@dataclass(frozen=True, slots=True)
class SimplifyMovement(LocalPass):
    """Moves that change nothing are removed, two in a row become one.

        reshape(x, shape of x), broadcast_to(x, shape of x), permute_dims(x, [0, 1, ...]),
        slice(x, 0, shape of x), concat(x) -> x
        reshape(reshape(x, s), t) -> reshape(x, t)
        broadcast_to(broadcast_to(x, s), t) -> broadcast_to(x, t)
        permute_dims(permute_dims(x, p), q) -> permute_dims(x, [p[i] for i in q])
        slice(slice(x, a, m), b, n) -> slice(x, a + b, n)

    if the merged move is legal for x's encoding and placement.
    """

    name: ClassVar[str] = "simplify_movement"
    stage: ClassVar[Stage] = "canonical"
    preserves: ClassVar[Claim] = EXACT
    cleans_up: ClassVar[bool] = True

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | None:
        if node.op == "concat" and len(node.operands) == 1:
            return forward_to(node, node.operands[0], Match(editor), "joins one piece")
        merge = _MERGES.get(node.op)
        if merge is None:
            return None
        match = Match(editor)
        x = node.operands[0]
        if _is_identity(node):
            return forward_to(node, x, match, f"{node.op} changes nothing")
        inner = match.take(x, node.op)
        return None if inner is None else _merged(node, inner, merge, match)


def _merged(node: Node, inner: Node, merge: Merge, match: Match) -> Rewrite | None:
    source = inner.operands[0]
    attrs = merge(inner, node)
    made = match.editor.try_defining(node.op, source, result=node.result, attrs=attrs)
    if made is None:
        return None
    if _is_identity(made):
        return match.rewrite(node, (), f"two {node.op} cancel", {node.result.name: source})
    return match.rewrite(node, (made,), f"two {node.op} in a row")


def _is_identity(node: Node) -> bool:
    x = node.operands[0]
    if x.type != node.result.type:
        return False
    if node.op == "permute_dims":
        return _axes(node) == tuple(range(x.tensor.rank))
    if node.op == "slice":
        return all(known_eq(start, 0) for start in node.attrs.dims("start"))
    return True


def _axes(node: Node) -> tuple[int, ...]:
    rank = node.result.tensor.rank
    return tuple(axis % rank for axis in node.attrs.ints("axes"))


def _keep_last(inner: Node, outer: Node) -> Mapping[str, Attr]:
    return outer.attrs


def _compose(inner: Node, outer: Node) -> Mapping[str, Attr]:
    first = _axes(inner)
    return {"axes": tuple(first[axis] for axis in _axes(outer))}


def _add_starts(inner: Node, outer: Node) -> Mapping[str, Attr]:
    starts = zip(inner.attrs.dims("start"), outer.attrs.dims("start"), strict=True)
    return {"start": tuple(a + b for a, b in starts), "size": outer.attrs.dims("size")}


_MERGES: dict[str, Merge] = {
    "broadcast_to": _keep_last,
    "permute_dims": _compose,
    "reshape": _keep_last,
    "slice": _add_starts,
}
