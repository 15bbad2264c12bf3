"""What a cpu target's instruction set offers to a code generator."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.dsl.errors import UnknownTarget
from tilewright.target.features import (
    ARM,
    BASELINE_CPU,
    CPUS,
    FLAGS,
    LLVM_NAMES,
    X86,
    closure,
    nearest_cpu,
    ordered,
)
from tilewright.target.host import host
from tilewright.target.spec import Target, host_machine, machine_of


@dataclass(frozen=True, slots=True)
class CpuIsa:
    """An instruction set, as kernels see it.

    `lanes_f32` is the number of f32 lanes of the widest vector register (16, 8 or 4) and
    `vector_registers` how many there are; `bf16_dot` is the two-way bf16 dot into f32 (vdpbf16ps,
    bfdot), `vnni` the four-way u8 x s8 dot into i32 (vpdpbusd, usdot), `amx_bf16` Intel's tiles
    (which a thread must ask the kernel for before use). `mcpu` and `mattr` go to LLVM.
    """

    lanes_f32: int
    vector_registers: int
    fma: bool
    bf16_dot: bool
    vnni: bool
    amx_bf16: bool
    mattr: tuple[str, ...]
    mcpu: str
    machine: str = X86

    @property
    def features(self) -> tuple[str, ...]:
        """The features that code for this instruction set may use, under LLVM's names."""
        return tuple(name[1:] for name in self.mattr if name.startswith("+"))

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of /proc/cpuinfo that a machine must show to run such code."""
        return tuple(FLAGS[self.machine][name] for name in self.features)

    @property
    def triple(self) -> str:
        """LLVM's target triple on Linux."""
        return f"{self.machine}-unknown-linux-gnu"


def resolve(target: Target) -> Target:
    """A cpu target with `native` and `generic` replaced by what they mean on this machine.

    The result says the same everywhere, so it is what artifacts and cache keys hold. Other targets
    are returned as they are.
    """
    if target.kind != "cpu" or target.arch not in ("native", "generic"):
        return target
    machine = host_machine()
    if target.arch == "generic":
        return Target("cpu", BASELINE_CPU[machine], target.features)
    here = host()
    name = nearest_cpu(here.features, here.vendor) if machine == X86 else BASELINE_CPU[machine]
    return Target("cpu", name, (*ordered(here.features, machine), *target.features))


def isa_of(target: Target) -> CpuIsa:
    """The instruction set of a cpu target. Raises `UnknownTarget` for a GPU."""
    if target.kind != "cpu":
        raise UnknownTarget(f"{target} is not a cpu target", fix="pass a cpu target")
    concrete = resolve(target)
    machine = machine_of(concrete)
    has = closure(CPUS[machine][concrete.arch] | frozenset(concrete.features))
    attributes = tuple(f"+{name}" for name in ordered(has, machine))
    if machine == ARM:
        return CpuIsa(
            lanes_f32=4,
            vector_registers=32,
            fma=True,
            bf16_dot="bf16" in has,
            vnni="i8mm" in has,
            amx_bf16=False,
            mattr=attributes,
            mcpu=LLVM_NAMES.get(concrete.arch, concrete.arch),
            machine=ARM,
        )
    wide = {"avx512f", "avx512vl", "avx512bw", "avx512dq"} <= has
    lanes = 16 if wide else 8 if "avx" in has else 4
    if wide:
        # LLVM's models of several Intel processors keep its own vectoriser to 256 bits.
        attributes = (*attributes, "-prefer-256-bit")
    return CpuIsa(
        lanes_f32=lanes,
        vector_registers=32 if wide else 16,
        fma="fma" in has,
        bf16_dot=wide and "avx512bf16" in has,
        vnni=("avx512vnni" if wide else "avxvnni") in has,
        amx_bf16="amx-bf16" in has,
        mattr=attributes,
        mcpu=concrete.arch,
    )
