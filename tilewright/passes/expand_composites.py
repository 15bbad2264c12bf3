"""Composites replaced by what they are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from tilewright.dsl.composite import Composite
from tilewright.dsl.graph import Node, Value, map_values
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import get
from tilewright.dsl.ops.scan import too_long
from tilewright.passes.base import PassContext, Refusal, Rewrite, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.sweep import LocalPass


@dataclass(frozen=True, slots=True)
class ExpandComposites(LocalPass):
    """A composite becomes its body, and so do the composites in it.

        y = f(x) -> the nodes of f's body, with x and y for its input and output

    if f is not in `keep` (names joined by `+`): families of kernels that take it whole. A scan
    becomes its body as often as it runs, if that is not too often (`scan.MAX_UNROLLED`).
    """

    keep: str = "attention+bundle+fused"

    name: ClassVar[str] = "expand_composites"
    stage: ClassVar[Stage] = "fuse"
    preserves: ClassVar[Claim] = EXACT

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | Refusal | None:
        reason = too_long(node.attrs) if node.op == "scan" else ""
        if reason:
            return Refusal(reason)
        kept = self.keep.split("+")
        return expanded(node, editor, lambda op: op not in kept)


def expanded(node: Node, editor: Editor, opens: Callable[[str], bool]) -> Rewrite | None:
    """A composite, and the composites in it, as primitives; only those that `opens` names."""
    if not _opens(node, opens):
        return None
    aliases: dict[Ident, Value] = {}
    nodes: list[Node] = []
    stack = [node]
    while stack:
        current = stack.pop()
        operands = tuple(aliases.get(v.name, v) for v in current.operands)
        current = replace(current, operands=operands)
        if _opens(current, opens):
            stack.extend(reversed(_opened(current, editor, aliases)))
        else:
            nodes.append(current)
    forward = {r.name: aliases[r.name] for r in node.results if r.name in aliases}
    return Rewrite((node,), tuple(nodes), forward, f"{node.op} is its body")


def _opens(node: Node, opens: Callable[[str], bool]) -> bool:
    return opens(node.op) and isinstance(get(node.op), Composite)


def _opened(node: Node, editor: Editor, aliases: dict[Ident, Value]) -> tuple[Node, ...]:
    """The body's nodes over the node's own operands and results; `aliases` takes the results that
    are operands, or one another.
    """
    op = get(node.op)
    assert isinstance(op, Composite)
    body = op.expand([v.type for v in node.operands], node.attrs, editor.mesh)
    table = dict(zip((v.name for v in body.input_values), node.operands, strict=True))
    for output, result in zip(body.output_values, node.results, strict=True):
        known = table.setdefault(output.name, result)
        if known is not result:
            aliases[result.name] = known

    def value(inner: Value) -> Value:
        if inner.name not in table:
            table[inner.name] = Value(editor.fresh(node.results[0]), inner.type)
        return table[inner.name]

    return map_values(body, value).nodes
