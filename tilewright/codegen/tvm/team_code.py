"""The native half of a thread team: barrier, work loop, hand-out and clock, in LLVM IR.

TIR has no atomics on CPUs, so these few functions are imported as text and wrapped in functions
with a public C symbol. The block that they share:

    0    arrived   threads at the barrier
    4    epoch     barriers passed; in the same line as `arrived`, so that the last thread to come
                   owns it already when it lets the others go (halves the cost of a barrier)
    128  job       spans handed out; what idle workers watch and sleep on
    132  sleepers  workers asleep
    192  span, 200 size, 208 symbols, 216 pointers, 224 trace
    256  finished  workers that are done with the span
"""

from __future__ import annotations

from typing import Final

from tvm import tirx
from tvm.ir import PointerType, PrimType

from tilewright.codegen.tvm.emit import KernelFunction, flat_buffer, i32, importing
from tilewright.runtime.native import ABI
from tilewright.target.cpu import CpuIsa

_PAUSE: Final = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}
_SYS_FUTEX: Final = {"x86_64": 202, "aarch64": 98}

# The threads of a team may outnumber the cores: whoever has waited this long lets another run.
_SPINS_BEFORE_YIELD: Final = 2000
# About 50 us on a recent Intel core, 15 us on AMD's: calls that follow one another find the workers
# awake, and a team at rest leaves the cores to others soon.
_SPINS_BEFORE_SLEEP: Final = 700

# Centralised barrier with a sense that counts (Mellor-Crummey and Scott, 1991, section 2.1). The
# epoch is read before arriving, so it can only change after this thread has arrived; the last one
# resets the count before it lets the others go. Nothing has to be reset between calls.
_BARRIER: Final = """
declare i32 @sched_yield()
PAUSE_DECLARATION
define i32 @tw_ir_barrier(ptr %sync, i32 %size) {
entry:
  %alone = icmp sle i32 %size, 1
  br i1 %alone, label %done, label %arrive
arrive:
  %epoch_at = getelementptr i8, ptr %sync, i64 4
  %epoch = load atomic i32, ptr %epoch_at acquire, align 4
  %before = atomicrmw add ptr %sync, i32 1 acq_rel
  %count = add i32 %before, 1
  %last = icmp eq i32 %count, %size
  br i1 %last, label %release, label %spin
release:
  store atomic i32 0, ptr %sync monotonic, align 4
  %next = add i32 %epoch, 1
  store atomic i32 %next, ptr %epoch_at release, align 4
  br label %done
spin:
  %spins = phi i32 [0, %arrive], [%more, %relax], [0, %yield]
  %now = load atomic i32, ptr %epoch_at acquire, align 4
  %passed = icmp ne i32 %now, %epoch
  br i1 %passed, label %done, label %wait
wait:
  %more = add i32 %spins, 1
  %long = icmp sgt i32 %more, SPINS_BEFORE_YIELD
  br i1 %long, label %yield, label %relax
relax:
  PAUSE_CALL
  br label %spin
yield:
  %y = call i32 @sched_yield()
  br label %spin
done:
  ret i32 0
}
"""

