"""Weights of matmuls as int8 codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.encoding import Encoding, IntFormat, Quantized
from tilewright.dsl.types import TensorType
from tilewright.passes.base import Refusal, Stage
from tilewright.passes.claim import Approximates, Claim
from tilewright.passes.encode_weights import EncodeWeights

INT8 = Quantized(IntFormat(8), axis=1)
"""Symmetric codes, one scale for each row (output channel)."""

# A row with the largest magnitude m has the scale m / 127, and rounding to a code errs by half of
# that at most; the rest is for the rounding of the scale to f32.
BOUND = 0.5 / 127 * (1 + 2**-20)


@dataclass(frozen=True, slots=True)
class QuantizeWeights(EncodeWeights):
    """matmul(x, w) -> matmul(x, decode(encode(w, int8 per output channel)))

    for the matrices that `EncodeWeights` describes. Proved of w: no element moves by more than
    1/254 of the largest magnitude in its row. The real error of each matrix is measured when it is
    stored, and stands in the manifest.

    Choice `quantize_weights:<path>`: int8 | dense.
    """

    name: ClassVar[str] = "quantize_weights"
    stage: ClassVar[Stage] = "semantic"
    preserves: ClassVar[Claim] = Approximates("relative_max", BOUND, "proved")
    option: ClassVar[str] = "int8"

    def encoding(self, weight: TensorType) -> Encoding | Refusal:
        """Int8 codes fit any matrix."""
        return INT8
