"""Which processor is the nearest: by instructions, then caches, and never by name."""

import pytest

from tilewright.target.features import CPUS
from tilewright.target.nearness import _BY_NAME, apart, caches_of
from tilewright.target.spec import parse_target


def nearest(target: str, *others: str) -> str:
    def distance(other: str) -> tuple[int, float, float, int]:
        found = apart(parse_target(target), parse_target(other))
        assert found is not None
        return found

    return min(others, key=distance)


@pytest.mark.parametrize(
    ("target", "near", "far"),
    [
        ("cpu:znver3", "cpu:skylake", "cpu:znver4"),  # 256 bits, whoever makes it
        ("cpu:znver5", "cpu:sapphirerapids", "cpu:znver3"),
        ("cpu:x86-64", "cpu:x86-64-v2", "cpu:x86-64-v3"),  # 128 bits without FMA
        ("cpu:znver4", "cpu:cooperlake", "cpu:skylake-avx512"),  # has the dot of bf16
        ("cpu:znver4", "cpu:icelake-server", "cpu:x86-64-v3"),  # the last has its very caches
        ("cpu:haswell", "cpu:skylake", "cpu:znver2"),  # equal instructions: the smaller cache
        ("cpu:znver3", "cpu:znver2", "cpu:skylake"),
        ("cpu:x86-64-v3+vaes", "cpu:x86-64-v3", "cpu:znver3"),
        ("cpu:x86-64", "cpu:znver4", "cpu:neoverse-n1"),  # any x86 before any Arm
        ("cpu:neoverse-n2", "cpu:neoverse-v1", "cpu:neoverse-n1"),
    ],
)
def test_the_nearest_of_two(target: str, near: str, far: str) -> None:
    assert nearest(target, far, near) == near
    assert nearest(target, near, far) == near
    assert nearest(target, far, near, target) == target


def test_distances_go_both_ways_and_are_none_from_a_gpu() -> None:
    one, two = parse_target("cpu:znver3"), parse_target("cpu:graniterapids")
    assert apart(one, two) == apart(two, one)
    assert apart(one, one) == (0, 0, 0, 0)
    assert apart(one, parse_target("cuda:sm_90")) is None


def test_caches_are_those_of_known_processors() -> None:
    known = {name for names in CPUS.values() for name in names}
    assert _BY_NAME.keys() <= known
    assert caches_of(parse_target("cpu:znver3")).l2 == 512 << 10
