"""How many trials searches need, replayed on recorded landscapes.

    python benchmarks/sample_efficiency.py [--seeds 20] [--trials 64] [--json FILE] [--search ...]

A search needs as many trials as it takes to try a point within 97 % of the best one's speed.
`guided` is told what was recorded of the other landscapes; no search is told of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import Pool
from pathlib import Path

from tilewright.autotune.guided import guided
from tilewright.autotune.landscape import Landscape, load_landscape
from tilewright.autotune.propose import Proposer
from tilewright.autotune.records import Result, Similar, point_text
from tilewright.autotune.strategy import Strategy, proposer

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "data" / "landscapes"
GOOD = 0.97
SEARCHES = ("random", "neighbours", "tpe", "gp", "cmaes", "guided-alone", "guided")


def trials_needed(landscape: Landscape, propose: Proposer, most: int, seed: int) -> int:
    """Trials until a point within 97 % of the best speed is found; most + 1 where it is not.

    What the search is told is as noisy as a measurement; what counts is what was recorded.
    """
    everything = landscape.results()
    best = min(r.ratio for r in everything.values() if r.ratio is not None)
    known: dict[str, Result] = {}
    draw = random.Random(f"{landscape.name}/{seed}")
    for number in range(1, most + 1):
        point = propose(known, frozenset())
        if point is None:
            break
        text = point_text(point)
        found = everything[text]
        if found.ratio is not None and found.ratio * GOOD <= best:
            return number
        known[text] = _noisy(found, draw.gauss(0.0, landscape.noise))
    return most + 1


def _noisy(found: Result, noise: float) -> Result:
    if found.ratio is None:
        return found
    return replace(found, ratio=found.ratio * math.exp(noise))


def search(name: str, landscape: Landscape, others: Sequence[Landscape], seed: int) -> Proposer:
    """The proposer of that name over a landscape."""
    space = landscape.space()
    if name in ("guided", "guided-alone"):
        similar = [Similar(o.traits, o.results()) for o in others if o.family == landscape.family]
        return guided(space, landscape.traits, similar if name == "guided" else [], seed)
    strategies: dict[str, Strategy] = {
        "random": "random", "neighbours": "neighbours", "tpe": "tpe", "gp": "gp", "cmaes": "cmaes",
    }  # fmt: skip
    return proposer(space, strategies[name], seed)


def replay(task: tuple[str, int, int], landscapes: Sequence[Landscape], most: int) -> int:
    """Trials that a search (name, landscape, seed) needs."""
    name, place, seed = task
    landscape = landscapes[place]
    others = [other for other in landscapes if other is not landscape]
    return trials_needed(landscape, search(name, landscape, others, seed), most, seed)


def main() -> None:
    """Prints the median number of trials of each search on each landscape."""
    parser = argparse.ArgumentParser(description="Compares searches on recorded landscapes.")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--search", nargs="*", default=list(SEARCHES), choices=SEARCHES)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    landscapes = [load_landscape(file) for file in sorted(given.folder.glob("*.json"))]
    most = {"random": 10 * given.trials}
    rows: list[dict[str, object]] = []
    with Pool() as pool:
        for name in given.search:
            limit = most.get(name, given.trials)
            run: Callable[[tuple[str, int, int]], int] = partial(
                replay, landscapes=landscapes, most=limit
            )
            for place, landscape in enumerate(landscapes):
                needed = pool.map(run, [(name, place, seed) for seed in range(given.seeds)])
                median = statistics.median(needed)
                rows.append({"search": name, "landscape": landscape.name, "trials": needed})
                shown = f"more than {limit}" if median > limit else f"{median:g}"
                print(f"{name:14} {landscape.name:28} {shown:>14}  {min(needed)}..{max(needed)}")
    if given.json is not None:
        given.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
