"""The TVM backend for CPUs: which regions it takes, and how each family is lowered."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.codegen.space import Point, Space, shape_class
from tilewright.codegen.tvm.attention_family import lower_attention, refused_attention
from tilewright.codegen.tvm.attention_schedule import AttentionSchedule
from tilewright.codegen.tvm.family import (
    Entries,
    Schedule,
    body_of,
    family_of,
    schedule_of,
    schedule_table,
    space_around,
)
from tilewright.codegen.tvm.loop_family import lower_loop
from tilewright.codegen.tvm.loop_schedule import LoopSchedule
from tilewright.codegen.tvm.matmul_family import (
    lower_batched,
    lower_grouped,
    lower_packed,
    lower_table,
    panel_dtype,
)
from tilewright.codegen.tvm.matmul_schedule import (
    MatmulSchedule,
    TableSchedule,
    default_schedule,
)
from tilewright.codegen.tvm.pull_decode import decodes
from tilewright.codegen.tvm.region import RULES, LoweredRegion
from tilewright.codegen.tvm.row_family import ROW_OPS, lower_rows
from tilewright.codegen.tvm.state_family import lower_append
from tilewright.codegen.tvm.vector import PAIRED
from tilewright.dsl.dtypes import bf16, f64
from tilewright.dsl.encoding import Tiled
from tilewright.dsl.errors import InvalidSchedule
from tilewright.dsl.graph import Graph, Node
from tilewright.dsl.types import CacheType, TensorType, Type
from tilewright.passes.base import Refusal
from tilewright.target.cpu import CpuIsa

REGIONS = frozenset({"fused", "attention", "append"})
ANCHORS = frozenset({"matmul", "grouped_matmul", "attention"}) | ROW_OPS
FLOATS = frozenset({"f32", "bf16", "f16"})


@dataclass(frozen=True, slots=True)
class TvmBackend:
    """Lowers regions for one instruction set."""

    isa: CpuIsa
    name: str = "tvm"

    def accepts(self, region: Node) -> Refusal | None:
        """None where a kernel exists for the region."""
        body = body_of(region)
        for type_ in _types(body):
            reason = _refused_type(type_)
            if reason is not None:
                return Refusal(reason)
        if region.op == "append":
            return _refused_append(region)
        for node in body.nodes:
            if node.op not in RULES and node.op not in ANCHORS:
                return Refusal(f"there is no kernel for {node.op}")
        if any(node.op == "attention" for node in body.nodes):
            reason = refused_attention(body)
            return None if reason is None else Refusal(reason)
        return None

    def weight_tiles(self, weight: TensorType) -> Tiled | None:
        """Tiles of the default schedule's width; None for what is not streamed in tiles."""
        n, k = weight.shape
        dtype = panel_dtype(weight, weight.encoding)
        if dtype is None:
            return None
        if not isinstance(n, int) or not isinstance(k, int):
            return None
        schedule = default_schedule(n, k, dtype, self.isa)
        return Tiled(schedule.nv * self.isa.lanes_f32, 2 if dtype in PAIRED else 1)

    def streams_short(self, weight: TensorType) -> bool:
        """True where FMA reads bf16: the instructions that take it as it is want all 16 bits."""
        n, k = weight.shape
        if not isinstance(n, int) or not isinstance(k, int) or weight.dtype != bf16:
            return False
        return default_schedule(n, k, "bf16", self.isa).instruction == "fma"

    def lower(self, name: str, region: Node, schedule: Schedule | None = None) -> LoweredRegion:
        """The kernel of an accepted region, by a schedule of its family or the default.

        Raises InvalidSchedule for a schedule of another family, or that does not fit.
        """
        body, family, isa = body_of(region), family_of(region), self.isa
        entries = self.table(region)
        chosen = schedule if schedule is not None or not entries else entries[-1][1]
        match family, chosen:
            case "append", None:
                return lower_append(name, region, body, isa)
            case "attention", AttentionSchedule():
                return lower_attention(name, region, body, isa, chosen)
            case "tiled", MatmulSchedule():
                return lower_packed(name, region, body, isa, chosen)
            case "table", TableSchedule():
                return lower_table(name, region, body, isa, chosen)
            case "table" | "batched", MatmulSchedule():
                return lower_batched(name, region, body, isa, chosen)
            case "grouped", MatmulSchedule():
                return lower_grouped(name, region, body, isa, chosen)
            case "lines", None:
                return lower_rows(name, region, body, isa)
            case "loop", LoopSchedule():
                return lower_loop(name, region, body, isa, chosen)
            case _:
                raise InvalidSchedule(f"{chosen} is no schedule of the family {family}", where=name)

    def table(self, region: Node) -> Entries:
        """The schedule table of a region: up to so many rows, this schedule.

        The last entry has no limit. What can be decided from the rows' bounds is decided here.
        Empty where a family has nothing to choose.
        """
        return schedule_table(region, self.isa)

    def spaces(self, region: Node) -> dict[str, Space]:
        """What is open to a tuner: a space for each entry of the region's schedule table.

        Nothing for nodes that are no regions of this backend.
        """
        if region.op not in REGIONS or self.accepts(region) is not None:
            return {}
        found = {shape_class(n): space_around(region, s, self.isa) for n, s in self.table(region)}
        return {shapes: space for shapes, space in found.items() if space.size > 1}

    def at(self, region: Node, point: Point) -> Schedule:
        """The schedule that a legal point of one of the region's spaces stands for."""
        return schedule_of(region, point, self.isa)


def _types(body: Graph) -> list[Type]:
    found = [entry.value.type for entry in body.inputs]
    found.extend(r.type for node in body.nodes for r in node.results)
    return found


def _refused_type(type_: Type) -> str | None:
    if isinstance(type_, CacheType):
        return None if type_.part.is_dense else f"caches stored as {type_.encoding} have no kernel"
    if type_.dtype == f64 or (type_.dtype.is_float and type_.dtype.name not in FLOATS):
        return f"there is no {type_.dtype} arithmetic"
    return None if decodes(type_.encoding) else f"values stored as {type_.encoding} have no decoder"


def _refused_append(region: Node) -> Refusal | None:
    cache = region.operands[0].cache
    if not cache.part.is_dense:
        return Refusal(f"caches stored as {cache.encoding} have no kernel")
    return None
