"""Local validation: both sides of a fired rewrite computed on sampled inputs and compared."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from tilewright.dsl.errors import BrokenClaim
from tilewright.dsl.graph import Graph
from tilewright.dsl.hashing import structural_hash
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.placement import Mesh
from tilewright.dsl.sampling import draw_inputs, draw_symbols
from tilewright.dsl.text.printer import print_graph
from tilewright.dsl.tolerance import check, tolerances
from tilewright.passes.claim import Approximates, Claim, Exact
from tilewright.passes.shrink import shrink
from tilewright.passes.subgraph import SubGraphs

_SEEDS = (0, 1)
_CHECKED: set[tuple[str, str, str]] = set()


def validate(rule: str, claim: Claim, pair: SubGraphs, mesh: Mesh) -> None:
    """Holds one rewrite to its claim, at small legal shapes; memoised by structural hash.

    Raises BrokenClaim with both sides and the first difference.
    """
    key = (str(claim), structural_hash(pair.before), structural_hash(pair.after))
    if key in _CHECKED:
        return
    before, after = shrink(pair.before, pair.after, mesh)
    for seed in _SEEDS:
        _compare(rule, claim, before, after, seed)
    _CHECKED.add(key)


def _compare(rule: str, claim: Claim, before: Graph, after: Graph, seed: int) -> None:
    rng = np.random.default_rng(seed)
    symbols = draw_symbols(before, rng, small=True)
    inputs = draw_inputs(before, symbols, rng)
    expected = evaluate(before, inputs, symbols=symbols)
    actual = evaluate(after, inputs, symbols=symbols)
    if isinstance(claim, Exact):
        difference = _first_inexact(expected, actual)
    elif isinstance(claim, Approximates):
        difference = _beyond_bound(claim, before, after, inputs, symbols)
    else:
        difference = _beyond_tolerance(before, inputs, symbols, actual)
    if difference is not None:
        raise BrokenClaim(
            f"{rule} claims {claim}, but {difference}\n  symbols: {dict(symbols)}\n"
            f"{print_graph(before)}\n{print_graph(after)}"
        )


def _first_inexact(expected: dict[str, Any], actual: dict[str, Any]) -> str | None:
    for name, left in expected.items():
        if not _same(left, actual[name]):
            return f"%{name} is not bit for bit the same"
    return None


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        parts = cast("dict[str, Any]", left)
        return all(_same(part, right[name]) for name, part in parts.items())
    if isinstance(left, tuple):
        return all(map(_same, cast("tuple[Any, ...]", left), right))
    return left.dtype == right.dtype and np.array_equal(
        left, right, equal_nan=left.dtype.kind not in "biu"
    )


def _beyond_tolerance(
    before: Graph, inputs: dict[str, Any], symbols: dict[str, int], actual: dict[str, Any]
) -> str | None:
    ideal = evaluate(before, inputs, symbols=symbols, reading="ideal")
    for name, tolerance in tolerances(before, inputs, symbols=symbols).items():
        mismatch = check(actual[name], ideal[name], tolerance)
        if mismatch is not None:
            return f"%{name}: {mismatch}"
    return None


def _beyond_bound(
    claim: Approximates,
    before: Graph,
    after: Graph,
    inputs: dict[str, Any],
    symbols: dict[str, int],
) -> str | None:
    expected = evaluate(before, inputs, symbols=symbols, reading="ideal")
    actual = evaluate(after, inputs, symbols=symbols, reading="ideal")
    for name, left in expected.items():
        gap = np.asarray(actual[name] - left)
        if claim.metric == "max_abs":
            error = float(np.max(np.abs(gap), initial=0.0))
        else:
            error = float(np.linalg.norm(gap) / max(float(np.linalg.norm(left)), 1e-30))
        if error > claim.bound:
            return f"%{name} is {error:.3g} away"
    return None
