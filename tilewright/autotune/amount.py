"""How much a call of a kernel has to do, by which its sizes are chosen: each family counts its own.

Rows of a matmul whose schedule table goes by rows, operations of what computes, bytes of what only
moves and changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tilewright.autotune.sizes import ROWS
from tilewright.codegen.region_cost import region_cost
from tilewright.dsl.dims import Dim, evaluate, symbols
from tilewright.dsl.graph import Node
from tilewright.dsl.types import Shape

_OPERATIONS = 1 << 26
"""A millisecond of them; of attention in a small encoder, a prompt of 128."""
_ANCHORS = ("attention", "matmul", "grouped_matmul")
_BYTES = 1 << 20
"""What stays in a cache, as the values of a prompt between two kernels do."""


@dataclass(frozen=True, slots=True)
class Amount:
    """`count` grows with the symbols' values, and `timed` of it is a call that is worth timing.

    least: values of the symbols that only repeat the work, which are kept small.
    """

    count: Dim
    timed: int
    least: Mapping[str, int] = field(default_factory=dict[str, int])

    def at(self, sizes: Mapping[str, int]) -> int:
        """How much it is at these sizes."""
        return evaluate(self.count, sizes)


def amount_of(region: Node) -> Amount:
    """The amount of work of a region that the TVM backend lowers."""
    from tilewright.codegen.tvm.family import body_of, family_of, row_count

    family = family_of(region)
    match family:
        case "tiled" | "table":
            return Amount(row_count(region), ROWS)
        case "attention" | "batched" | "grouped":
            (anchor,) = (n for n in body_of(region).nodes if n.op in _ANCHORS)
            shape = anchor.results[0].tensor.shape
            places = 1 if family == "attention" else len(shape) - 2
            least = _least(shape[:places], shape[places:])
            return Amount(region_cost(region).flops, _OPERATIONS, least)
        case _:
            return Amount(region_cost(region).bytes, _BYTES)


def _least(lead: Shape, rest: Shape) -> dict[str, int]:
    """Small values for the symbols that are in the leading sizes alone."""
    repeats, others = ({s for size in sizes for s in symbols(size)} for sizes in (lead, rest))
    return {s.name: s.low or s.multiple_of for s in repeats - others}
