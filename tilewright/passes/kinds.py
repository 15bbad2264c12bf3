"""How the fusion passes see each primitive operation."""

from __future__ import annotations

from typing import Literal

from tilewright.dsl.op import get
from tilewright.dsl.ops.elementwise import Elementwise

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
    "attention",
    "scatter",
    "alone",
]

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("full", "iota", "constant", "random_bits"), "leaf"),
    **dict.fromkeys(("slice", "permute_dims", "broadcast_to", "concat", "pad", "view"), "movement"),
    **dict.fromkeys(("sum", "max", "min", "argmax"), "reduce"),
    **dict.fromkeys(("cumsum", "topk"), "row"),
    "reshape": "alias",
    "decode": "decode",
    "gather": "gather",
    "matmul": "matmul",
    "attention": "attention",
    "scatter_add": "scatter",
    "copy": "elementwise",
}


def kind_of(op: str) -> Kind:
    """The kind of an operation; everything unknown stands alone as its own region or step."""
    found = _KINDS.get(op)
    if found is not None:
        return found
    return "elementwise" if isinstance(get(op), Elementwise) else "alone"
