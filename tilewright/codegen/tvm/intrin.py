"""LLVM intrinsics and hand-written LLVM IR behind typed names."""

from __future__ import annotations

from typing import Final

from tvm import tirx

from tilewright.codegen.tvm.emit import Expr, KernelBuilder, lanes_of, type_of, vector_type
from tilewright.target.cpu import CpuIsa


def intrinsic(name: str, result: str, *arguments: Expr) -> Expr:
    """Call a pure LLVM intrinsic by name, such as `llvm.sqrt`, with a TIR result type."""
    return tirx.call_llvm_pure_intrin(result, name, *arguments)


def _same(name: str, x: Expr, *more: Expr) -> Expr:
    return intrinsic(name, vector_type(type_of(x), lanes_of(x)), x, *more)


def sqrt(x: Expr) -> Expr:
    """Correctly rounded square root."""
    return _same("llvm.sqrt", x)


def absolute(x: Expr) -> Expr:
    """|x|; clears the sign of NaN too."""
    return _same("llvm.fabs", x)


def copysign(magnitude: Expr, sign: Expr) -> Expr:
    """`magnitude` with the sign bit of `sign`."""
    return _same("llvm.copysign", magnitude, sign)


def bits(x: Expr) -> Expr:
    """The int32 pattern of an f32 value, lane by lane."""
    return tirx.reinterpret(vector_type("int32", lanes_of(x)), x)


def from_bits(pattern: Expr) -> Expr:
    """The f32 value of an int32 pattern, lane by lane."""
    return tirx.reinterpret(vector_type("float32", lanes_of(pattern)), pattern)


# TVM rewrites any bf16 type that it sees in TIR, so the bf16 instructions are wrapped in functions
# on integers that it does not look into; they are inlined.
_DOT_512: Final = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @tw_bf16_dot(<16 x float> %c, <16 x i32> %a, <16 x i32> %b) {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %c, <32 x bfloat> %x,
                                                           <32 x bfloat> %y)
  ret <16 x float> %r
}
"""
_NARROW_512: Final = """
declare <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float>)
define <16 x i16> @tw_bf16_narrow(<16 x float> %x) {
  %b = call <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float> %x)
  %r = bitcast <16 x bfloat> %b to <16 x i16>
  ret <16 x i16> %r
}
"""


def has_bf16_instructions(isa: CpuIsa, lanes: int) -> bool:
    """Whether `bf16_dot` and `bf16_narrow` exist for vectors of this many f32 lanes."""
    return isa.bf16_dot and isa.machine == "x86_64" and lanes == 16


def bf16_dot(kernel: KernelBuilder, acc: Expr, a: Expr, b: Expr) -> Expr:
    """acc[i] += a[2i] b[2i] + a[2i+1] b[2i+1] (vdpbf16ps); pairs of bf16 as int32 lanes.

    The instruction flushes denormals and rounds its two sums in turn.
    """
    kernel.import_ir(_DOT_512)
    return tirx.call_extern("float32x16", "tw_bf16_dot", acc, a, b)


def bf16_narrow(kernel: KernelBuilder, x: Expr) -> Expr:
    """16 f32 lanes rounded to bf16 bits (uint16), nearest even; denormals become zero."""
    kernel.import_ir(_NARROW_512)
    return tirx.call_extern("uint16x16", "tw_bf16_narrow", x)
