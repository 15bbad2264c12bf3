"""Casts that an operation makes itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.graph import Node, Value
from tilewright.passes.base import PassContext, Rewrite, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.match import Match
from tilewright.passes.sweep import LocalPass

_WIDE_INSIDE = (
    "gelu", "gelu_tanh", "layer_norm", "logsumexp", "mean", "rms_norm", "silu", "softmax",
)  # fmt: skip
"""Composites that compute in the accumulator's format and round once at the end."""


@dataclass(frozen=True, slots=True)
class AbsorbCasts(LocalPass):
    """Rows that are computed in the accumulator's format need not be cast to it.

        cast(f(cast(x, wide), ...), narrow) -> f(x, ...)

    if f computes in the accumulator's format and rounds at the end, every operand is cast from
    `narrow`, and `wide` is its accumulator.
    """

    name: ClassVar[str] = "absorb_casts"
    stage: ClassVar[Stage] = "canonical"
    preserves: ClassVar[Claim] = EXACT

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | None:
        if node.op != "cast":
            return None
        match = Match(editor)
        inner = match.take(node.operands[0], *_WIDE_INSIDE)
        if inner is None:
            return None
        narrow = node.result.tensor.dtype
        sources: list[Value] = []
        for operand in inner.operands:
            cast = match.take(operand, "cast")
            if cast is None or cast.operands[0].tensor.dtype != narrow:
                return None
            sources.append(cast.operands[0])
        if inner.result.tensor.dtype != narrow.accumulator:
            return None
        made = editor.try_defining(inner.op, *sources, result=node.result, attrs=inner.attrs)
        return None if made is None else match.rewrite(node, (made,), f"{inner.op} casts itself")
