"""Spans: many kernels behind one native entry, with a barrier where one needs another's result.

A span's entry calls its kernels in order on every thread of the team; each kernel does its
thread's share. Before and after each, a thread notes the time if the caller asked for a trace: one
test of a pointer where it did not. Kernels and entry are separate object files, so that equal
kernels are compiled once, whatever span they are in, and the entry of hundreds of calls is compiled
in no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from tvm import tirx
from tvm.ir import PointerType, PrimType

from tilewright.codegen.tvm.emit import KernelFunction, flat_buffer, i32, i64
from tilewright.codegen.tvm.link import shared_library
from tilewright.codegen.tvm.object_code import object_code
from tilewright.codegen.tvm.team_code import team_functions
from tilewright.target.cpu import CpuIsa


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in the span's table of symbols."""

    index: int


Symbol: TypeAlias = Slot | int
"""What a kernel's int64 parameter gets: a symbol's value, or a constant."""


@dataclass(frozen=True, slots=True)
class KernelCall:
    """Call the kernel of this C symbol with these symbols and pointers (places in the table)."""

    kernel: str
    symbols: tuple[Symbol, ...]
    pointers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A schedule table: the first case whose limit `symbol` does not exceed, else `otherwise`."""

    symbol: Slot
    cases: tuple[tuple[int, KernelCall], ...]
    otherwise: KernelCall


@dataclass(frozen=True, slots=True)
class Barrier:
    """Wait until every thread has come here."""


Step: TypeAlias = KernelCall | Dispatch | Barrier


def span_entry(name: str, steps: Sequence[Step]) -> KernelFunction:
    """The entry `name(rank, size, symbols, pointers, sync, trace)` that runs these steps."""
    rank, size = tirx.Var("rank", "int32"), tirx.Var("size", "int32")
    names = ("symbols", "pointers", "sync", "trace")
    tables = {n: tirx.Var(n, PointerType(PrimType("int64"))) for n in names}
    views = {n: flat_buffer(n, "int64", 1 << 40) for n in names}
    sync, trace = (tirx.address_of(tirx.BufferLoad(views[n], [i64(0)])) for n in ("sync", "trace"))

    def symbol(value: Symbol) -> Any:
        if isinstance(value, int):
            return i64(value)
        return tirx.BufferLoad(views["symbols"], [i64(value.index)])

    def pointer(place: int) -> Any:
        address = tirx.BufferLoad(views["pointers"], [i64(place)])
        return tirx.reinterpret("handle", address)

    def stamp(place: int) -> Any:
        return tirx.Evaluate(tirx.call_extern("int32", "tw_stamp", trace, rank, i32(place)))

    def call(step: KernelCall) -> Any:
        arguments = [symbol(value) for value in step.symbols]
        arguments += [pointer(place) for place in step.pointers]
        return tirx.Evaluate(tirx.call_extern("int32", step.kernel, rank, size, *arguments))

    def statement(step: Step) -> Any:
        match step:
            case Barrier():
                return tirx.Evaluate(tirx.call_extern("int32", "tw_barrier", sync, size))
            case KernelCall():
                return call(step)
            case Dispatch(at, cases, otherwise):
                chosen = call(otherwise)
                for limit, case in reversed(cases):
                    chosen = tirx.IfThenElse(symbol(at) <= i64(limit), call(case), chosen)
                return chosen

    declared = [tirx.DeclBuffer(views[n], data=tables[n]) for n in names]
    statements: list[Any] = []
    stamps = 0
    for step in steps:
        if isinstance(step, Barrier):
            statements.append(statement(step))
            continue
        statements += [stamp(stamps), statement(step), stamp(stamps + 1)]
        stamps += 2
    body = tirx.SeqStmt([*declared, *statements, tirx.Evaluate(i32(0))])
    function = tirx.PrimFunc([rank, size, *tables.values()], body, ret_type=PrimType("int32"))
    return KernelFunction(name, function.with_attr("global_symbol", name), (), (), ())


def span_library(
    entries: Sequence[KernelFunction],
    kernels: Sequence[bytes],
    isa: CpuIsa,
    folder: Path | None = None,
) -> bytes:
    """The shared library of these spans: the object files of their kernels, entries and team.

    Temporary files lie in `folder`, by default where the system has them.

    Raises:
        LinkerMissing, LinkerFailed: see `link`.
    """
    objects = [*kernels, object_code(entries, isa, folder), _team(isa, folder)]
    return shared_library(objects, folder)


_TEAMS: Final[dict[CpuIsa, bytes]] = {}


def _team(isa: CpuIsa, folder: Path | None) -> bytes:
    if isa not in _TEAMS:
        _TEAMS[isa] = object_code(team_functions(isa), isa, folder)
    return _TEAMS[isa]
