"""Native loops that run one execution unit, or the memory, at full speed; as LLVM IR.

Each probe is `i32 name(i64 address, i64 n)`. A compute probe loads its accumulators from the
64-byte aligned scratch memory at `address` (so that no two are known to be equal), updates each `n`
times and stores them: nothing can be dropped, and there are enough of them to hide the latency. The
stream probe sums `n` blocks of memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tilewright.target.cpu import CpuIsa
from tilewright.target.features import ARM

FILL: Final = 0x3F003F00
"""The word that fills scratch memory: 0.5 as f32, a pair of 0.5 as bf16, small bytes as i8."""
SCRATCH_BYTES: Final = 8192
STREAM_BLOCK_BYTES: Final = 1024
_TILES: Final = 6


@dataclass(frozen=True, slots=True)
class Probe:
    """A loop: `work` operations (a multiply and an add are two) or bytes for each of its `n`."""

    name: str
    ir: str
    work: int
    tiles: bool = False


def probes(isa: CpuIsa) -> tuple[Probe, ...]:
    """The probes that `isa` can run; `f32_fma` and `stream_read` are always there."""
    found = [_fma(isa)]
    if isa.bf16_dot:
        found.append(_dot(isa, "bf16_dot"))
    if isa.vnni:
        found.append(_dot(isa, "i8_dot"))
    if isa.amx_bf16:
        found.append(_tiles())
    return (*found, _stream(isa))


def _fma(isa: CpuIsa) -> Probe:
    """a <- a * x + y, fused where the machine can."""
    vector = f"<{isa.lanes_f32} x float>"
    count = isa.vector_registers - 4 if isa.vector_registers < 32 else 24
    if isa.fma:
        name = f"@llvm.fma.v{isa.lanes_f32}f32"
        declared = f"declare {vector} {name}({vector}, {vector}, {vector})"
        step = f"%t# = call {vector} {name}({vector} %a#, {vector} %x, {vector} %y)"
    else:
        declared = ""
        step = f"%m# = fmul {vector} %a#, %x\n  %t# = fadd {vector} %m#, %y"
    return Probe(
        "f32_fma",
        _compute("f32_fma", declared, vector, vector, step, count, isa.lanes_f32 * 4),
        2 * isa.lanes_f32 * count,
    )


def _dot(isa: CpuIsa, name: str) -> Probe:
    """a <- a + dot(x, y) by groups of two bf16 or of four 8-bit integers."""
    bits = 32 * isa.lanes_f32
    bf16 = name == "bf16_dot"
    acc = f"<{isa.lanes_f32} x {'float' if bf16 else 'i32'}>"
    group = 2 if bf16 else 4
    operand = f"<{isa.lanes_f32 * group} x {'bfloat' if bf16 else 'i8'}>"
    if isa.machine == ARM:
        function = "bfdot.v4f32.v8bf16" if bf16 else "usdot.v4i32.v16i8"
        intrinsic = f"@llvm.aarch64.neon.{function}"
    elif bf16:
        intrinsic = f"@llvm.x86.avx512bf16.dpbf16ps.{bits}"
    else:
        intrinsic = f"@llvm.x86.avx512.vpdpbusd.{bits}"
    declared = f"declare {acc} {intrinsic}({acc}, {operand}, {operand})"
    step = f"%t# = call {acc} {intrinsic}({acc} %a#, {operand} %x, {operand} %y)"
    count = isa.vector_registers - 4 if isa.vector_registers < 32 else 24
    ir = _compute(name, declared, acc, operand, step, count, bits // 8)
    return Probe(name, ir, 2 * group * isa.lanes_f32 * count)


def _compute(
    name: str, declared: str, acc: str, operand: str, step: str, count: int, width: int
) -> str:
    at = [f"getelementptr i8, ptr %p, i64 {width * i}" for i in range(count + 2)]
    lines = [declared, f"define i32 @{name}(i64 %address, i64 %n) {{", "entry:"]
    lines.append("  %p = inttoptr i64 %address to ptr")
    lines += [f"  %p{i} = {at[i]}" for i in range(count + 2)]
    lines += [f"  %s{i} = load {acc}, ptr %p{i}, align {width}" for i in range(count)]
    lines.append(f"  %x = load {operand}, ptr %p{count}, align {width}")
    lines.append(f"  %y = load {operand}, ptr %p{count + 1}, align {width}")
    lines += ["  br label %loop", "loop:", "  %i = phi i64 [0, %entry], [%next, %loop]"]
    lines += [f"  %a{i} = phi {acc} [%s{i}, %entry], [%t{i}, %loop]" for i in range(count)]
    lines += [f"  {step.replace('#', str(i))}" for i in range(count)]
    lines += _LOOP_END
    lines += [f"  store {acc} %t{i}, ptr %p{i}, align {width}" for i in range(count)]
    return "\n".join((*lines, "  ret i32 0", "}"))


def _tiles() -> Probe:
    """AMX: six accumulator tiles of 16 x 16 f32 += (16 x 32 bf16) x (32 x 16 bf16).

    The scratch memory begins with the 64-byte tile configuration (`tile_configuration`).
    """
    tile = "@llvm.x86.tdpbf16ps"
    lines = [
        "declare void @llvm.x86.ldtilecfg(ptr)",
        "declare void @llvm.x86.tilerelease()",
        "declare void @llvm.x86.tilezero(i8)",
        "declare void @llvm.x86.tileloadd64(i8, ptr, i64)",
        "declare void @llvm.x86.tilestored64(i8, ptr, i64)",
        f"declare void {tile}(i8, i8, i8)",
        "define i32 @bf16_tile(i64 %address, i64 %n) {",
        "entry:",
        "  %p = inttoptr i64 %address to ptr",
        "  %data = getelementptr i8, ptr %p, i64 1024",
        "  call void @llvm.x86.ldtilecfg(ptr %p)",
        *(f"  call void @llvm.x86.tilezero(i8 {i})" for i in range(_TILES)),
        "  call void @llvm.x86.tileloadd64(i8 6, ptr %data, i64 64)",
        "  call void @llvm.x86.tileloadd64(i8 7, ptr %data, i64 64)",
        "  br label %loop",
        "loop:",
        "  %i = phi i64 [0, %entry], [%next, %loop]",
        *(f"  call void {tile}(i8 {i}, i8 6, i8 7)" for i in range(_TILES)),
        *_LOOP_END,
        *(f"  call void @llvm.x86.tilestored64(i8 {i}, ptr %data, i64 64)" for i in range(_TILES)),
        "  call void @llvm.x86.tilerelease()",
        "  ret i32 0",
        "}",
    ]
    return Probe("bf16_tile", "\n".join(lines), _TILES * 2 * 16 * 16 * 32, tiles=True)


def tile_configuration() -> bytes:
    """Palette 1 with all eight tiles of 16 rows of 64 bytes (Intel's manual, LDTILECFG)."""
    columns = b"".join((64).to_bytes(2, "little") for _ in range(8)) + bytes(16)
    return b"\x01" + bytes(15) + columns + bytes([16] * 8) + bytes(8)


def _stream(isa: CpuIsa) -> Probe:
    """Sums of whole registers over `n` blocks, as many chains as a block has cache lines."""
    vector, width = f"<{isa.lanes_f32} x float>", isa.lanes_f32 * 4
    loads, chains = STREAM_BLOCK_BYTES // width, 8
    lines = ["define i32 @stream_read(i64 %address, i64 %n) {", "entry:"]
    lines += ["  %p = inttoptr i64 %address to ptr", "  br label %loop", "loop:"]
    lines.append("  %i = phi i64 [0, %entry], [%next, %loop]")
    lines += [
        f"  %c{k} = phi {vector} [zeroinitializer, %entry], [%u{loads - chains + k}, %loop]"
        for k in range(chains)
    ]
    lines.append(f"  %o = mul i64 %i, {STREAM_BLOCK_BYTES}")
    lines.append("  %b = getelementptr i8, ptr %p, i64 %o")
    for k in range(loads):
        before = f"%c{k}" if k < chains else f"%u{k - chains}"
        lines += [
            f"  %q{k} = getelementptr i8, ptr %b, i64 {width * k}",
            f"  %v{k} = load {vector}, ptr %q{k}, align {width}",
            f"  %u{k} = fadd {vector} {before}, %v{k}",
        ]
    lines += _LOOP_END
    total = f"%u{loads - chains}"
    for k in range(1, chains):
        lines.append(f"  %f{k} = fadd {vector} {total}, %u{loads - chains + k}")
        total = f"%f{k}"
    lines += [f"  store {vector} {total}, ptr %p, align {width}", "  ret i32 0", "}"]
    return Probe("stream_read", "\n".join(lines), STREAM_BLOCK_BYTES)


_LOOP_END: Final = (
    "  %next = add nuw i64 %i, 1",
    "  %more = icmp ult i64 %next, %n",
    "  br i1 %more, label %loop, label %done",
    "done:",
)
