"""Records landscapes: the time of every point of a space, over the untuned point's.

    taskset -c 1 python benchmarks/landscapes.py build build/landscapes [--only NAME ...]
    taskset -c 1 python benchmarks/landscapes.py time build/landscapes

Searches are compared by replaying these files (`sample_efficiency.py`). All points are compiled
and checked first, so that times are taken in a quiet quarter of an hour: each point's beside the
untuned one's, in turn, on as many threads as the process may use. A kernel's speed depends on
where its arrays happen to lie (5 % either way, from one load to the next), so each point is loaded
many times for a few rounds each, every time among others, and its time is the mean over the loads
of their medians; what is far slower is left after the first. The best tenth is timed again, since
the best of a thousand is in part the luckiest. The noise floor is how far the untuned point seems
to be from itself. Every call that is timed follows one that is not: what the others left of the
caches differs from hour to hour. What is interrupted goes on where it ended.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kernel_cases import Case
from kernels_tilewright import program_of

import tilewright as tw
from tilewright.autotune.child import BASELINE, compiled, prepare
from tilewright.autotune.expected import drawn_inputs, mismatch
from tilewright.autotune.job import Preparation
from tilewright.autotune.landscape import FOLDER, Landscape, LandscapePoint
from tilewright.autotune.records import point_text, tools
from tilewright.autotune.subjects import Subject, kernel_subjects
from tilewright.codegen.compiler import Options
from tilewright.codegen.space import OneOf, Point, Space, Value
from tilewright.dsl.errors import TilewrightError
from tilewright.dsl.text import parse_program
from tilewright.runtime.model import Model, load
from tilewright.target.host import host
from tilewright.target.spec import parse_target

ROUNDS, AGAIN = 25, 65
"""How often each point is timed, and how often the best tenth once more."""
_TURN = 5
"""Rounds with the same copy of a kernel in memory."""
_TENTH, _SAME, _GROUP, _TELL = 10, 20, 16, 50
_FAR = 1.5
"""A point that takes so many times the untuned one's time is timed one turn only."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A kernel, and which values of its dimensions are recorded (all, where none are named)."""

    program: Callable[[], tw.Program]
    values: Mapping[str, tuple[Value, ...]]


def _case(text: str) -> Callable[[], tw.Program]:
    return lambda: program_of(Case.parse(text))


def _batched(
    batch: int, m: int, k: int, n: int, dtype: tw.DType = tw.f32
) -> Callable[[], tw.Program]:
    def program() -> tw.Program:
        def product(a: tw.Tensor, b: tw.Tensor) -> tw.Tensor:
            return a @ b

        traced = tw.graph(a=dtype[batch, m, k], b=dtype[batch, k, n])(product)
        return tw.program("kernel", traced).program

    return program


_ATTENTION: Mapping[str, tuple[Value, ...]] = {
    "query_strips": (1, 4, 8, 16),
    "key_tiles": (4, 5, 10, 24),
    "key_rows": (2, 4, 6),
    "query_vectors": (1, 2, 3),
    "sum_rows": (2, 4, 6),
    "value_vectors": (1, 2, 3),
    "unroll": (1, 4),
}
_MATMUL: Mapping[str, tuple[Value, ...]] = {"mr": (1, 2, 4, 6), "unroll": (2, 4, 8)}

_BATCHED: Mapping[str, tuple[Value, ...]] = {
    "kc": (64, 128, 256, 512),
    "tiles": (1, 4, 8, 24, 32),
}

KERNELS: Mapping[str, Recorded] = {
    "batched-4x256x256x256-f32": Recorded(_batched(4, 256, 256, 256), _BATCHED),
    "attention-8x128-256-f32": Recorded(_case("attention/8x128/256/causal/f32"), _ATTENTION),
    "batched-12x128x64x128-f32": Recorded(_batched(12, 128, 64, 128), _BATCHED),
    "attention-12x32-128-f32": Recorded(_case("attention/12x32/128/causal/f32"), _ATTENTION),
    "attention-4x256-256-bf16": Recorded(_case("attention/4x256/256/causal/bf16"), _ATTENTION),
    "batched-2x512x256x512-f32": Recorded(_batched(2, 512, 256, 512), _BATCHED),
    "attention-8x64-512-f32": Recorded(_case("attention/8x64/512/causal/f32"), _ATTENTION),
    "batched-12x128x128x64-f32": Recorded(_batched(12, 128, 128, 64), _BATCHED),
    "batched-4x128x256x128-bf16": Recorded(_batched(4, 128, 256, 128, tw.bf16), _BATCHED),
    "batched-8x128x256x256-f32": Recorded(_batched(8, 128, 256, 256), _BATCHED),
    "batched-4x256x512x256-f32": Recorded(_batched(4, 256, 512, 256), _BATCHED),
    "batched-4x256x256x256-bf16": Recorded(_batched(4, 256, 256, 256, tw.bf16), _BATCHED),
    "matmul-128x384x1536-f32": Recorded(
        _case("matmul/128x384x1536/f32"), {**_MATMUL, "tiles": (1, 4, 8, 16, 44)}
    ),
    "matmul-256x640x2048-bf16": Recorded(
        _case("matmul/256x640x2048/bf16"), {"mr": (1, 2, 4, 6), "tiles": (1, 8, 44)}
    ),
}


def narrowed(space: Space, values: Mapping[str, tuple[Value, ...]]) -> Space:
    """The same with some values only; the default stays."""
    kept = [
        OneOf(d.name, tuple(v for v in values.get(d.name, d.values) if v in d.values), d.default)
        for d in space.dimensions
    ]
    return replace(space, dimensions=tuple(kept))


