"""What instruction sets offer, and that code for them uses nothing else."""

import re

import pytest

from tilewright.dsl.errors import UnknownTarget
from tilewright.target import cpu as cpu_module
from tilewright.target.cpu import CpuIsa, isa_of, resolve
from tilewright.target.features import ARM, CPUS, X86
from tilewright.target.host import CacheSizes, Host
from tilewright.target.spec import Target, parse_target


def isa(text: str) -> CpuIsa:
    return isa_of(parse_target(text))


def pretend(monkeypatch: pytest.MonkeyPatch, machine: str, features: frozenset[str]) -> None:
    here = Host(machine, "GenuineIntel", "pretended", features, 2, CacheSizes())
    monkeypatch.setattr(cpu_module, "host", lambda: here)
    monkeypatch.setattr(cpu_module, "host_machine", lambda: machine)
    monkeypatch.setattr("tilewright.target.spec.host_machine", lambda: machine)


@pytest.mark.parametrize(
    ("text", "lanes", "registers", "has"),
    [
        ("cpu:x86-64", 4, 16, ""),
        ("cpu:sandybridge", 8, 16, ""),
        ("cpu:haswell", 8, 16, "fma"),
        ("cpu:alderlake", 8, 16, "fma vnni"),
        ("cpu:skylake-avx512", 16, 32, "fma"),
        ("cpu:x86-64-v4+avx512vnni", 16, 32, "fma vnni"),
        ("cpu:x86-64-v4+avxvnni", 16, 32, "fma"),  # the 256-bit form is no use to 512-bit kernels
        ("cpu:znver4", 16, 32, "fma bf16_dot vnni"),
        ("cpu:sapphirerapids", 16, 32, "fma bf16_dot vnni amx_bf16"),
        ("cpu:haswell+avx512f", 8, 16, "fma"),  # without byte and double-word forms: no use
        ("cpu:armv8-a", 4, 32, "fma"),
        ("cpu:neoverse-v1", 4, 32, "fma bf16_dot vnni"),
    ],
)
def test_instruction_set_of_processor(text: str, lanes: int, registers: int, has: str) -> None:
    found = isa(text)
    assert (found.lanes_f32, found.vector_registers) == (lanes, registers)
    names = ("fma", "bf16_dot", "vnni", "amx_bf16")
    assert [name for name in names if getattr(found, name)] == has.split()


def test_generic_is_the_plain_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, X86, CPUS[X86]["sapphirerapids"])
    assert isa("cpu:generic") == isa("cpu:x86-64")
    assert isa("cpu:generic").mattr == ()
    pretend(monkeypatch, ARM, frozenset({"neon"}))
    assert isa("cpu:generic").mcpu == "generic"
    assert isa("cpu:generic").machine == ARM


def test_native_goes_by_flags_not_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, X86, CPUS[X86]["icelake-server"] | {"avx512bf16", "amx-tile"})
    assert str(resolve(parse_target("cpu"))) == "cpu:icelake-server+avx512bf16+amx-tile"
    assert isa("cpu").features == isa("cpu:icelake-server+avx512bf16+amx-tile").features


def test_native_takes_more_features(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, X86, CPUS[X86]["haswell"])
    assert resolve(parse_target("cpu+avxvnni")) == parse_target("cpu:haswell+avxvnni")


def test_resolved_target_is_concrete_and_round_trips() -> None:
    for text in ("cpu", "cpu:generic", "cpu:znver4", "cuda:sm_90"):
        found = resolve(parse_target(text))
        assert found.arch not in ("native", "generic")
        assert parse_target(str(found)) == found
        assert resolve(found) == found


def test_only_wide_vectors_lift_llvms_limit() -> None:
    assert isa("cpu:skylake-avx512").mattr[-2:] == ("+avx512vl", "-prefer-256-bit")
    assert "-prefer-256-bit" not in isa("cpu:haswell").mattr


def test_gpu_has_no_cpu_instruction_set() -> None:
    with pytest.raises(UnknownTarget, match="not a cpu target"):
        isa_of(Target("cuda", "sm_90"))


def assembly_of(found: CpuIsa) -> str:
    """The assembly of a loop over 1,024 floats for `found`."""
    tvm = pytest.importorskip("tvm")
    text = (
        "@T.prim_func(s_tir=True)\n"
        "def scale(A: T.Buffer((1024,), 'float32')):\n"
        "    for i in T.serial(64):\n"
        "        A[T.ramp(i * 16, 1, 16)] = A[T.ramp(i * 16, 1, 16)] * A[0] + A[1]\n"
    )
    target = {
        "kind": "llvm", "mtriple": found.triple, "mcpu": found.mcpu, "mattr": list(found.mattr)
    }  # fmt: skip
    function = tvm.script.from_source(text, {"T": tvm.script.tirx})
    return tvm.compile(function, tvm.target.Target(target)).mod.inspect_source("asm")


@pytest.mark.parametrize(
    ("text", "register"),
    [("cpu:x86-64", "xmm"), ("cpu:haswell", "ymm"), ("cpu:sapphirerapids", "zmm")],
)
def test_code_uses_the_registers_that_are_there(text: str, register: str) -> None:
    found = set(re.findall(r"[xyz]mm(?=\d)", assembly_of(isa(text))))
    assert register in found
    widest = "xyz".index(register[0])
    assert all("xyz".index(name[0]) <= widest for name in found)


def test_code_for_arm_can_be_made_here() -> None:
    assert re.search(r"\bfm(la|ul)\b", assembly_of(isa("cpu:neoverse-n1")))
