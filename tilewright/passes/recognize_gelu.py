"""Gelu and silu written out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.graph import Node, Value
from tilewright.passes.base import PassContext, Refusal, Rewrite, Stage
from tilewright.passes.claim import REASSOCIATES, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.match import Match
from tilewright.passes.polynomial import ARITHMETIC, close, factors_behind, polynomial
from tilewright.passes.sweep import LocalPass

_ARGUMENT = {
    "erf": {(1, 0): math.sqrt(0.5)},
    "tanh": {(1, 0): math.sqrt(2 / math.pi), (3, 0): math.sqrt(2 / math.pi) * 0.044715},
}
_GELU = {(1, 0): 0.5, (1, 1): 0.5}
_NAME = {"erf": "gelu", "tanh": "gelu_tanh"}
_CANDIDATES = 24


@dataclass(frozen=True, slots=True)
class RecognizeGelu(LocalPass):
    """Activations written out, in whatever order of sums and products.

        x/2 + x/2 * erf(x * sqrt(1/2)) -> gelu(x)
        x/2 + x/2 * tanh(sqrt(2/pi) * (x + 0.044715 x^3)) -> gelu_tanh(x)
        x * sigmoid(x) -> silu(x)

    if the coefficients are those, to a few roundings of x's dtype.
    """

    name: ClassVar[str] = "recognize_gelu"
    stage: ClassVar[Stage] = "canonical"
    preserves: ClassVar[Claim] = REASSOCIATES

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | Refusal | None:
        if node.op not in ("mul", "add"):
            return None
        silu = _silu(node, Match(editor))
        if silu is not None:
            return silu
        bend = factors_behind(Match(editor), node, "erf", "tanh")
        if bend is None:
            return None
        wanted = _ARGUMENT[bend.op]
        tolerance = 4 * node.result.tensor.dtype.unit_roundoff
        for x in _candidates(editor, bend.operands[0]):
            match = Match(editor)
            if not close(polynomial(match, node.result, x, bend.result), _GELU, tolerance):
                continue
            match.nodes[id(bend)] = bend
            if not close(polynomial(match, bend.operands[0], x, None), wanted, 4 * tolerance):
                return Refusal(f"{_NAME[bend.op]}: the argument of {bend.op} is another polynomial")
            made = editor.try_defining(_NAME[bend.op], x, result=node.result)
            return None if made is None else match.rewrite(node, (made,), f"x/2 (1 + {bend.op})")
        return None


def _silu(node: Node, match: Match) -> Rewrite | None:
    if node.op != "mul":
        return None
    for x, other in (node.operands, node.operands[::-1]):
        gate = match.take(other, "sigmoid")
        if gate is not None and match.same(gate.operands[0], x):
            made = match.editor.try_defining("silu", x, result=node.result)
            return None if made is None else match.rewrite(node, (made,), "x sigmoid(x)")
    return None


def _candidates(editor: Editor, argument: Value) -> Iterator[Value]:
    """What the argument could be a polynomial in: everything behind it, nearest first."""
    front, seen = [argument], {argument.name}
    for _ in range(_CANDIDATES):
        if not front:
            return
        value = front.pop(0)
        yield value
        node = editor.producer(value)
        if node is not None and node.op in ARITHMETIC:
            fresh = [v for v in map(editor.resolve, node.operands) if v.name not in seen]
            seen.update(v.name for v in fresh)
            front.extend(fresh)
