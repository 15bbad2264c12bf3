"""Reading a machine from what its operating system says."""

import sys
from pathlib import Path

import pytest

from tilewright import hostcpu
from tilewright.target import host as host_module
from tilewright.target.cpu import CpuIsa
from tilewright.target.features import ARM, CPUS, X86, X86_FLAGS
from tilewright.target.host import CacheSizes, cache_sizes, parse_cpuinfo, parse_quota

CACHES = CacheSizes(1, 2, 3)


def cpuinfo(*flag_lists: str, cores: tuple[int, ...] = (0, 1)) -> str:
    blocks = [
        f"processor\t: {i}\nvendor_id\t: GenuineIntel\nmodel name\t: Some Xeon: fast\n"
        f"physical id\t: 0\ncore id\t\t: {cores[i]}\nflags\t\t: fpu sse sse2 {flags}\n"
        for i, flags in enumerate(flag_lists)
    ]
    return "\n".join(blocks)


def flags_of(cpu: str) -> str:
    return " ".join(X86_FLAGS[name] for name in CPUS[X86][cpu])


def test_flags_become_features() -> None:
    found = parse_cpuinfo(cpuinfo(*[flags_of("sapphirerapids")] * 2), X86, CACHES)
    assert found.features == CPUS[X86]["sapphirerapids"]
    assert (found.vendor, found.model, found.cores) == ("GenuineIntel", "Some Xeon: fast", 2)
    assert found.caches == CACHES


def test_features_are_those_of_every_processor() -> None:
    text = cpuinfo(flags_of("alderlake"), flags_of("skylake"))
    assert parse_cpuinfo(text, X86, CACHES).features == CPUS[X86]["skylake"]


def test_two_threads_of_one_core_are_one_core() -> None:
    text = cpuinfo("pni", "pni", cores=(4, 4))
    assert parse_cpuinfo(text, X86, CACHES).cores == 1


def test_a_feature_whose_base_is_hidden_is_dropped() -> None:
    hidden = flags_of("sapphirerapids").replace("avx512f", "")
    found = parse_cpuinfo(cpuinfo(hidden), X86, CACHES).features
    assert not [name for name in found if name.startswith("avx512")]
    assert "avx2" in found


def test_arm_features_have_another_line() -> None:
    text = (
        "processor : 0\nFeatures : fp asimd atomics asimdhp asimddp bf16 i8mm sve\nCPU part : 0xd40"
    )
    found = parse_cpuinfo(text, ARM, CACHES)
    assert found.features == CPUS[ARM]["neoverse-v1"]
    assert (found.cores, found.model) == (1, "0xd40")


@pytest.mark.parametrize("text", ["", "nonsense", "processor: 0\n\n\n:::\n", "\0\n"])
def test_a_strange_cpuinfo_is_a_plain_machine(text: str) -> None:
    found = parse_cpuinfo(text, X86, CACHES)
    assert found.features == frozenset()
    assert found.cores == 1


def test_intel_mac_is_read_from_sysctl() -> None:
    values = {
        "machdep.cpu.features": "FPU SSE3 SSSE3 SSE4.1 SSE4.2 POPCNT AVX1.0 FMA F16C MOVBE AES",
        "machdep.cpu.leaf7_features": "BMI1 BMI2 AVX2",
        "hw.physicalcpu": "6",
        "hw.l2cachesize": "262144",
    }
    found = host_module._parse_sysctl(values, X86)
    assert {"avx2", "fma", "f16c", "bmi", "bmi2"} <= found.features
    assert not {name for name in found.features if name.startswith("avx512")}
    assert (found.cores, found.caches.l2) == (6, 262144)


def test_apple_silicon_is_read_from_sysctl() -> None:
    values = {"hw.optional.arm.FEAT_BF16": "1", "hw.optional.arm.FEAT_I8MM": "0"}
    assert host_module._parse_sysctl(values, ARM).features == {"neon", "bf16"}


@pytest.mark.parametrize(
    ("text", "threads"),
    [("max 100000\n", None), ("150000 100000", 2), ("100000 100000", 1), ("5 0", None), ("", None)],
)
def test_quota_is_rounded_up(text: str, threads: int | None) -> None:
    assert parse_quota(text) == threads


def test_usable_threads_obey_quota_and_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text("150000 100000")
    monkeypatch.setattr(hostcpu, "_QUOTA", quota)

    def three(_: int) -> set[int]:
        return {0, 1, 5}

    monkeypatch.setattr(hostcpu.os, "sched_getaffinity", three, raising=False)
    assert host_module.usable_threads() == 2
    quota.unlink()
    assert host_module.usable_threads() == 3


def test_cache_sizes_come_from_sysfs(tmp_path: Path) -> None:
    rows = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2048K")]
    for i, row in enumerate([*rows, ("3", "Unified", "105M"), ("3", "Unified", "lots")]):
        (tmp_path / f"index{i}").mkdir()
        for name, text in zip(("level", "type", "size"), row, strict=True):
            (tmp_path / f"index{i}" / name).write_text(f"{text}\n")
    assert cache_sizes(tmp_path) == CacheSizes(48 << 10, 2 << 20, 105 << 20)


def test_cache_sizes_have_a_default(tmp_path: Path) -> None:
    (tmp_path / "index0").mkdir()
    assert cache_sizes(tmp_path) == CacheSizes()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_this_machine_is_readable() -> None:
    here = host_module.host()
    assert here.cores >= 1
    assert here.model
    assert host_module.usable_threads() >= 1


def test_isa_names_the_flags_to_look_for() -> None:
    isa = CpuIsa(16, 32, True, False, False, False, ("+avx512f", "-prefer-256-bit"), "x86-64")
    assert isa.features == ("avx512f",)
    assert isa.flags == ("avx512f",)


@pytest.mark.parametrize(
    ("limit", "available"), [("max\n", 8 << 20), ("3000000", 2000000), ("999", 0), (None, 8 << 20)]
)
def test_available_memory_obeys_the_container(
    limit: str | None, available: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:   8192 kB\n")
    (tmp_path / "memory.stat").write_text("anon 1000000\nfile 2000000\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(hostcpu, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(hostcpu, "_MEMORY", tmp_path / "memory.max")
    assert hostcpu.available_memory() == available
    (tmp_path / "meminfo").write_text("unreadable")
    assert hostcpu.available_memory() == 0
