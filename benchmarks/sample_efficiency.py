"""How many trials searches need, replayed on recorded landscapes.

    python benchmarks/sample_efficiency.py [--seeds 20] [--trials 64] [--json FILE] [--search ...]

A search needs as many trials as it takes to try a point within 97 % of the best one's speed.
`guided` is told what was recorded of the other landscapes; no search is told of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import get_args

from tilewright.autotune.landscape import FOLDER, Landscape, load_landscape, similar_to
from tilewright.autotune.propose import Proposer
from tilewright.autotune.strategy import Strategy, proposer

SEARCHES = ("random", "neighbours", "tpe", "gp", "cmaes", "guided-alone", "guided")
strategies: dict[str, Strategy] = {name: name for name in get_args(Strategy)}


def search(name: str, landscape: Landscape, others: Sequence[Landscape], seed: int) -> Proposer:
    """The proposer of that name over a landscape."""
    space, strategy = landscape.space(), strategies[name.removesuffix("-alone")]
    similar = [] if name.endswith("-alone") else similar_to(landscape.family, others)
    return proposer(space, strategy, seed, landscape.traits, similar)


def replay(task: tuple[str, int, int], landscapes: Sequence[Landscape], most: int) -> int:
    """Trials that a search (name, landscape, seed) needs."""
    name, place, seed = task
    landscape = landscapes[place]
    others = [other for other in landscapes if other is not landscape]
    return landscape.trials_needed(search(name, landscape, others, seed), most, seed)


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
