"""From a decorated function to a graph.

The builder checks types and placements as each operation is applied; a mistake points at the line
of the user's file. Values are named in order, parameters by path.
"""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from typing import Any, TypeVar, cast

import numpy as np

from tilewright.dsl.dims import Dim, DimExpr, Symbol, of_symbol, symbols
from tilewright.dsl.dtypes import DType
from tilewright.dsl.errors import (
    CompilerBug,
    DTypeError,
    ForeignTensor,
    GraphError,
    InvalidModelFunction,
    InvalidOperand,
    InvalidOutput,
    InvalidType,
    NoActiveGraph,
    ProgramError,
    TilewrightError,
)
from tilewright.dsl.graph import Graph, Input, Node, Output, Role, Value, symbol_input
from tilewright.dsl.ident import Ident, ident, path
from tilewright.dsl.op import checked_attrs, get
from tilewright.dsl.placement import Mesh
from tilewright.dsl.tensor import Cache, Handle, Tensor
from tilewright.dsl.types import CacheType, TensorType, Type, is_static

_PACKAGE = str(FilePath(__file__).resolve().parents[1])
_MODELS = str(FilePath(_PACKAGE) / "models")
_LIBRARY = os.path.dirname(inspect.__file__)

Location = tuple[str, int]
Returned = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
Body = Callable[..., Returned]
F = TypeVar("F", bound=Body)


def user_location() -> Location | None:
    """File and line of the innermost frame outside this package (models count as outside)."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # the public way is slow
    while frame is not None:
        if _is_users(name := frame.f_code.co_filename):
            return name, frame.f_lineno
        frame = frame.f_back
    return None


def _is_users(file: str) -> bool:
    if file.startswith(_PACKAGE):
        return file.startswith(_MODELS)
    return os.path.dirname(file) != _LIBRARY  # such as contextlib's part of a `with`


@contextmanager
def _pointing_at(body: Callable[..., Any]) -> Generator[None]:
    """A mistake that knows no place gets the user's line it was made in, or the function's."""
    try:
        yield
    except TilewrightError as mistake:
        if mistake.where is None:
            steps = traceback.walk_tb(mistake.__traceback__)
            found = [(frame.f_code.co_filename, line) for frame, line in steps]
            lines = [place for place in found if _is_users(place[0])]
            mistake.where = _location_text(lines[-1] if lines else _function_location(body))
        raise


def _function_location(body: Callable[..., Any]) -> Location | None:
    code = getattr(body, "__code__", None)
    return None if code is None else (code.co_filename, code.co_firstlineno)


def _a(thing: object) -> str:
    """What a user gave in the wrong place, for messages."""
    if thing is None or isinstance(thing, TensorType | CacheType):
        return str(thing)
    return f"a value of type {type(thing).__name__}"


def _no_tensor(op: str, given: object) -> InvalidOperand:
    return InvalidOperand(
        f"{op}: {_a(given)} stands where a tensor of the graph is needed",
        where=_location_text(user_location()),
        fix="constant(...) brings numbers into the graph, param(...) declares weights",
    )


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
        """The path of a parameter or state under the current scopes. Raises InvalidName."""
        return path(".".join((*self._scope, path(name))))

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
                self.require_own(op_name, operand)
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

    def require_own(self, op: str, operand: object) -> None:
        """Raises InvalidOperand for what is no value, ForeignTensor for another graph's."""
        if not isinstance(operand, Handle):
            raise _no_tensor(op, operand)
        if operand.builder is not self:
            raise ForeignTensor(f"{op}: an operand belongs to another graph")

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

    def lift(self, value: object, dtype: DType) -> Tensor:
        """A tensor as it is; a Python scalar or a dimension as a rank-0 tensor of `dtype`.

        Raises InvalidOperand for anything else, DTypeError for a scalar that does not fit.
        """
        if isinstance(value, Tensor):
            return value
        where = _location_text(user_location())
        if isinstance(value, np.generic):
            value = cast("object", value.item())
        if not isinstance(value, bool | int | float | DimExpr):
            raise InvalidOperand(
                f"{_a(value)} meets a tensor",
                where=where,
                fix="write a Python number or a dimension; constant(...) brings arrays in",
            )
        fits = (
            isinstance(value, bool)
            if dtype.kind == "bool"
            else not isinstance(value, bool) and (dtype.is_float or not isinstance(value, float))
        )
        if not fits:
            raise DTypeError(
                f"the Python scalar {value} does not fit a {dtype} tensor",
                where=where,
                fix="cast the tensor, or write a scalar of its kind",
            )
        if dtype.is_float and isinstance(value, int):
            try:
                value = float(value)
            except OverflowError as error:
                raise DTypeError(f"an integer is too large for {dtype}", where=where) from error
        return self.tensor("full", shape=(), value=value, dtype=dtype)

    def like(self, op: str, x: object) -> Callable[[object], Tensor]:
        """`lift` with the dtype of `x`. Raises InvalidOperand if `x` is no tensor."""
        if not isinstance(x, Tensor):
            raise _no_tensor(op, x)
        return partial(self.lift, dtype=x.dtype)

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
    builder, given = active(), cast("object", type_)
    if not isinstance(given, TensorType) or not is_static(given.shape):
        raise InvalidType(
            f"{_a(given)} is no type of a parameter", fix="write f32[8, 4], of numbers alone"
        )
    found = builder.add_input("param", builder.scoped(name), type_)
    assert isinstance(found, Tensor)
    return found


