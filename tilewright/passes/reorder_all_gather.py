"""Work before an all-gather instead of behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.errors import TilewrightError
from tilewright.dsl.graph import Node, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.placement import AxisPlacement, Partial, Replicate, Shard
from tilewright.passes.base import PassContext, Refusal, Rewrite, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.sharding.options import Along, Option, options, place_on
from tilewright.passes.sweep import LocalPass


@dataclass(frozen=True, slots=True)
class ReorderAllGather(LocalPass):
    """y = f(all_gather(x), b, ...) -> y = all_gather(f(x, shard_slice(b), ...))

    if the placement rule of f lets a rank compute a slice of every result from the slice of the
    gathered value, and what else it reads is on all ranks alike: taken whole, cut by `shard_slice`
    (which sends nothing), or gathered along the dimension that is cut (its gather goes too). f may
    be elementwise, a norm of other dimensions, a product by a matrix, or a collective over another
    axis, which then sends a slice. Exact: every element is the same function of the same numbers,
    and is computed on one rank instead of on all. The old gather stays only for other readers. The
    plan decides by `reorder_all_gather:<graph>.<y>`, with options `keep` and `reorder`.
    """

    name: ClassVar[str] = "reorder_all_gather"
    stage: ClassVar[Stage] = "semantic"
    preserves: ClassVar[Claim] = EXACT

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | Refusal | None:
        found = self.at(node, editor)
        if not isinstance(found, Rewrite):
            return found
        choice = f"{self.name}:{editor.graph.name}.{node.results[0].name}"
        if ctx.choose(choice, ("keep", "reorder"), "keep") == "keep":
            return Refusal("the plan keeps the all-gather before it")
        return found

    def at(self, node: Node, editor: Editor) -> Rewrite | Refusal | None:
        """The rewrite of one node, whatever the plan says; None where it reads no all-gather."""
        reasons: list[Refusal] = []
        for place, operand in enumerate(node.operands):
            gather = _gather(operand, editor)
            if gather is None:
                continue
            found = _Move(node, place, gather, editor).rewrite()
            if isinstance(found, Rewrite):
                return found
            reasons.append(found)
        return reasons[0] if reasons else None


def _gather(value: Value, editor: Editor) -> Node | None:
    node = editor.producer(value)
    found = node is not None and node.op == "all_gather" and not node.attrs.int("size")
    return node if found else None


class _Move:
    """A node moved before the all-gather that makes one of its operands."""

    def __init__(self, node: Node, place: int, gather: Node, editor: Editor) -> None:
        self.node = node
        self.editor = editor
        self.place = place
        self.axis = Ident(gather.attrs.str("axis"))
        self.dim = gather.attrs.int("dim")
        self.gathers: dict[int, Node] = {}
        self.slices: dict[tuple[str, int], Node] = {}

    def rewrite(self) -> Rewrite | Refusal:
        """The rewrite, or the side condition that does not hold."""
        node = self.node
        for operand in node.operands:
            place = place_on(operand.type, self.axis)
            if not isinstance(place, Replicate):
                return Refusal(f"%{operand.name} is {place} on mesh axis {self.axis}")
        found = self._option()
        if found is None:
            return Refusal(
                f"{node.op} cannot compute slices from the slices along dimension {self.dim}"
            )
        try:
            parts = [
                self._part(v, place) for v, place in zip(node.operands, found.operands, strict=True)
            ]
            local = self._local(parts)
            whole = [
                self._whole(part, result, place)
                for part, result, place in zip(
                    local.results, node.results, found.results, strict=True
                )
            ]
        except TilewrightError as mistake:
            return Refusal(f"on shards it is illegal: {mistake.message}")
        return self._rewrite(local, [*self.slices.values(), local, *whole])

    def _option(self) -> Option | None:
        """Slices of all results from the slice of the operand, cutting as little else as can be."""
        legal = [
            option
            for option in options(self.node, Along(self.editor.mesh, self.axis, even=False))
            if option.operands[self.place] == Shard(self.dim)
            and all(isinstance(place, Shard) for place in option.results)
            and not any(isinstance(place, Partial) for place in option.operands)
        ]
        return min(legal, key=lambda o: sum(isinstance(p, Shard) for p in o.operands), default=None)

    def _part(self, operand: Value, place: AxisPlacement) -> Value:
        """What stands for an operand before the gather."""
        if not isinstance(place, Shard):
            return operand
        gather = _gather(operand, self.editor)
        if gather is not None and self._alike(gather, place.dim):
            self.gathers[id(gather)] = gather
            return gather.operands[0]
        key = operand.name, place.dim
        if key not in self.slices:
            attrs = {"axis": self.axis, "dim": place.dim}
            self.slices[key] = self.editor.node("shard_slice", operand, like=operand, attrs=attrs)
        return self.slices[key].result

    def _alike(self, gather: Node, dim: int) -> bool:
        return gather.attrs.str("axis") == self.axis and gather.attrs.int("dim") == dim

    def _local(self, parts: Sequence[Value]) -> Node:
        like = self.node.results[0]
        return self.editor.node(self.node.op, *parts, like=like, attrs=self.node.attrs)

    def _whole(self, part: Value, result: Value, place: AxisPlacement) -> Node:
        assert isinstance(place, Shard)
        attrs = {"axis": self.axis, "dim": place.dim}
        return self.editor.defining("all_gather", part, result=result, attrs=attrs)

    def _rewrite(self, local: Node, after: Sequence[Node]) -> Rewrite:
        """A gather stays where others read it, or the node still reads all of it elsewhere."""
        inside = {id(self.node), *self.gathers}
        old = tuple(self.gathers.values())
        read = {operand.name for operand in local.operands}
        kept = tuple(
            g for g in old if g.result.name in read or self.editor.used_outside(g.result, inside)
        )
        reason = f"before the all-gather along dimension {self.dim}"
        if kept:
            reason += f"; {len(kept)} gather(s) stay for other readers"
        return Rewrite((*old, self.node), (*kept, *after), reason=reason)
