"""Casts that undo each other, or that one cast can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.dtypes import DType, bool_, f8e8m0
from tilewright.dsl.graph import Node
from tilewright.passes.base import PassContext, Rewrite, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.match import Match, forward_to
from tilewright.passes.sweep import LocalPass

_WIDER_FLOATS = {
    "f8e4m3": ("f16", "bf16", "f32", "f64"),
    "f8e5m2": ("f16", "bf16", "f32", "f64"),
    "f8e8m0": ("bf16", "f32", "f64"),
    "f16": ("f32", "f64"),
    "bf16": ("f32", "f64"),
    "f32": ("f64",),
}


@dataclass(frozen=True, slots=True)
class SimplifyCasts(LocalPass):
    """Casts that change nothing are removed.

        cast(x, dtype of x) -> x
        cast(cast(x, wide), narrow) -> cast(x, narrow)

    if every value of x's dtype is one of `wide`, so that only the outer cast rounds (it then
    vanishes where `narrow` is x's own dtype). A cast through a narrower format stays: it rounds.
    """

    name: ClassVar[str] = "simplify_casts"
    stage: ClassVar[Stage] = "canonical"
    preserves: ClassVar[Claim] = EXACT
    cleans_up: ClassVar[bool] = True

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | None:
        if node.op != "cast":
            return None
        match = Match(editor)
        x = node.operands[0]
        if x.type == node.result.type:
            return forward_to(node, x, match, "casts to the dtype it has")
        inner = match.take(x, "cast")
        if inner is None:
            return None
        source = inner.operands[0]
        if not widens(source.tensor.dtype, x.tensor.dtype):
            return None
        if source.type == node.result.type:
            return forward_to(node, source, match, "the inner cast loses nothing")
        made = editor.try_defining("cast", source, result=node.result, attrs=node.attrs)
        return None if made is None else match.rewrite(node, (made,), "only the outer cast rounds")


def widens(narrow: DType, wide: DType) -> bool:
    """True where every value of `narrow` is a value of `wide`."""
    if narrow == wide:
        return True
    if narrow == bool_:
        return wide != f8e8m0  # which has no zero
    if narrow.is_float:
        return wide.name in _WIDER_FLOATS.get(narrow.name, ())
    magnitude = narrow.bits - (narrow.kind == "int")
    if wide.is_float:
        return magnitude <= wide.mantissa + 1 and wide.bits >= 16
    if not wide.is_integer or (narrow.kind == "int" and wide.kind == "uint"):
        return False
    return magnitude <= wide.bits - (wide.kind == "int")
