"""Tables of processor names and instruction-set features, under LLVM's names.

A processor is the set of its features that a code generator may emit by itself; LLVM's other flags
(`waitpkg`, `sgx` ...) only matter to hand-written intrinsics and are left out. The tables were
checked against LLVM 22; `tests/target/test_features.py` repeats the check where LLVM is at hand.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

X86: Final = "x86_64"
ARM: Final = "aarch64"

# LLVM's feature name -> the flag of /proc/cpuinfo. The order is that of every printed list.
X86_FLAGS: Final = MappingProxyType(
    {
        "sse3": "pni",
        "ssse3": "ssse3",
        "sse4.1": "sse4_1",
        "sse4.2": "sse4_2",
        "popcnt": "popcnt",
        "cx16": "cx16",
        "aes": "aes",
        "pclmul": "pclmulqdq",
        "movbe": "movbe",
        "avx": "avx",
        "f16c": "f16c",
        "fma": "fma",
        "avx2": "avx2",
        "bmi": "bmi1",
        "bmi2": "bmi2",
        "lzcnt": "abm",
        "gfni": "gfni",
        "vaes": "vaes",
        "vpclmulqdq": "vpclmulqdq",
        "avxvnni": "avx_vnni",
        "avxvnniint8": "avx_vnni_int8",
        "avxneconvert": "avx_ne_convert",
        "avx512f": "avx512f",
        "avx512cd": "avx512cd",
        "avx512bw": "avx512bw",
        "avx512dq": "avx512dq",
        "avx512vl": "avx512vl",
        "avx512ifma": "avx512ifma",
        "avx512vbmi": "avx512vbmi",
        "avx512vbmi2": "avx512_vbmi2",
        "avx512vnni": "avx512_vnni",
        "avx512bitalg": "avx512_bitalg",
        "avx512vpopcntdq": "avx512_vpopcntdq",
        "avx512bf16": "avx512_bf16",
        "avx512fp16": "avx512_fp16",
        "amx-tile": "amx_tile",
        "amx-int8": "amx_int8",
        "amx-bf16": "amx_bf16",
        "amx-fp16": "amx_fp16",
    }
)

ARM_FLAGS: Final = MappingProxyType(
    {
        "neon": "asimd",
        "lse": "atomics",
        "fullfp16": "asimdhp",
        "dotprod": "asimddp",
        "bf16": "bf16",
        "i8mm": "i8mm",
        "sve": "sve",
        "sve2": "sve2",
    }
)

# What a feature brings along; closed transitively by `closure`.
_IMPLIES: Final = MappingProxyType(
    {
        "ssse3": "sse3",
        "sse4.1": "ssse3",
        "sse4.2": "sse4.1",
        "avx": "sse4.2",
        "f16c": "avx",
        "fma": "avx",
        "avx2": "avx",
        "vaes": "avx2 aes",
        "vpclmulqdq": "avx pclmul",
        "avxvnni": "avx2",
        "avxvnniint8": "avx2",
        "avxneconvert": "avx2",
        "avx512f": "avx2 f16c fma",
        "avx512cd": "avx512f",
        "avx512bw": "avx512f",
        "avx512dq": "avx512f",
        "avx512vl": "avx512f",
        "avx512ifma": "avx512f",
        "avx512vbmi": "avx512bw",
        "avx512vbmi2": "avx512bw",
        "avx512vnni": "avx512f",
        "avx512bitalg": "avx512bw",
        "avx512vpopcntdq": "avx512f",
        "avx512bf16": "avx512bw",
        "avx512fp16": "avx512bw",
        "amx-int8": "amx-tile",
        "amx-bf16": "amx-tile",
        "amx-fp16": "amx-tile",
        "fullfp16": "neon",
        "dotprod": "neon",
        "bf16": "neon",
        "i8mm": "neon",
        "sve": "fullfp16",
        "sve2": "sve",
    }
)

_V2: Final = "sse3 ssse3 sse4.1 sse4.2 popcnt cx16"
_V3: Final = f"{_V2} movbe avx f16c fma avx2 bmi bmi2 lzcnt"
_V4: Final = f"{_V3} avx512f avx512cd avx512bw avx512dq avx512vl"
_HASWELL: Final = f"{_V3} pclmul"
_SKYLAKE: Final = f"{_HASWELL} aes"
_ALDERLAKE: Final = f"{_SKYLAKE} avxvnni gfni vaes vpclmulqdq"
_ARROWLAKE: Final = f"{_ALDERLAKE} avxvnniint8 avxneconvert"
_SKX: Final = f"{_V4} aes pclmul"
_ICELAKE: Final = (
    f"{_SKX} avx512ifma avx512vbmi avx512vbmi2 avx512vnni avx512bitalg avx512vpopcntdq"
    " gfni vaes vpclmulqdq"
)
_ZEN4: Final = f"{_ICELAKE} avx512bf16"
_ZEN5: Final = f"{_ZEN4} avxvnni"
_SAPPHIRE: Final = f"{_ZEN5} avx512fp16 amx-tile amx-int8 amx-bf16"
_GRANITE: Final = f"{_SAPPHIRE} amx-fp16"

_N1: Final = "neon lse fullfp16 dotprod"
_V8_6: Final = f"{_N1} bf16 i8mm"

_X86_CPUS: Final = {
    _V2: "x86-64-v2 nehalem corei7",
    f"{_V2} pclmul": "westmere",
    f"{_V2} pclmul avx": "sandybridge corei7-avx",
    f"{_V2} pclmul avx f16c": "ivybridge core-avx-i",
    _V3: "x86-64-v3",
    _HASWELL: "haswell broadwell core-avx2",
    _SKYLAKE: "skylake bdver4 znver1 znver2",
    f"{_SKYLAKE} vaes vpclmulqdq": "znver3",
    _ALDERLAKE: "alderlake raptorlake meteorlake gracemont",
    _ARROWLAKE: "arrowlake arrowlake-s lunarlake pantherlake sierraforest grandridge",
    _V4: "x86-64-v4",
    _SKX: "skylake-avx512 skx",
    f"{_SKX} avx512vnni": "cascadelake",
    f"{_SKX} avx512ifma avx512vbmi": "cannonlake",
    f"{_SKX} avx512vnni avx512bf16": "cooperlake",
    _ICELAKE: "icelake-server icelake-client rocketlake tigerlake",
    _ZEN4: "znver4",
    _ZEN5: "znver5",
    _SAPPHIRE: "sapphirerapids emeraldrapids",
    _GRANITE: "graniterapids graniterapids-d",
}

_ARM_CPUS: Final = {
    "neon": "armv8-a cortex-a53 cortex-a57 cortex-a72",
    _N1: "neoverse-n1 cortex-a55 cortex-a76 cortex-a78 cortex-x1 apple-a14",
    _V8_6: "apple-a15 apple-a16 apple-a17 apple-m4 ampere1 ampere1a",
    f"{_V8_6} sve": "neoverse-v1",
    f"{_V8_6} sve sve2": "neoverse-n2 neoverse-n3 neoverse-v2 neoverse-v3 grace",
}

BASELINE_CPU: Final = MappingProxyType({X86: "x86-64", ARM: "armv8-a"})
"""The plain processor: SSE2 only on x86-64, NEON on aarch64."""

LLVM_NAMES: Final = MappingProxyType({"armv8-a": "generic"})
"""Our processor names where LLVM's differ (its `generic` would collide with ours)."""