# Sleeping: a worker counts itself among the sleepers before the system call, which compares the
# word with what was seen; the hander-out changes the word before it looks for sleepers. Both in
# sequential order, so either the worker sees the change or is seen asleep.
_WORK: Final = """
declare i64 @syscall(i64, ...)
PAUSE_DECLARATION
define i32 @tw_ir_work(ptr %sync, i32 %rank) {
entry:
  %job_at = getelementptr i8, ptr %sync, i64 128
  %sleepers_at = getelementptr i8, ptr %sync, i64 132
  %span_at = getelementptr i8, ptr %sync, i64 192
  %size_at = getelementptr i8, ptr %sync, i64 200
  %symbols_at = getelementptr i8, ptr %sync, i64 208
  %pointers_at = getelementptr i8, ptr %sync, i64 216
  %trace_at = getelementptr i8, ptr %sync, i64 224
  %finished_at = getelementptr i8, ptr %sync, i64 256
  br label %spin
spin:
  %seen = phi i32 [0, %entry], [%seen, %relax], [%seen, %sleep], [%job, %finished]
  %spins = phi i32 [0, %entry], [%more, %relax], [0, %sleep], [0, %finished]
  %job = load atomic i32, ptr %job_at acquire, align 4
  %called = icmp ne i32 %job, %seen
  br i1 %called, label %take, label %wait
wait:
  %more = add i32 %spins, 1
  %long = icmp sgt i32 %more, SPINS_BEFORE_SLEEP
  br i1 %long, label %sleep, label %relax
relax:
  PAUSE_CALL
  br label %spin
sleep:
  %s0 = atomicrmw add ptr %sleepers_at, i32 1 seq_cst
  %w = call i64 (i64, ...) @syscall(i64 SYS_FUTEX, ptr %job_at, i64 128, i32 %seen, ptr null)
  %s1 = atomicrmw sub ptr %sleepers_at, i32 1 seq_cst
  br label %spin
take:
  %span = load ptr, ptr %span_at, align 8
  %size = load i32, ptr %size_at, align 4
  %symbols = load ptr, ptr %symbols_at, align 8
  %pointers = load ptr, ptr %pointers_at, align 8
  %trace = load ptr, ptr %trace_at, align 8
  %stop = icmp eq ptr %span, null
  br i1 %stop, label %leave, label %check
check:
  %mine = icmp slt i32 %rank, %size
  br i1 %mine, label %work, label %finished
work:
  %r = call i32 %span(i32 %rank, i32 %size, ptr %symbols, ptr %pointers, ptr %sync, ptr %trace)
  br label %finished
finished:
  %f0 = atomicrmw add ptr %finished_at, i32 1 release
  br label %spin
leave:
  %f1 = atomicrmw add ptr %finished_at, i32 1 release
  ret i32 0
}
"""

# The hander-out waits for every worker, also for those that had no part: the next call overwrites
# what they read.
_RUN: Final = """
declare i32 @sched_yield()
declare i64 @syscall(i64, ...)
PAUSE_DECLARATION
define i32 @tw_ir_run(ptr %sync, ptr %span, i32 %size, ptr %symbols, ptr %pointers, ptr %trace,
                      i32 %workers) {
entry:
  %job_at = getelementptr i8, ptr %sync, i64 128
  %sleepers_at = getelementptr i8, ptr %sync, i64 132
  %span_at = getelementptr i8, ptr %sync, i64 192
  %size_at = getelementptr i8, ptr %sync, i64 200
  %symbols_at = getelementptr i8, ptr %sync, i64 208
  %pointers_at = getelementptr i8, ptr %sync, i64 216
  %trace_at = getelementptr i8, ptr %sync, i64 224
  %finished_at = getelementptr i8, ptr %sync, i64 256
  %helped = icmp sgt i32 %workers, 0
  br i1 %helped, label %announce, label %work
announce:
  store ptr %span, ptr %span_at, align 8
  store i32 %size, ptr %size_at, align 4
  store ptr %symbols, ptr %symbols_at, align 8
  store ptr %pointers, ptr %pointers_at, align 8
  store ptr %trace, ptr %trace_at, align 8
  store atomic i32 0, ptr %finished_at monotonic, align 4
  %j = atomicrmw add ptr %job_at, i32 1 seq_cst
  %sleepers = load atomic i32, ptr %sleepers_at seq_cst, align 4
  %asleep = icmp sgt i32 %sleepers, 0
  br i1 %asleep, label %wake, label %work
wake:
  %w = call i64 (i64, ...) @syscall(i64 SYS_FUTEX, ptr %job_at, i64 129, i32 2147483647, ptr null)
  br label %work
work:
  %stop = icmp eq ptr %span, null
  br i1 %stop, label %spin, label %enter
enter:
  %r = call i32 %span(i32 0, i32 %size, ptr %symbols, ptr %pointers, ptr %sync, ptr %trace)
  br label %spin
spin:
  %spins = phi i32 [0, %work], [0, %enter], [%more, %relax], [0, %yield]
  %f = load atomic i32, ptr %finished_at acquire, align 4
  %all = icmp sge i32 %f, %workers
  br i1 %all, label %done, label %wait
wait:
  %more = add i32 %spins, 1
  %long = icmp sgt i32 %more, SPINS_BEFORE_YIELD
  br i1 %long, label %yield, label %relax
relax:
  PAUSE_CALL
  br label %spin
yield:
  %y = call i32 @sched_yield()
  br label %spin
done:
  ret i32 0
}
"""

