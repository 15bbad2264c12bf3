"""Chains of rewrites of random programs on simulated ranks: legal ones mean the same."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.depth import count
from tests.passes.spmd import MESHES, Named, moves, random_program, same_outputs
from tilewright.dsl.errors import IllegalRewrite
from tilewright.dsl.hashing import structural_hash
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.program import Program
from tilewright.dsl.ranks import run_ranks
from tilewright.dsl.sampling import draw_inputs
from tilewright.passes.schedule import Schedule

PROGRAMS = count(8, 300)
PAIRS = count(12, 100_000)
"""Chains of two moves that are tried on a program, at most."""
CHAINS = count(2, 40)
GROUPS = 8


class Meaning:
    """What a program means, and whether another one means it too, on all its ranks."""

    def __init__(self, program: Program) -> None:
        self.program = program
        (graph,) = program.graphs
        self.inputs: dict[str, Any] = draw_inputs(graph, {}, np.random.default_rng(1))
        self.wanted = evaluate(graph, self.inputs, reading="ideal")

    def check(self, other: Program, chain: str) -> None:
        found = run_ranks(other.graphs[0], other.mesh, self.inputs)
        for name in same_outputs(self.program.graphs[0], other.graphs[0]):
            np.testing.assert_allclose(
                found[name], self.wanted[name], rtol=1e-6, atol=1e-6, err_msg=chain
            )


def tried(schedule: Schedule, move: Named, refused: list[str]) -> Iterator[Schedule]:
    """What a move makes, where it applies; where not, the reason is noted."""
    try:
        yield move.apply(schedule)
    except IllegalRewrite as mistake:
        refused.append(mistake.message)


def legal(schedule: Schedule, refused: list[str]) -> Iterator[tuple[Named, Schedule]]:
    """The moves that apply, with what they make."""
    for move in moves(schedule.program):
        for made in tried(schedule, move, refused):
            yield move, made


def walk(program: Program, draw: random.Random, refused: list[str]) -> dict[str, str]:
    """Every chain of up to two moves and some of three to six, checked; distinct by structure."""
    meaning = Meaning(program)
    seen: dict[str, str] = {}

    def reached(schedule: Schedule, chain: str) -> None:
        key = structural_hash(schedule.program.graphs[0])
        if key not in seen:
            meaning.check(schedule.program, chain)
            seen[key] = chain

    start = Schedule(program)
    reached(start, "")
    first = [*legal(start, refused)]
    for move, schedule in first:
        reached(schedule, move.text)
    pairs = [(move, made, second) for move, made in first for second in moves(made.program)]
    draw.shuffle(pairs)
    for move, schedule, second in pairs[:PAIRS]:
        for after in tried(schedule, second, refused):
            reached(after, f"{move.text}; {second.text}")
    for _ in range(CHAINS):
        schedule, chain = start, ""
        for _ in range(draw.randint(3, 6)):
            options = [*moves(schedule.program)]
            draw.shuffle(options)
            for move in options:
                made = next(tried(schedule, move, refused), None)
                if made is not None:
                    schedule, chain = made, f"{chain}; {move.text}"
                    break
        reached(schedule, chain)
    return seen


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("group", range(GROUPS))
def test_legal_chains_mean_the_same(group: int, request: pytest.FixtureRequest) -> None:
    rotation = int(request.config.option.hypothesis_seed) % 10_000
    draw = random.Random(f"{rotation}/{group}")
    refused: list[str] = []
    distinct = 0
    for number in range(group, PROGRAMS, GROUPS):
        program = random_program(rotation * PROGRAMS + number)
        distinct += len(walk(program, draw, refused))
    print(f"{distinct} distinct programs, {len(refused)} refusals")
    assert distinct > PROGRAMS // GROUPS, "hardly any rewrite applies"
    assert all(": " in reason for reason in refused)
    assert len(refused) >= count(0, 200)


def test_programs_have_uneven_shards_and_all_meshes() -> None:
    programs = [random_program(seed) for seed in range(2 * len(MESHES))]
    assert {p.mesh for p in programs} == set(MESHES)
    assert any(5 in v.tensor.shape or 7 in v.tensor.shape for p in programs[::3]
               for v in p.graphs[0].input_values)  # fmt: skip
