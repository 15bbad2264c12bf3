"""Kernels to machine code through TVM's LLVM backend.

TVM's own pipelines wrap each function in a packed-call interface of `tvm_ffi` and move large stack
buffers into calls of its runtime. Kernels here are flat already and keep their C signature, so the
only pass they need is the one that lowers intrinsics, and the code needs no TVM to run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx

from tilewright.codegen.tvm.emit import KernelFunction
from tilewright.target.cpu import CpuIsa


def object_code(
    functions: Sequence[KernelFunction], isa: CpuIsa, folder: Path | None = None
) -> bytes:
    """The object file of these kernels: one C symbol each, position independent.

    TVM writes files alone: a temporary one in `folder`, by default the system's for such files.
    Same kernels, same bytes. Kernels that call one another must be in different object files:
    TVM's alias metadata is only right within a function, and LLVM must not inline across it.
    """
    with tempfile.TemporaryDirectory(prefix="tilewright-", dir=folder) as private:
        path = Path(private, "kernels.o")
        _module(functions, isa).write_to_file(str(path), "o")
        return path.read_bytes()


def assembly(functions: Sequence[KernelFunction], isa: CpuIsa) -> str:
    """The same as text, to be looked at."""
    return str(_module(functions, isa).inspect_source("asm"))


def _module(functions: Sequence[KernelFunction], isa: CpuIsa) -> Any:
    target = _target(isa)
    by_name = {f.name: f.body.with_attr("target", target) for f in functions}
    lowered = tirx.transform.LowerIntrin()(tvm.IRModule(by_name))
    return tvm.get_global_func("target.build.llvm")(lowered, target)


@lru_cache(maxsize=16)
def _target(isa: CpuIsa) -> Any:
    return tvm.target.Target(
        {"kind": "llvm", "mtriple": isa.triple, "mcpu": isa.mcpu, "mattr": list(isa.mattr)}
    )
