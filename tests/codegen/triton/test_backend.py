"""What the backend takes, what it declines, and the text that it writes."""

import ast
from typing import Any

import numpy as np
import pytest

from tests.codegen.triton.running import BACKEND, kernel_of
from tilewright.codegen.triton.emulate import OutOfBounds, emulate
from tilewright.dsl.builder import graph
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f32, f64, i8, i32
from tilewright.dsl.graph import Node
from tilewright.dsl.ops.index import gather
from tilewright.dsl.ops.norm import softmax
from tilewright.dsl.ops.reduce import cumsum
from tilewright.dsl.program import collect
from tilewright.dsl.tensor import Tensor
from tilewright.passes.base import PassContext
from tilewright.passes.fuse_regions import FuseRegions
from tilewright.passes.pipeline import Pipeline
from tilewright.target.spec import parse_target

ROWS = dim("hostile_name", 1, 50)


def region(function: Any) -> Node:
    context = PassContext(parse_target("cuda:sm_90"))
    program = Pipeline((FuseRegions(),)).run(collect("p", [function.graph()]), context)
    (node,) = program.graphs[0].nodes
    return node


@graph(x=f64[4])
def doubles(x: Tensor) -> Tensor:
    return -x


@graph(x=f32[4, 5])
def columns(x: Tensor) -> Tensor:
    return x.sum(0)


@graph(x=f32[4, 5])
def running(x: Tensor) -> Tensor:
    return cumsum(x)


@graph(x=i8[4, 5], y=i8[5, 4])
def integers(x: Tensor, y: Tensor) -> Tensor:
    return x @ y


@graph(x=f32[9, 5], at=i32[3])
def picked(x: Tensor, at: Tensor) -> Tensor:
    return gather(x, at)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (doubles, "f64 arithmetic"),
        (columns, "another axis than the last"),
        (running, "no kernel for cumsum"),
        (integers, "products of integers"),
        (picked, "no kernel for gather"),
    ],
)
def test_the_rest_is_declined_with_a_reason(function: Any, reason: str) -> None:
    refusal = BACKEND.accepts(region(function))
    assert refusal is not None
    assert reason in refusal.reason


@graph(secret_input=bf16[ROWS, 33])
def named(secret_input: Tensor) -> Tensor:
    return softmax(secret_input)


def test_no_name_of_the_user_reaches_the_text() -> None:
    kernel = kernel_of(named)
    assert "secret" not in kernel.source
    assert "hostile" not in kernel.source
    assert kernel.symbols == ("hostile_name",)
    ast.parse(kernel.source)


def test_large_arrays_get_64_bit_places() -> None:
    @graph(x=bf16[dim("n", 1, 2**27), 40])
    def large(x: Tensor) -> Tensor:
        return x + 1.0

    kernel = kernel_of(large)
    assert dict(kernel.parameters)["s0"] == "i64"
    assert "tl.int64" in kernel.source


def test_an_access_outside_the_arrays_is_noticed() -> None:
    kernel = kernel_of(named)
    x = np.zeros((7, 33), "uint16")
    with pytest.raises(OutOfBounds, match="load"):
        emulate(kernel, [x[:6].copy(), x], {"hostile_name": 7})
    with pytest.raises(OutOfBounds, match="store"):
        emulate(kernel, [x, x[:6].copy()], {"hostile_name": 7})


def test_the_interpreter_leaves_triton_as_it_was() -> None:
    from triton.runtime.interpreter import InterpreterBuilder
    from triton.runtime.jit import JITFunction

    before = dict(vars(JITFunction)), dict(vars(InterpreterBuilder))
    x = np.zeros((1, 33), "uint16")
    emulate(kernel_of(named), [x, x.copy()], {"hostile_name": 1})
    assert (dict(vars(JITFunction)), dict(vars(InterpreterBuilder))) == before
