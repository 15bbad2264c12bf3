"""What a graph is to compute: evaluated once a study, and kept in files for every candidate.

One file of plain arrays for each set of sizes holds the ideal reading of every output, how far a
kernel may be from it, and the elements that are free. Inputs are drawn again from the set's number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.autotune.call import Call
from tilewright.dsl.graph import Graph
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.sampling import draw_inputs
from tilewright.dsl.tolerance import Bound, Tolerance, check, leaves, tolerances
from tilewright.runtime.model import Model

Sizes = Mapping[str, int]

_FIRST_SEED = 1000
"""Apart from the seeds of the inputs that are timed."""


def write_expected(
    graph: Graph, weights: Mapping[str, Any], checked: Sequence[Sizes], folder: Path
) -> None:
    """Evaluates the reference at each of the sizes. Raises what `evaluate` raises."""
    for number, sizes in enumerate(checked):
        given = {**drawn_inputs(graph, sizes, _FIRST_SEED + number), **weights}
        ideal = evaluate(graph, given, symbols=sizes, reading="ideal")
        arrays: dict[str, Any] = {}
        for name, tolerance in tolerances(graph, given, symbols=sizes).items():
            for array, bound in zip(leaves(ideal[name]), tolerance.bounds, strict=True):
                place = len(arrays) // 3
                arrays |= {f"{place}/ideal": array, f"{place}/distance": bound.distance}
                arrays[f"{place}/free"] = bound.free
        np.savez(_file(folder, number), **arrays)


def mismatch(model: Model, graph: Graph, checked: Sequence[Sizes], folder: Path) -> str | None:
    """What a compiled graph gets wrong, on poisoned memory; None where nothing is."""
    for number, sizes in enumerate(checked):
        call = Call(model, graph, sizes)
        call.take(drawn_inputs(graph, sizes, _FIRST_SEED + number))
        found = call.run(poison=True)
        with np.load(_file(folder, number), allow_pickle=False) as arrays:
            place = 0
            for output in graph.outputs:
                count = sum(1 for _ in leaves(found[output.name]))
                places = range(place, place := place + count)
                wanted = tuple(arrays[f"{p}/ideal"] for p in places)
                bounds = (Bound(arrays[f"{p}/distance"], arrays[f"{p}/free"]) for p in places)
                wrong = check(found[output.name], wanted, Tolerance(tuple(bounds)))
                if wrong is not None:
                    return f"{output.name} at {_listed(sizes)}: {wrong}"
    return None


def drawn_inputs(graph: Graph, sizes: Sizes, seed: int) -> dict[str, Any]:
    """New values for what the caller of a graph gives: all but its parameters."""
    return draw_inputs(graph, sizes, np.random.default_rng(seed), params=False)


def _file(folder: Path, number: int) -> Path:
    return folder / f"expected{number}.npz"


def _listed(sizes: Sizes) -> str:
    return ", ".join(f"{name}={size}" for name, size in sorted(sizes.items())) or "its one size"
