"""Artifacts made by hand: each graph of a program is one reference step."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tilewright.dsl.builder import graph, param, scope, state
from tilewright.dsl.dims import DimExpr, dim
from tilewright.dsl.dtypes import f32, i32
from tilewright.dsl.encoding import components
from tilewright.dsl.graph import Graph
from tilewright.dsl.hashing import text_hash
from tilewright.dsl.ops.embedding import embedding
from tilewright.dsl.program import Program, program
from tilewright.dsl.symbols import graph_symbols
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.text import print_graph, print_program
from tilewright.dsl.types import CacheType, TensorType, Type
from tilewright.runtime import artifact
from tilewright.runtime.buffers import Array
from tilewright.runtime.schema import (
    SCHEMA_VERSION,
    GraphPlan,
    Manifest,
    Place,
    Port,
    ReferenceStep,
    Slot,
    StateRecord,
    SymbolRecord,
    WeightRecord,
)

VOCABULARY = 11
CONTEXT = 16


def affine() -> Program:
    """y = x @ w + b over any number of rows; `twice` has an integer, two inputs, two outputs."""
    rows, offset = dim("rows", 1, 64), dim("offset", 0, 7)

    @graph(x=f32[rows, 4])
    def apply(x: Tensor) -> Tensor:
        return x @ param("w", f32[4, 3]) + param("b", f32[3])

    @graph(x=f32[rows, 4], ids=i32[rows], offset=offset)
    def twice(x: Tensor, ids: Tensor, offset: DimExpr) -> dict[str, Tensor]:
        return {"doubled": x + x, "moved": ids + x.builder.lift(offset, i32)}

    return program("affine", apply, twice).program


def counter() -> Program:
    """A language model whose logits favour the sum of all tokens so far, plus one."""
    past, seq = dim("past", 0, CONTEXT - 1), dim("seq", 1, CONTEXT)
    hidden = VOCABULARY

    def logits(tokens: Tensor, past: DimExpr, count: DimExpr | int) -> Tensor:
        with scope("layers", 0):
            cache = state("cache", CacheType(1, 2 * CONTEXT - 1, 1, hidden, f32))
        x = embedding(param("table", f32[VOCABULARY, hidden]), tokens).reshape(1, count, 1, hidden)
        keys, _ = cache.append(x, x, at=past).view(past + count)
        return keys.sum(1).reshape(1, hidden) @ param("head", f32[hidden, VOCABULARY])

    @graph(tokens=i32[1, seq], past=past)
    def prefill(tokens: Tensor, past: DimExpr) -> dict[str, Tensor]:
        return {"logits": logits(tokens, past, seq)}

    @graph(tokens=i32[1, 1], past=past)
    def decode(tokens: Tensor, past: DimExpr) -> dict[str, Tensor]:
        return {"logits": logits(tokens, past, 1)}

    return program("counter", prefill, decode).program


def counter_weights() -> dict[str, Array]:
    rng = np.random.default_rng(5)
    return {
        "table": rng.normal(size=(VOCABULARY, VOCABULARY)).astype(np.float32),
        "head": rng.normal(size=(VOCABULARY, VOCABULARY)).astype(np.float32),
    }


def affine_weights() -> dict[str, Array]:
    rng = np.random.default_rng(3)
    return {
        "w": rng.normal(size=(4, 3)).astype(np.float32),
        "b": rng.normal(size=3).astype(np.float32),
    }


def write_affine(folder: Path) -> Manifest:
    return write(folder, affine(), affine_weights())


def write_counter(folder: Path) -> Manifest:
    meta = {"kind": "causal_lm", "context": str(CONTEXT), "eos": "", "bos": ""}
    return write(folder, counter(), counter_weights(), metadata=meta)


def write(
    folder: Path,
    of: Program,
    weights: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Manifest:
    regions = {f"regions/{g.name}.tw": print_graph(g).encode() for g in of.graphs}
    text = {"graph.tw": print_program(of).encode()}
    return artifact.write(
        folder, manifest_of(of, weights, metadata), {**regions, **text, **(files or {})}, weights
    )


def manifest_of(
    of: Program, weights: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> Manifest:
    return Manifest(
        schema=SCHEMA_VERSION,
        program=text_hash(of),
        files={},
        tools={"tilewright": "test"},
        symbols=[SymbolRecord(s.name, s.lo, s.hi, s.multiple_of) for s in of.symbols],
        states=[_state(s.path, s.type) for s in of.states],
        weights=[_weight(name, array) for name, array in weights.items()],
        graphs=[plan_of(g) for g in of.graphs],
        sections=[],
        requires=["reference"],
        metadata=dict(metadata or {}),
    )


def plan_of(of: Graph) -> GraphPlan:
    slots: list[Slot] = []

    def placed(place: Place, path: str, type_: Type) -> list[int]:
        names = [path if part == "data" else f"{path}:{part}" for part, _ in _parts(type_)]
        slots.extend(Slot(place, name) for name in names)
        return list(range(len(slots) - len(names), len(slots)))

    places: dict[str, Place] = {"input": "input", "param": "weight", "state": "state"}
    reads: list[int] = []
    for entry in of.inputs:
        if entry.role != "symbol":
            reads += placed(places[entry.role], entry.path, entry.value.type)
    writes: list[int] = []
    for output in of.outputs:
        place: Place = "output" if output.replaces is None else "state"
        writes += placed(place, output.replaces or output.name, output.value.type)
    return GraphPlan(
        name=of.name,
        inputs=[_port(i.path, i.value.tensor) for i in of.by_role("input")],
        bound=[i.path for i in of.by_role("symbol")],
        outputs=[_port(o.name, o.value.tensor) for o in of.outputs if o.replaces is None],
        states=[i.path for i in of.by_role("state")],
        symbols=[s.name for s in graph_symbols(of)],
        slots=slots,
        steps=[ReferenceStep(f"regions/{of.name}.tw", reads, writes)],
        arena="0",
        arena_bound=0,
    )


def _port(name: str, type_: TensorType) -> Port:
    return Port(name, type_.dtype.name, [str(size) for size in type_.shape])


def _state(path: str, type_: Type) -> StateRecord:
    return StateRecord(path, [_port(f"{path}:{n}", t) for n, t in _parts(type_)], tokens_axis=1)


def _weight(name: str, array: Array) -> WeightRecord:
    return WeightRecord(name, {"float32": "f32", "int8": "i8"}[array.dtype.name], list(array.shape))


def _parts(type_: Type) -> Iterator[tuple[str, TensorType]]:
    if isinstance(type_, TensorType):
        yield from components(type_).items()
    else:
        for side in ("k", "v"):
            for name, part in components(type_.part).items():
                yield (side if name == "data" else f"{side}_{name}"), part
