"""Where the time of a graph goes: kernels and barriers, beside what the machine can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.cli.sizes import listed
from tilewright.cli.talk import Talk
from tilewright.runtime.schema import SpanStep
from tilewright.runtime.timeline import StepTimes, Timeline

_NS = 1e-6
"""Milliseconds of a nanosecond."""


def breakdown(
    timelines: Sequence[Timeline], untraced: Sequence[float], costs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Milliseconds of each step on each thread, in the mean over the faster half of the calls.

    Other steps than kernels, and the host's work around the steps, count for all threads alike;
    the parts of a thread therefore make up the whole. `untraced` are the milliseconds of calls that
    were made between these, for comparison. `costs` are rows of `kernel_rows`, by name.
    """
    calls = sorted(timelines, key=lambda t: t.end - t.begin)[: (len(timelines) + 1) // 2]
    threads = _threads(calls[0].steps)
    host = _mean([_host(call) for call in calls])
    steps: list[dict[str, Any]] = []
    for same in zip(*(call.steps for call in calls), strict=True):
        steps += _parts(same, threads)
    total = [host + sum(_on(step, thread) for step in steps) for thread in range(threads)]
    return {
        "wall_ms": _mean([call.end - call.begin for call in calls]),
        "untraced_ms": float(np.mean(sorted(untraced)[: (len(untraced) + 1) // 2])),
        "thread_ms": total,
        "host_ms": host,
        "steps": steps,
        "kernels": _kernels(steps, costs),
    }


def show(row: Mapping[str, Any], talk: Talk) -> None:
    """The `breakdown` of a graph as a table, and what the steps of each thread add up to."""
    found = row["breakdown"]
    heads = ("kernel", "calls", "ms in it", "waiting", "least", "bound", "inefficiency", "ops")
    title = f"{row['graph']} at {listed(row['at'])}: milliseconds of a thread, in the mean"
    talk.table(title, heads, [_cells(kernel) for kernel in found["kernels"]])
    beside = {"host": found["host_ms"]}
    for step in found["steps"]:
        if "kernel" not in step:
            mean = sum(step["busy_ms"]) / len(step["busy_ms"])
            beside[step["step"]] = beside.get(step["step"], 0.0) + mean
    talk.line("beside kernels: " + ", ".join(f"{what} {ms:.3g}" for what, ms in beside.items()))
    sums = ", ".join(f"{ms:.4g}" for ms in found["thread_ms"])
    untraced = f"calls that were not traced, in between: {found['untraced_ms']:.4g}"
    talk.line(f"sum of each thread: {sums}; {untraced}")


def _cells(kernel: Mapping[str, Any]) -> tuple[object, ...]:
    judged = ("least_ms", "bound", "inefficiency_ms")
    return (
        *(kernel[key] for key in ("kernel", "calls", "busy_ms", "wait_ms")),
        *(kernel.get(key, "") for key in judged),
        " ".join(kernel["ops"]),
    )


def _parts(same: Sequence[StepTimes], threads: int) -> list[dict[str, Any]]:
    """What a step of several calls is made of."""
    step = same[0].step
    if not isinstance(step, SpanStep):
        kind = str(step.__struct_config__.tag)
        return [{"step": kind, "busy_ms": [_mean([s.end - s.begin for s in same])] * threads}]
    parts: list[dict[str, Any]] = [
        {"step": "hand-out", "busy_ms": _means([s.hand_out for s in same])}
    ]
    for kernels in zip(*(s.kernels() for s in same), strict=True):
        busy, wait = _means([k.busy for k in kernels]), _means([k.wait for k in kernels])
        name = kernels[0].kernel
        parts.append({"step": "kernel", "kernel": name, "busy_ms": busy, "wait_ms": wait})
    return parts


def _kernels(
    steps: Sequence[Mapping[str, Any]], costs: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """All calls of each kernel together, the slowest first.

    A thread's time is the least that the work takes when all threads share it, and what it took
    beyond that: `inefficiency`. Below zero, data came from a cache and not from memory.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for step in steps:
        if "kernel" in step:
            found.setdefault(step["kernel"], []).append(step)
    rows: list[dict[str, Any]] = []
    for name, calls in found.items():
        busy, wait = (
            float(np.mean([call[key] for call in calls])) * len(calls)
            for key in ("busy_ms", "wait_ms")
        )
        row: dict[str, Any] = {"kernel": name, "calls": len(calls)}
        row |= {"busy_ms": busy, "wait_ms": wait}
        cost = costs.get(name, {})
        if "bound_seconds" in cost:
            least = cost["bound_seconds"] * 1e3 * len(calls)
            row |= {"bound": cost["bound"], "least_ms": least, "inefficiency_ms": busy - least}
        rows.append(row | {"ops": cost.get("ops", [])})
    return sorted(rows, key=lambda row: -(row["busy_ms"] + row["wait_ms"]))


def _host(call: Timeline) -> int:
    return call.end - call.begin - sum(step.end - step.begin for step in call.steps)


def _threads(steps: Sequence[StepTimes]) -> int:
    return max((len(s.stamps) for s in steps if s.stamps is not None), default=1)


def _on(step: Mapping[str, Any], thread: int) -> float:
    return step["busy_ms"][thread] + (step["wait_ms"][thread] if "wait_ms" in step else 0.0)


def _mean(nanoseconds: Sequence[int]) -> float:
    return float(np.mean(nanoseconds)) * _NS


def _means(nanoseconds: Sequence[Any]) -> list[float]:
    return [float(v) * _NS for v in np.mean(nanoseconds, axis=0)]
