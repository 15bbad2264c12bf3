"""What one call of a graph costs: prefill, decode and the like, by what the bytes hold.

Sums over the operations of a graph, or over its regions once it has them. Source of the split:
Yuan et al., "LLM Inference Unveiled: Survey and Roofline Model Insights" (LLM-Viewer), 2024.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tilewright.codegen.region_cost import region_reads, region_work
from tilewright.dsl.cost import nbytes
from tilewright.dsl.dims import Dim
from tilewright.dsl.graph import Graph, Node
from tilewright.dsl.ident import Ident
from tilewright.dsl.types import CacheType
from tilewright.passes.kinds import kind_of

Holds = Literal["weights", "cache", "activations"]


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """FLOPs of one call, and the bytes that it reads and writes, as expressions over the symbols.

    `weights_held` and `cache_held` are what lies in memory all the time: every parameter and every
    state of the graph, the latter at their capacity.
    """

    flops: Dim = 0
    weights: Dim = 0
    cache: Dim = 0
    activations: Dim = 0
    weights_held: Dim = 0
    cache_held: Dim = 0

    @property
    def bytes(self) -> Dim:
        """All traffic."""
        return self.weights + self.cache + self.activations

    def moves(self, what: Holds, size: Dim) -> PhaseCost:
        """The same with `size` more bytes of that kind moved."""
        match what:
            case "weights":
                return replace(self, weights=self.weights + size)
            case "cache":
                return replace(self, cache=self.cache + size)
            case "activations":
                return replace(self, activations=self.activations + size)


def phase_cost(graph: Graph) -> PhaseCost:
    """What one call of a graph costs; whatever is no region yet counts as a region of its own.

    Views cost nothing, nor does what is put together where it is made. A view of a cache is the
    cache.
    """
    found = PhaseCost(
        weights_held=nbytes([entry.value.type for entry in graph.by_role("param")]),
        cache_held=nbytes([entry.value.type for entry in graph.by_role("state")]),
    )
    holds: dict[Ident, Holds] = {entry.value.name: "weights" for entry in graph.by_role("param")}
    holds |= {entry.value.name: "cache" for entry in graph.by_role("state")}
    for node in graph.nodes:
        _follow(node, holds)
        if kind_of(node.op) in ("alias", "join"):
            continue
        flops, written = region_work(node)
        found = replace(found, flops=found.flops + flops)
        for operand, size in region_reads(node):
            found = found.moves(holds.get(operand.name, "activations"), size)
        cached = any(isinstance(result.type, CacheType) for result in node.results)
        found = found.moves("cache" if cached else "activations", written)
    return found


def _follow(node: Node, holds: dict[Ident, Holds]) -> None:
    """Enters what results hold: caches and windows on them, weights and caches in another shape."""
    window = kind_of(node.op) == "alias" or node.op == "view"
    for result in node.results:
        if isinstance(result.type, CacheType):
            holds[result.name] = "cache"
        elif window and node.operands[0].name in holds:
            holds[result.name] = holds[node.operands[0].name]
