"""What passes and backends may ask of a target."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

from tilewright.dsl.dtypes import DType
from tilewright.dsl.errors import UnknownTarget
from tilewright.target.cpu import isa_of
from tilewright.target.spec import Target

Capability = Literal[
    "fma",  # fused multiply-add of f32
    "bf16_dot",  # dot products of bf16 into f32
    "f16_dot",  # dot products of f16 into f32
    "i8_dot",  # dot products of 8-bit integers into i32
    "f8_dot",  # dot products of 8-bit floats into f32
    "matrix_tiles",  # a matrix unit: AMX, tensor cores, MFMA
    "warp_matrix",  # matrix products of four warps that read shared memory (wgmma)
    "tensor_memory",  # accumulators in a memory of their own (tcgen05)
    "async_copy",  # copies from global to shared memory that do not pass registers (cp.async)
    "bulk_copy",  # copies of boxes of a tensor by a descriptor (TMA)
    "sparse_2_4",  # matrix products that skip two zeros in four
]
CAPABILITIES: Final[tuple[str, ...]] = get_args(Capability)


@dataclass(frozen=True, slots=True)
class GpuLimits:
    """Limits of a GPU architecture.

    `shared_bytes` is what one block may use of shared memory, `warp_size` the lanes of a warp,
    `registers` the 32-bit registers that one thread may name.
    """

    shared_bytes: int
    warp_size: int
    registers: int


# Sources: NVIDIA's CUDA programming guide (technical specifications by compute capability) and
# AMD's instruction set guides of CDNA 3 and CDNA 4.
_GPU: Final = MappingProxyType(
    {
        "sm_80": GpuLimits(166_912, 32, 255),
        "sm_90": GpuLimits(232_448, 32, 255),
        "sm_100": GpuLimits(232_448, 32, 255),
        "sm_120": GpuLimits(101_376, 32, 255),
        "gfx942": GpuLimits(65_536, 64, 512),
        "gfx950": GpuLimits(163_840, 64, 512),
    }
)
_TENSOR_CORES: Final = "fma bf16_dot f16_dot i8_dot matrix_tiles"
_GPU_CAPABILITIES: Final = MappingProxyType(
    {
        "sm_80": f"{_TENSOR_CORES} async_copy sparse_2_4",
        "sm_90": f"{_TENSOR_CORES} f8_dot async_copy bulk_copy warp_matrix sparse_2_4",
        "sm_100": f"{_TENSOR_CORES} f8_dot async_copy bulk_copy tensor_memory sparse_2_4",
        "sm_120": f"{_TENSOR_CORES} f8_dot async_copy bulk_copy sparse_2_4",
        "gfx942": f"{_TENSOR_CORES} f8_dot sparse_2_4",
        "gfx950": f"{_TENSOR_CORES} f8_dot sparse_2_4",
    }
)
_GPU_NATIVE: Final = ("f64", "f32", "f16", "bf16", "i64", "i32", "i8", "u32", "u8", "bool")
_CPU_NATIVE: Final = ("f64", "f32", "i64", "i32", "i8", "u32", "u8", "bool")


def supports(target: Target, capability: Capability) -> bool:
    """Whether the target's hardware has `capability`. Raises `ValueError` for an unknown one."""
    return _known(capability) in capabilities(target)


def capabilities(target: Target) -> frozenset[str]:
    """All that the target's hardware has."""
    if target.kind != "cpu":
        return frozenset(_GPU_CAPABILITIES[target.arch].split())
    isa = isa_of(target)
    there = {
        "fma": isa.fma,
        "bf16_dot": isa.bf16_dot,
        "i8_dot": isa.vnni,
        "matrix_tiles": isa.amx_bf16,
    }
    return frozenset(name for name, has in there.items() if has)


def is_native(target: Target, dtype: DType | str) -> bool:
    """Whether registers compute in `dtype`: other formats are widened to f32 for arithmetic.

    A format that only a dot product can read (bf16 on a cpu) is not native: ask `supports`.
    """
    if target.kind != "cpu":
        eight_bit = str(dtype) in _EIGHT_BIT_FLOATS and supports(target, "f8_dot")
        return str(dtype) in _GPU_NATIVE or eight_bit
    half = str(dtype) == "f16" and {"avx512fp16", "fullfp16"} & set(isa_of(target).features)
    return str(dtype) in _CPU_NATIVE or bool(half)


def gpu_limits(target: Target) -> GpuLimits:
    """The limits of a GPU target. Raises `UnknownTarget` for a cpu."""
    limits = _GPU.get(target.arch)
    if limits is None:
        raise UnknownTarget(f"{target} is not a GPU target", fix="pass a cuda or hip target")
    return limits


_EIGHT_BIT_FLOATS: Final = ("f8e4m3", "f8e5m2")


def _known(capability: str) -> str:
    if capability not in CAPABILITIES:
        raise ValueError(f"{capability!r} is none of {', '.join(CAPABILITIES)}")
    return capability
