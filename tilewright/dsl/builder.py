"""From a decorated function to a graph.

The builder checks types and placements as each operation is applied; a mistake points at the line
of the user's file. Values are named in order, parameters by path.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, TypeVar

from tilewright.dsl.dims import Dim, DimExpr, Symbol, of_symbol, symbols
from tilewright.dsl.dtypes import DType
from tilewright.dsl.errors import (
    CompilerBug,
    DTypeError,
    ForeignTensor,
    GraphError,
    NoActiveGraph,
    ProgramError,
    TilewrightError,
)
from tilewright.dsl.graph import Graph, Input, Node, Output, Role, Value, symbol_input
from tilewright.dsl.ident import Ident, ident, path
from tilewright.dsl.op import checked_attrs, get
from tilewright.dsl.placement import Mesh
from tilewright.dsl.tensor import Cache, Handle, Scalar, Tensor
from tilewright.dsl.types import CacheType, TensorType, Type

_PACKAGE = str(FilePath(__file__).resolve().parents[1])
_MODELS = str(FilePath(_PACKAGE) / "models")

Location = tuple[str, int]
Returned = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
Body = Callable[..., Returned]
F = TypeVar("F", bound=Body)


def user_location() -> Location | None:
    """File and line of the innermost frame outside this package (models count as outside)."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # the public way is slow
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_PACKAGE) or name.startswith(_MODELS):
            return name, frame.f_lineno
        frame = frame.f_back
    return None


def _location_text(location: Location | None) -> str | None:
    return None if location is None else f"{location[0]}:{location[1]}"


@dataclass(eq=False)
class GraphBuilder:
    """Collects nodes while a function runs."""

    name: Ident
    mesh: Mesh = field(default_factory=Mesh)
    inputs: list[Input] = field(default_factory=list[Input])
    nodes: list[Node] = field(default_factory=list[Node])
    locations: dict[Ident, Location] = field(default_factory=dict[Ident, Location])
    _paths: dict[str, Input] = field(default_factory=dict[str, Input])
    _latest: dict[str, Value] = field(default_factory=dict[str, Value])
    _owner: dict[Ident, str] = field(default_factory=dict[Ident, str])
    _scope: list[str] = field(default_factory=list[str])
    _taken: set[str] = field(default_factory=set[str])
    _next: int = 0

    def fresh(self) -> Ident:
        """A value name that is not taken; it begins with the scope it was made in."""
        prefix = ".".join((*self._scope, "v"))
        while (name := f"{prefix}{self._next}") in self._taken:
            self._next += 1
        self._next += 1
        self._taken.add(name)
        return Ident(name)

    def add_input(self, role: Role, outside: str, type_: Type) -> Handle:
        """An argument of the graph; a parameter or state named twice is the same value."""
        known = self._paths.get(f"{role}:{outside}")
        if known is not None:
            if known.value.type != type_:
                raise ProgramError(
                    f"{role} {outside} is declared as {known.value.type} and {type_}"
                )
            return self._handle(known.value)
        name = self._claim(outside) if role == "input" else self.fresh()
        entry = Input(Value(name, type_), role, outside)
        self.inputs.append(entry)
        self._paths[f"{role}:{outside}"] = entry
        if role == "state":
            self._latest[outside] = entry.value
            self._owner[name] = outside
        return self._handle(entry.value)

    def add_symbol(self, symbol: Symbol) -> DimExpr:
        """A scalar argument of the graph that binds a symbol."""
        self.inputs.append(symbol_input(self._claim(symbol.name), symbol))
        return of_symbol(symbol)

    def _claim(self, name: str) -> Ident:
        found = ident(name)
        if found in self._taken:
            raise GraphError(f"the name {name} is taken in graph {self.name}")
        self._taken.add(found)
        return found

    def scoped(self, name: str) -> str:
        """The path of a parameter or state under the current scopes."""
        return path(".".join((*self._scope, name)))

    @contextmanager
    def scope(self, *parts: str | int) -> Generator[None]:
        """Prefixes the paths declared inside."""
        names = [str(part) for part in parts]
        self._scope.extend(names)
        try:
            yield
        finally:
            del self._scope[len(self._scope) - len(names) :]

    def apply(self, op_name: str, *operands: Handle, **attrs: Any) -> tuple[Handle, ...]:
        """Appends one node after checking it. Raises the mistake, with the user's line."""
        location = user_location()
        try:
            op = get(op_name)
            for operand in operands:
                if operand.builder is not self:
                    raise ForeignTensor(f"{op_name}: an operand belongs to another graph")
            checked = checked_attrs(op, attrs)
            types = op.infer([o.value.type for o in operands], checked, self.mesh)
        except TilewrightError as mistake:
            if mistake.where is None:
                mistake.where = _location_text(location)
            raise
        results = tuple(Value(self.fresh(), type_) for type_ in types)
        self.nodes.append(Node(op_name, tuple(o.value for o in operands), results, checked))
        if location is not None:
            self.locations.update((r.name, location) for r in results)
        self._follow_states([operands[i] for i in sorted(op.consumes)], results)
        return tuple(map(self._handle, results))

    def _follow_states(self, consumed: Sequence[Handle], results: tuple[Value, ...]) -> None:
        """What an operation makes of a state that it consumes takes the state's place."""
        for operand in consumed:
            owner = self._owner.get(operand.value.name)
            for result in results:
                if owner is not None and isinstance(result.type, CacheType):
                    self._owner[result.name] = owner
                    self._latest[owner] = result

    def tensor(self, op: str, *operands: Handle, **attrs: Any) -> Tensor:
        """Applies an operation with one tensor result."""
        (found,) = self.tensors(op, *operands, **attrs)
        return found

    def tensors(self, op: str, *operands: Handle, **attrs: Any) -> tuple[Tensor, ...]:
        """Applies an operation whose results are tensors."""
        found = self.apply(op, *operands, **attrs)
        return tuple(f for f in found if isinstance(f, Tensor))

    def cache(self, op: str, *operands: Handle, **attrs: Any) -> Cache:
        """Applies an operation with one cache result."""
        (found,) = self.apply(op, *operands, **attrs)
        if not isinstance(found, Cache):
            raise CompilerBug(f"{op} does not return a cache")
        return found

    def lift(self, value: Tensor | Scalar | DimExpr, dtype: DType) -> Tensor:
        """A tensor as it is; a Python scalar or a dimension as a rank-0 tensor of `dtype`."""
        if isinstance(value, Tensor):
            return value
        fits = (
            isinstance(value, bool)
            if dtype.kind == "bool"
            else not isinstance(value, bool) and (dtype.is_float or not isinstance(value, float))
        )
        if not fits:
            raise DTypeError(
                f"the Python scalar {value} does not fit a {dtype} tensor",
                where=_location_text(user_location()),
                fix="cast the tensor, or write a scalar of its kind",
            )
        if dtype.is_float and isinstance(value, int):
            value = float(value)
        return self.tensor("full", shape=(), value=value, dtype=dtype)

    def _handle(self, value: Value) -> Handle:
        kind = Cache if isinstance(value.type, CacheType) else Tensor
        return kind(self, value)

    def finish(self, outputs: Mapping[str, Tensor]) -> Graph:
        """The graph; states that were appended to are returned in place of their inputs."""
        named = [Output(ident(name), t.value) for name, t in outputs.items()]
        for entry in self.inputs:
            if entry.role == "state" and self._latest[entry.path] != entry.value:
                named.append(Output(entry.path, self._latest[entry.path], replaces=entry.path))
        return Graph(self.name, tuple(self.inputs), tuple(self.nodes), tuple(named))


