"""Layer norm and RMS norm written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.graph import Node, Value
from tilewright.passes.base import PassContext, Refusal, Rewrite, Stage
from tilewright.passes.claim import REASSOCIATES, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.match import Match
from tilewright.passes.rows import column, mean, over_root, plus_number, square
from tilewright.passes.sweep import LocalPass

Found = Rewrite | Refusal | None
Pattern = Callable[[Node, Value, Value, Match], Found]


@dataclass(frozen=True, slots=True)
class RecognizeNorm(LocalPass):
    """Rows over their root mean square are norms.

        x / sqrt(mean(x * x) + eps) * w -> rms_norm(x, w, eps)
        x / sqrt(mean(x * x) + eps) * (w + c) -> rms_norm(x, w, eps, offset=c)
        rms_norm(x - mean(x), w, eps) + b -> layer_norm(x, w, b, eps)

    if the means go along the last axis and w, b have one element a column. A quotient that is
    computed in the accumulator's format of a shorter x and cast back before w multiplies it, as
    Llama's code has it, is the norm of the shorter x.
    """

    name: ClassVar[str] = "recognize_norm"
    stage: ClassVar[Stage] = "canonical"
    preserves: ClassVar[Claim] = REASSOCIATES

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Found:
        match node.op:
            case "mul":
                return _either(node, editor, _rms)
            case "add":
                return _either(node, editor, _layer)
            case _:
                return None


def _either(node: Node, editor: Editor, pattern: Pattern) -> Found:
    """The pattern with the operands in either order; a refusal only where neither fires."""
    refusal: Found = None
    for one, other in (node.operands, node.operands[::-1]):
        found = pattern(node, one, other, Match(editor))
        if isinstance(found, Rewrite):
            return found
        refusal = refusal or found
    return refusal


def _rms(node: Node, one: Value, other: Value, match: Match) -> Found:
    narrowed = match.take(one, "cast")
    found = _quotient(match, one if narrowed is None else narrowed.operands[0])
    if found is None or isinstance(found, Refusal):
        return found
    x, eps = found
    if narrowed is not None:
        widened = match.take(x, "cast")
        dtype = node.result.tensor.dtype
        if widened is None or x.tensor.dtype != dtype.accumulator:
            return Refusal(f"norm: the quotient is cast to {dtype}, but x is not {dtype}")
        x = widened.operands[0]
    weight, offset = _weight(match, other, x)
    if weight is None:
        return Refusal("norm: what multiplies the quotient has not one element a column")
    attrs = {"eps": eps, "offset": offset}
    made = match.editor.try_defining("rms_norm", x, weight, result=node.result, attrs=attrs)
    if made is None:
        return Refusal(f"norm: x is {x.type}, its weight {weight.type}")
    return match.rewrite(node, (made,), "a row over its root mean square")


def _quotient(match: Match, value: Value) -> tuple[Value, float] | Refusal | None:
    """(x, eps) where the value is x / sqrt(mean(x * x) + eps)."""
    node = match.take(value, "mul", "div")
    parts = None if node is None else over_root(match, node)
    under = None if parts is None else plus_number(match, parts[1])
    averaged = None if under is None else mean(match, under[0])
    if parts is None or under is None or averaged is None:
        return None
    squared = square(match, averaged[0])
    if squared is None or not match.same(squared, parts[0]):
        return None
    if averaged[1] != squared.tensor.rank - 1:
        return Refusal(f"norm: the mean is along axis {averaged[1]}, not the last")
    return squared, under[1]


def _weight(match: Match, value: Value, x: Value) -> tuple[Value | None, float]:
    """The weight with one element a column, and the number that is added to it."""
    columns = x.tensor.shape[-1:]
    weight = column(match, value, columns)
    shifted = plus_number(match, value if weight is None else weight)
    if shifted is None:
        return weight, 0.0
    inner = column(match, shifted[0], columns)
    return (weight, 0.0) if inner is None else (inner, shifted[1])


def _layer(node: Node, one: Value, other: Value, match: Match) -> Found:
    norm = match.take(one, "rms_norm")
    if norm is None:
        return None
    centred, weight = norm.operands
    difference = match.take(centred, "sub")
    if difference is None:
        return None
    x, middle = difference.operands
    averaged = mean(match, middle)
    if averaged is None or not match.same(averaged[0], x) or averaged[1] != x.tensor.rank - 1:
        return None
    bias = column(match, other, x.tensor.shape[-1:])
    if bias is None:
        return Refusal("norm: what is added to the norm has not one element a column")
    if norm.attrs.float("offset") != 0.0:
        return Refusal("norm: layer_norm has no offset of its weight")
    attrs = {"eps": norm.attrs.float("eps")}
    made = match.editor.try_defining("layer_norm", x, weight, bias, result=node.result, attrs=attrs)
    if made is None:
        return Refusal(f"norm: x is {x.type}, its weight {weight.type}, its bias {bias.type}")
    return match.rewrite(node, (made,), "the norm of a centred row, shifted")
