"""Softmax written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.graph import Node, Value
from tilewright.passes.base import PassContext, Refusal, Rewrite, Stage
from tilewright.passes.claim import REASSOCIATES, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.match import Match
from tilewright.passes.rows import reduced
from tilewright.passes.sweep import LocalPass


@dataclass(frozen=True, slots=True)
class RecognizeSoftmax(LocalPass):
    """Exponentials over their sum are a softmax.

        exp(x - m) / sum(exp(x - m), axis) -> softmax(x, axis),  m = max(x, axis)
        exp(x) / sum(exp(x), axis) -> softmax(x, axis)

    if maximum and sum go along one axis. Where all of a row is -inf the written form is NaN, and
    softmax 0: what the row means is the operation's to say.
    """

    name: ClassVar[str] = "recognize_softmax"
    stage: ClassVar[Stage] = "canonical"
    preserves: ClassVar[Claim] = REASSOCIATES

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | Refusal | None:
        if node.op != "div":
            return None
        match = Match(editor)
        top, bottom = node.operands
        exp = match.take(top, "exp")
        total = reduced(match, bottom, "sum")
        if exp is None or total is None or not match.same(total[0].operands[0], top):
            return None
        found = _shifted(match, exp.operands[0], total[1])
        if isinstance(found, Refusal):
            return found
        attrs = {"axis": total[1]}
        made = editor.try_defining("softmax", found, result=node.result, attrs=attrs)
        return None if made is None else match.rewrite(node, (made,), "exponentials over their sum")


def _shifted(match: Match, value: Value, axis: int) -> Value | Refusal:
    """x where the value is x - max(x); the value itself where nothing is subtracted."""
    node = match.take(value, "sub")
    top = None if node is None else reduced(match, node.operands[1], "max")
    if node is None or top is None or not match.same(top[0].operands[0], node.operands[0]):
        return value
    if top[1] != axis:
        return Refusal(f"softmax: the maximum is along axis {top[1]}, the sum along {axis}")
    return node.operands[0]
