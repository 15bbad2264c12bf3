"""Records landscapes: the time of every point of a space, over the untuned point's.

    taskset -c 1 python benchmarks/landscapes.py tests/data/landscapes [--only NAME ...]

Searches are compared by replaying these files (`sample_efficiency.py`). A point is timed beside the
untuned one, in turn, on as many threads as this process may use; the best tenth is timed again,
since the best of a thousand is in part the luckiest. The noise floor is how far the untuned point
seems to be from itself. A recording that is interrupted goes on where it ended.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from kernel_cases import Case
from kernels_tilewright import program_of

import tilewright as tw
from tilewright.autotune.bench import Bench
from tilewright.autotune.job import Measured
from tilewright.autotune.landscape import Landscape, LandscapePoint, load_landscape
from tilewright.autotune.launch import Launcher
from tilewright.autotune.records import point_text, tools
from tilewright.autotune.subjects import Subject, kernel_subjects
from tilewright.codegen.compiler import Options
from tilewright.codegen.space import OneOf, Point, Space, Value
from tilewright.target.host import host
from tilewright.target.spec import parse_target

ROUNDS, AGAIN = 9, 18
_TENTH, _SAME = 10, 20
_SECONDS = 1e6
_SAVE = 50


@dataclass(frozen=True, slots=True)
class Recorded:
    """A kernel, and which values of its dimensions are recorded (all, where none are named)."""

    program: Callable[[], tw.Program]
    values: Mapping[str, tuple[Value, ...]]


def _case(text: str) -> Callable[[], tw.Program]:
    return lambda: program_of(Case.parse(text))


def _batched(batch: int, m: int, k: int, n: int) -> Callable[[], tw.Program]:
    def program() -> tw.Program:
        def product(a: tw.Tensor, b: tw.Tensor) -> tw.Tensor:
            return a @ b

        traced = tw.graph(a=tw.f32[batch, m, k], b=tw.f32[batch, k, n])(product)
        return tw.program("kernel", traced).program

    return program


_ATTENTION: Mapping[str, tuple[Value, ...]] = {
    "query_strips": (1, 2, 4),
    "key_tiles": (4, 16, 32),
    "key_rows": (2, 4, 6),
    "query_vectors": (1, 2, 3),
    "sum_rows": (2, 4, 6),
    "value_vectors": (1, 2, 3),
    "unroll": (1, 4),
}
_MATMUL: Mapping[str, tuple[Value, ...]] = {"mr": (1, 2, 4, 6), "unroll": (2, 4, 8)}

KERNELS: Mapping[str, Recorded] = {
    "matmul-128x384x1536-f32": Recorded(
        _case("matmul/128x384x1536/f32"), {**_MATMUL, "tiles": (1, 4, 8, 16, 44)}
    ),
    "attention-8x128-256-f32": Recorded(_case("attention/8x128/256/causal/f32"), _ATTENTION),
    "matmul-256x1536x384-f32": Recorded(
        _case("matmul/256x1536x384/f32"), {**_MATMUL, "tiles": (1, 8, 22)}
    ),
    "attention-12x32-128-f32": Recorded(_case("attention/12x32/128/causal/f32"), _ATTENTION),
    "batched-4x256x256x256-f32": Recorded(
        _batched(4, 256, 256, 256), {"kc": (64, 128, 256, 512), "tiles": (1, 4, 12, 32)}
    ),
    "batched-12x128x64x128-f32": Recorded(
        _batched(12, 128, 64, 128), {"kc": (64, 128, 256, 512), "tiles": (1, 4, 12, 32)}
    ),
    "matmul-256x640x2048-bf16": Recorded(
        _case("matmul/256x640x2048/bf16"), {**_MATMUL, "tiles": (1, 8, 44)}
    ),
    "attention-4x256-256-bf16": Recorded(_case("attention/4x256/256/causal/bf16"), _ATTENTION),
}


def narrowed(space: Space, values: Mapping[str, tuple[Value, ...]]) -> Space:
    """The same with some values only; the default stays."""
    kept = [
        OneOf(d.name, tuple(v for v in values.get(d.name, d.values) if v in d.values), d.default)
        for d in space.dimensions
    ]
    return replace(space, dimensions=tuple(kept))


class Recording:
    """One landscape while it is being recorded."""

    def __init__(self, name: str, what: Recorded, folder: Path) -> None:
        (found,) = kernel_subjects(what.program(), Options(parse_target("cpu:native")), "*")
        self._subject: Subject = replace(found, space=narrowed(found.space, what.values))
        self._file = folder / f"{name}.json"
        self._name = name
        self._points: dict[str, LandscapePoint] = {}
        if self._file.exists():
            known = load_landscape(self._file)
            self._points = {point_text(known.point(p)): p for p in known.points}

    def run(self) -> None:
        """Times what is not yet known, then the best again, then the default against itself."""
        space = self._subject.space
        todo = [p for p in space.points() if point_text(p) not in self._points]
        random.Random(self._name).shuffle(todo)
        with Launcher() as launcher, Bench(self._subject, launcher, _SECONDS) as bench:
            for number, point in enumerate(todo, 1):
                self._points[point_text(point)] = self._timed(bench, point, ROUNDS)
                if number % _SAVE == 0:
                    self._tell(number, len(todo))
                    self._save(0.0)
            best = sorted(self._points, key=lambda text: self._points[text].ratio or 9e9)
            for text in best[: len(best) // _TENTH]:
                known = self._points[text]
                if known.rounds < ROUNDS + AGAIN:
                    self._points[text] = self._timed(bench, _point(text), AGAIN, known)
            same = [self._timed(bench, space.default, ROUNDS).ratio or 1.0 for _ in range(_SAME)]
        self._save(statistics.stdev(same))

    def _timed(
        self, bench: Bench, point: Point, rounds: int, known: LandscapePoint | None = None
    ) -> LandscapePoint:
        found = bench.compare(point, rounds)
        values = [point[d.name] for d in self._subject.space.dimensions]
        at = [d.values.index(v) for d, v in zip(self._dimensions, values, strict=True)]
        if not isinstance(found, Measured) or found.mismatch is not None:
            return LandscapePoint(at, None, None, 0)
        pairs = zip(found.candidate, found.baseline, strict=True)
        ratio = statistics.median(c / b for c, b in pairs)
        count = len(found.candidate)
        if known is not None and known.ratio is not None:
            # The first time was selected for being short; it counts by its rounds.
            ratio = (known.ratio * known.rounds + ratio * count) / (known.rounds + count)
            count += known.rounds
        return LandscapePoint(at, round(ratio, 5), min(found.candidate), count)

    @property
    def _dimensions(self) -> Sequence[OneOf]:
        return [d for d in self._subject.space.dimensions if isinstance(d, OneOf)]

    def _save(self, noise: float) -> None:
        subject = self._subject
        Landscape(
            name=self._name,
            family=subject.space.family,
            target=subject.key.target,
            tools=tools(),
            machine=host().model,
            threads=subject.case.threads,
            recorded=datetime.now(UTC).date().isoformat(),
            noise=round(noise, 5),
            traits=dict(subject.traits),
            dimensions={d.name: list(d.values) for d in self._dimensions},
            default=dict(subject.space.default),
            points=sorted(self._points.values(), key=lambda p: p.at),
        ).save(self._file)

    def _tell(self, number: int, count: int) -> None:
        print(f"{self._name}: {number} of {count}", file=sys.stderr, flush=True)


def _point(text: str) -> Point:
    return msgspec.json.decode(text, type=dict[str, bool | int | str])


def main() -> None:
    """Records all landscapes, or those that are named."""
    parser = argparse.ArgumentParser(description="Records landscapes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=list(KERNELS), choices=list(KERNELS))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        Recording(name, KERNELS[name], given.folder).run()


if __name__ == "__main__":
    main()
