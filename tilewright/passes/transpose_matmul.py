"""Transposes taken into matrix multiplications."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.graph import Node, Value
from tilewright.passes.base import PassContext, Rewrite, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.match import Match
from tilewright.passes.sweep import LocalPass

_FLAGS = ("transpose_a", "transpose_b")


@dataclass(frozen=True, slots=True)
class TransposeMatmul(LocalPass):
    """A multiplication reads a transposed operand as it lies.

        matmul(x, permute_dims(w, [..., i, j])) -> matmul(x, permute_dims(w, [..., j, i])),
            its transpose_b inverted

    if i > j, likewise for the left operand; a permutation that has become [0, 1, ...] is dropped.
    The permuted value stays where others read it.
    """

    name: ClassVar[str] = "transpose_matmul"
    stage: ClassVar[Stage] = "canonical"
    preserves: ClassVar[Claim] = EXACT

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | None:
        if node.op != "matmul":
            return None
        match = Match(editor)
        operands = list(node.operands)
        attrs = node.attrs
        made: list[Node] = []
        for index, flag in enumerate(_FLAGS):
            source = _untransposed(operands[index], match, made)
            if source is not None:
                operands[index] = source
                attrs = attrs.replace(**{flag: not attrs.bool(flag)})
        if attrs == node.attrs:
            return None
        product = editor.try_defining("matmul", *operands, result=node.result, attrs=attrs)
        if product is None:
            return None
        return match.rewrite(node, (*made, product), "a transposed operand is read as it lies")


def _untransposed(value: Value, match: Match, made: list[Node]) -> Value | None:
    """The operand with its last two dimensions swapped, if that makes it simpler."""
    node = match.take(value, "permute_dims")
    if node is None:
        return None
    rank = value.tensor.rank
    *lead, i, j = (axis % rank for axis in node.attrs.ints("axes"))
    if i < j:
        return None
    axes = (*lead, j, i)
    if axes == tuple(range(rank)):
        return node.operands[0]
    swapped = match.editor.node("permute_dims", node.operands[0], like=value, attrs={"axes": axes})
    made.append(swapped)
    return swapped.result
