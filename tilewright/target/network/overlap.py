"""A matrix product and a collective in one schedule: is it faster than one after the other?

    fused = peer (ranks - 1) + max(product / compute, wire) + a chunk of the shorter + sums

The longer of the two hides the other but for its first (or last) chunk. A kernel that does both
computes at a share of the rate of the product alone, and moves no more bytes than its loads and
stores reach; a scatter leaves partial sums to add.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tilewright.target.network.matmul import MatmulUnit, matmul_seconds
from tilewright.target.network.model import seconds, wire_seconds
from tilewright.target.network.topology import Cluster

Pattern = Literal["gather_matmul", "matmul_scatter"]


@dataclass(frozen=True, slots=True)
class Overlap:
    """How one implementation overlaps.

    compute: its share of the product's own rate. rate: bytes a second that leave a rank at most.
    peer: seconds that each further rank costs (signals, calls). chunked: the product is cut by
    ranks into products of their own, each of which needs a wave at least.
    """

    compute: float
    rate: float
    peer: float
    chunked: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """A rank's product (m, k) by (k, n) after a gather of (m, k), or before a scatter of (m, n).

    m counts the rows of all ranks; n and k are what is left of them on one rank. `product` is the
    product's time where it is known; `moved` the bytes of a collective beside the product, whose
    size is not the product's.
    """

    pattern: Pattern
    ranks: int
    m: int
    n: int
    k: int
    itemsize: int = 2
    product: float | None = None
    moved: int | None = None

    @property
    def bytes(self) -> int:
        """Of the whole tensor that is gathered, or scattered (sums travel in two bytes)."""
        if self.moved is not None:
            return self.moved
        if self.pattern == "gather_matmul":
            return self.m * self.k * self.itemsize
        return self.m * self.n * 2


def unfused_seconds(pair: Pair, unit: MatmulUnit, cluster: Cluster) -> float:
    """The product and the library's collective, one after the other."""
    op = "all_gather" if pair.pattern == "gather_matmul" else "reduce_scatter"
    return _product(pair, unit, pair.m) + seconds(op, pair.ranks, pair.bytes, cluster)


def fused_seconds(pair: Pair, overlap: Overlap, unit: MatmulUnit, cluster: Cluster) -> float:
    """Both in one schedule. Raises as `seconds` does."""
    ranks = pair.ranks
    parts = ranks if overlap.chunked and pair.product is None else 1
    product = parts * _product(pair, unit, -(-pair.m // parts)) / overlap.compute
    sent = pair.bytes * (ranks - 1) / ranks
    wire = max(
        wire_seconds("all_gather", "all_pairs", cluster, ranks, pair.bytes), sent / overlap.rate
    )
    sums = pair.bytes / unit.memory if pair.pattern == "matmul_scatter" else 0.0
    exposed = min(product, wire) / ranks
    return overlap.peer * (ranks - 1) + max(product, wire) + exposed + sums


def _product(pair: Pair, unit: MatmulUnit, rows: int) -> float:
    if pair.product is not None:
        return pair.product
    return matmul_seconds(unit, rows, pair.n, pair.k, itemsize=pair.itemsize)