def state(name: str, type_: CacheType) -> Cache:
    """The state at `name` under the current scopes."""
    builder, given = active(), cast("object", type_)
    if not isinstance(given, CacheType):
        raise InvalidType(f"{_a(given)} is no type of a state", fix="write CacheType(...)")
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
        with _pointing_at(self.body), building(builder):
            arguments = {name: _argument(builder, name, type_) for name, type_ in self.signature}
            returned = self.body(**arguments)
            return builder.finish(_named(returned)), builder


def _argument(builder: GraphBuilder, name: str, type_: TensorType | Symbol) -> Tensor | Dim:
    if isinstance(type_, TensorType):
        found = builder.add_input("input", name, type_)
        assert isinstance(found, Tensor)
        return found
    return builder.add_symbol(type_)


def _named(returned: object) -> Mapping[str, Tensor]:
    """Outputs by name. Raises InvalidOutput."""
    if isinstance(returned, Tensor):
        return {"out": returned}
    if isinstance(returned, tuple):
        found = {f"out{i}": one for i, one in enumerate(cast("tuple[object, ...]", returned))}
    elif isinstance(returned, Mapping):
        found = cast("Mapping[str, object]", returned)
    else:
        raise InvalidOutput(f"the function returns {_a(returned)}", fix=_RETURN)
    outputs: dict[str, Tensor] = {}
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor):
            raise InvalidOutput(f"output {name} is {_a(tensor)}", fix=_RETURN)
        outputs[name] = tensor
    return outputs


_RETURN = "return a tensor, a tuple of tensors or a dict of tensors by name"


def graph(
    *misplaced: object, **arguments: TensorType | DimExpr
) -> Callable[[Body], TracedFunction]:
    """Decorator: `@graph(x=f32[rows, 384], past=past)` turns a function into a graph.

    A tensor type makes an input; a symbol makes a scalar i64 input that binds it, and the function
    receives the symbol. Further parameters and states are declared inside with `param`, `state`.

    Raises InvalidModelFunction where the function does not take these arguments, InvalidType,
    InvalidName and ProgramError.
    """
    if misplaced:
        raise InvalidModelFunction(
            "@graph needs the type of each argument by its name", fix="write @graph(x=f32[8, 4])"
        )
    signature = tuple((ident(name), _declared(name, t)) for name, t in arguments.items())
    _check_ranges([type_ for _, type_ in signature])

    def decorate(body: Body) -> TracedFunction:
        if not callable(body) or not hasattr(body, "__name__"):
            raise InvalidModelFunction(f"@graph stands on a function, not on {_a(body)}")
        with _pointing_at(body):
            _check_takes(body, arguments)
            return TracedFunction(ident(body.__name__), body, signature)

    return decorate


def _check_ranges(types: Sequence[TensorType | Symbol]) -> None:
    """Two symbols of one name would look alike in every message."""
    known: dict[str, Symbol] = {}
    for type_ in types:
        sizes = type_.shape if isinstance(type_, TensorType) else (of_symbol(type_),)
        for symbol in (found for size in sizes for found in symbols(size)):
            if known.setdefault(symbol.name, symbol) != symbol:
                raise ProgramError(
                    f"two dimensions are called {symbol.name} and have different ranges",
                    fix="make the dimension once, and use it twice",
                )


def _check_takes(body: Body, arguments: Mapping[str, object]) -> None:
    try:
        inspect.signature(body).bind(**arguments)
    except TypeError as error:
        raise InvalidModelFunction(
            f"the function {body.__name__} does not fit its decorator: {error}",
            fix="give each argument of the function a type, @graph(x=f32[8, 4]), and no other",
        ) from error


def _declared(name: str, type_: object) -> TensorType | Symbol:
    if isinstance(type_, TensorType):
        return type_
    if not isinstance(type_, DimExpr):
        raise InvalidType(
            f"argument {name} is declared by {_a(type_)}",
            fix="write a tensor's type, such as f32[8, 4], or a symbol made with dim(...)",
        )
    (found, *more) = symbols(type_)
    if more or found.name != name or type_ != of_symbol(found):
        raise ProgramError(
            f"argument {name} must be bound to the symbol of that name",
            fix=f'write {name} = dim("{name}", low, high) and pass {name}={name}',
        )
    return found