def _by_name(cpus: dict[str, str]) -> dict[str, frozenset[str]]:
    return {name: frozenset(fs.split()) for fs, names in cpus.items() for name in names.split()}


CPUS: Final = MappingProxyType(
    {
        X86: MappingProxyType({"x86-64": frozenset[str](), **_by_name(_X86_CPUS)}),
        ARM: MappingProxyType(_by_name(_ARM_CPUS)),
    }
)
"""Machine -> processor name -> the features it has."""

FLAGS: Final = MappingProxyType({X86: X86_FLAGS, ARM: ARM_FLAGS})

_INTEL: Final = frozenset(
    "nehalem corei7 westmere sandybridge ivybridge haswell broadwell skylake skylake-avx512"
    " cascadelake cannonlake cooperlake icelake-server alderlake arrowlake sapphirerapids"
    " graniterapids".split()
)
_AMD: Final = frozenset("bdver4 znver1 znver2 znver3 znver4 znver5".split())
_LEVELS: Final = frozenset(("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4"))


def closure(features: frozenset[str]) -> frozenset[str]:
    """`features` with everything they imply."""
    closed: set[str] = set()
    pending = list(features)
    while pending:
        feature = pending.pop()
        if feature not in closed:
            closed.add(feature)
            pending += _IMPLIES.get(feature, "").split()
    return frozenset(closed)


def ordered(features: frozenset[str], machine: str) -> tuple[str, ...]:
    """`features` in table order; the features of another machine are dropped."""
    return tuple(name for name in FLAGS[machine] if name in features)


def machine_of_cpu(name: str) -> str | None:
    """The machine (`x86_64`, `aarch64`) of a processor name, None if it is in no table."""
    return next((machine for machine, names in CPUS.items() if name in names), None)


def nearest_cpu(features: frozenset[str], vendor: str) -> str:
    """The richest x86 processor of `vendor` (`GenuineIntel`, `AuthenticAMD`) within `features`.

    Only its scheduling model is wanted, so a processor with a single feature too many is out: LLVM
    would emit that feature. Another vendor gets the neutral `x86-64-v*` levels.
    """
    known = {"GenuineIntel": _INTEL, "AuthenticAMD": _AMD}.get(vendor, frozenset[str]())
    fitting = [
        name for name, has in CPUS[X86].items() if name in known | _LEVELS and has <= features
    ]
    return max(fitting, key=lambda name: (len(CPUS[X86][name]), name in known))
