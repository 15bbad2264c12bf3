"""How far the network model's predictions are off, on sizes and groups that it was not fitted to.

    python benchmarks/network_error.py [--json FILE] [--arch sm_90 ...]

Every second size of the grid is held out, both ways round; a latency and a bandwidth for each
(op, ranks) are fitted to the same rows and judged on the same. Where an architecture was measured
on more than two group sizes, each is also left out entirely. Permutes and all-to-alls are predicted
with the constants of all rows; NCCL serves those of 4 to 128 MiB with few channels, and jumps above
that, which the model does not follow. Then come the winners among algorithms, and the signs of
fuse / do not fuse (`network_algorithms.py`, `network_overlap.py`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import network_algorithms as algorithms
import network_overlap as overlap
from network_fit import PLANS, Plan, alpha_beta, fit
from network_rows import Error, Row, halves, load, predictor

BARS = {"sm_90": 0.11, "sm_100_B200": 0.13, "gfx942": 0.04, "gfx950": 0.04}
LEFT_OUT_BAR = 0.25


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Errors on the sizes held out: (fitted to even sizes, judged on odd), then the reverse."""

    arch: str
    constants: int
    ways: tuple[Error, Error]
    simple_constants: int
    simple: tuple[Error, Error]

    @property
    def model(self) -> Error:
        return Error.mean(self.ways)

    @property
    def alpha_beta(self) -> Error:
        return Error.mean(self.simple)

    @property
    def holds(self) -> bool:
        """The bar is met, and the error is below that of the plain fit."""
        bar = BARS.get(self.arch, float("inf"))
        return self.model.geometric <= min(bar, self.alpha_beta.geometric)


def held_out(arch: str) -> HeldOut:
    """Fits to every second size, and judges on the others."""
    plan, (even, odd) = PLANS[arch], halves(load(arch))
    ways = [(even, odd), (odd, even)]
    simple, count = zip(*(alpha_beta(given) for given, _ in ways), strict=True)
    return HeldOut(
        arch,
        len(plan.free),
        (_error(plan, even, odd), _error(plan, odd, even)),
        count[0],
        (Error.of(simple[0], odd), Error.of(simple[1], even)),
    )


def left_out(arch: str) -> dict[int, Error]:
    """The error on each group size when no row of that size was fitted; nothing for two sizes."""
    rows, plan = load(arch), PLANS[arch]
    sizes = sorted({row.ranks for row in rows})
    if len(sizes) < 3:
        return {}
    return {
        size: _error(
            plan,
            [row for row in rows if row.ranks != size],
            [row for row in rows if row.ranks == size],
        )
        for size in sizes
    }


def unjudged(arch: str) -> dict[str, Error]:
    """Errors on permutes and all-to-alls, from the constants of all judged rows."""
    predict = predictor(fit(PLANS[arch], load(arch)))
    rows = load(arch, ("permute", "all_to_all"))
    return {
        op: Error.of(predict, [row for row in rows if row.op == op])
        for op in ("permute", "all_to_all")
    }


def _error(plan: Plan, given: Sequence[Row], judged: Sequence[Row]) -> Error:
    return Error.of(predictor(fit(plan, given)), judged)


def table(archs: Sequence[str]) -> Iterator[str]:
    """The lines of the table on held-out sizes."""
    yield (
        f"{'held-out sizes':14} {'constants':>9} {'even>odd':>9} {'odd>even':>9} {'mean':>7}"
        f" {'abs.':>7} {'bar':>6} | {'alpha-beta':>10} {'mean':>7} {'abs.':>7}"
    )
    for arch in archs:
        found = held_out(arch)
        bar = f"{BARS[arch]:6.0%}" if arch in BARS else f"{'':6}"
        yield (
            f"{arch:14} {found.constants:9} {found.ways[0].geometric:9.1%}"
            f" {found.ways[1].geometric:9.1%} {found.model.geometric:7.2%}"
            f" {found.model.absolute:7.2%} {bar} | {found.simple_constants:10}"
            f" {found.alpha_beta.geometric:7.2%} {found.alpha_beta.absolute:7.2%}"
            f"  {'' if found.holds else 'DOES NOT HOLD'}"
        )


def other_tables(archs: Sequence[str]) -> Iterator[str]:
    """The lines on group sizes left out, and on the ops that are not judged."""
    yield f"\ngroup size left out (bar {LEFT_OUT_BAR:.0%})"
    for arch in archs:
        for size, error in left_out(arch).items():
            verdict = "" if error.geometric <= LEFT_OUT_BAR else "  DOES NOT HOLD"
            yield f"{arch:14} {size:3} ranks {error.geometric:7.1%}{verdict}"
    yield "\nnot judged (the library's jump between few and many channels)"
    for arch in archs:
        for op, error in unjudged(arch).items():
            yield f"{arch:14} {op:11} {error.geometric:7.1%} of {error.rows} rows"


def choices() -> Iterator[str]:
    """The lines on winners among algorithms, and on fusing or not."""
    tables = algorithms.tables()
    yield from algorithms.lines(algorithms.judged(tables), "winners, us measured (predicted)")
    yield from algorithms.lines(algorithms.judged_by_others(tables), "from the other tables alone")
    rows = overlap.pairs()
    yield from overlap.lines(overlap.shipped(rows), "fuse or not, us measured (predicted)")
    yield from overlap.lines(overlap.left_out(rows), "each pair left out of the fit")


def main() -> None:
    """Prints the tables, and writes their figures on request."""
    parser = argparse.ArgumentParser(description="Errors of the network model.")
    parser.add_argument("--arch", nargs="*", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    for line in (*table(given.arch), *other_tables(given.arch), "", *choices()):
        print(line)
    if given.json is not None:
        given.json.write_text(json.dumps(figures(given.arch), indent=1) + "\n", encoding="utf-8")


def figures(archs: Sequence[str]) -> dict[str, object]:
    """Everything that is printed, for other programs."""
    return {
        "held_out": [asdict(held_out(arch)) for arch in archs],
        "left_out": {
            arch: {size: asdict(error) for size, error in left_out(arch).items()} for arch in archs
        },
        "unjudged": {
            arch: {op: asdict(error) for op, error in unjudged(arch).items()} for arch in archs
        },
        "winners": [
            {"source": p.source, "ranks": p.ranks, "bytes": p.bytes, "right": p.right}
            for p in algorithms.judged(algorithms.tables())
        ],
        "fuse": [
            {"source": row.source, "ranks": row.pair.ranks, "right": row.right(constants)}
            for row, constants in overlap.shipped(overlap.pairs())
        ],
    }


if __name__ == "__main__":
    main()
