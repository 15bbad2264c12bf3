"""How far a kernel may be from the ideal reading: derived from the graph, never chosen by hand.

For every element of a float output with ideal value y, in a format of unit roundoff u:

    bound = max((4 + sqrt(L)) * max(s, d), (L * a + u) * scale) + 2 * u * |y|

- d is the largest distance of that element from y over three rounded readings: the faithful one,
  and two in which every inexact result is moved by +-2u (a last place, as a polynomial's error may
  be) before it is rounded. They show how much the graph amplifies roundings, at this input, and
  which decisions (argmax, comparisons) hang on them.
- Of factorizations (eigh, qr) the operands are moved too, by 2u of their matrix's largest element:
  a backward stable algorithm returns the factors of a matrix that close (Higham, Accuracy and
  Stability, 2002, 1.5). Eigenvectors of near-equal eigenvalues then differ between the readings as
  they may between libraries; there are eight readings more, so that a component that hardly moves
  by chance in one has moved in another.
- s is the largest d over the output, leaving out elements more than 256 times above the 90th
  percentile (a decision that fell otherwise); these have their own d all the same.
- L is the longest reduction that the output depends on and a the unit roundoff of its accumulator;
  scale is the largest finite |y|. `4 + sqrt(L)` lets rounding errors of a sum grow as they do in
  a random walk (Higham and Mary, 2019), the floor `L * a` as they do at worst.

Where the readings disagree on what is finite, and where a discrete output (integers, bools) is not
the same in all of them, the element is free. All other discrete elements must be equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.composite import Composite
from tilewright.dsl.dtypes import DType, from_numpy
from tilewright.dsl.graph import Graph, Node, substitute_graph
from tilewright.dsl.ident import Ident
from tilewright.dsl.inputs import bind
from tilewright.dsl.meaning import Evaluation, run, unplaced
from tilewright.dsl.op import get
from tilewright.dsl.ops.encoded import parts_of
from tilewright.dsl.ops.matmul import product_dims
from tilewright.dsl.ops.shape import concrete, normal_axis
from tilewright.dsl.rounding import Array
from tilewright.dsl.types import TensorType

_EXACT = frozenset({"abs", "cast", "clamp", "max", "maximum", "min", "minimum", "neg", "where"})
"""Operations with arithmetic whose results need no rounding."""
_SEEDS = (1, 2)
_MORE_SEEDS = tuple(range(1, 11))
"""Where some operation is backward stable and may be ill-conditioned."""
_OUTLIER = 256.0


@dataclass(frozen=True, slots=True)
class Bound:
    """For one array: the largest legal distance by element, and the elements that are free."""

    distance: NDArray[np.float64]
    free: NDArray[np.bool_]

    @property
    def largest(self) -> float:
        """The widest distance, for reports."""
        return float(np.max(self.distance, initial=0.0, where=~self.free))


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The bounds of an output's arrays (several where it is encoded or a cache), in order."""

    bounds: tuple[Bound, ...]

    @property
    def largest(self) -> float:
        """The widest distance of all."""
        return max(bound.largest for bound in self.bounds)


@dataclass(frozen=True, slots=True)
class _Reduction:
    """The longest reduction that a value depends on, and its accumulator's unit roundoff."""

    length: int = 1
    roundoff: float = 0.0

    @property
    def error(self) -> float:
        return self.length * self.roundoff

    def __or__(self, other: _Reduction) -> _Reduction:
        return self if self.error >= other.error else other


