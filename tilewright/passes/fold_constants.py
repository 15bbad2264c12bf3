"""What depends on literals alone is computed while compiling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tilewright.dsl.attrs import Attr, Data
from tilewright.dsl.dims import DimExpr
from tilewright.dsl.dtypes import DType
from tilewright.dsl.graph import Graph, Node, Output, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.op import checked_attrs, get
from tilewright.dsl.ops.elementwise import Elementwise
from tilewright.dsl.ops.movement import Movement
from tilewright.dsl.types import TensorType
from tilewright.passes.base import PassContext, Rewrite, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.match import Match
from tilewright.passes.sweep import LocalPass

_MOVES_ONE_NUMBER = ("broadcast_to", "permute_dims", "reshape", "slice")


@dataclass(frozen=True, slots=True)
class FoldConstants(LocalPass):
    """Elementwise operations and movement of literals give a literal.

        f(full(a), full(b)) -> full(f(a, b))            for any shapes, symbolic ones too
        f(constant, full, iota, ...) -> constant        or full, where all elements are equal

    if the operands and the result of the second form take at most `max_bytes` each. With
    `iota=false` nothing that counts is folded, so that masks built from positions stay
    recognisable.
    """

    max_bytes: int = 4096
    iota: bool = True

    name: ClassVar[str] = "fold_constants"
    stage: ClassVar[Stage] = "canonical"
    preserves: ClassVar[Claim] = EXACT
    cleans_up: ClassVar[bool] = True

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | None:
        op = get(node.op)
        foldable = isinstance(op, Elementwise | Movement) and node.op != "copy"
        if not foldable or not all(isinstance(v.type, TensorType) for v in node.operands):
            return None
        literals = ("full", "constant", "iota") if self.iota else ("full", "constant")
        match = Match(editor)
        sources = [match.take(operand, *literals) for operand in node.operands]
        known = [source for source in sources if source is not None]
        if not known or len(known) < len(sources):
            return None
        attrs = _one_number(node, known) or self._elements(node, known)
        if attrs is None:
            return None
        kind = "full" if "value" in attrs else "constant"
        made = editor.try_defining(kind, result=node.result, attrs=attrs)
        return None if made is None else match.rewrite(node, (made,), f"{node.op} of literals")

    def _elements(self, node: Node, sources: Sequence[Node]) -> dict[str, Attr] | None:
        values = [*(source.result for source in sources), node.result]
        if not all(self._is_small(value) for value in values):
            return None
        if any(_holds_symbol(source) for source in sources):
            return None
        found = _computed(sources, node)
        raw = np.ascontiguousarray(found).tobytes()
        dtype = node.result.tensor.dtype
        first = raw[: found.itemsize]
        if found.size and raw == first * found.size:
            return _full(node.result, dtype, found.reshape(-1)[0])
        return {"data": Data(raw), "shape": found.shape, "dtype": dtype}

    def _is_small(self, value: Value) -> bool:
        type_ = value.tensor
        size = type_.nbytes
        static = all(isinstance(d, int) for d in type_.shape)
        return type_.is_dense and static and isinstance(size, int) and size <= self.max_bytes


def _one_number(node: Node, sources: Sequence[Node]) -> dict[str, Attr] | None:
    """The result where every operand is one number repeated: shapes play no part."""
    if any(source.op != "full" or isinstance(source.attrs["value"], DimExpr) for source in sources):
        return None
    dtype = node.result.tensor.dtype
    if node.op in _MOVES_ONE_NUMBER:
        return {**sources[0].attrs, "shape": node.result.tensor.shape}
    if not isinstance(get(node.op), Elementwise):
        return None
    scalars = [_as_scalar(source, index) for index, source in enumerate(sources)]
    result = Value(Ident("result"), dtype[()])
    operands = tuple(scalar.result for scalar in scalars)
    return _full(
        node.result, dtype, _computed(scalars, Node(node.op, operands, (result,), node.attrs))[()]
    )


def _as_scalar(full: Node, index: int) -> Node:
    attrs = checked_attrs(get("full"), {**full.attrs, "shape": ()})
    return Node("full", (), (Value(Ident(f"x{index}"), full.result.tensor.dtype[()]),), attrs)


def _computed(sources: Sequence[Node], node: Node) -> np.ndarray[Any, Any]:
    """The faithful value of a node over literals, in the storage of its dtype."""
    nodes = (*dict.fromkeys(sources), node)
    graph = Graph(Ident("literals"), (), nodes, (Output("out", node.result),))
    found = evaluate(graph, {}, symbols={})["out"]
    return np.asarray(found).astype(node.result.tensor.dtype.numpy)


def _full(result: Value, dtype: DType, element: Any) -> dict[str, Attr]:
    value = float(element) if dtype.is_float else element.item()
    return {"shape": result.tensor.shape, "value": value, "dtype": dtype}


def _holds_symbol(source: Node) -> bool:
    name = {"full": "value", "iota": "start"}.get(source.op)
    return name is not None and isinstance(source.attrs[name], DimExpr)
