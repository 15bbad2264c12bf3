"""The Triton backend for GPUs: which regions it takes, and how each family is lowered."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.codegen.triton.kernel import TritonKernel
from tilewright.codegen.triton.loop_family import lower_loop
from tilewright.codegen.triton.matmul_family import lower_matmul
from tilewright.codegen.triton.pull import ARITHMETIC, Unlowered
from tilewright.codegen.triton.schedule import LoopSchedule, MatmulSchedule
from tilewright.dsl.encoding import Tiled
from tilewright.dsl.graph import Graph, Node, extract
from tilewright.dsl.ident import Ident
from tilewright.dsl.types import TensorType, Type
from tilewright.passes.base import Refusal
from tilewright.target.spec import Target

Schedule = LoopSchedule | MatmulSchedule


@dataclass(frozen=True, slots=True)
class TritonBackend:
    """Lowers regions for one GPU architecture."""

    target: Target
    name: str = "triton"

    def accepts(self, region: Node) -> Refusal | None:
        """None where a kernel exists: emitting one is as cheap as asking."""
        try:
            self.lower("region", region)
        except Unlowered as reason:
            return Refusal(str(reason))
        return None

    def weight_tiles(self, weight: TensorType) -> Tiled | None:
        """Weights stay as they are: a matmul reads any of its operands in place."""
        return None

    def streams_short(self, weight: TensorType) -> bool:
        """No kernel here unpacks 12 bits."""
        return False

    def lower(self, name: str, region: Node, schedule: Schedule | None = None) -> TritonKernel:
        """The kernel of an accepted region, by a schedule of its family or the default.

        Raises Unlowered for other regions.
        """
        body = _body(region)
        for type_ in _types(body):
            _require_supported(type_)
        if any(node.op == "matmul" for node in body.nodes):
            tiles = schedule if isinstance(schedule, MatmulSchedule) else None
            return lower_matmul(name, body, self.target, tiles)
        loop = schedule if isinstance(schedule, LoopSchedule) else LoopSchedule()
        return lower_loop(name, body, loop)


def _body(region: Node) -> Graph:
    """The body of a region; a bare node is a body of one."""
    if region.op == "fused":
        return region.attrs.graph("body")
    return extract(Ident("body"), [region], region.results)


def _types(body: Graph) -> list[Type]:
    found = [entry.value.type for entry in body.inputs]
    found.extend(r.type for node in body.nodes for r in node.results)
    return found


def _require_supported(type_: Type) -> None:
    if not isinstance(type_, TensorType):
        raise Unlowered("caches have no kernel")
    if not type_.is_dense:
        raise Unlowered(f"values stored as {type_.encoding} have no decoder")
    if type_.dtype.name not in ARITHMETIC:
        raise Unlowered(f"there is no {type_.dtype} arithmetic")
