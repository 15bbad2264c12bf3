"""Zeros at the end of a bundle, as an operand of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.graph import Node
from tilewright.passes.base import PassContext, Rewrite, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.sweep import LocalPass


@dataclass(frozen=True, slots=True)
class FillBundles(LocalPass):
    """bundle(x, y, multiple_of=m) -> bundle(x, y, zeros)

    Exact: so many zeros as it takes. Only then is a bundle nothing but its operands, one after the
    other, each of which can be made in its place. It runs behind `localize`: before, zeros beside
    Partial operands would have no legal placement.
    """

    name: ClassVar[str] = "fill_bundles"
    stage: ClassVar[Stage] = "fuse"
    preserves: ClassVar[Claim] = EXACT

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | None:
        if node.op != "bundle" or node.attrs.int("multiple_of") == 1:
            return None
        result = node.result
        spare, dtype = result.tensor.shape[0], result.tensor.dtype
        for x in node.operands:
            spare = spare - x.tensor.numel
        made: list[Node] = []
        operands = list(node.operands)
        if spare != 0:
            zero = {"float": 0.0, "bool": False}.get(dtype.kind, 0)
            attrs = {"shape": (spare,), "value": zero, "dtype": dtype}
            made.append(editor.node("full", like=result, attrs=attrs))
            operands.append(made[0].result)
        whole = editor.try_defining("bundle", *operands, result=result)
        if whole is None:
            return None
        return Rewrite((node,), (*made, whole), {}, "filled up with zeros")
