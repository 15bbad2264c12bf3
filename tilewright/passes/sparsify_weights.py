"""Weights of matmuls with two non-zeros in every four."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.dims import known_divides
from tilewright.dsl.encoding import NM, Encoding, Sparse
from tilewright.dsl.types import TensorType
from tilewright.passes.base import Refusal, Stage
from tilewright.passes.claim import Approximates, Claim
from tilewright.passes.encode_weights import EncodeWeights

TWO_OF_FOUR = Sparse(NM(2, 4), axis=1)
"""Along the reduced axis, as sparse matrix units have it."""

# The two elements that are dropped are the smaller ones, so they hold at most half of the squares
# of their group; the rest is for rounding in the comparison.
BOUND = 0.5**0.5 * (1 + 2**-20)


@dataclass(frozen=True, slots=True)
class SparsifyWeights(EncodeWeights):
    """matmul(x, w) -> matmul(x, decode(encode(w, 2:4))), keeping the larger two of every four

    for the matrices that `EncodeWeights` describes, with whole groups of four along k. Proved of w:
    the relative error in the L2 norm is at most sqrt(1/2), and 0 where w has the pattern already.
    The real error of each matrix is measured when it is stored, and stands in the manifest.

    Choice `sparsify_weights:<path>`: 2:4 | dense.
    """

    name: ClassVar[str] = "sparsify_weights"
    stage: ClassVar[Stage] = "semantic"
    preserves: ClassVar[Claim] = Approximates("relative_l2", BOUND, "proved")
    option: ClassVar[str] = "2:4"

    def encoding(self, weight: TensorType) -> Encoding | Refusal:
        """2:4, or why there are no groups of four."""
        k = weight.shape[1]
        return TWO_OF_FOUR if known_divides(4, k) else Refusal(f"4 does not divide k = {k}")
