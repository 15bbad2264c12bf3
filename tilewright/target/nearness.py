"""How far apart two processors are, for what was found out about kernels on one of them."""

from __future__ import annotations

from math import log2
from typing import Final

from tilewright.target.cpu import CpuIsa, isa_of
from tilewright.target.host import CacheSizes
from tilewright.target.spec import Target

Apart = tuple[int, float, float, int]
"""Of another machine language; instructions of kernels, doublings of caches, other features."""

# Data caches of a core in KiB, first and second level, as processors of the name are sold. Sources:
# Intel's optimization reference manual, AMD's software optimization guides, Arm's core manuals
# (whose sizes are options: the largest common one). Others count as a modest machine.
_CACHES: Final = {
    (32, 256): "nehalem corei7 westmere sandybridge corei7-avx ivybridge core-avx-i haswell"
    " broadwell core-avx2 skylake cannonlake",
    (32, 512): "znver1 znver2 znver3",
    (32, 1024): "skylake-avx512 skx cascadelake cooperlake znver4",
    (48, 512): "icelake-client rocketlake",
    (48, 1024): "znver5",
    (48, 1280): "icelake-server tigerlake alderlake",
    (48, 2048): "raptorlake meteorlake sapphirerapids emeraldrapids graniterapids graniterapids-d",
    (64, 1024): "neoverse-n1 neoverse-v1 neoverse-n2 grace",
    (64, 2048): "neoverse-v2",
}


def apart(a: Target, b: Target) -> Apart | None:
    """A distance to compare others with, smallest first; None where one of them is no cpu.

    First come the machine language and the instructions that kernels are written with, which decide
    what a register tile may be; then the caches of a core, which decide blocks; last the features
    that only LLVM sees. A target says nothing of cores and shared caches. What the other one has
    and ours lacks counts as the reverse does: schedules are compared, not code.
    """
    if a.kind != "cpu" or b.kind != "cpu":
        return None
    one, two = isa_of(a), isa_of(b)
    other = len(set(one.features) ^ set(two.features))
    return int(one.machine != two.machine), _instructions(one, two), _caches(a, b), other


def caches_of(target: Target) -> CacheSizes:
    """The data caches of a core, as processors of that name have them."""
    return _BY_NAME.get(target.arch, CacheSizes())


def _instructions(a: CpuIsa, b: CpuIsa) -> float:
    """Doublings of a vector's length and of the number of registers, and units that one lacks."""
    lanes = abs(log2(a.lanes_f32 / b.lanes_f32))
    registers = abs(log2(a.vector_registers / b.vector_registers))
    units = ((i.fma, i.bf16_dot, i.vnni, i.amx_bf16) for i in (a, b))
    return lanes + registers + sum(x != y for x, y in zip(*units, strict=True))


def _caches(a: Target, b: Target) -> float:
    ours, theirs = caches_of(a), caches_of(b)
    return abs(log2(ours.l1d / theirs.l1d)) + abs(log2(ours.l2 / theirs.l2))


_BY_NAME: Final = {
    name: CacheSizes(l1d << 10, l2 << 10)
    for (l1d, l2), names in _CACHES.items()
    for name in names.split()
}
