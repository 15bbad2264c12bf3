"""Random programs for properties: every operation joins through its own samples.

`cases()` draws a graph together with how its inputs are to be filled, so that no value is NaN,
infinite or large whatever the seed; `graphs()` and `programs()` draw without that. A graph grows
node by node: an operation and one of its samples are drawn, operands are values that fit (or new
inputs), and the node stays if its type rule accepts it and its values on trial inputs are tame.

Hypothesis draws one number a step, from which the step follows: this spreads evenly over the
operations, and a failing graph shrinks by leaving steps out (the number 0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

from tests.concrete import Env, default_fill, draw_array, draw_value, is_tame, node_values
from tilewright.dsl import ops as ops  # fills the registry
from tilewright.dsl.attrs import Attrs, substitute_attrs
from tilewright.dsl.dims import DimExpr, dim
from tilewright.dsl.errors import TilewrightError
from tilewright.dsl.graph import (
    Graph,
    Input,
    Node,
    Output,
    Role,
    Value,
    substitute_type,
    symbol_input,
)
from tilewright.dsl.ident import ident, value_name
from tilewright.dsl.op import Fill, OpDef, Sample, checked_attrs, registry
from tilewright.dsl.placement import REPLICATE, At, AxisPlacement, Mesh, Partial, Shard
from tilewright.dsl.program import Program, collect
from tilewright.dsl.symbols import graph_symbols, lone_symbol, type_dims
from tilewright.dsl.types import CacheType, TensorType, Type

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[Any]], Any]
Placed = Callable[[Random, TensorType], TensorType]
Allow = Callable[[OpDef, Sample], bool]

TRIALS = 3
_STEP = st.integers(0, 2**32 - 1)
LIMIT = 64.0
ODD_NAMES = (
    "graph symbol as mask kv true none inf nan dense min max program param state q k f32 i64 int8 "
    "mesh sum shard local e4m3 _ __class__ a.0 layers.3.mlp.v7 graph.as.kv mask.1 A0 x" + "9" * 60
).split()
ODD_SYMBOLS = ("graph", "mask", "kv", "dense", "min", "f32", "as", "sum", "e4m3", "symbol", "_")


@dataclass(frozen=True, slots=True)
class Filling:
    """How an input is drawn."""

    fill: Fill
    below: int = 1


@dataclass(frozen=True)
class Case:
    """A graph, its symbols' trial values and how its inputs are filled, by name of the value."""

    graph: Graph
    env: dict[str, int]
    fillings: dict[str, Filling]

    def arrays(self, seed: int, env: Env | None = None) -> dict[str, np.ndarray[Any, Any]]:
        """Inputs and parameters by path, in the dtypes of their types; symbols are in `env`."""
        rng = np.random.default_rng(seed)
        found: dict[str, np.ndarray[Any, Any]] = {}
        for entry in self.graph.inputs:
            if entry.role in ("input", "param") and isinstance(entry.value.type, TensorType):
                how = self.fillings[entry.value.name]
                found[entry.path] = draw_array(
                    entry.value.type, how.fill, how.below, env or self.env, rng
                )
        return found


@dataclass(frozen=True, slots=True)
class Family:
    """What random graphs are made of."""

    steps: int = 10
    allow: Allow | None = None
    tame: bool = True
    odd_names: bool = False
    mesh: Mesh = field(default_factory=Mesh)
    placed: Placed | None = None
    """Draws where a new input lies."""


@cache
def uses(collectives: bool) -> tuple[tuple[OpDef, Sample], ...]:
    """Every legal sample of every operation."""
    return tuple(
        (op, sample)
        for op in registry().values()
        for sample in op.samples()
        if sample.error is None and (collectives or not op.is_collective)
    )


def is_smooth(op: OpDef, sample: Sample) -> bool:
    """True unless a rounding error in a float can become a jump in an integer or a bool."""
    kinds = [t.dtype.is_float for t in sample.operands if isinstance(t, TensorType)]
    made = op.infer(sample.operands, checked_attrs(op, sample.attrs), sample.mesh)
    return not any(kinds) or all(t.dtype.is_float for t in made)