def tolerances(
    graph: Graph, inputs: Mapping[str, Any], *, symbols: Mapping[str, int] | None = None
) -> dict[str, Tolerance]:
    """The tolerance of every output at these inputs; see the formula above.

    Raises what `evaluate` raises for inputs that do not fit.
    """
    bound = substitute_graph(graph, bind(graph, inputs, symbols or {}))
    ideal = run(bound, inputs, Evaluation("ideal", checked=False))
    readings = [run(bound, inputs, Evaluation(checked=False))]
    for seed in _MORE_SEEDS if _is_unstable(bound) else _SEEDS:
        nudge = _Nudge(np.random.default_rng(seed))
        readings.append(run(bound, inputs, Evaluation(checked=False, nudge=nudge)))
    lengths = _reductions(bound, {})
    found: dict[str, Tolerance] = {}
    for output, reduction in zip(bound.outputs, lengths, strict=True):
        columns = zip(
            leaves(ideal[output.name]), *(leaves(r[output.name]) for r in readings), strict=True
        )
        found[output.name] = Tolerance(tuple(_bound(reduction, *column) for column in columns))
    return found


def check(actual: Any, ideal: Any, tolerance: Tolerance) -> str | None:
    """None where `actual` is within the tolerance of the ideal reading, else the first mismatch."""
    left, right = list(leaves(actual)), list(leaves(ideal))
    if not len(left) == len(right) == len(tolerance.bounds):
        return f"{len(left)} arrays instead of {len(tolerance.bounds)}"
    for x, y, bound in zip(left, right, tolerance.bounds, strict=True):
        mismatch = _mismatch(x, y, bound)
        if mismatch is not None:
            return mismatch
    return None


def leaves(value: Any) -> Iterator[Array]:
    """The arrays of a value: one, the components of an encoded one, or those of a cache's parts."""
    parts = parts_of(value)
    if parts is not None:
        yield from parts.values()
    elif isinstance(value, tuple):
        for part in cast("tuple[Any, ...]", value):
            yield from leaves(part)
    else:
        yield np.asarray(value)


@dataclass(frozen=True, slots=True)
class _Nudge:
    """Moves what an inexact operation returns by two unit roundoffs up or down."""

    rng: np.random.Generator

    def result(self, op: str, x: Array, type_: TensorType) -> Array:
        if op in _EXACT or _is_move(op):
            return x
        return x * (1.0 + self._steps(x, type_))

    def operand(self, x: Array, type_: TensorType) -> Array:
        """Matrices, moved relative to their largest element."""
        sizes = np.where(np.isfinite(x), np.abs(x), 0.0)
        largest = np.max(sizes, axis=(-2, -1), keepdims=True, initial=0.0)
        return x + largest * self._steps(x, type_)

    def _steps(self, x: Array, type_: TensorType) -> Array:
        step = 2.0 * type_.dtype.unit_roundoff
        upwards = self.rng.integers(0, 2, x.shape, np.int8).astype(np.bool_)
        return np.where(upwards, step, -step)


def _is_unstable(graph: Graph) -> bool:
    """Whether some operation of a graph, or of a body in it, has its operands moved."""
    bodies = [graph]
    while bodies:
        for node in bodies.pop().nodes:
            if get(node.op).is_backward_stable:
                return True
            bodies.extend(value for value in node.attrs.values() if isinstance(value, Graph))
    return False


def _is_move(op: str) -> bool:
    from tilewright.dsl.ops.create import Creation
    from tilewright.dsl.ops.index import Gather
    from tilewright.dsl.ops.movement import Movement

    return isinstance(get(op), Creation | Gather | Movement)


def _bound(reduction: _Reduction, ideal: Array, *readings: Array) -> Bound:
    stored = from_numpy(readings[0].dtype)
    if not stored.is_float:
        free = np.zeros(ideal.shape, np.bool_)
        for reading in readings:
            free |= reading != ideal
        return Bound(np.zeros(ideal.shape), free)
    wide = [reading.astype(np.float64) for reading in readings]
    free = np.zeros(ideal.shape, np.bool_)
    finite = np.isfinite(ideal)
    distance = np.zeros(ideal.shape)
    with np.errstate(all="ignore"):
        for reading in wide:
            free |= _kind(reading) != _kind(ideal)
            gap = np.abs(reading - ideal)
            distance = np.fmax(distance, np.where(np.isfinite(gap), gap, 0.0))
    size = np.where(finite, np.abs(ideal), 0.0)
    return Bound(_distance(reduction, stored, distance, size), free)


