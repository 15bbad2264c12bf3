"""Spaces of schedules, and the one of matmuls."""

import pytest

from tests.codegen.tvm.kernels import CPUS, isa
from tilewright.codegen.space import OneOf, Point, PowerOfTwo, Space
from tilewright.codegen.tvm.matmul_schedule import check, default_schedule, packed_layout
from tilewright.codegen.tvm.matmul_space import matmul_space, schedule_at

SPACE = Space(
    "test",
    (
        OneOf("mr", (4, 6, 8), 6),
        PowerOfTwo("unroll", 1, 8, 4),
        OneOf("packed", (False, True), True),
    ),
    lambda point: "too much" if point["mr"] == 8 and point["unroll"] == 8 else None,
)


def test_default_and_neighbours() -> None:
    assert SPACE.default == {"mr": 6, "unroll": 4, "packed": True}
    assert [tuple(p.values()) for p in SPACE.neighbours(SPACE.default)] == [
        (4, 4, True),
        (8, 4, True),
        (6, 2, True),
        (6, 8, True),
        (6, 4, False),
    ]
    corner: Point = {"mr": 8, "unroll": 4, "packed": True}
    assert [tuple(p.values()) for p in SPACE.neighbours(corner)] == [
        (6, 4, True),
        (8, 2, True),
        (8, 4, False),
    ]


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ({"mr": 8, "unroll": 8, "packed": True}, "too much"),
        ({"mr": 5, "unroll": 8, "packed": True}, "mr is 5"),
        ({"mr": 4, "unroll": 3, "packed": True}, "unroll is 3"),
        ({"mr": 4}, "it names"),
    ],
)
def test_refusals(point: Point, reason: str) -> None:
    assert reason in (SPACE.refusal(point) or "")


def test_the_fingerprint_follows_the_values() -> None:
    wider = Space("test", (OneOf("mr", (4, 6, 8, 10), 6), *SPACE.dimensions[1:]))
    assert wider.fingerprint != SPACE.fingerprint
    assert Space("test", SPACE.dimensions).fingerprint == SPACE.fingerprint


@pytest.mark.parametrize("cpu", [*CPUS, "sapphirerapids"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
@pytest.mark.parametrize(("n", "k"), [(40, 24), (384, 384), (1536, 3000)])
def test_points_of_matmuls_are_legal_schedules(cpu: str, dtype: str, n: int, k: int) -> None:
    has = isa(cpu)
    kind = "f32" if dtype == "f32" else "bf16" if dtype == "bf16" else "i8"
    schedule = default_schedule(n, k, kind, has)
    layout = packed_layout(n, k, kind, schedule, has)
    space = matmul_space(layout, schedule, has)
    assert space.refusal(space.default) is None
    assert schedule_at(space.default, schedule.nv) == schedule
    found = list(space.neighbours(space.default))
    assert len(found) >= 4
    for point in found:
        check(schedule_at(point, schedule.nv), layout, has)
