"""A small typed layer over TVM's TIR, in which every CPU kernel is written.

`KernelBuilder` collects statements; `finish` makes one function with the C signature

    int32 name(int32 rank, int32 size, int64 symbol..., void* pointer...)

that each thread of a team calls with its own `rank`. Nodes are built directly: parsing TVMScript
would cost more than the rest of the build.

Two traps of TIR are closed here. An expression is a tree that is evaluated where it is used, once
for each use: a load that was built before a store but used after it would see the new value, and a
shared sub-expression would be emitted again for each use. So loads are bound to a variable at once,
and `let` binds whatever is used more than once.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from tvm import tirx
from tvm.ir import PointerType, PrimType

from tilewright.target.cpu import CpuIsa

Expr: TypeAlias = Any
"""A TIR expression: a scalar, or a vector of the lanes its type says."""

Index: TypeAlias = Any
"""An int64 expression or a Python int."""

STORAGE: Final = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "uint16",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u32": "uint32",
    "u16": "uint16",
    "u8": "uint8",
    "bool": "uint8",
}
"""Our dtypes and the types that TIR stores them as (bf16 is kept as its bits)."""

BYTES: Final = {
    "f64": 8,
    "f32": 4,
    "f16": 2,
    "bf16": 2,
    "i64": 8,
    "i32": 4,
    "i16": 2,
    "i8": 1,
    "u32": 4,
    "u16": 2,
    "u8": 1,
    "bool": 1,
}

CACHE_LINE: Final = 64
# A flat buffer has to have a length in TIR; nobody checks it.
_UNBOUNDED: Final = 1 << 40


def i32(value: int) -> Expr:
    """An int32 constant."""
    return tirx.IntImm("int32", value)


def i64(value: Index) -> Expr:
    """`value` as an int64 expression."""
    if isinstance(value, int):
        return tirx.IntImm("int64", value)
    return value if type_of(value) == "int64" else tirx.Cast("int64", value)


def lanes_of(value: Expr) -> int:
    """How many lanes an expression has; a Python number has one."""
    return 1 if isinstance(value, int | float) else int(_dtype_of(value).lanes)


def type_of(value: Expr) -> str:
    """The TIR element type of an expression, such as `float32`."""
    return str(_dtype_of(value)).partition("x")[0]


def _dtype_of(value: Expr) -> Any:
    return value.ty.dtype


def vector_type(element: str, lanes: int) -> str:
    """TIR's name of a vector type: `float32x16`; the element itself for one lane."""
    return element if lanes == 1 else f"{element}x{lanes}"


def broadcast(value: Expr, lanes: int) -> Expr:
    """A scalar in all lanes."""
    make: Any = tirx.Broadcast
    return value if lanes == 1 else make(value, lanes)


def ramp(start: Expr, stride: Expr, lanes: int) -> Expr:
    """start, start + stride ... one for each lane."""
    make: Any = tirx.Ramp
    return start if lanes == 1 else make(start, stride, lanes)


def consecutive(index: Index, lanes: int) -> Expr:
    """index, index + 1 ... as an int64 index."""
    return ramp(i64(index), tirx.IntImm("int64", 1), lanes)


def importing(text: str, body: Any) -> Any:
    """`body` with the functions of an LLVM IR text at hand."""
    attribute: Any = tirx.AttrStmt
    return attribute(i32(0), "pragma_import_llvm", text, body)


@dataclass(frozen=True, slots=True)
class KernelFunction:
    """A finished kernel: its C symbol, its TIR, and its parameters after `rank` and `size`.

    `symbols` are int64 scalars; `pointers` are pairs of name and dtype (of `STORAGE`). `imports` is
    the LLVM IR of the helper functions it calls. `scratch` are the bytes that it keeps on the stack
    of each thread.
    """

    name: str
    body: Any
    symbols: tuple[str, ...]
    pointers: tuple[tuple[str, str], ...]
    imports: tuple[str, ...]
    scratch: int = 0


