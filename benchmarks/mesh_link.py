"""Computation and communication over a slow link, in one plan and one after the other.

    python benchmarks/mesh_link.py [--rate 1gbit|none] [--cases mlp/256x1024 ...] [--json FILE]

The half of a Megatron MLP that ends in an all-reduce, on two ranks of one thread each, in network
namespaces joined by links of the given rate (root and iproute2; `none` is loopback). Our unfused
plan against the best of our plans in parts, from alternating blocks; beside it the computation
without the wire, the wire without computation, and the part of the shorter that was hidden.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import WORK_FOLDER, limit_threads
from mesh_cases import CASES, PLANS, RANKS, MlpHalf
from mesh_network import NoNetwork, Place, limited, loopback

from tilewright.runtime.schema import SCHEMA_VERSION

_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds of a call, by what was timed, as medians over blocks."""

    case: str
    rate: str
    seconds: Mapping[str, float]
    best: str
    speedup: float
    """The unfused plan's time over the best plan's: the median of the blocks' ratios."""
    hidden: float
    """Of the shorter of computation and wire, how much is covered by the longer."""


def figures(case: str, rate: str, blocks: Mapping[str, Sequence[float]]) -> Figures:
    """What the blocks say."""
    seconds = {name: statistics.median(times) for name, times in blocks.items()}
    best = min(PLANS, key=lambda plan: seconds[plan])
    ratios = [a / b for a, b in zip(blocks["unfused"], blocks[best], strict=True)]
    compute, wire = seconds["compute"], seconds["wire"]
    hidden = (compute + wire - seconds[best]) / min(compute, wire)
    return Figures(case, rate, seconds, best, statistics.median(ratios), hidden)


def measure(case: str, places: Sequence[Place], rate: str, rounds: int, calls: int) -> Figures:
    """One case, all ranks at once."""
    folder = WORK_FOLDER / f"mesh-{SCHEMA_VERSION}" / case.replace("/", "-")
    for plan in PLANS:
        MlpHalf.parse(case).compile(plan, folder / plan.replace(" ", "-"))
    running = [
        subprocess.Popen(
            [*place.command, sys.executable, str(Path(__file__).with_name("mesh_rank.py")), case,
             str(folder), str(rank), str(rounds), str(calls)],
            env=_environment(place, rank), stdout=subprocess.PIPE, text=True,
        )
        for rank, place in enumerate(places)
    ]  # fmt: skip
    try:
        printed = [process.communicate(timeout=_SECONDS)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    if any(process.returncode for process in running):
        raise SystemExit(f"{case}: a rank ended with {[p.returncode for p in running]}")
    return figures(case, rate, json.loads(printed[0].splitlines()[-1]))


def _environment(place: Place, rank: int) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS}
    return {**os.environ, **place.environment, **{k: str(v) for k, v in numbers.items()}}


def main() -> None:
    """Measures, prints a line a case, and the means."""
    parser = argparse.ArgumentParser(description="Overlap over a slow link.")
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--rate", default="1gbit")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    limit_threads(1)
    free = given.rate == "none"
    found: list[Figures] = []
    try:
        with nullcontext(loopback(RANKS)) if free else limited(RANKS, given.rate) as places:
            for case in given.cases:
                found.append(measure(case, places, given.rate, given.rounds, given.calls))
                print(_line(found[-1]), flush=True)
    except NoNetwork as reason:
        raise SystemExit(f"no links of {given.rate}: {reason}") from reason
    mean = math.exp(statistics.mean(math.log(f.speedup) for f in found))
    least = min(f.speedup for f in found)
    print(f"geometric mean {mean:.2f}x of the unfused plan; least {least:.2f}x")
    if given.json:
        given.json.write_text(json.dumps([asdict(f) for f in found], indent=1) + "\n")


def _line(f: Figures) -> str:
    ms = {name: 1e3 * seconds for name, seconds in f.seconds.items()}
    return (
        f"{f.case:16s} {f.speedup:5.2f}x  hidden {f.hidden:5.0%}  "
        + "  ".join(f"{name} {value:.2f}" for name, value in ms.items())
        + " ms"
    )


if __name__ == "__main__":
    main()
