"""Spaces of schedules, and those of every family."""

import pytest

from tests.codegen.tvm.kernels import CPUS, isa
from tilewright.codegen.space import OneOf, Point, PowerOfTwo, Space
from tilewright.codegen.tvm.attention_schedule import (
    check_attention,
    default_attention_schedule,
)
from tilewright.codegen.tvm.attention_space import AttentionSizes, attention_at, attention_space
from tilewright.codegen.tvm.matmul_schedule import (
    batched_schedule,
    check,
    check_table,
    default_schedule,
    default_table_schedule,
    packed_layout,
)
from tilewright.codegen.tvm.matmul_space import (
    batched_at,
    batched_space,
    matmul_space,
    schedule_at,
    table_at,
    table_space,
)
from tilewright.dsl.dims import Dim, dim

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


@pytest.mark.parametrize("cpu", [*CPUS, "sapphirerapids"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_points_of_other_matmuls_are_legal_schedules(cpu: str, dtype: str) -> None:
    has = isa(cpu)
    table = default_table_schedule(has.lanes_f32)
    space = table_space(1 << 14, dtype, table, has)
    assert space.refusal(space.default) is None
    assert table_at(space.default) == table
    found = list(space.neighbours(space.default))
    assert len(found) >= 4
    for point in found:
        check_table(table_at(point), dtype, has)
    batched = batched_schedule(has.lanes_f32, has.vector_registers)
    space = batched_space(batched, has)
    assert space.refusal(space.default) is None
    assert batched_at(space.default) == batched
    assert len(list(space.neighbours(space.default))) >= 6
    assert "registers" in (space.refusal({**space.default, "mr": 14, "nv": 4}) or "")
    deep = {**space.default, "mr": 12, "nv": 1, "kc": 1024, "tiles": 32}
    assert "scratch" in (space.refusal(deep) or "")


ROWS = dim("s", 1, 4096)


@pytest.mark.parametrize("cpu", [*CPUS, "sapphirerapids"])
@pytest.mark.parametrize("head", [5, 64, 512])
def test_points_of_attention_are_legal_schedules(cpu: str, head: int) -> None:
    has = isa(cpu)
    default = default_attention_schedule(head, head, has)
    space = attention_space(AttentionSizes(ROWS, head, head), default, has)
    assert space.refusal(space.default) is None
    assert attention_at(space.default, default, has) == default
    found = list(space.neighbours(space.default))
    changed = {name for p in found for name in p if p[name] != space.default[name]}
    assert changed == {d.name for d in space.dimensions}
    for point in found:
        check_attention(attention_at(point, default, has), has)


def test_tiles_of_attention_are_those_that_fit_the_registers() -> None:
    for cpu, tiles in (
        ("x86-64-v3", {(4, 2), (6, 2), (4, 3)}),
        ("sapphirerapids", {(8, 2), (12, 2), (8, 3)}),
    ):
        has = isa(cpu)
        default = default_attention_schedule(64, 64, has)
        space = attention_space(AttentionSizes(ROWS, 64, 64), default, has)
        for rows, vectors in tiles:
            tile = {"key_rows": rows, "query_vectors": vectors}
            assert space.refusal({**space.default, **tile}) is None, (cpu, tile)
        wide = {**space.default, "sum_rows": 14, "value_vectors": 4}
        assert "for sums do not fit" in (space.refusal(wide) or "")
    long = attention_space(AttentionSizes(ROWS, 512, 512), default, has)
    assert "bytes of scratch" in (long.refusal({**long.default, "key_tiles": 32}) or "")


@pytest.mark.parametrize(
    ("rows", "has_tiles", "has_few"), [(1, False, True), (ROWS, True, True), (8, True, False)]
)
def test_attention_leaves_open_what_its_rows_meet(
    rows: Dim, has_tiles: bool, has_few: bool
) -> None:
    has = isa("generic")
    default = default_attention_schedule(64, 64, has)
    space = attention_space(AttentionSizes(rows, 64, 64), default, has)
    names = {d.name for d in space.dimensions}
    assert ("key_rows" in names, "few_elements" in names) == (has_tiles, has_few)
