"""Compiles a kernel ahead of time; neither a GPU nor its driver is needed."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tilewright.codegen.triton.kernel import ALIGNMENT, TritonKernel
from tilewright.codegen.triton.load import loaded
from tilewright.dsl.errors import InvalidSchedule
from tilewright.target.capability import gpu_limits
from tilewright.target.spec import Target


@dataclass(frozen=True, slots=True)
class GpuBinary:
    """Machine code of one kernel, and how it is started.

    `symbol` is its name in `code` (a cubin or an hsaco). It takes the kernel's pointers and symbols
    in the order of `parameters`, then two pointers that may be null. A block has `threads` threads
    and `shared_bytes` of dynamic shared memory.
    """

    code: bytes
    assembly: str
    symbol: str
    parameters: tuple[tuple[str, str], ...]
    threads: int
    shared_bytes: int


def compile_kernel(kernel: TritonKernel, target: Target, folder: Path | None = None) -> GpuBinary:
    """The kernel for a GPU target; temporary files lie in `folder`, or where the system has them.

    Raises InvalidSchedule where its tiles do not fit.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    limits = gpu_limits(target)
    is_cuda = target.kind == "cuda"
    arch = int(target.arch.removeprefix("sm_")) if is_cuda else target.arch
    with (
        loaded(kernel, folder) as function,
        _private(Path(function.fn.__code__.co_filename).parent),
    ):
        place = {word: i for i, word in enumerate(function.arg_names)}
        source = ASTSource(
            function,
            signature=dict(kernel.parameters),
            constexprs={(place[word],): value for word, value in kernel.constants},
            attrs={(i,): _facts(word, kernel, is_cuda) for word, i in place.items()},
        )
        compiled = triton.compile(
            source,
            target=GPUTarget(target.kind, arch, limits.warp_size),
            options={
                "num_warps": kernel.warps,
                "num_stages": kernel.stages,
                "enable_fp_fusion": True,
            },
        )
    shared = compiled.metadata.shared
    if shared > limits.shared_bytes:
        raise InvalidSchedule(
            f"{kernel.entry} needs {shared} bytes of shared memory, {target} has"
            f" {limits.shared_bytes}",
            fix="choose smaller blocks or fewer stages",
        )
    return GpuBinary(
        compiled.asm["cubin" if is_cuda else "hsaco"],
        compiled.asm["ptx" if is_cuda else "amdgcn"],
        compiled.metadata.name,
        tuple((w, kind) for w, kind in kernel.parameters if kind != "constexpr"),
        limits.warp_size * compiled.metadata.num_warps,
        shared,
    )


_SETTINGS = threading.Lock()
"""Held while Triton's settings and Python's temporary folder are ours: a process has one set."""


@contextmanager
def _private(folder: Path) -> Generator[None]:
    """Triton's cache and temporary files in a folder of ours.

    Source lines are left out, as their paths would change the code.
    """
    from triton import knobs

    with _SETTINGS:
        default = tempfile.tempdir
        tempfile.tempdir = str(folder)  # Triton has no setting for where the assembler's files lie
        try:
            with knobs.cache.scope(), knobs.compilation.scope():
                knobs.cache.dir = str(folder / "cache")
                knobs.compilation.disable_line_info = True
                yield
        finally:
            tempfile.tempdir = default


def _facts(word: str, kernel: TritonKernel, is_cuda: bool) -> list[list[str | int]]:
    """What the compiler may assume of a parameter."""
    facts: list[list[str | int]] = []
    if word in kernel.aligned:
        facts.append(["tt.divisibility", ALIGNMENT])
    if word in kernel.short and not is_cuda:
        facts.append(["tt.pointer_range", 32])
    return facts
