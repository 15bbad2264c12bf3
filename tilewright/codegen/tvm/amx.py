"""Tiles of bf16 products with Intel's AMX: 16 x 16 sums over 32 bf16 in one instruction.

The tile registers are written by number, so LLVM has nothing to allocate: tiles 0 to 3 hold the
32 x 32 sums, 4 and 5 the rows, 6 and 7 the columns. All tiles have 16 rows of 64 bytes. The process
must have asked for the tiles (`runtime.native.request_amx`) before such code runs.
"""

from __future__ import annotations

from typing import Final

from tvm import tirx

from tilewright.codegen.tvm.emit import Index, KernelBuilder, Pointer, i32, i64
from tilewright.codegen.tvm.matmul_schedule import TILE, TILE_K

# Palette 1; bytes per row of tile t at 16 + 2t, its rows at 48 + t.
_CONFIGURE: Final = """
declare void @llvm.x86.ldtilecfg(ptr)
define i32 @tw_amx_configure() {
  %c = alloca [64 x i8], align 64
  store <64 x i8> zeroinitializer, ptr %c, align 64
  store i8 1, ptr %c, align 64
  %w = getelementptr i8, ptr %c, i64 16
  store <8 x i16> splat (i16 64), ptr %w, align 16
  %r = getelementptr i8, ptr %c, i64 48
  store <8 x i8> splat (i8 16), ptr %r, align 16
  call void @llvm.x86.ldtilecfg(ptr %c)
  ret i32 0
}
"""
_RELEASE: Final = """
declare void @llvm.x86.tilerelease()
define i32 @tw_amx_release() {
  call void @llvm.x86.tilerelease()
  ret i32 0
}
"""
_DECLARATIONS: Final = """
declare void @llvm.x86.tilezero(i8)
declare void @llvm.x86.tileloadd64(i8, ptr, i64)
declare void @llvm.x86.tilestored64(i8, ptr, i64)
declare void @llvm.x86.tdpbf16ps(i8, i8, i8)
"""


def _load(tile: int, address: str, stride: str) -> str:
    return f"  call void @llvm.x86.tileloadd64(i8 {tile}, ptr {address}, i64 {stride})\n"


def _sums_ir(rows: int) -> str:
    """@tw_amx_sums_<rows>: `rows` (16 or 32) x 32 sums over `steps` steps of 32 bf16."""
    halves = rows // TILE
    # Sum tile 2h + v: rows of half h, columns of vector v.
    places = [(2 * h + v, f"%c{h}{v}") for h in range(halves) for v in range(2)]
    text = _DECLARATIONS + (
        f"define i32 @tw_amx_sums_{rows}(ptr %a, i64 %as, ptr %b, ptr %c, "
        "i64 %steps, i32 %add) {\n"
        "entry:\n"
        "  %half = mul i64 %as, 16\n"
        "  %c00 = getelementptr i8, ptr %c, i64 0\n"
        "  %c01 = getelementptr i8, ptr %c, i64 64\n"
        "  %c10 = getelementptr i8, ptr %c, i64 2048\n"
        "  %c11 = getelementptr i8, ptr %c, i64 2112\n"
        "  %resume = icmp ne i32 %add, 0\n"
        "  br i1 %resume, label %load, label %clear\n"
        "load:\n"
    )
    text += "".join(_load(tile, place, "128") for tile, place in places)
    text += "  br label %head\nclear:\n"
    text += "".join(f"  call void @llvm.x86.tilezero(i8 {tile})\n" for tile, _ in places)
    text += (
        "  br label %head\n"
        "head:\n"
        "  %i = phi i64 [0, %load], [0, %clear], [%next, %body]\n"
        "  %more = icmp slt i64 %i, %steps\n"
        "  br i1 %more, label %body, label %done\n"
        "body:\n"
        "  %ao = mul i64 %i, 64\n"
        "  %a0 = getelementptr i8, ptr %a, i64 %ao\n"
        "  %a1 = getelementptr i8, ptr %a0, i64 %half\n"
        "  %bo = mul i64 %i, 2048\n"
        "  %b0 = getelementptr i8, ptr %b, i64 %bo\n"
        "  %b1 = getelementptr i8, ptr %b0, i64 64\n"
    )
    text += _load(6, "%b0", "128") + _load(4, "%a0", "%as") + _load(7, "%b1", "128")
    text += _load(5, "%a1", "%as") if halves == 2 else ""
    text += "".join(
        f"  call void @llvm.x86.tdpbf16ps(i8 {2 * h + v}, i8 {4 + h}, i8 {6 + v})\n"
        for h in range(halves)
        for v in range(2)
    )
    text += "  %next = add i64 %i, 1\n  br label %head\ndone:\n"
    text += "".join(
        f"  call void @llvm.x86.tilestored64(i8 {tile}, ptr {place}, i64 128)\n"
        for tile, place in places
    )
    return text + "  ret i32 0\n}\n"


def configure(kernel: KernelBuilder) -> None:
    """Give all tiles their full size; before the first tile instruction on a thread."""
    kernel.import_ir(_CONFIGURE)
    kernel.run(tirx.call_extern("int32", "tw_amx_configure"))


def release(kernel: KernelBuilder) -> None:
    """Hand the tiles back, so that the system need not save them when it switches threads."""
    kernel.import_ir(_RELEASE)
    kernel.run(tirx.call_extern("int32", "tw_amx_release"))


def tile_sums(
    kernel: KernelBuilder,
    left: Pointer,
    stride: int,
    panel: Pointer,
    sums: Pointer,
    k0: Index,
    k1: Index,
    rows: int,
    resume: bool,
) -> None:
    """sums[rows, 32] (+)= left[rows, k0:k1] @ panel[k0:k1, 32]; rows is 16 or 32.

    `left` and `panel` hold bf16; `stride` is that of `left`, in elements; k0 and k1 are multiples
    of 32, and all `rows` rows of `left` must be readable.
    """
    kernel.import_ir(_sums_ir(rows))
    columns = 2 * TILE
    steps = tirx.truncdiv(i64(k1) - i64(k0), i64(TILE_K))
    kernel.run(
        tirx.call_extern(
            "int32",
            f"tw_amx_sums_{rows}",
            left.address(k0),
            i64(2 * stride),
            panel.address(k0 * columns),
            sums.address(),
            steps,
            i32(int(resume)),
        )
    )
