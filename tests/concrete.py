"""Concrete values for random graphs: inputs drawn by fill, nodes evaluated one at a time.

This is how `strategies` keeps values tame; it is no evaluator to compare with (that is the
reference backend).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.dsl.attrs import Attrs, substitute_attrs
from tilewright.dsl.composite import Composite
from tilewright.dsl.dims import evaluate
from tilewright.dsl.encoding import components
from tilewright.dsl.graph import Graph, Node, substitute_type
from tilewright.dsl.op import Fill, OpDef, get
from tilewright.dsl.placement import Placement
from tilewright.dsl.types import CacheType, TensorType, Type

Env = Mapping[str, int]


def concrete_type(type_: Type, env: Env) -> Type:
    return substitute_type(type_, env)


def unplaced(type_: Type) -> Type:
    """The type of the whole value: placement does not change what a value is."""
    return type_.with_placement(Placement()) if isinstance(type_, TensorType) else type_


def concrete_shape(type_: TensorType, env: Env) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else evaluate(size, env) for size in type_.shape)


def default_fill(type_: TensorType) -> Fill:
    if type_.dtype.is_float:
        return "normal"
    return "small_int" if type_.dtype.is_integer else "bool"


def draw_array(
    type_: TensorType, fill: Fill, below: int, env: Env, rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    """An array of the type's own NumPy dtype; floats are numbers that the format holds."""
    shape = concrete_shape(type_, env)
    match fill:
        case "normal":
            values = np.clip(rng.normal(size=shape), -2, 2)
        case "positive" if type_.dtype.is_integer:
            values = rng.integers(1, 5, size=shape)
        case "positive":
            values = rng.uniform(0.5, 2, size=shape)
        case "unit":
            values = rng.uniform(0, 1, size=shape)
        case "index":
            values = rng.integers(0, below, size=shape)
        case "bool":
            values = rng.integers(0, 2, size=shape)
        case "small_int":
            low = -4 if type_.dtype.kind == "int" or type_.dtype.is_float else 0
            values = rng.integers(low, 5, size=shape)
    return np.asarray(values).astype(type_.dtype.numpy)


def draw_value(type_: Type, fill: Fill, below: int, env: Env, rng: np.random.Generator) -> Any:
    """What an op's meaning reads: floats in float64; an empty cache as zeros."""
    if isinstance(type_, CacheType):
        parts = components(type_.part)
        empty = {
            name: widened(np.zeros(concrete_shape(t, env), t.dtype.numpy), t)
            for name, t in parts.items()
        }
        part = empty["data"] if type_.part.is_dense else empty
        return part, part
    return widened(draw_array(type_, fill, below, env, rng), type_)


def widened(array: np.ndarray[Any, Any], type_: TensorType) -> np.ndarray[Any, Any]:
    return array.astype(np.float64) if type_.dtype.is_float else array


def rounded(value: Any, type_: Type) -> Any:
    """The value rounded once to its type, floats back in float64; encoded ones stay as they are."""
    if isinstance(type_, CacheType) or not type_.is_dense:
        return value
    with np.errstate(all="ignore"):
        return widened(np.asarray(value).astype(type_.dtype.numpy), type_)


def node_values(
    op: OpDef, xs: Sequence[Any], types: Sequence[Type], attrs: Attrs, out: Sequence[Type], env: Env
) -> tuple[Any, ...]:
    """The results of one node."""
    attrs = substitute_attrs(attrs, env)
    types = [unplaced(concrete_type(t, env)) for t in types]
    if isinstance(op, Composite):
        return body_values(op.expand(types, attrs), xs)
    wanted = [unplaced(concrete_type(t, env)) for t in out]
    with np.errstate(all="ignore"):
        found = op.meaning(np, xs, attrs, wanted)
    return tuple(rounded(value, t) for value, t in zip(found, wanted, strict=True))


def body_values(body: Graph, xs: Sequence[Any]) -> tuple[Any, ...]:
    values: dict[str, Any] = {}
    values.update(zip((i.value.name for i in body.inputs), xs, strict=True))
    for node in body.nodes:
        values.update(_named(node, [values[o.name] for o in node.operands]))
    return tuple(values[o.value.name] for o in body.outputs)


def _named(node: Node, xs: Sequence[Any]) -> dict[str, Any]:
    types = [operand.type for operand in node.operands]
    out = [result.type for result in node.results]
    found = node_values(get(node.op), xs, types, node.attrs, out, {})
    return {result.name: value for result, value in zip(node.results, found, strict=True)}


def is_tame(value: Any, limit: float) -> bool:
    """Floats finite and of moderate size, integers any; caches and encoded values too."""
    if isinstance(value, Mapping):
        return all(is_tame(part, float("inf")) for part in value.values())
    if isinstance(value, tuple):
        return all(is_tame(part, limit) for part in value)
    array = np.asarray(value)
    if array.dtype.kind in "biu":
        return True
    return bool(np.all(np.isfinite(array)) and np.all(np.abs(array) <= limit))
