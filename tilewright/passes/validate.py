"""Local validation: both sides of a fired rewrite computed on sampled inputs and compared."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from tilewright.dsl.errors import BrokenClaim
from tilewright.dsl.graph import Graph
from tilewright.dsl.hashing import structural_hash
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.op import Array, get
from tilewright.dsl.ops.create import Creation
from tilewright.dsl.ops.elementwise import Elementwise
from tilewright.dsl.ops.movement import Movement
from tilewright.dsl.placement import Mesh
from tilewright.dsl.sampling import draw_inputs, draw_symbols
from tilewright.dsl.text.printer import print_graph
from tilewright.dsl.tolerance import check, tolerances
from tilewright.passes.claim import Approximates, Claim, Exact
from tilewright.passes.shrink import shrink
from tilewright.passes.subgraph import SubGraphs

_SEEDS = (0, 1)
_SPECIAL = (-0.0, float("nan"), float("inf"), 0.0, float("-inf"))
_CHECKED: set[tuple[str, str, str]] = set()


def validate(rule: str, claim: Claim, pair: SubGraphs, mesh: Mesh) -> None:
    """Holds one rewrite to its claim, at small legal shapes; memoised by structural hash.

    Raises BrokenClaim with both sides and the first difference.
    """
    key = (str(claim), structural_hash(pair.before), structural_hash(pair.after))
    if key in _CHECKED:
        return
    before, after = shrink(pair.before, pair.after, mesh)
    try:
        _hold(rule, claim, before, after)
    except BrokenClaim:
        # A constant may stand for a dim that was shrunk: the divisor of a mean is one.
        if before is pair.before:
            raise
        _hold(rule, claim, pair.before, pair.after)
    _CHECKED.add(key)


def _hold(rule: str, claim: Claim, before: Graph, after: Graph) -> None:
    for seed in _SEEDS:
        _compare(rule, claim, before, after, seed)
    if isinstance(claim, Exact) and _is_pointwise(before) and _is_pointwise(after):
        _compare(rule, claim, before, after, len(_SEEDS), special=True)


def _is_pointwise(graph: Graph) -> bool:
    """True where no sum hides which element was NaN, infinite or -0.0."""
    return all(isinstance(get(n.op), Elementwise | Movement | Creation) for n in graph.nodes)


def _with_special_values(inputs: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The inputs with NaN, infinities and zeros of both signs in every float array."""
    found = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, dict | tuple | int):
            continue  # encoded values, caches and symbols
        array: Array = np.array(value)
        if array.dtype.kind not in "biu":
            places = rng.permutation(array.size)[: len(_SPECIAL)]
            array.reshape(-1)[places] = rng.permutation(np.asarray(_SPECIAL))[: places.size]
            found[name] = array
    return found


def _compare(
    rule: str, claim: Claim, before: Graph, after: Graph, seed: int, *, special: bool = False
) -> None:
    rng = np.random.default_rng(seed)
    symbols = draw_symbols(before, rng, small=True)
    inputs = draw_inputs(before, symbols, rng)
    if special:
        inputs = _with_special_values(inputs, rng)
    # Unchecked: kernels clamp indices, and a sub-graph may compute an index from drawn inputs.
    expected = evaluate(before, inputs, symbols=symbols, checked=False)
    actual = evaluate(after, inputs, symbols=symbols, checked=False)
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
    if left.dtype.kind in "biu":
        return left.dtype == right.dtype and np.array_equal(left, right)
    if left.dtype != right.dtype or not np.array_equal(left, right, equal_nan=True):
        return False
    return bool(np.all((np.signbit(left) == np.signbit(right)) | np.isnan(left)))


def _beyond_tolerance(
    before: Graph, inputs: dict[str, Any], symbols: dict[str, int], actual: dict[str, Any]
) -> str | None:
    ideal = evaluate(before, inputs, symbols=symbols, checked=False, reading="ideal")
    for name, tolerance in tolerances(before, inputs, symbols=symbols).items():
        mismatch = check(actual[name], ideal[name], tolerance)
        if mismatch is not None:
            return f"%{name}: {mismatch}"
    return None


def distance(metric: str, gap: Array, reference: Array) -> float:
    """How large a difference is, in a metric of `Approximates`."""
    if metric == "relative_l2":
        return float(np.linalg.norm(gap) / max(float(np.linalg.norm(reference)), 1e-30))
    largest = float(np.max(np.abs(gap), initial=0.0))
    if metric == "max_abs":
        return largest
    return largest / max(float(np.max(np.abs(reference), initial=0.0)), 1e-30)


def _beyond_bound(
    claim: Approximates,
    before: Graph,
    after: Graph,
    inputs: dict[str, Any],
    symbols: dict[str, int],
) -> str | None:
    expected = evaluate(before, inputs, symbols=symbols, checked=False, reading="ideal")
    actual = evaluate(after, inputs, symbols=symbols, checked=False, reading="ideal")
    for name, left in expected.items():
        gap = np.asarray(actual[name] - left)
        error = distance(claim.metric, gap, np.asarray(left))
        if error > claim.bound:
            return f"%{name} is {error:.3g} away"
    return None