@dataclass
class Maker:
    """One graph under construction."""

    family: Family
    shared: dict[tuple[Role, str], tuple[Type, Filling]]
    symbols: Sequence[DimExpr]
    env: dict[str, int]
    inputs: list[Input] = field(default_factory=list[Input])
    nodes: list[Node] = field(default_factory=list[Node])
    trials: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    fillings: dict[str, Filling] = field(default_factory=dict[str, Filling])
    live: list[Value] = field(default_factory=list[Value])
    owner: dict[str, str] = field(default_factory=dict[str, str])
    names: list[str] = field(default_factory=list[str])
    rng: Random = field(default_factory=lambda: Random(0))

    def fresh(self) -> str:
        if self.names and self.rng.random() < 0.5:
            return self.names.pop()
        return f"v{len(self.trials)}"

    def grow(self, steps: Sequence[int]) -> None:
        options = [
            use
            for use in uses(bool(self.family.mesh.axes))
            if not self.family.allow or self.family.allow(*use)
        ]
        moves = [use for use in options if use[0].is_collective]
        options += moves * (len(options) // (4 * len(moves)) if moves else 0)
        for index, step in enumerate(steps):
            if step == 0:
                continue
            self.rng = Random(f"{index}:{step}")
            self._step(options)

    def _step(self, options: Sequence[tuple[OpDef, Sample]]) -> None:
        for _ in range(self.rng.randrange(5)):
            if self._over_values(*self.rng.choice(options)):
                return
        for _ in range(4 if self.family.mesh.axes else 1):
            if self._as_sampled(*self.rng.choice(options)):
                return

    def _over_values(self, op: OpDef, sample: Sample) -> bool:
        """The operation over values of other shapes than the sample's; False if none was found."""
        operands: list[Value] = []
        for wanted, how in zip(sample.operands, _fillings(sample), strict=True):
            fit = [v for v in self.live if _alike(v.type, wanted) and self._fills(v, how)]
            if not fit:
                return False
            operands.append(self.rng.choice(fit[-4:]))
        env = self._renaming([*sample.operands], sample)
        given = dict(substitute_attrs(Attrs(sample.attrs), env))
        for name, spec in op.attrs.items():
            if spec.kind == "axis" and operands and isinstance(operands[0].type, TensorType):
                rank = max(1, operands[0].type.rank)
                given[name] = self.rng.randrange(-rank, rank)
            elif spec.kind == "bool":
                given[name] = self.rng.random() < 0.5
        return self._append(op, operands, self._on_mesh(op, given))

    def _as_sampled(self, op: OpDef, sample: Sample) -> bool:
        """The operation over operands of the sample's own types, up to the names of symbols."""
        env = self._renaming(sample.operands, sample)
        operands: list[Value] = []
        inputs, live = len(self.inputs), list(self.live)
        try:
            for wanted, how in zip(sample.operands, _fillings(sample), strict=True):
                operands.append(self._operand(substitute_type(wanted, env), how))
            given = dict(substitute_attrs(Attrs(sample.attrs), env))
            if self._append(op, operands, self._on_mesh(op, given)):
                return True
        except TilewrightError:
            pass
        read = {operand.name for node in self.nodes for operand in node.operands}
        unread = [i for i in self.inputs[inputs:] if i.value.name not in read]
        self.inputs = [i for i in self.inputs if i not in unread]
        self.live = [v for v in self.live if v in live or v.name in read]
        return False

    def _on_mesh(self, op: OpDef, given: dict[str, Any]) -> dict[str, Any]:
        """Of a collective, the axis that it runs over, drawn from the mesh."""
        if op.is_collective and "axis" in given and self.family.mesh.axes:
            given["axis"] = self.rng.choice([name for name, _ in self.family.mesh.axes])
        return given

    def _renaming(self, operands: Sequence[Type], sample: Sample) -> Mapping[str, Any]:
        """The graph's own symbols (or numbers) for those of a sample."""
        probe = Graph(
            ident("probe"),
            tuple(
                Input(Value(ident(f"x{i}"), t), "input", f"x{i}") for i, t in enumerate(operands)
            ),
            (Node("probe", (), (), Attrs(sample.attrs)),),
            (),
        )
        env: dict[str, Any] = {}
        for symbol in graph_symbols(probe):
            choices: list[Any] = [
                s
                for s in self.symbols
                for own in [lone_symbol(s)]
                if own is not None
                and symbol.lo <= own.lo
                and own.hi <= symbol.hi
                and own.multiple_of % symbol.multiple_of == 0
            ]
            env[symbol.name] = self.rng.choice([*choices, max(symbol.low, min(3, symbol.high))])
        return env

    def _operand(self, type_: Type, how: Filling) -> Value:
        fit = [v for v in self.live if v.type == type_ and self._fills(v, how)]
        if fit and self.rng.random() < 0.8:
            return self.rng.choice(fit[-4:])
        if isinstance(type_, TensorType) and not type_.is_dense:
            return self._encoded(type_)
        return self._input(type_, how)

    def _encoded(self, type_: TensorType) -> Value:
        from tilewright.dsl.encoding import DENSE

        dense = self._operand(type_.with_encoding(DENSE), Filling("normal"))
        encode = registry().get("encode")
        if encode is None or not self._append(encode, [dense], {"encoding": type_.encoding}):
            raise TilewrightError("nothing encodes this")
        return self.nodes[-1].results[0]

    def _fills(self, value: Value, how: Filling) -> bool:
        """Whether a value may stand where this filling is asked for."""
        known = self.fillings.get(value.name)
        if how.fill in ("normal", "small_int", "bool"):
            return known is None or known.fill in ("normal", "small_int", "bool", "unit")
        return known == how

    def _input(self, type_: Type, how: Filling) -> Value:
        role: Role = "input"
        if isinstance(type_, CacheType):
            role = "state"
        elif not any(isinstance(size, DimExpr) for size in type_.shape):
            role = self.rng.choice(("input", "input", "param"))
        if isinstance(type_, TensorType) and self.family.placed is not None:
            type_ = self.family.placed(self.rng, type_)
        taken = {(entry.role, entry.path) for entry in self.inputs}
        known = [
            place
            for (r, place), entry in self.shared.items()
            if r == role and entry == (type_, how) and (r, place) not in taken
        ]
        name = self.fresh()
        outside = name.replace(".", "_") if role == "input" else f"layers.{len(self.shared)}.{name}"
        if known and self.rng.random() < 0.7:
            outside = self.rng.choice(known)
        if role != "input":
            self.shared[role, outside] = type_, how
        value = Value(value_name(name), type_)
        self.inputs.append(Input(value, role, outside))
        self.fillings[name] = how
        if role == "state":
            self.owner[name] = outside
        seeds = (np.random.default_rng(seed) for seed in range(TRIALS))
        self._add(value, [draw_value(type_, how.fill, how.below, self.env, rng) for rng in seeds])
        return value

    def _add(self, value: Value, trial: list[Any]) -> None:
        self.trials[value.name] = trial
        self.live.append(value)

    def _append(self, op: OpDef, operands: Sequence[Value], given: Mapping[str, Any]) -> bool:
        consumed = [operands[i] for i in sorted(op.consumes) if i < len(operands)]
        if any(sum(o.name == c.name for o in operands) > 1 for c in consumed):
            return False
        if any(o not in self.live for o in operands):
            return False
        try:
            attrs = checked_attrs(op, given)
            types = op.infer([o.type for o in operands], attrs, self.family.mesh)
        except TilewrightError:
            return False
        columns = self._trial(op, operands, attrs, types)
        if columns is None:
            return False
        results: list[Value] = []
        for type_, column in zip(types, columns, strict=True):
            results.append(Value(value_name(self.fresh()), type_))
            self._add(results[-1], column)
        self.nodes.append(Node(op.name, tuple(operands), tuple(results), attrs))
        self._follow(consumed, results)
        return True

    def _follow(self, consumed: Sequence[Value], results: Sequence[Value]) -> None:
        for state in consumed:
            self.live.remove(state)
            successor = next(r for r in results if r.type == state.type)
            if state.name in self.owner:
                self.owner[successor.name] = self.owner.pop(state.name)

    def _trial(
        self, op: OpDef, operands: Sequence[Value], attrs: Attrs, types: Sequence[Type]
    ) -> list[list[Any]] | None:
        """Values on the trial inputs, one list a result; None unless all are tame."""
        if not self.family.tame:
            return [[None] * TRIALS for _ in types]
        rows: list[tuple[Any, ...]] = []
        for trial in range(TRIALS):
            xs = [self.trials[o.name][trial] for o in operands]
            row = node_values(op, xs, [o.type for o in operands], attrs, types, self.env)
            if not is_tame(row, LIMIT):
                return None
            rows.append(row)
        return [list(column) for column in zip(*rows, strict=True)]

    def finish(self, name: str) -> Case:
        made = {result.name for node in self.nodes for result in node.results}
        plain = [v for v in self.live if isinstance(v.type, TensorType)]
        plain = [v for v in plain if v.name in made] or plain
        count = self.rng.randint(1, 3) if plain else 0
        outputs = [Output(f"out{i}", self.rng.choice(plain[-8:])) for i in range(count)]
        for value in self.live:
            place = self.owner.get(value.name)
            if isinstance(value.type, CacheType) and value.name in made:
                outputs.append(Output(place or value.name, value, place))
        graph = Graph(ident(name), tuple(self.inputs), tuple(self.nodes), tuple(outputs))
        return Case(self._bound(graph), self.env, self.fillings)

    def _bound(self, graph: Graph) -> Graph:
        """The graph with an input for each symbol that no shape binds, and for some others."""
        bound: set[str] = set()
        for entry in graph.by_role("input"):
            lone = (lone_symbol(size) for size in type_dims(entry.value.type))
            bound |= {symbol.name for symbol in lone if symbol is not None}
        given = [symbol for symbol in graph_symbols(graph) if symbol.name not in bound]
        for own in map(lone_symbol, self.symbols):
            if own is not None and own not in given and self.rng.random() < 0.2:
                given.append(own)
        extra = [symbol_input(ident(f"size_of_{symbol.name}"), symbol) for symbol in given]
        return Graph(graph.name, (*extra, *graph.inputs), graph.nodes, graph.outputs)


def _fillings(sample: Sample) -> list[Filling]:
    found: list[Filling] = []
    for index, type_ in enumerate(sample.operands):
        fill: Fill = "normal" if isinstance(type_, CacheType) else default_fill(type_)
        if index < len(sample.fills):
            fill = sample.fills[index]
        found.append(Filling(fill, sample.below if fill == "index" else 1))
    return found


def _alike(found: Type, wanted: Type) -> bool:
    if isinstance(found, CacheType) or isinstance(wanted, CacheType):
        return found == wanted
    return found.dtype == wanted.dtype and found.encoding == wanted.encoding


def _made(
    draw: Draw, family: Family, names: Sequence[str], shared: dict[Any, Any] | None = None
) -> list[Case]:
    symbol_names = ["n", "m"]
    if family.odd_names:
        symbol_names = draw(st.permutations(ODD_SYMBOLS))[:2]
    symbols = (dim(symbol_names[0], 1, 8), dim(symbol_names[1], 2, 24, multiple_of=2))
    env = {symbol_names[0]: 3, symbol_names[1]: 4}
    table = {} if shared is None else shared
    cases: list[Case] = []
    for name in names:
        odd = list(draw(st.permutations(ODD_NAMES))) if family.odd_names else []
        maker = Maker(family, table, symbols, env, names=odd)
        count = family.steps
        maker.grow(draw(st.lists(_STEP, min_size=count // 2, max_size=count + count // 2)))
        cases.append(maker.finish(name))
    return cases


@st.composite
def cases(draw: Draw, family: Family = Family()) -> Case:
    """Graphs whose values are tame, with the filling of their inputs."""
    (case,) = _made(draw, family, ["g"])
    return case


def graphs(family: Family = Family(tame=False, odd_names=True)) -> st.SearchStrategy[Graph]:
    """Valid typed graphs; by default with values of any size and names that are hard to read."""
    return cases(family).map(lambda case: case.graph)


@st.composite
def programs(draw: Draw, family: Family = Family(tame=False, odd_names=True)) -> Program:
    """Programs of one to three graphs that share parameters, states and symbols."""
    names = ["prefill", "decode", "score"][: draw(st.integers(1, 3))]
    made = _made(draw, family, names)
    return collect("p", (case.graph for case in made), family.mesh)


MESHES = (Mesh.of(tp=2), Mesh.of(dp=2, tp=2), Mesh.of(tp=3))


def _placed(mesh: Mesh) -> Placed:
    def placed(rng: Random, type_: TensorType) -> TensorType:
        found = type_.placement
        for axis, size in mesh.axes:
            options: list[AxisPlacement] = [REPLICATE, REPLICATE, At(rng.randrange(size))]
            options += [Shard(d) for d in range(type_.rank)] * 2
            if type_.dtype.kind != "bool":
                options += [Partial("sum")] * (1 + type_.dtype.is_float)
            found = found.replace(axis, rng.choice(options))
        return type_.with_placement(found)

    return placed


def mesh_family(mesh: Mesh, steps: int = 10) -> Family:
    """Graphs whose inputs lie anywhere on a mesh; collectives join in."""
    return Family(steps=steps, mesh=mesh, placed=_placed(mesh))


@st.composite
def mesh_cases(draw: Draw) -> tuple[Case, Mesh]:
    """Tame graphs over one of a few small meshes."""
    mesh = draw(st.sampled_from(MESHES))
    return draw(cases(mesh_family(mesh))), mesh


def mesh_programs() -> st.SearchStrategy[Program]:
    """The same as programs of one graph."""
    return mesh_cases().map(lambda made: collect("p", [made[0].graph], made[1]))