@dataclass(frozen=True, slots=True)
class Pointer:
    """A typed address: a kernel's parameter or scratch, displaced by `offset` elements.

    Loads and stores take one element, or `lanes` neighbours; `mask` (a vector of bools, only where
    the instruction set has masks) leaves the lanes that are off alone: they load as zero.
    """

    kernel: KernelBuilder
    buffer: Any
    dtype: str
    offset: Index = 0

    def at(self, index: Index) -> Pointer:
        """The pointer moved by `index` elements."""
        return Pointer(self.kernel, self.buffer, self.dtype, self._index(index))

    @property
    def line(self) -> int:
        """Elements in a cache line."""
        return CACHE_LINE // BYTES[self.dtype]

    def load(self, index: Index, lanes: int = 1, mask: Expr | None = None) -> Expr:
        """The stored bits (bf16 as uint16), bound to a variable."""
        return self.kernel.let(self.peek(index, lanes, mask), "x")

    def peek(self, index: Index, lanes: int = 1, mask: Expr | None = None) -> Expr:
        """As `load`, unbound: for a value that is used once, before anything is stored."""
        where = consecutive(self._index(index), lanes)
        if mask is None:
            return tirx.BufferLoad(self.buffer, [where])
        kind = vector_type(STORAGE[self.dtype], lanes)
        loaded = tirx.call_intrin(kind, "tirx.masked_load", self.buffer, where, mask)
        return tirx.Select(mask, loaded, tirx.const(0, kind))

    def store(self, index: Index, value: Expr, mask: Expr | None = None) -> None:
        """Store stored bits: `value` has the pointer's storage type and sets the lanes."""
        where = consecutive(self._index(index), lanes_of(value))
        if mask is None:
            self.kernel.emit(tirx.BufferStore(self.buffer, value, [where]))
        else:
            self.kernel.run(
                tirx.call_intrin("void", "tirx.masked_store", self.buffer, value, where, mask)
            )

    def address(self, index: Index = 0) -> Expr:
        """The address of an element as an opaque handle, for calls."""
        return tirx.address_of(tirx.BufferLoad(self.buffer, [i64(self._index(index))]))

    def prefetch(self, index: Index) -> None:
        """Ask for the element's cache line to come into L2; the address need not exist."""
        read, into_l2, data = i32(0), i32(2), i32(1)
        where = self.address(index)
        self.kernel.run(tirx.call_llvm_intrin("void", "llvm.prefetch", where, read, into_l2, data))

    def _index(self, index: Index) -> Index:
        if isinstance(self.offset, int) and self.offset == 0:
            return index
        return self.offset + index


@dataclass(frozen=True, slots=True)
class Register:
    """A variable of `lanes` lanes that LLVM keeps in a register: all its uses are whole."""

    kernel: KernelBuilder
    buffer: Any
    lanes: int

    def get(self) -> Expr:
        """The current value, bound: it stays what it is when the register changes."""
        return self.kernel.let(self.peek(), "r")

    def peek(self) -> Expr:
        """The current value, to be used once, before the next `set`."""
        return tirx.BufferLoad(self.buffer, [consecutive(0, self.lanes)])

    def set(self, value: Expr) -> None:
        self.kernel.emit(tirx.BufferStore(self.buffer, value, [consecutive(0, self.lanes)]))