# If there is a trace, the nanoseconds of the clock that Python's `time.perf_counter_ns` reads, at a
# place in the rank's row. The first word of a trace is the length of a row.
_STAMP: Final = """
declare i32 @clock_gettime(i32, ptr)
define i32 @tw_ir_stamp(ptr %trace, i32 %rank, i32 %place) {
entry:
  %time = alloca [2 x i64], align 8
  %off = icmp eq ptr %trace, null
  br i1 %off, label %done, label %stamp
stamp:
  %c = call i32 @clock_gettime(i32 CLOCK_MONOTONIC, ptr %time)
  %fraction_at = getelementptr i8, ptr %time, i64 8
  %seconds = load i64, ptr %time, align 8
  %fraction = load i64, ptr %fraction_at, align 8
  %whole = mul i64 %seconds, 1000000000
  %now = add i64 %whole, %fraction
  %length = load i64, ptr %trace, align 8
  %rank64 = sext i32 %rank to i64
  %place64 = sext i32 %place to i64
  %row = mul i64 %rank64, %length
  %index = add i64 %row, %place64
  %word = add i64 %index, 1
  %at = getelementptr i64, ptr %trace, i64 %word
  store i64 %now, ptr %at, align 8
  br label %done
done:
  ret i32 0
}
"""
_CLOCK_MONOTONIC: Final = 1
"""On Linux."""


def team_functions(isa: CpuIsa) -> list[KernelFunction]:
    """`tw_barrier`, `tw_stamp` and what every library exports for a team (see `runtime.native`)."""
    sync, pointer = ("sync", "handle"), "handle"
    run = [sync, ("span", pointer), ("size", "int32"), ("symbols", pointer), ("pointers", pointer)]
    run += [("trace", pointer), ("workers", "int32")]
    stamp = [("trace", pointer), ("rank", "int32"), ("place", "int32")]
    return [
        _wrapper("tw_barrier", "tw_ir_barrier", [sync, ("size", "int32")], _BARRIER, isa),
        _wrapper("tw_team_work", "tw_ir_work", [sync, ("rank", "int32")], _WORK, isa),
        _wrapper("tw_team_run", "tw_ir_run", run, _RUN, isa),
        _wrapper("tw_stamp", "tw_ir_stamp", stamp, _STAMP, isa),
        _abi(),
    ]


def _wrapper(
    name: str, inner: str, parameters: list[tuple[str, str]], text: str, isa: CpuIsa
) -> KernelFunction:
    declaration, call = _PAUSE[isa.machine]
    for word, value in {
        "PAUSE_DECLARATION": declaration,
        "PAUSE_CALL": call,
        "SPINS_BEFORE_YIELD": str(_SPINS_BEFORE_YIELD),
        "SPINS_BEFORE_SLEEP": str(_SPINS_BEFORE_SLEEP),
        "CLOCK_MONOTONIC": str(_CLOCK_MONOTONIC),
        "SYS_FUTEX": str(_SYS_FUTEX[isa.machine]),
    }.items():
        text = text.replace(word, value)
    variables = [
        tirx.Var(n, PointerType(PrimType("int32")) if kind == "handle" else kind)
        for n, kind in parameters
    ]
    call_inner = tirx.Evaluate(tirx.call_extern("int32", inner, *variables))
    body = importing(text, call_inner)
    function = tirx.PrimFunc(variables, body, ret_type=PrimType("int32"))
    return KernelFunction(name, function.with_attr("global_symbol", name), (), (), (text,))


def _abi() -> KernelFunction:
    out = tirx.Var("version", PointerType(PrimType("int32")))
    view = flat_buffer("version", "int32", 1)
    store = tirx.BufferStore(view, i32(ABI), [tirx.IntImm("int64", 0)])
    body = tirx.SeqStmt([tirx.DeclBuffer(view, data=out), store])
    function = tirx.PrimFunc([out], body, ret_type=PrimType("int32"))
    return KernelFunction("tw_abi", function.with_attr("global_symbol", "tw_abi"), (), (), ())
