"""The instrumented executor: it counts FLOPs by the arrays that pass while a graph is evaluated.

Nothing here asks an operation what it costs. Each has a price for every element that it makes (or,
of reductions, reads); a product of matrices is counted by the shapes of its three arrays. Composite
operations have no price: their bodies run, and are counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from tilewright.dsl.composite import Composite
from tilewright.dsl.graph import Graph, Node, substitute_graph
from tilewright.dsl.meaning import Evaluation, run
from tilewright.dsl.op import get

_ONE = (
    "abs add div equal floordiv less less_equal logical_and logical_not logical_or maximum minimum "
    "mod mul neg not_equal sub where"
).split()
_FREE = (
    "all_gather all_to_all append broadcast broadcast_to cache_gather cast concat constant copy "
    "fork full gather iota pad part permute permute_dims reshape rollback row send shard_slice "
    "slice stack view"
).split()
MADE: Mapping[str, int] = {
    **dict.fromkeys(_ONE, 1),
    **dict.fromkeys(_FREE, 0),
    **dict.fromkeys(("cos", "exp", "log", "sigmoid", "sin", "tanh"), 10),
    "clamp": 2,
    "erf": 15,
    "pow": 20,
    "random_bits": 20,
    "rsqrt": 5,
    "sqrt": 4,
}
"""FLOPs for each element of the result."""
READ = frozenset("all_reduce argmax cumsum max min reduce reduce_scatter sum".split())
"""One FLOP for each element of the operand."""
OTHERS = frozenset(
    {"decode", "eigh", "encode", "grouped_matmul", "matmul", "qr", "scatter_add", "topk"}
)


@dataclass(frozen=True)
class Counting(Evaluation):
    """An evaluation that keeps a tally of FLOPs by operation."""

    tally: Counter[str] = field(default_factory=Counter[str])

    def node(self, node: Node, operands: Sequence[Any]) -> list[Any]:
        results = super().node(node, operands)
        if not isinstance(get(node.op), Composite):
            self.tally[node.op] += _count(node, operands, results)
        return results


def counted(graph: Graph, inputs: Mapping[str, Any], env: Mapping[str, int]) -> Counter[str]:
    """FLOPs of each operation when the graph runs on these inputs."""
    how = Counting(checked=False)
    run(substitute_graph(graph, env), inputs, how)
    return how.tally


def _count(node: Node, xs: Sequence[Any], made: Sequence[Any]) -> int:
    op = node.op
    if op in MADE:
        return MADE[op] * _size(made[0]) if MADE[op] else 0
    if op in READ:
        return _size(xs[0])
    match op:
        case "matmul":
            inner = xs[0].shape[-2 if node.attrs.bool("transpose_a") else -1]
            return 2 * _size(made[0]) * inner  # a multiply-add is two
        case "grouped_matmul":
            return 2 * _size(xs[0]) * made[0].shape[-1]  # of all rows, whatever the counts
        case "eigh":
            return 9 * _size(xs[0]) * xs[0].shape[-1]
        case "qr":
            *batch, rows, columns = xs[0].shape
            return 4 * math.prod(batch) * columns**2 * (rows - columns // 3)
        case "scatter_add":
            return _size(xs[2])
        case "topk":
            return _size(xs[0]) * len(f"{made[0].shape[_axis(node)]:b}")  # a heap of k
        case "encode":
            return _size(xs[0]) * (4 + 4 * _ranks(made[0]))
        case "decode":
            return _size(made[0]) * (2 + 2 * _ranks(xs[0]))
        case _:
            raise AssertionError(f"the executor has no price for {op}")


def _axis(node: Node) -> int:
    return node.attrs.int("axis")


def _size(x: Any) -> int:
    return int(np.asarray(x).size)


def _ranks(stored: Any) -> int:
    """The inner dimension of all low-rank factors among the components."""
    parts = cast("Mapping[str, Any]", stored)
    return sum(part.shape[-1] for name, part in parts.items() if name.endswith("left"))
