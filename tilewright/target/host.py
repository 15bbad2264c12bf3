"""What the operating system says about the machine we run on.

Linux tells by /proc/cpuinfo and sysfs, macOS by sysctl; elsewhere only the plain baseline is
assumed. LLVM's own guess of the processor is not used: it goes by family and model numbers, which
virtual machines change, and then misses instruction sets that are there.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tilewright.hostcpu import (
    CPUINFO,
    common_flags,
    fields,
    parse_quota,
    processors,
    usable_threads,
)
from tilewright.target.features import FLAGS, X86, closure
from tilewright.target.spec import host_machine

__all__ = [
    "CacheSizes",
    "Host",
    "cache_sizes",
    "host",
    "parse_cpuinfo",
    "parse_quota",
    "usable_threads",
]

_CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")
_CACHE_NAMES: Final = {("1", "Data"): "l1d", ("2", "Unified"): "l2", ("3", "Unified"): "l3"}
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

# Apple's names of the features we know; Intel Macs print the flags themselves, in capitals.
_APPLE_ARM: Final = {
    "lse": "FEAT_LSE",
    "fullfp16": "FEAT_FP16",
    "dotprod": "FEAT_DotProd",
    "bf16": "FEAT_BF16",
    "i8mm": "FEAT_I8MM",
}
_APPLE_X86: Final = {"AVX1.0": "avx", "RDRAND": "rdrnd", "LZCNT": "lzcnt", "BMI1": "bmi"}


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """Data cache sizes in bytes: per core (`l1d`, `l2`) and shared (`l3`, 0 if there is none)."""

    l1d: int = 32 << 10
    l2: int = 1 << 20
    l3: int = 0


@dataclass(frozen=True, slots=True)
class Host:
    """The machine's processor: features under LLVM's names, physical cores, caches."""

    machine: str
    vendor: str
    model: str
    features: frozenset[str]
    cores: int
    caches: CacheSizes


@functools.cache
def host() -> Host:
    """This machine, read once a process. Raises `UnknownTarget` on an unknown architecture."""
    machine = host_machine()
    try:
        return parse_cpuinfo(CPUINFO.read_text(errors="replace"), machine, cache_sizes(_CACHES))
    except OSError:
        pass
    if sys.platform == "darwin":
        return _parse_sysctl(_sysctl(), machine)
    return Host(machine, "", platform.processor(), frozenset(), os.cpu_count() or 1, CacheSizes())


def parse_cpuinfo(text: str, machine: str, caches: CacheSizes) -> Host:
    """The host that a /proc/cpuinfo describes; its features are those of *every* processor."""
    found = processors(text)
    flags = common_flags(found)
    features = frozenset(name for name, flag in FLAGS[machine].items() if flag in flags)
    places = {(p["physical id"], p["core id"]) for p in found if "core id" in p}
    first = found[0] if found else {}
    return Host(
        machine=machine,
        vendor=first.get("vendor_id", first.get("CPU implementer", "")),
        model=first.get("model name", first.get("CPU part", "")),
        features=_consistent(features),
        cores=len(places) or max(1, sum("processor" in p for p in found)),
        caches=caches,
    )


def cache_sizes(root: Path) -> CacheSizes:
    """Cache sizes from sysfs; what is missing or malformed keeps a modest default."""
    found: dict[str, int] = {}
    for index in sorted(root.glob("index*")):
        try:
            level = (index / "level").read_text().strip()
            kind = (index / "type").read_text().strip()
            size = (index / "size").read_text().strip()
        except OSError:
            continue
        name = _CACHE_NAMES.get((level, kind))
        number = size.rstrip("KMG")
        if name is not None and number.isdecimal():
            found[name] = int(number) * _UNITS.get(size[-1], 1)
    plain = CacheSizes()
    return CacheSizes(
        l1d=found.get("l1d", plain.l1d), l2=found.get("l2", plain.l2), l3=found.get("l3", plain.l3)
    )


def _consistent(features: frozenset[str]) -> frozenset[str]:
    """Drop a feature whose implied features are hidden, as half-masked virtual machines do."""
    return frozenset(name for name in features if closure(frozenset({name})) <= features)


def _sysctl() -> dict[str, str]:
    done = subprocess.run(
        ["/usr/sbin/sysctl", "machdep.cpu", "hw"],
        capture_output=True, text=True, timeout=10, check=False,
    )  # fmt: skip
    return fields(done.stdout)


def _parse_sysctl(values: Mapping[str, str], machine: str) -> Host:
    if machine == X86:
        words = [
            word
            for key in ("features", "leaf7_features")
            for word in values.get(f"machdep.cpu.{key}", "").split()
        ]
        names = frozenset(_APPLE_X86.get(word, word.lower()) for word in words)
        features = frozenset(FLAGS[machine]) & closure(names)
    else:
        named = _APPLE_ARM.items()
        features = frozenset(n for n, key in named if values.get(f"hw.optional.arm.{key}") == "1")
        features |= {"neon"}

    def number(key: str, default: int) -> int:
        text = values.get(key, "")
        return int(text) if text.isdecimal() else default

    plain = CacheSizes()
    return Host(
        machine=machine,
        vendor=values.get("machdep.cpu.vendor", ""),
        model=values.get("machdep.cpu.brand_string", ""),
        features=features,
        cores=max(1, number("hw.physicalcpu", os.cpu_count() or 1)),
        caches=CacheSizes(
            l1d=number("hw.l1dcachesize", plain.l1d),
            l2=number("hw.l2cachesize", plain.l2),
            l3=number("hw.l3cachesize", plain.l3),
        ),
    )
