"""Concrete inputs for graphs and samples: small, legal and drawn from a seed.

What an integer input may hold follows from who reads it: values that reach the index of a `gather`
or `scatter_add` unchanged stay below the gathered extent; values that reach one through arithmetic
are 0 or 1; all others are small integers. Floats are normal, but positive where they reach a
logarithm, a root or a power unchanged; parameters are scaled like weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from tilewright.dsl.builder import GraphBuilder
from tilewright.dsl.codec import encode_array
from tilewright.dsl.composite import Composite
from tilewright.dsl.dims import Symbol
from tilewright.dsl.graph import Graph, Input, Node, substitute_graph, substitute_type
from tilewright.dsl.ident import Ident, ident
from tilewright.dsl.meaning import unplaced
from tilewright.dsl.op import Fill, Sample, get
from tilewright.dsl.ops.movement import Movement
from tilewright.dsl.ops.shape import concrete, normal_axis
from tilewright.dsl.rounding import Array, rounded
from tilewright.dsl.symbols import graph_symbols
from tilewright.dsl.tensor import Handle, Tensor
from tilewright.dsl.types import CacheType, TensorType, Type

_SMALL_STEPS, _STEPS = 4, 256
_POSITIVE = frozenset({"log", "pow", "rsqrt", "sqrt"})
_INTEGERS = (-4, 9)


@dataclass(frozen=True, slots=True)
class Range:
    """What an input may hold: integers below `below`, or positive floats."""

    below: int | None = None
    positive: bool = False

    def __and__(self, other: Range) -> Range:
        limits = [r.below for r in (self, other) if r.below is not None]
        return Range(min(limits, default=None), self.positive or other.positive)


ANYTHING = Range()


def draw_symbols(graph: Graph, rng: np.random.Generator, *, small: bool = True) -> dict[str, int]:
    """A legal value for every symbol of a graph, near its lower end if `small`."""
    return {symbol.name: draw_symbol(symbol, rng, small=small) for symbol in graph_symbols(graph)}


def draw_symbol(symbol: Symbol, rng: np.random.Generator, *, small: bool = True) -> int:
    """A legal value of one symbol."""
    unit = symbol.multiple_of
    first, last = -(-symbol.lo // unit), symbol.hi // unit
    most = min(last, first + (_SMALL_STEPS if small else _STEPS))
    return int(rng.integers(first, most, endpoint=True)) * unit


def draw_inputs(
    graph: Graph, env: Mapping[str, int], rng: np.random.Generator, *, params: bool = True
) -> dict[str, Any]:
    """A value for every input, by path, in its declared format; without parameters if asked.

    `env` gives every symbol of the graph a value.
    """
    bound = substitute_graph(graph, env)
    ranges = input_ranges(bound)
    drawn: dict[str, Any] = {}
    for entry in bound.inputs:
        if entry.role == "param" and not params:
            continue
        if entry.role == "symbol":
            drawn[entry.path] = env[entry.path]
        else:
            drawn[entry.path] = _draw_input(entry, ranges[entry.value.name], rng)
    return drawn


def _draw_input(entry: Input, legal: Range, rng: np.random.Generator) -> Any:
    type_ = entry.value.type
    if isinstance(type_, CacheType):
        return tuple(draw_value(type_.part, legal, rng) for _ in range(2))
    if entry.role == "param" and type_.dtype.is_float and type_.rank >= 2:
        columns = max(1, *concrete(type_.shape[-1:]))
        return draw_value(type_, legal, rng, scale=1.0 / sqrt(columns))
    return draw_value(type_, legal, rng)


def draw_value(
    type_: TensorType, legal: Range, rng: np.random.Generator, *, scale: float = 1.0
) -> Any:
    """A value of a type without symbols: an array, or the components where it is encoded."""
    shape, dtype = concrete(type_.shape), type_.dtype
    if dtype.kind == "bool":
        return rng.random(shape) < 0.7
    if not dtype.is_float:
        low, high = (0, legal.below) if legal.below is not None else _INTEGERS
        low = max(low, 0) if dtype.kind == "uint" else low
        return np.asarray(rng.integers(low, max(high, low + 1), shape)).astype(dtype.numpy)
    if legal.below is not None:
        return rounded(np.asarray(rng.integers(0, legal.below, shape), np.float64), dtype)
    values: Array = np.asarray(rng.standard_normal(shape)) * scale
    if dtype.mantissa == 0:
        return np.exp2(np.round(values * 3)).astype(dtype.numpy)
    if legal.positive:
        values = np.abs(values) + 0.1
    stored = rounded(values, dtype)
    return stored if type_.is_dense else encode_array(stored, type_)


def input_ranges(graph: Graph) -> dict[Ident, Range]:
    """What each value of a graph without symbols may hold (of interest: its inputs)."""
    return _walk(graph, ANYTHING)


def _walk(graph: Graph, after: Range) -> dict[Ident, Range]:
    """Needs from the last node to the first; `after` is what is needed of every output."""
    needs: dict[Ident, Range] = dict.fromkeys((v.name for v in graph.input_values), ANYTHING)
    for value in graph.output_values:
        needs[value.name] = after
    for node in reversed(graph.nodes):
        wanted = ANYTHING
        for result in node.results:
            wanted &= needs.get(result.name, ANYTHING)
        for operand, need in zip(node.operands, _operand_needs(node, wanted), strict=True):
            needs[operand.name] = needs.get(operand.name, ANYTHING) & need
    return needs


def _operand_needs(node: Node, after: Range) -> Iterable[Range]:
    """What one node needs of each operand, given what is needed of its results."""
    op, count = get(node.op), len(node.operands)
    if isinstance(op, Composite):
        return _body_needs(op, node, after)
    if isinstance(op, Movement) or node.op in ("cast", "clamp"):
        return [after] * count
    if node.op in ("gather", "scatter_add"):
        x = node.operands[0].tensor
        axis = normal_axis(node.op, node.attrs.int("axis"), x.rank)
        (extent,) = concrete((x.shape[axis],))
        return [after, Range(below=max(extent, 1)), *[after] * (count - 2)]
    if node.op == "grouped_matmul":
        x, _, counts = node.operands
        rows, groups = concrete((x.tensor.shape[0], counts.tensor.shape[0]))
        return [ANYTHING, ANYTHING, Range(below=rows // max(groups, 1) + 1)]
    if node.op == "cache_gather":
        (batch,) = concrete((node.operands[0].cache.batch,))
        return [ANYTHING, Range(below=max(batch, 1))]
    if node.op == "where":
        return [ANYTHING, after, after]
    through = Range(below=min(after.below, 2)) if after.below is not None else ANYTHING
    return [through & Range(positive=node.op in _POSITIVE)] * count


def _body_needs(op: Composite, node: Node, after: Range) -> list[Range]:
    body = op.expand([unplaced(operand.type) for operand in node.operands], node.attrs)
    needs = _walk(body, after)
    return [needs[value.name] for value in body.input_values]


def sample_graph(op: str, sample: Sample) -> Graph:
    """A graph of one node that applies an operation to a sample's operands.

    Raises the mistake of an illegal sample.
    """
    builder = GraphBuilder(ident("sample"), sample.mesh)
    operands = [
        builder.add_input("state" if isinstance(t, CacheType) else "input", f"x{index}", t)
        for index, t in enumerate(sample.operands)
    ]
    results: tuple[Handle, ...] = builder.apply(op, *operands, **sample.attrs)
    outputs = {f"out{i}": r for i, r in enumerate(results) if isinstance(r, Tensor)}
    return builder.finish(outputs)


def draw_operands(
    sample: Sample, env: Mapping[str, int], rng: np.random.Generator
) -> dict[str, Any]:
    """Inputs of `sample_graph`, as the sample's fills say; `env` gives every symbol a value."""
    drawn: dict[str, Any] = {}
    for index, type_ in enumerate(sample.operands):
        fill: Fill = sample.fills[index] if index < len(sample.fills) else "normal"
        drawn[f"x{index}"] = _fill(substitute_type(type_, env), fill, sample.below, rng)
    return drawn


def _fill(type_: Type, fill: Fill, below: int, rng: np.random.Generator) -> Any:
    if isinstance(type_, CacheType):
        return tuple(_fill(type_.part, fill, below, rng) for _ in range(2))
    integer, shape = type_.dtype.is_integer, concrete(type_.shape)
    match fill:
        case "index":
            return draw_value(type_, Range(below=below), rng)
        case "unit":
            return rounded(np.asarray(rng.random(shape)), type_.dtype)
        case "positive" if integer:
            return np.asarray(rng.integers(1, _INTEGERS[1], shape)).astype(type_.dtype.numpy)
        case _:
            return draw_value(type_, Range(positive=fill == "positive"), rng)