class KernelBuilder:
    """Builds one kernel, statement after statement.

    `noalias` promises that no two pointers overlap, which lets LLVM keep loads across stores; a
    kernel that may run in place must pass False (or take the shared buffer as one pointer).
    """

    def __init__(self, name: str, isa: CpuIsa, *, noalias: bool = True) -> None:
        self.name = name
        self.isa = isa
        self.rank: Expr = tirx.Var("rank", "int32")
        self.size: Expr = tirx.Var("size", "int32")
        self._noalias = noalias
        self._symbols: dict[str, Any] = {}
        self._pointers: dict[str, tuple[Pointer, Any]] = {}
        self._imports: dict[str, None] = {}
        self._blocks: list[list[Any]] = [[]]
        self._scratch = 0

    # --- parameters ---

    def symbol(self, name: str) -> Expr:
        """An int64 scalar parameter (the same one for the same name)."""
        if name not in self._symbols:
            self._symbols[name] = tirx.Var(name, "int64")
        return self._symbols[name]

    def pointer(self, name: str, dtype: str) -> Pointer:
        """A pointer parameter to elements of `dtype`, aligned to its elements only."""
        if name not in self._pointers:
            parameter = tirx.Var(name, PointerType(PrimType(STORAGE[dtype])))
            buffer = flat_buffer(name, STORAGE[dtype], _UNBOUNDED)
            self._pointers[name] = (Pointer(self, buffer, dtype), parameter)
        return self._pointers[name][0]

    def import_ir(self, text: str) -> None:
        """Make the functions of an LLVM IR text callable by `call_extern`; they are inlined."""
        self._imports[text] = None

    # --- statements ---

    def emit(self, statement: Any) -> None:
        self._blocks[-1].append(statement)

    def run(self, call: Expr) -> None:
        """Evaluate a call for its effect."""
        self.emit(tirx.Evaluate(call))

    def let(self, value: Expr, name: str = "v") -> Expr:
        """Evaluate `value` here, once; constants and variables are returned as they are.

        So are masks: TVM cannot bind vectors of bools (LLVM evaluates them once all the same).
        """
        if isinstance(value, int | float | tirx.Var | tirx.IntImm | tirx.FloatImm):
            return value
        if type_of(value) == "bool" and lanes_of(value) > 1:
            return value
        variable = tirx.Var(name, value.ty)
        self.emit(tirx.Bind(variable, value))
        return variable

    @contextmanager
    def loop(self, begin: Index, end: Index, step: int = 1, name: str = "i") -> Generator[Expr]:
        """A serial loop over begin, begin + step ... while below `end`; yields the int64 index."""
        variable = tirx.Var(name, "int64")
        with self._block() as body:
            yield variable
        start = self.let(i64(begin), f"{name}_begin")
        extent = i64(end) if isinstance(begin, int) and begin == 0 else i64(end) - start
        # The step 1 is left out: LLVM's loop passes like the plain form better.
        stride = None if step == 1 else tirx.IntImm("int64", step)
        kind = tirx.ForKind.SERIAL
        if isinstance(begin, int) and begin == 0:
            start = tirx.IntImm("int64", 0)
        self.emit(tirx.For(variable, start, extent, kind, sequence(body), step=stride))

    @contextmanager
    def when(self, condition: Expr) -> Generator[None]:
        """The statements inside run if the scalar `condition` holds."""
        with self._block() as body:
            yield
        self.emit(tirx.IfThenElse(condition, sequence(body), None))

    @contextmanager
    def otherwise(self) -> Generator[None]:
        """The else branch of the `when` that has just ended."""
        chosen = self._blocks[-1].pop()
        with self._block() as body:
            yield
        self.emit(tirx.IfThenElse(chosen.condition, chosen.then_case, sequence(body)))

    # --- memory ---

    def register(self, lanes: int, value: Expr | None = None, element: str = "float32") -> Register:
        """A register of `lanes` lanes, set to `value` if given."""
        buffer = flat_buffer("acc", element, lanes, scope="local")
        self.emit(tirx.AllocBuffer(buffer))
        made = Register(self, buffer, lanes)
        if value is not None:
            made.set(value)
        return made

    def held(self, value: Index) -> Expr:
        """An index kept in a register, out of the simplifier's sight.

        TVM carries nested divisions and minima into every index that depends on them, and spends
        seconds on what LLVM does at once.
        """
        return value if isinstance(value, int) else self.register(1, i64(value), "int64").get()

    def scratch(self, dtype: str, count: int, name: str = "scratch") -> Pointer:
        """`count` elements on the stack, aligned to a cache line; undefined at first.

        Every call adds to the thread's stack: keep the sum well below a megabyte.
        """
        spare = CACHE_LINE // BYTES[dtype]
        buffer = flat_buffer(name, STORAGE[dtype], count + spare, scope="local")
        self.emit(tirx.AllocBuffer(buffer))
        self._scratch += (count + spare) * BYTES[dtype]
        # TVM aligns the stack to 16 bytes at most, and a vector across two lines costs double.
        raw = Pointer(self, buffer, dtype)
        address = tirx.reinterpret("int64", raw.address())
        gap = tirx.bitwise_and(i64(0) - address, i64(CACHE_LINE - 1))
        return raw.at(self.let(tirx.shift_right(gap, i64(BYTES[dtype].bit_length() - 1)), "gap"))

    # --- the team ---

    def share(self, total: Index) -> tuple[Expr, Expr]:
        """This thread's contiguous part [begin, end) of `total` equal units of work.

        Parts differ by at most one unit, and every size of team covers the whole.
        """
        units, rank, size = i64(total), i64(self.rank), i64(self.size)
        begin = tirx.truncdiv(units * rank, size)
        end = tirx.truncdiv(units * (rank + 1), size)
        return self.let(begin, "first"), self.let(end, "last")

    # --- the end ---

    def finish(self) -> KernelFunction:
        """The kernel. The builder must not be used after this."""
        declared = [self._declare(p.buffer, v) for p, v in self._pointers.values()]
        parameters = [self.rank, self.size, *self._symbols.values()]
        parameters += [variable for _, variable in self._pointers.values()]
        body = sequence([*declared, *self._blocks[0], tirx.Evaluate(i32(0))])
        for text in self._imports:
            body = importing(text, body)
        function = tirx.PrimFunc(parameters, body, ret_type=PrimType("int32"))
        function = function.with_attr("global_symbol", self.name)
        if self._noalias:
            function = function.with_attr("tirx.noalias", True)
        return KernelFunction(
            self.name,
            function,
            tuple(self._symbols),
            tuple((name, pointer.dtype) for name, (pointer, _) in self._pointers.items()),
            tuple(self._imports),
            self._scratch,
        )

    def _declare(self, buffer: Any, parameter: Any) -> Any:
        """The statement that makes `buffer` a view of a parameter.

        TVM marks accesses through different parameters as never overlapping even without noalias,
        but not those of a view whose address is computed.
        """
        data = parameter if self._noalias else tirx.handle_add_byte_offset(parameter, i32(0))
        return tirx.DeclBuffer(buffer, data=data)

    @contextmanager
    def _block(self) -> Generator[list[Any]]:
        body: list[Any] = []
        self._blocks.append(body)
        try:
            yield body
        finally:
            self._blocks.pop()
        if not body:
            body.append(tirx.Evaluate(i32(0)))


def flat_buffer(name: str, element: str, count: int, scope: str = "") -> Any:
    """A one-dimensional buffer (the layout object TIR would make costs 13 us and is not used)."""
    declare: Any = tirx.decl_buffer
    return declare((count,), element, name=name, scope=scope, layout=None)


def sequence(statements: Sequence[Any]) -> Any:
    """Statements as one (TIR has no sequence of one)."""
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))
