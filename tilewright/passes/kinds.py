"""How fusion and kernels see each primitive operation, and the loop that a region is."""

from __future__ import annotations

from typing import Literal

from tilewright.dsl.dims import bounds, product
from tilewright.dsl.graph import Graph, Node
from tilewright.dsl.op import get
from tilewright.dsl.ops.elementwise import Elementwise
from tilewright.dsl.types import Shape

Kind = Literal[
    "elementwise",
    "leaf",
    "movement",
    "alias",
    "decode",
    "reduce",
    "row",
    "gather",
    "matmul",
    "grouped",
    "attention",
    "scatter",
    "join",
    "host",
    "scan",
    "alone",
]

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("full", "iota", "constant", "random_bits"), "leaf"),
    **dict.fromkeys(("slice", "permute_dims", "broadcast_to", "concat", "pad", "view"), "movement"),
    **dict.fromkeys(("sum", "max", "min", "argmax"), "reduce"),
    **dict.fromkeys(("cumsum", "topk"), "row"),
    **dict.fromkeys(("reshape", "row", "part"), "alias"),
    "decode": "decode",
    "gather": "gather",
    "matmul": "matmul",
    "grouped_matmul": "grouped",
    "attention": "attention",
    "scatter_add": "scatter",
    "copy": "elementwise",
    "scan": "scan",
    **dict.fromkeys(("bundle", "stack"), "join"),
    **dict.fromkeys(("eigh", "qr"), "host"),
}


def kind_of(op: str) -> Kind:
    """The kind of an operation; everything unknown stands alone as its own region or step."""
    found = _KINDS.get(op)
    if found is not None:
        return found
    return "elementwise" if isinstance(get(op), Elementwise) else "alone"


def is_row_reduction(node: Node) -> bool:
    """True for a reduction along the last axis."""
    if kind_of(node.op) != "reduce":
        return False
    rank = node.operands[0].tensor.rank
    return node.attrs.int("axis") % rank == rank - 1


def loop_space(body: Graph) -> Shape:
    """A loop region's index space: what row reductions run over, else the largest result."""
    for node in body.nodes:
        if is_row_reduction(node):
            return node.operands[0].tensor.shape
    shapes = [o.value.tensor.shape for o in body.outputs]
    return max(shapes, key=lambda s: (bounds(product(s))[1], len(s)))
