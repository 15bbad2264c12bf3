"""An all-reduce in its two halves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.dims import quotient
from tilewright.dsl.graph import Node
from tilewright.dsl.ident import Ident
from tilewright.dsl.placement import Mesh
from tilewright.dsl.types import TensorType
from tilewright.passes.base import PassContext, Refusal, Rewrite, Stage
from tilewright.passes.claim import REASSOCIATES, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.sweep import LocalPass

ANY_DIM = -1


@dataclass(frozen=True, slots=True)
class SplitAllReduce(LocalPass):
    """y = all_reduce(x) -> s = reduce_scatter(x, dim); y = all_gather(s, dim)

    if the ranks divide dimension `dim` of x (by default the first that they divide). Every element
    is the same reduction of the same terms; Reassociates, because a library may reduce the parts of
    a message in different orders. As many bytes go over the wire; but elementwise work between the
    halves is done once, not once a rank (`reorder_all_gather`). The plan decides by
    `split_all_reduce:<graph>.<y>`, with options `keep` and `split`.
    """

    dim: int = ANY_DIM

    name: ClassVar[str] = "split_all_reduce"
    stage: ClassVar[Stage] = "semantic"
    preserves: ClassVar[Claim] = REASSOCIATES

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | Refusal | None:
        found = self.at(node, editor)
        if not isinstance(found, Rewrite):
            return found
        choice = f"{self.name}:{editor.graph.name}.{node.result.name}"
        if ctx.choose(choice, ("keep", "split"), "keep") == "keep":
            return Refusal("the plan keeps it whole")
        return found

    def at(self, node: Node, editor: Editor) -> Rewrite | Refusal | None:
        """The rewrite of one node, whatever the plan says; None where it is no all-reduce."""
        if node.op != "all_reduce" or node.attrs.int("size"):
            return None
        (x,) = node.operands
        axis = Ident(node.attrs.str("axis"))
        dim = _divided(x.tensor, axis, self.dim, editor.mesh)
        if isinstance(dim, Refusal):
            return dim
        moved = {"axis": axis, "dim": dim}
        reduced = {**moved, "reduction": node.attrs.str("reduction")}
        part = editor.node("reduce_scatter", x, like=node.result, attrs=reduced)
        whole = editor.defining("all_gather", part.result, result=node.result, attrs=moved)
        return Rewrite((node,), (part, whole), reason=f"in halves along dimension {dim}")


def _divided(x: TensorType, axis: Ident, wanted: int, mesh: Mesh) -> int | Refusal:
    """The dimension to cut, or why none can be."""
    if wanted >= x.rank or wanted < ANY_DIM:
        return Refusal(f"{x} has no dimension {wanted}")
    for dim in range(x.rank) if wanted == ANY_DIM else (wanted,):
        parts = mesh.size(axis)
        for other in x.placement.sharding(dim):
            parts *= mesh.size(other)
        if quotient(x.shape[dim], parts) is not None:
            return dim
    which = "no dimension" if wanted == ANY_DIM else f"not dimension {wanted}"
    return Refusal(f"the {mesh.size(axis)} ranks of mesh axis {axis} divide {which} of {x}")
