"""Weights of matmuls in 12 bits an element, where a few rows wait for memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.cost import most_bytes
from tilewright.dsl.dims import bounds, product
from tilewright.dsl.dtypes import bf16
from tilewright.dsl.encoding import SHORT, Encoding
from tilewright.dsl.graph import Node
from tilewright.dsl.program import Program
from tilewright.dsl.types import TensorType
from tilewright.passes.base import PassContext, Refusal, Stage
from tilewright.passes.claim import Approximates, Claim
from tilewright.passes.encode_weights import EncodeWeights, Readers, Weight
from tilewright.passes.prepare_params import PrepareParams

# The largest magnitude of a row, at least 2**e, has the largest exponent code; so elements from
# 2**(e - 14) on keep their eight bits. Those below are multiples of 2**(e - 21), and rounding to
# one errs by half of that at most.
BOUND = 2.0**-22


@dataclass(frozen=True, slots=True)
class ShortenWeights(EncodeWeights):
    """matmul(x, w) -> matmul(x, decode(encode(w, 12 bits an element)))

    for the matrices that `EncodeWeights` describes, and those that rows are gathered from besides,
    if they are bf16 with an even number of columns, the backend streams them faster so
    (`streams_short`), some graph may multiply them by `few` rows or less, and all such matrices of
    the program together take `least` bytes or more.

    Proved of w: an element within 14 binades of the largest of its row stays as it is, and no other
    moves by more than 2**-22 of the largest magnitude in its row. The real error of each matrix,
    0.0 for most, is measured when it is stored, and stands in the manifest.

    Choice `shorten_weights:<path>`: e4m7 | dense.
    """

    name: ClassVar[str] = "shorten_weights"
    stage: ClassVar[Stage] = "layout"
    preserves: ClassVar[Claim] = Approximates("relative_max", BOUND, "proved")
    option: ClassVar[str] = "e4m7"
    gathered: ClassVar[bool] = True

    # Less than this may stay in the last level of the cache, of 32 MiB for a group of cores on many
    # machines, from one call to the next; there unpacking costs more than reading.
    least: int = 64 << 20
    # Beyond, a product takes longer than reading its weights.
    few: int = 8

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Every graph rewritten, and the codes made parameters."""
        if ctx.backend is None:
            return program
        found = EncodeWeights.run(self, program, ctx)
        return program if found is program else PrepareParams().run(found, ctx)

    def encoding(self, weight: TensorType) -> Encoding | Refusal:
        """12 bits for bf16 in pairs."""
        columns = weight.shape[1]
        if weight.dtype != bf16:
            return Refusal(f"it is {weight.dtype}, and 12 bits hold bf16")
        if not isinstance(columns, int) or columns % 2:
            return Refusal(f"its rows of {columns} elements do not come in pairs")
        return SHORT

    def refusal(self, weight: Weight, readers: Readers, ctx: PassContext) -> Refusal | None:
        """Why shorter weights would not be read faster."""
        type_, products = readers.types[weight], readers.products[weight]
        encoding = self.encoding(type_)
        if isinstance(encoding, Refusal):
            return encoding
        if ctx.backend is None or not ctx.backend.streams_short(type_):
            return Refusal("the backend reads it as it is")
        least = min(map(_fewest_rows, products))
        if least > self.few:
            return Refusal(f"it meets {least} rows or more, and reading it is not the bound")
        total = sum(most_bytes(t) for t in readers.types.values() if t.dtype == bf16)
        if total < self.least:
            return Refusal(f"{total:,} bytes of weights stay in the cache between calls")
        return None


def _fewest_rows(node: Node) -> int:
    return bounds(product(node.result.tensor.shape[:-1]))[0]
