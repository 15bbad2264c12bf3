"""Equal nodes computed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.attrs import Attrs
from tilewright.dsl.graph import Graph, Node
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import get
from tilewright.dsl.types import CacheType
from tilewright.passes.base import GraphPass, PassContext, Rewrite, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.sweep import settle

Key = tuple[str, tuple[Ident, ...], Attrs]


@dataclass(frozen=True, slots=True)
class Cse(GraphPass):
    """Common sub-expressions are computed once.

        a = f(x); b = f(x) -> a = f(x), b replaced by a

    if operation, operands and attributes are equal, no operand or result is a state, and f is not
    `copy` (whose use is that it is another value). Random bits are a function of their key, so they
    merge too. Collectives of the local view stay: the ranks' programs may differ in constants, and
    must not differ in what they exchange.
    """

    name: ClassVar[str] = "cse"
    stage: ClassVar[Stage] = "canonical"
    preserves: ClassVar[Claim] = EXACT
    cleans_up: ClassVar[bool] = True

    def run_graph(self, graph: Graph, ctx: PassContext) -> Graph:
        """One sweep in the order of evaluation, with a table of what has been computed."""
        editor = Editor(graph, ctx.mesh)
        known: dict[Key, Node] = {}
        for node in editor.live():
            if not _is_pure(node):
                continue
            first = known.setdefault(_key(node), node)
            if first is not node:
                settle(self, _merge(first, node), node.results[0].name, editor, ctx)
        return editor.freeze()


def _key(node: Node) -> Key:
    return node.op, tuple(operand.name for operand in node.operands), node.attrs


def _is_pure(node: Node) -> bool:
    op = get(node.op)
    if node.op == "copy" or op.consumes or (op.is_collective and node.attrs.int("size")):
        return False
    return not any(isinstance(v.type, CacheType) for v in (*node.operands, *node.results))


def _merge(first: Node, again: Node) -> Rewrite:
    pairs = zip(again.results, first.results, strict=True)
    forward = {old.name: new for old, new in pairs}
    return Rewrite((first, again), (first,), forward, f"{first.op} computes the same")
