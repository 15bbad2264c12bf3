"""What work and messages cost, as far as the choice of placements asks.

Seconds from five rates. They rank placements; they are no prediction of a schedule's time, which
also knows what runs meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tilewright.dsl.dims import bounds
from tilewright.dsl.graph import Node
from tilewright.dsl.op import get
from tilewright.dsl.placement import Mesh, Shard
from tilewright.dsl.types import TensorType, Type
from tilewright.target.spec import Target

_STEPS: Final = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "all_to_all": 1}
"""How often every rank sends its n-th part to all others."""
_STORED: Final = 1e-6
"""What a stored byte costs over one that is read: enough to decide between equals."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Rates of one rank: operations and bytes of memory a second, bytes a second on its link, and
    seconds before a message's first byte.
    """

    flops: float
    memory: float
    link: float
    latency: float

    def work(self, node: Node, mesh: Mesh, axis: str) -> float:
        """Seconds of a node on one rank that does all the work there is on `axis`."""
        types = [o.type for o in node.operands]
        out = [r.type for r in node.results]
        cost = get(node.op).cost(types, node.attrs, out)
        flops, moved = bounds(cost.flops)[1], bounds(cost.bytes)[1]
        share = 1
        for name, size in mesh.axes:
            if name != axis and any(_is_cut(type_, name) for type_ in (*types, *out)):
                share *= size
        return max(flops / self.flops, moved / self.memory) / share

    def move(self, collective: str, type_: TensorType, mesh: Mesh, axis: str) -> float:
        """Seconds of a collective that begins or ends with the whole value along `axis`."""
        ranks, size = mesh.size(axis), self._local_bytes(type_, mesh, axis)
        if not collective or ranks == 1:
            return 0.0
        if collective == "shard_slice":
            return size / ranks / self.memory
        part = size / ranks / (ranks if collective == "all_to_all" else 1)
        return _STEPS[collective] * (ranks - 1) * (self.latency + part / self.link)

    def store(self, type_: TensorType, mesh: Mesh, axis: str, *, cut: bool) -> float:
        """A preference, in seconds, for storing less."""
        ranks = mesh.size(axis) if cut else 1
        return _STORED * self._local_bytes(type_, mesh, axis) / ranks / self.memory

    def agree(self, type_: TensorType, mesh: Mesh, axis: str) -> float:
        """What it costs to keep copies of a parameter alike: an all-reduce of its gradient."""
        return self.move("all_reduce", type_, mesh, axis)

    def _local_bytes(self, type_: TensorType, mesh: Mesh, axis: str) -> float:
        share = 1
        for name, size in mesh.axes:
            if name != axis and _is_cut(type_, name):
                share *= size
        return bounds(type_.nbytes)[1] / share


def _is_cut(type_: Type, axis: str) -> bool:
    return isinstance(type_, TensorType) and isinstance(type_.placement.on(axis), Shard)


_CPU = Prices(flops=5e11, memory=5e10, link=1.25e9, latency=5e-5)
"""A server's socket and 10 Gbit/s Ethernet."""
_GPU = Prices(flops=5e14, memory=2.5e12, link=2e11, latency=5e-6)
"""Of the order of an H100 and its links."""


def prices_of(target: Target) -> Prices:
    """Rates of the order of a target's."""
    return _CPU if target.kind == "cpu" else _GPU