class Kernel:
    """One kernel: where its points are compiled, and how they are timed."""

    def __init__(self, name: str, folder: Path) -> None:
        what = KERNELS[name]
        (found,) = kernel_subjects(what.program(), Options(parse_target("cpu:native")), "*")
        self.subject: Subject = replace(found, space=narrowed(found.space, what.values))
        self.name, self.folder = name, folder / name
        self._program = parse_program(self.subject.case.program)
        self._graph = self._program.graph(self.subject.case.graph)

    def build(self) -> None:
        """Compiles every point, and notes which of them are wrong."""
        self.folder.mkdir(parents=True, exist_ok=True)
        case, points = self.subject.case, [*self.subject.space.points()]
        prepare(Preparation(case, str(self.folder)))
        for number, point in enumerate(points, 1):
            place = self._place(point)
            if not place.exists():
                made = self.folder / "made"
                model, _ = compiled(self._program, case, self.subject.candidate(point), made)
                if mismatch(model, self._graph, case.checked, self.folder) is not None:
                    (made / "manifest.json").unlink()  # is not loaded
                made.rename(place)
            if number % _TELL == 0:
                print(f"{self.name}: {number} of {len(points)}", file=sys.stderr, flush=True)

    def time(self) -> Landscape:
        """Times all points in groups, then the best again, then the default beside itself."""
        baseline = load(self.folder / BASELINE, self.subject.case.threads)
        points = [*self.subject.space.points()]
        times: dict[str, list[float]] = {point_text(p): [] for p in points}
        self._time(baseline, points, times, ROUNDS)
        ranked = sorted((p for p in points if times[point_text(p)]), key=lambda p: _ratio(times, p))
        self._time(baseline, ranked[: len(ranked) // _TENTH], times, AGAIN)
        noise = [self._noise(baseline) for _ in range(_SAME)]
        return self._landscape(points, times, statistics.stdev(noise))

    def _time(
        self, baseline: Model, points: Sequence[Point], times: dict[str, list[float]], rounds: int
    ) -> None:
        """Appends, for each load, the median ratio to the baseline's time in the same round."""
        left = [*points]
        for turn in range(rounds // _TURN):
            random.Random(turn).shuffle(left)
            for start in range(0, len(left), _GROUP):
                self._time_group(baseline, left[start : start + _GROUP], times)
            left = [p for p in left if times[point_text(p)] and _ratio(times, p) < _FAR]

    def _time_group(
        self, baseline: Model, points: Sequence[Point], times: dict[str, list[float]]
    ) -> None:
        """One turn of a few points, each beside the baseline; the first round warms up."""
        group: list[tuple[str, Model, list[float]]] = []
        for point in points:
            with suppress(TilewrightError):
                model = load(self._place(point), self.subject.case.threads)
                group.append((point_text(point), model, []))
        for number in range(_TURN + 1):
            inputs = drawn_inputs(self._graph, self.subject.case.sizes, number)
            unit = self._seconds(baseline, inputs)
            for _, model, ratios in group:
                seconds = self._seconds(model, inputs)
                after = self._seconds(baseline, inputs)
                if number:
                    ratios.append(2 * seconds / (unit + after))
                unit = after
        for text, _, ratios in group:
            times[text].append(statistics.median(ratios))

    def _seconds(self, model: Model, inputs: Mapping[str, Any]) -> float:
        model.run(self._graph.name, inputs)
        start = time.perf_counter()
        model.run(self._graph.name, inputs)
        return time.perf_counter() - start

    def _noise(self, baseline: Model) -> float:
        """The ratio of the default to itself, measured as those of points are."""
        times: dict[str, list[float]] = {point_text(self.subject.space.default): []}
        self._time(baseline, [self.subject.space.default], times, ROUNDS)
        return _ratio(times, self.subject.space.default)

    def _place(self, point: Point) -> Path:
        return self.folder / hashlib.sha256(point_text(point).encode()).hexdigest()[:16]

    def _landscape(
        self, points: Sequence[Point], times: Mapping[str, list[float]], noise: float
    ) -> Landscape:
        subject = self.subject
        axes = [d for d in subject.space.dimensions if isinstance(d, OneOf)]

        # The baseline runs so often that it is warmer than any candidate, the default among them.
        unit = _ratio(times, subject.space.default)

        def recorded(point: Point) -> LandscapePoint:
            at = [d.values.index(point[d.name]) for d in axes]
            found = times[point_text(point)]
            ratio = round(statistics.mean(found) / unit, 4) if found else None
            cost = 1.0 if subject.space.cost is None else round(subject.space.cost(point), 4)
            return LandscapePoint(at, ratio, cost)

        return Landscape(
            name=self.name,
            family=subject.space.family,
            target=subject.key.target,
            tools=tools(),
            machine=host().model,
            threads=subject.case.threads,
            recorded=datetime.now(UTC).date().isoformat(),
            rounds=ROUNDS,
            again=AGAIN,
            noise=round(noise, 5),
            traits=dict(subject.traits),
            dimensions={d.name: list(d.values) for d in axes},
            default=dict(subject.space.default),
            points=sorted(map(recorded, points), key=lambda p: p.at),
        )


def _ratio(times: Mapping[str, list[float]], point: Point) -> float:
    return statistics.mean(times[point_text(point)])


def main() -> None:
    """Compiles, or times, all kernels or those that are named."""
    parser = argparse.ArgumentParser(description="Records landscapes.")
    parser.add_argument("what", choices=["build", "time"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--only", nargs="*", default=list(KERNELS), choices=list(KERNELS))
    given = parser.parse_args()
    for name in given.only:
        if given.what == "build":
            Kernel(name, given.folder).build()
        else:
            given.out.mkdir(parents=True, exist_ok=True)
            Kernel(name, given.folder).time().save(given.out / f"{name}.json")
            print(name, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
