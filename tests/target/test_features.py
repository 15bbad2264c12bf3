"""The tables of processors and features, held against LLVM."""

import pytest

from tilewright.target.features import ARM, CPUS, FLAGS, LLVM_NAMES, X86, closure, nearest_cpu

SPR = CPUS[X86]["sapphirerapids"]


def llvm_features(machine: str, cpu: str, attributes: tuple[str, ...] = ()) -> frozenset[str]:
    tvm = pytest.importorskip("tvm")
    codegen = tvm.target.codegen
    target = tvm.target.Target(
        {
            "kind": "llvm",
            "mtriple": f"{machine}-unknown-linux-gnu",
            "mcpu": cpu,
            "mattr": list(attributes),
        }
    )
    return frozenset(str(name) for name in codegen.llvm_get_cpu_features(target))


@pytest.mark.parametrize(("machine", "cpu"), [(m, c) for m, cpus in CPUS.items() for c in cpus])
def test_processor_has_what_llvm_says(machine: str, cpu: str) -> None:
    said = llvm_features(machine, LLVM_NAMES.get(cpu, cpu)) & frozenset(FLAGS[machine])
    assert CPUS[machine][cpu] == said


@pytest.mark.parametrize("feature", FLAGS[X86])
def test_feature_brings_what_llvm_says(feature: str) -> None:
    said = llvm_features(X86, "x86-64", (f"+{feature}",)) & frozenset(FLAGS[X86])
    assert closure(frozenset({feature})) == said


@pytest.mark.parametrize("machine", [X86, ARM])
def test_processors_are_closed_under_implication(machine: str) -> None:
    assert all(closure(has) == has for has in CPUS[machine].values())


def test_implications_name_known_features() -> None:
    known = frozenset(name for flags in FLAGS.values() for name in flags)
    assert closure(known) == known


@pytest.mark.parametrize(
    ("features", "vendor", "name"),
    [
        (SPR, "GenuineIntel", "sapphirerapids"),
        (SPR - {"amx-bf16"}, "GenuineIntel", "icelake-server"),
        (SPR - {"avx512fp16"}, "AuthenticAMD", "znver5"),
        (SPR, "SomebodyElse", "x86-64-v4"),
        (frozenset[str](), "GenuineIntel", "x86-64"),
    ],
)
def test_nearest_processor_has_nothing_that_is_missing(
    features: frozenset[str], vendor: str, name: str
) -> None:
    assert nearest_cpu(features, vendor) == name
    assert CPUS[X86][name] <= features
