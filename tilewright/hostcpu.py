"""What a program needs to know of the machine it runs on: flags, threads, memory at hand.

The flags are those of /proc/cpuinfo. This leaf serves both sides: the compiler turns flags into
features (`target.host`), the runtime compares them with what an artifact asks for.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")
MEMINFO: Final = Path("/proc/meminfo")
_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
_MEMORY: Final = Path("/sys/fs/cgroup/memory.max")
_FLAG_LINES: Final = ("flags", "Features")  # x86-64, aarch64


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The flags of this machine, read once a process; none where the system does not tell."""
    try:
        return common_flags(processors(CPUINFO.read_text(errors="replace")))
    except OSError:
        return frozenset()


def processors(text: str) -> list[dict[str, str]]:
    """The lines `name : value` of each processor in a /proc/cpuinfo."""
    return [fields(block) for block in text.split("\n\n") if block.strip()]


def fields(block: str) -> dict[str, str]:
    """The lines `name : value` of a text."""
    pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def common_flags(found: Sequence[Mapping[str, str]]) -> frozenset[str]:
    """The flags that *every* processor has: a thread may run on any of them."""
    flag_sets = [frozenset(p[key].split()) for p in found for key in _FLAG_LINES if key in p]
    return frozenset[str].intersection(*flag_sets) if flag_sets else frozenset()


def usable_threads() -> int:
    """How many threads may run at once: the affinity mask and the container's quota, at least 1."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        allowed = os.cpu_count() or 1
    try:
        quota = parse_quota(_QUOTA.read_text())
    except OSError:
        quota = None
    return max(1, allowed if quota is None else min(allowed, quota))


def parse_quota(text: str) -> int | None:
    """Processors granted by a cgroup's `cpu.max` ("max 100000", "150000 100000"), rounded up."""
    words = text.split()
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[1]) == 0:
        return None
    return -(-int(words[0]) // int(words[1]))


def available_memory() -> int:
    """Bytes that programs may take before the system or the container runs short; 0 if unknown."""
    try:
        free = int(fields(MEMINFO.read_text())["MemAvailable"].split()[0]) << 10
    except (OSError, LookupError, ValueError):
        return 0
    try:
        limit = int(_MEMORY.read_text())
        held = dict(line.split() for line in _MEMORY.with_name("memory.stat").open())["anon"]
    except (OSError, LookupError, ValueError):  # ValueError: "max", which is no limit
        return free
    # The container's cached files count towards its limit too, but give way.
    return max(0, min(free, limit - int(held)))
