"""One rank of `mesh_link.py`: times plans in turn with the other ranks, and prints medians as JSON.

Besides the plans: `compute`, the unfused plan whose collectives return at once, and `wire`, its
all-reduce alone.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mesh_cases import PLANS, MlpHalf

import tilewright as tw
from tilewright.runtime.process_group import Collective

Call = Callable[[], object]


class Absent:
    """A group whose collectives take no time and move nothing."""

    def check(self, op: str, axis: str, reduce: str) -> None: ...

    def post(self, handle: int, collective: Collective) -> None: ...

    def wait(self, handle: int) -> None: ...


def calls(case: MlpHalf, folder: Path, rank: int) -> dict[str, Call]:
    """What is timed, by name; the results of all plans are compared."""
    given = case.inputs(rank)
    found: dict[str, Call] = {}
    wanted: Any = None
    for plan in PLANS:
        model = tw.load(folder / plan.replace(" ", "-") / f"rank{rank}", threads=1)
        (graph,) = model.graphs
        out = model.run(graph, given)["out"]
        wanted = out if wanted is None else wanted
        np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-4)
        found[plan] = lambda model=model, graph=graph: model.run(graph, given)
    alone = tw.load(folder / "unfused" / f"rank{rank}", threads=1, group=Absent())
    (graph,) = alone.graphs
    found["compute"] = lambda: alone.run(graph, given)
    found["wire"] = _wire(case)
    return found


def _wire(case: MlpHalf) -> Call:
    import torch
    import torch.distributed as distributed

    message = torch.zeros(case.tokens * case.hidden)

    def call() -> None:
        distributed.all_reduce(message)

    return call


def main() -> None:
    """`mesh_rank.py CASE FOLDER RANK ROUNDS CALLS`"""
    import torch.distributed as distributed

    case, folder, rank = MlpHalf.parse(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    rounds, count = int(sys.argv[4]), int(sys.argv[5])
    ready = calls(case, folder, rank)
    blocks: dict[str, list[float]] = {name: [] for name in ready}
    for round_ in range(rounds + 1):
        for name, call in ready.items():
            seconds: list[float] = []
            for _ in range(count):
                distributed.barrier()
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
            if round_:  # the first one warms up
                blocks[name].append(statistics.median(seconds))
    distributed.barrier()
    if rank == 0:
        print(json.dumps(blocks))
    sys.stdout.flush()
    os._exit(0)  # the group's threads may wait for each other when they end


if __name__ == "__main__":
    main()