_ACTIVE: ContextVar[GraphBuilder | None] = ContextVar("tilewright_builder", default=None)


def active() -> GraphBuilder:
    """The builder of the function being traced. Raises NoActiveGraph outside."""
    found = _ACTIVE.get()
    if found is None:
        raise NoActiveGraph(
            "operations build graphs: they work inside a function decorated with @graph",
            where=_location_text(user_location()),
        )
    return found


@contextmanager
def building(builder: GraphBuilder) -> Generator[GraphBuilder]:
    """Makes `builder` the active one."""
    token = _ACTIVE.set(builder)
    try:
        yield builder
    finally:
        _ACTIVE.reset(token)


def param(name: str, type_: TensorType) -> Tensor:
    """The parameter at `name` under the current scopes; its bytes come from the program's store."""
    builder = active()
    found = builder.add_input("param", builder.scoped(name), type_)
    assert isinstance(found, Tensor)
    return found


def state(name: str, type_: CacheType) -> Cache:
    """The state at `name` under the current scopes."""
    builder = active()
    found = builder.add_input("state", builder.scoped(name), type_)
    assert isinstance(found, Cache)
    return found


@contextmanager
def scope(*parts: str | int) -> Generator[None]:
    """Prefixes the paths of parameters and states: `with scope("layers", 3): ...`."""
    with active().scope(*parts):
        yield


@dataclass(frozen=True)
class TracedFunction:
    """A function together with its argument types: calling `trace` gives its graph."""

    name: Ident
    body: Body
    signature: tuple[tuple[str, TensorType | Symbol], ...]

    def trace(self, mesh: Mesh | None = None) -> GraphBuilder:
        """Runs the function once; the finished builder holds graph and source locations."""
        return self.build(mesh)[1]

    def graph(self, mesh: Mesh | None = None) -> Graph:
        """The graph alone."""
        return self.build(mesh)[0]

    def build(self, mesh: Mesh | None = None) -> tuple[Graph, GraphBuilder]:
        """The graph, and the builder that knows where each value comes from."""
        builder = GraphBuilder(self.name, mesh or Mesh())
        arguments: dict[str, Tensor | DimExpr | int] = {}
        for name, type_ in self.signature:
            arguments[name] = _argument(builder, name, type_)
        with building(builder):
            returned = self.body(**arguments)
        return builder.finish(_named(returned)), builder


def _argument(builder: GraphBuilder, name: str, type_: TensorType | Symbol) -> Tensor | Dim:
    if isinstance(type_, TensorType):
        found = builder.add_input("input", name, type_)
        assert isinstance(found, Tensor)
        return found
    return builder.add_symbol(type_)


def _named(returned: Returned) -> Mapping[str, Tensor]:
    if isinstance(returned, Tensor):
        return {"out": returned}
    if isinstance(returned, tuple):
        return {f"out{index}": tensor for index, tensor in enumerate(returned)}
    return returned


def graph(**arguments: TensorType | DimExpr) -> Callable[[Body], TracedFunction]:
    """Decorator: `@graph(x=f32[rows, 384], past=past)` turns a function into a graph.

    A tensor type makes an input; a symbol makes a scalar i64 input that binds it, and the function
    receives the symbol. Further parameters and states are declared inside with `param`, `state`.
    """
    signature = tuple((ident(name), _declared(name, t)) for name, t in arguments.items())

    def decorate(body: Body) -> TracedFunction:
        return TracedFunction(ident(body.__name__), body, signature)

    return decorate


def _declared(name: str, type_: TensorType | DimExpr) -> TensorType | Symbol:
    if isinstance(type_, TensorType):
        return type_
    (found, *more) = symbols(type_)
    if more or found.name != name:
        raise ProgramError(
            f"argument {name} must be bound to the symbol of that name",
            fix=f'write {name} = dim("{name}", low, high) and pass {name}={name}',
        )
    return found