def _distance(
    reduction: _Reduction, stored: DType, distance: NDArray[np.float64], size: NDArray[np.float64]
) -> NDArray[np.float64]:
    u = stored.unit_roundoff
    floor = (reduction.error + u) * float(np.max(size, initial=0.0))
    usual = float(np.quantile(distance, 0.9)) if distance.size else 0.0
    among = distance <= _OUTLIER * (usual + floor)
    spread = float(np.max(distance, initial=0.0, where=among))
    growth = 4.0 + sqrt(reduction.length)
    return np.maximum(growth * np.maximum(spread, distance), floor) + 2.0 * u * size


def _kind(x: Array) -> NDArray[np.int8]:
    """0 for finite numbers, and one number each for inf, -inf and NaN."""
    infinite = np.isinf(x) * np.where(x > 0, 1, 2)
    return (infinite + 3 * np.isnan(x)).astype(np.int8)


def _mismatch(actual: Array, ideal: Array, bound: Bound) -> str | None:
    if actual.shape != ideal.shape:
        return f"shape {list(actual.shape)} instead of {list(ideal.shape)}"
    if actual.dtype.kind in "biu" or ideal.dtype.kind in "biu":
        wrong = (actual != ideal) & ~bound.free
        wide = actual
    else:
        wide = actual.astype(np.float64)
        with np.errstate(all="ignore"):
            far = np.isfinite(ideal) & ~(np.abs(wide - ideal) <= bound.distance)
        wrong = (far | (_kind(wide) != _kind(ideal))) & ~bound.free
    if not wrong.any():
        return None
    with np.errstate(all="ignore"):
        gap = np.abs(np.asarray(wide, np.float64) - np.asarray(ideal, np.float64))
    gap = np.where(wrong, np.where(np.isnan(gap), np.inf, gap), -1.0)
    place = np.unravel_index(int(np.argmax(gap)), gap.shape)
    return (
        f"{int(wrong.sum())} of {wrong.size} elements differ; worst at "
        f"{[int(i) for i in place]}: {wide[place]} instead of {ideal[place]}, "
        f"allowed {bound.distance[place]:.3g}"
    )


def _reductions(graph: Graph, given: Mapping[Ident, _Reduction]) -> list[_Reduction]:
    """What each output depends on; `given` says so for the graph's inputs."""
    known = dict(given)
    for node in graph.nodes:
        operands = [known.get(operand.name, _Reduction()) for operand in node.operands]
        before = _Reduction()
        for operand in operands:
            before |= operand
        for result, inside in zip(node.results, _inside(node, operands), strict=True):
            known[result.name] = before | inside
    return [known.get(value.name, _Reduction()) for value in graph.output_values]


def _inside(node: Node, operands: list[_Reduction]) -> list[_Reduction]:
    op = get(node.op)
    if isinstance(op, Composite):
        body = op.expand([unplaced(operand.type) for operand in node.operands], node.attrs)
        names = (value.name for value in body.input_values)
        return _reductions(body, dict(zip(names, operands, strict=True)))
    return [_own(node)] * len(node.results)


def _own(node: Node) -> _Reduction:
    """The reduction that one operation performs."""
    if not node.operands or not isinstance(node.operands[0].type, TensorType):
        return _Reduction()
    x = node.operands[0].tensor
    roundoff = x.dtype.accumulator.unit_roundoff
    match node.op:
        case "matmul":
            inner = product_dims(x, node.operands[1].tensor, node.attrs)[1]
            return _Reduction(max(1, *concrete((inner,))), roundoff)
        case "grouped_matmul":
            return _Reduction(max(1, *concrete(x.shape[-1:])), roundoff)
        case "sum" | "cumsum":
            axis = normal_axis(node.op, node.attrs.int("axis"), x.rank)
            return _Reduction(max(1, *concrete((x.shape[axis],))), roundoff)
        case "scatter_add":
            return _Reduction(max(1, *concrete((node.operands[1].tensor.numel,))), roundoff)
        case _:
            return _Reduction(1, roundoff)
