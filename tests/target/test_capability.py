"""What targets can do."""

import pytest

from tilewright.dsl.dtypes import bf16, f8e4m3, f16, f32
from tilewright.dsl.errors import UnknownTarget
from tilewright.target.capability import CAPABILITIES, capabilities, gpu_limits, is_native, supports
from tilewright.target.spec import GPU_ARCHES, Target, known_targets, parse_target

CPU = parse_target("cpu:znver4")
GPUS = [Target(kind, arch) for kind, arches in GPU_ARCHES.items() for arch in arches]


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("cpu:x86-64", ""),
        ("cpu:haswell", "fma"),
        ("cpu:znver4", "bf16_dot fma i8_dot"),
        ("cpu:sapphirerapids", "bf16_dot fma i8_dot matrix_tiles"),
    ],
)
def test_cpu_capabilities_follow_the_instruction_set(target: str, names: str) -> None:
    assert sorted(capabilities(parse_target(target))) == names.split()


def test_gpu_generations_differ() -> None:
    only = {
        name: [str(gpu) for gpu in GPUS if supports(gpu, name)]
        for name in ("warp_matrix", "tensor_memory", "bulk_copy")
    }
    assert only["warp_matrix"] == ["cuda:sm_90"]
    assert only["tensor_memory"] == ["cuda:sm_100"]
    assert only["bulk_copy"] == ["cuda:sm_90", "cuda:sm_100", "cuda:sm_120"]
    assert not supports(Target("cuda", "sm_80"), "f8_dot")


def test_all_capabilities_are_named() -> None:
    for text in known_targets():
        assert capabilities(parse_target(text)) <= set(CAPABILITIES)


def test_unknown_capability_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="telepathy"):
        supports(CPU, "telepathy")  # pyright: ignore[reportArgumentType] - the fault under test


def test_narrow_floats_are_widened_on_cpus() -> None:
    assert is_native(CPU, f32)
    assert not is_native(CPU, bf16)
    assert not is_native(CPU, f16)
    assert is_native(parse_target("cpu:sapphirerapids"), f16)
    assert is_native(Target("cuda", "sm_80"), bf16)
    assert not is_native(Target("cuda", "sm_80"), f8e4m3)
    assert is_native(Target("cuda", "sm_90"), f8e4m3)


@pytest.mark.parametrize("gpu", GPUS, ids=str)
def test_every_gpu_has_limits(gpu: Target) -> None:
    limits = gpu_limits(gpu)
    assert limits.warp_size == (32 if gpu.kind == "cuda" else 64)
    assert limits.shared_bytes % 1024 == 0


def test_cpu_has_no_gpu_limits() -> None:
    with pytest.raises(UnknownTarget, match="not a GPU"):
        gpu_limits(CPU)
