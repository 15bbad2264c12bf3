"""Compiling ahead of time for GPUs that are not here."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.codegen.triton.running import regions
from tilewright.codegen.triton.aot import GpuBinary, compile_kernel
from tilewright.codegen.triton.backend import TritonBackend
from tilewright.codegen.triton.schedule import MatmulSchedule
from tilewright.dsl.builder import graph
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f32
from tilewright.dsl.errors import InvalidSchedule
from tilewright.dsl.ops.activation import gelu
from tilewright.dsl.ops.elementwise import tanh, where
from tilewright.dsl.ops.norm import softmax
from tilewright.dsl.tensor import Tensor
from tilewright.target.spec import Target, parse_target

ROWS = dim("rows", 1, 4096)
CUDA, HIP = parse_target("cuda:sm_90"), parse_target("hip:gfx942")


@graph(x=bf16[ROWS, 100], scale=bf16[100])
def elementwise(x: Tensor, scale: Tensor) -> Tensor:
    y = tanh(x * scale)
    return where(y < 0.0, y * 3.0, y)


@graph(x=f32[ROWS, 300])
def normalised(x: Tensor) -> Tensor:
    return softmax(x)


@graph(x=bf16[ROWS, 512], w=bf16[1024, 512], b=bf16[1024])
def dense(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return gelu(x @ w.T + b)


def compiled(function: Any, target: Target, schedule: MatmulSchedule | None = None) -> GpuBinary:
    (region,) = regions(function)
    return compile_kernel(TritonBackend(target).lower("kernel", region, schedule), target)


@pytest.mark.parametrize("target", [CUDA, HIP], ids=str)
@pytest.mark.parametrize("function", [elementwise, normalised, dense], ids=["ew", "softmax", "mm"])
def test_every_family_compiles(function: Callable[..., Any], target: Target) -> None:
    found = compiled(function, target)
    assert found.code.startswith(b"\x7fELF")
    kinds = [kind for _, kind in found.parameters]
    assert kinds[-1] == "i32"
    assert all(kind.startswith("*") for kind in kinds[:-1])
    instruction = "wgmma.mma_async" if target == CUDA else "v_mfma"
    assert (instruction in found.assembly) == (function is dense)


def test_the_same_kernel_gives_the_same_bytes() -> None:
    assert compiled(normalised, CUDA) == compiled(normalised, CUDA)


def test_tiles_that_do_not_fit_shared_memory_are_refused() -> None:
    with pytest.raises(InvalidSchedule, match="shared memory"):
        compiled(dense, CUDA, MatmulSchedule(128, 128, 128, stages=5))
