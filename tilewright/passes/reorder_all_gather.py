"""Elementwise work before an all-gather instead of behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.errors import TilewrightError
from tilewright.dsl.graph import Node, Value
from tilewright.dsl.op import get
from tilewright.dsl.ops.elementwise import Elementwise
from tilewright.dsl.placement import Replicate
from tilewright.passes.base import PassContext, Refusal, Rewrite, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.sweep import LocalPass


@dataclass(frozen=True, slots=True)
class ReorderAllGather(LocalPass):
    """y = f(all_gather(x), b, ...) -> y = all_gather(f(x, shard_slice(b), ...))

    if f is elementwise, the gathered dimension is not broadcast, and every other operand is
    replicated on the axis (cut by `shard_slice`, which sends nothing), broadcast along the
    dimension (left as it is), or gathered likewise (its gather goes too). Exact: every element is
    the same function of the same numbers, and is computed on one rank instead of on all. The old
    gather stays only for other readers. The plan decides by `reorder_all_gather:<graph>.<y>`, with
    options `keep` and `reorder`.
    """

    name: ClassVar[str] = "reorder_all_gather"
    stage: ClassVar[Stage] = "semantic"
    preserves: ClassVar[Claim] = EXACT

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | Refusal | None:
        found = self.at(node, editor)
        if not isinstance(found, Rewrite):
            return found
        choice = f"{self.name}:{editor.graph.name}.{node.result.name}"
        if ctx.choose(choice, ("keep", "reorder"), "keep") == "keep":
            return Refusal("the plan keeps the all-gather before it")
        return found

    def at(self, node: Node, editor: Editor) -> Rewrite | Refusal | None:
        """The rewrite of one node, whatever the plan says; None where it reads no all-gather."""
        gathers = [g for o in node.operands if (g := _gather(o, editor)) is not None]
        if not gathers:
            return None
        if not isinstance(get(node.op), Elementwise):
            return Refusal(f"{node.op} is not elementwise, it may read what other ranks hold")
        return _Move(node, gathers[0], editor).rewrite()


def _gather(value: Value, editor: Editor) -> Node | None:
    node = editor.producer(value)
    found = node is not None and node.op == "all_gather" and not node.attrs.int("size")
    return node if found else None


class _Move:
    """One elementwise node moved before the all-gather that it reads."""

    def __init__(self, node: Node, gather: Node, editor: Editor) -> None:
        self.node = node
        self.editor = editor
        self.axis = gather.attrs.str("axis")
        self.rank = node.result.tensor.rank
        self.dim = gather.attrs.int("dim") + self.rank - gather.result.tensor.rank
        self.gathers: dict[int, Node] = {}
        self.slices: dict[str, Node] = {}

    def rewrite(self) -> Rewrite | Refusal:
        """The rewrite, or the side condition that does not hold."""
        node, dim = self.node, self.dim
        parts: list[Value] = []
        for operand in node.operands:
            part = self._part(operand)
            if isinstance(part, Refusal):
                return part
            parts.append(part)
        if not self.gathers:
            return Refusal("it broadcasts the gathered dimension, which has size 1")
        try:
            local = self.editor.node(node.op, *parts, like=node.result, attrs=node.attrs)
            attrs = {"axis": self.axis, "dim": dim}
            whole = self.editor.defining(
                "all_gather", local.result, result=node.result, attrs=attrs
            )
        except TilewrightError as mistake:
            return Refusal(f"on shards it is illegal: {mistake.message}")
        inside = {id(node), *self.gathers}
        old = tuple(self.gathers.values())
        kept = tuple(g for g in old if self.editor.used_outside(g.result, inside))
        reason = f"before the all-gather along dimension {dim}"
        if kept:
            reason += f"; {len(kept)} gather(s) stay for other readers"
        after = (*kept, *self.slices.values(), local, whole)
        return Rewrite((*old, node), after, reason=reason)

    def _part(self, operand: Value) -> Value | Refusal:
        """What stands for an operand before the gather."""
        type_ = operand.tensor
        dim = self.dim - (self.rank - type_.rank)
        if dim < 0 or type_.shape[dim] != self.node.result.tensor.shape[self.dim]:
            return operand
        gather = _gather(operand, self.editor)
        if gather is not None and self._alike(gather, dim):
            self.gathers[id(gather)] = gather
            return gather.operands[0]
        place = type_.placement.on(self.axis)
        if not isinstance(place, Replicate):
            return Refusal(f"%{operand.name} is {place} on mesh axis {self.axis}, not replicated")
        if operand.name not in self.slices:
            attrs = {"axis": self.axis, "dim": dim}
            try:
                cut = self.editor.node("shard_slice", operand, like=operand, attrs=attrs)
            except TilewrightError as mistake:
                return Refusal(f"%{operand.name} cannot be cut: {mistake.message}")
            self.slices[operand.name] = cut
        return self.slices[operand.name].result

    def _alike(self, gather: Node, dim: int) -> bool:
        return gather.attrs.str("axis") == self.axis and gather.attrs.int("dim") == dim
