"""Rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.dsl.attrs import Attrs
from tilewright.dsl.builder import active
from tilewright.dsl.composite import Composite
from tilewright.dsl.cost import Cost, nbytes
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f32, i32, i64
from tilewright.dsl.encoding import IntFormat, Quantized
from tilewright.dsl.errors import DTypeError, RankError
from tilewright.dsl.op import Sample, error, register, sample
from tilewright.dsl.ops.index import gather
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType, Type

_N = dim("n", 1, 64)


@register
class Embedding(Composite):
    """The rows of `table` [rows, columns] that `ids` name."""

    name = "embedding"
    operands = ("table", "ids")
    takes_encoded = True

    def check(self, xs: Sequence[TensorType], a: Attrs) -> None:
        if xs[0].rank != 2:
            raise RankError(f"embedding: a table is [rows, columns], got rank {xs[0].rank}")

    def body(self, *xs: Tensor, a: Attrs) -> Tensor:
        table, ids = xs
        return gather(table, ids, axis=0)

    def cost(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Cost:
        """Of the table only the rows that are named are read."""
        return Cost(0, xs[1].nbytes + nbytes(out), nbytes(out))

    def samples(self) -> Sequence[Sample]:
        fills = ("normal", "index")
        encoded = f32[10, 4].with_encoding(Quantized(IntFormat(8), axis=1))
        return [
            sample(f32[10, 4], i32[2, 3], fills=fills, below=10),
            sample(bf16[7, 4], i64[_N], fills=fills, below=7),
            sample(encoded, i32[3], fills=fills, below=10),
            error(RankError, f32[10], i32[3]),
            error(DTypeError, f32[10, 4], f32[3]),
        ]


def embedding(table: Tensor, ids: Tensor) -> Tensor:
    """The rows of `table` that `ids` name."""
    return active().tensor("embedding", table, ids)
