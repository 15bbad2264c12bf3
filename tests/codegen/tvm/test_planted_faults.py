"""Faults planted in kernels, layouts and plans are stopped by the reference or the plan's check."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tvm import tirx

from tests.codegen.test_mesh import busy
from tests.planted import Fault, Patch, Plant, assert_stopped
from tilewright.codegen import steps, weights
from tilewright.codegen.steps import GraphLowering, Launch
from tilewright.codegen.tvm import (
    attention_scores,
    build,
    math,
    matmul_family,
    matmul_grouped,
    microkernel,
    pull_reduce,
    state_family,
    vector,
)
from tilewright.codegen.tvm.emit import Expr, Index, KernelBuilder, i64, lanes_of, vector_type
from tilewright.codegen.tvm.intrin import bits
from tilewright.codegen.tvm.matmul_batched import BatchedProduct
from tilewright.codegen.tvm.pull import Puller
from tilewright.codegen.tvm.region import RULES
from tilewright.dsl import codec
from tilewright.dsl.attrs import Attr
from tilewright.dsl.builder import TracedFunction, graph, param, state
from tilewright.dsl.dims import Dim, dim
from tilewright.dsl.dtypes import DType, bf16, f32, i32
from tilewright.dsl.errors import BrokenClaim, BrokenPlan
from tilewright.dsl.graph import Graph, Node
from tilewright.dsl.ident import Ident
from tilewright.dsl.mask import Mask, causal
from tilewright.dsl.ops.attention import attention
from tilewright.dsl.ops.elementwise import exp, tanh
from tilewright.dsl.ops.grouped import grouped_matmul
from tilewright.dsl.ops.rope import rope
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import CacheType, TensorType
from tilewright.passes import memory

N, PAST = dim("n", 1, 64), dim("past", 0, 32)
HEADS = f32[1, 5, 2, 4]


# --- arithmetic -----------------------------------------------------------------------------------


@graph(x=f32[N, 9])
def power(x: Tensor) -> Tensor:
    return exp(x)


def mistype_a_coefficient(patch: Patch) -> None:
    *higher, _ = vars(math)["_EXP"]
    patch.setattr(math, "_EXP", (*higher, 5.0001e-1))


@graph(x=f32[4, 4])
def column_sums(x: Tensor) -> Tensor:
    return x.sum(0)


def sum_along_the_other_axis(patch: Patch) -> None:
    right = RULES["sum"]

    def turned(puller: Puller, node: Node, place: int, index: Any) -> Expr:
        axis: Attr = 1 - node.attrs.int("axis")
        return right(puller, replace(node, attrs=node.attrs.replace(axis=axis)), place, index)

    patch.setitem(RULES, "sum", turned)


@graph(x=f32[N, 9])
def largest(x: Tensor) -> Tensor:
    return (-abs(x)).max(-1)


def start_maxima_at_zero(patch: Patch) -> None:
    def zero(dtype: DType) -> float | int:
        return 0

    patch.setitem(pull_reduce.REDUCTIONS, "max", replace(pull_reduce.REDUCTIONS["max"], start=zero))


@graph(x=f32[1, N, 1, 8], positions=i32[N])
def turned(x: Tensor, positions: Tensor) -> Tensor:
    return rope(x, positions)


def swap_halves(patch: Patch) -> None:
    right = RULES["concat"]

    def swapped(puller: Puller, node: Node, place: int, index: Any) -> Expr:
        return right(puller, replace(node, operands=node.operands[::-1]), place, index)

    patch.setitem(RULES, "concat", swapped)


@graph(x=f32[5, 9])
def shared(x: Tensor) -> Tensor:
    return tanh(x)


def leave_the_rest_to_nobody(patch: Patch) -> None:
    def share(self: KernelBuilder, total: Index) -> tuple[Expr, Expr]:
        part = self.let(i64(total) // i64(self.size), "part")
        return self.let(part * self.rank, "first"), self.let(part * (self.rank + 1), "last")

    patch.setattr(KernelBuilder, "share", share)


@graph(x=f32[8, 64])
def narrowed(x: Tensor) -> Tensor:
    return x.cast(bf16)


def cut_digits_off(patch: Patch) -> None:
    def narrow(kernel: KernelBuilder, value: Expr) -> Expr:
        lanes = lanes_of(value)
        half = tirx.const(16, vector_type("int32", lanes))
        high = tirx.shift_right(bits(kernel.let(value)), half)
        return tirx.Cast(vector_type("uint16", lanes), high)

    patch.setattr(vector, "_narrow_bf16", narrow)


# --- products -------------------------------------------------------------------------------------


@graph(x=f32[N, 1100])
def long_product(x: Tensor) -> Tensor:
    return x @ param("w", f32[8, 1100]).T


def drop_all_blocks_but_the_last(patch: Patch) -> None:
    def start(*given: Any) -> Expr:
        return vector.splat(0.0, given[-1])

    patch.setattr(microkernel, "_start", start)


@graph(x=bf16[N, 30])
def short_floats(x: Tensor) -> Tensor:
    return x @ param("w", bf16[8, 30]).T


def swap_pairs(patch: Patch) -> None:
    right = vector.load_pairs

    def pairs(*given: Any) -> tuple[Expr, Expr]:
        even, odd = right(*given)
        return odd, even

    patch.setattr(vector, "load_pairs", pairs)


@graph(q=f32[2, 4, 4], k=f32[2, 4, 4])
def pairwise(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.permute_dims(0, 2, 1)


def read_the_right_side_as_it_lies(patch: Patch) -> None:
    right = vars(matmul_family)["batched_matmul"]

    def product(*given: Any, transposed: bool) -> None:
        right(*given, transposed=False)

    patch.setattr(matmul_family, "batched_matmul", product)


@graph(x=f32[2, 3, 16], r=f32[2, 1, 16])
def residual(x: Tensor, r: Tensor) -> Tensor:
    return x @ param("w", f32[16, 16]).T + r


def take_all_rows_for_flat(patch: Patch) -> None:
    def always(body: Graph, anchor: Node) -> bool:
        return True

    patch.setattr(matmul_family, "_rows_are_flat", always)


@graph(x=f32[9, 5], counts=i32[3])
def experts(x: Tensor, counts: Tensor) -> Tensor:
    return grouped_matmul(x, param("w", f32[3, 5, 7]), counts)


def leave_the_rows_of_no_group(patch: Patch) -> None:
    def nothing(product: Any, counted: Expr) -> None:
        pass

    patch.setattr(matmul_grouped, "zero_rest", nothing)


def begin_every_group_at_the_first_row(patch: Patch) -> None:
    right = BatchedProduct.block

    def block(self: Any, number: Expr, first: Expr, *rest: Any) -> None:
        right(self, number, i64(0), *rest)

    patch.setattr(BatchedProduct, "block", block)


@graph(x=f32[N, 16])
def tiled(x: Tensor) -> Tensor:
    return x @ param("w", f32[16, 16]).T


def store_columns_before_rows(patch: Patch) -> None:
    def tiles(part: np.ndarray[Any, Any], tiled: TensorType) -> np.ndarray[Any, Any]:
        return codec.tile(np.ascontiguousarray(part.T), tiled)

    patch.setattr(weights, "tile", tiles)


# --- attention and states -------------------------------------------------------------------------


@graph(q=HEADS, k=HEADS, v=HEADS)
def attending(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention(q, k, v, mask=causal(), scale=100.0)[0]


def look_one_key_ahead(patch: Patch) -> None:
    right = attention_scores.sees

    def sees(mask: Mask, query: Expr, key: Expr) -> Expr:
        return right(mask, query, key - 1)

    patch.setattr(attention_scores, "sees", sees)


def subtract_no_maximum(patch: Patch) -> None:
    def first(a: Expr, b: Expr) -> Expr:
        return a

    mine = SimpleNamespace(**vars(vector) | {"maximum": first})
    patch.setattr(attention_scores, "vector", mine)


@graph(x=f32[1, N, 2, 4], past=PAST)
def appended(x: Tensor, past: Dim) -> Tensor:
    kept, _ = state("cache", CacheType(1, 100, 2, 4, f32)).append(x, x, at=past).view(past + N)
    return kept.sum(1)


def write_one_position_late(patch: Patch) -> None:
    right = state_family.unflatten

    def late(*given: Any) -> list[Expr]:
        batch, token, head = right(*given)
        return [batch, token + 1, head]

    patch.setattr(state_family, "unflatten", late)


# --- plans ----------------------------------------------------------------------------------------


@graph(x=f32[N, 16])
def chained(x: Tensor) -> Tensor:
    w = param("w", f32[16, 16]).T
    early = x @ w
    late = tanh(early @ w) @ w
    return (late @ w) * 2.0 + early


@graph(x=f32[N, 16])
def widening(x: Tensor) -> Tensor:
    a = x @ param("a", f32[4, 16]).T
    b = a @ param("b", f32[32, 4]).T
    return b @ param("c", f32[64, 32]).T @ param("d", f32[16, 64]).T @ param("e", f32[8, 16]).T


def free_a_buffer_at_its_first_use(patch: Patch) -> None:
    right: Callable[..., dict[Ident, int]] = vars(memory)["_last_uses"]

    def uses(whole: Graph, root: Any) -> dict[Ident, int]:
        found = right(whole, root)
        for position, node in reversed([*enumerate(whole.nodes)]):
            found |= {o.name: position for o in node.operands if o.name in found}
        return found

    patch.setattr(memory, "_last_uses", uses)


def keep_the_first_size(patch: Patch) -> None:
    def first(one: Dim, other: Dim) -> Dim:
        return one

    patch.setattr(memory, "dim_max", first)


def omit_barriers(patch: Patch) -> None:
    def launch(kernel: Any, slots: tuple[int, ...], barrier: bool) -> Launch:
        return Launch(kernel, slots, False)

    patch.setattr(steps, "Launch", launch)


@graph(x=f32[N, 16], y=f32[N, 16])
def difference(x: Tensor, y: Tensor) -> Tensor:
    return x - y


def hand_over_the_wrong_pointers(patch: Patch) -> None:
    right: Callable[..., Any] = vars(build)["_call"]

    def call(launch: Launch, dims: Any, slots: Any) -> Any:
        first, second, *rest = launch.slots
        return right(replace(launch, slots=(second, first, *rest)), dims, slots)

    patch.setattr(build, "_call", call)


def wait_for_nothing(patch: Patch) -> None:
    def pass_by(self: GraphLowering, node: Node) -> None:
        del self, node

    patch.setattr(GraphLowering, "_wait_for", pass_by)


def in_kernel(
    name: str,
    plant: Plant,
    program: TracedFunction,
    family: str,
    threads: int = 1,
    says: str = "",
) -> Fault:
    """A fault that comparing a kernel with its region finds."""
    message = rf"^kernel {family}_\w+ on {threads} threads at .* is not its region{says}"
    return Fault(name, plant, program, BrokenClaim, message, "full", "tvm")


def in_plan(name: str, plant: Plant, program: TracedFunction, message: str) -> Fault:
    """A fault that walking the steps finds."""
    return Fault(name, plant, program, BrokenPlan, message, "local", "tvm")


FAULTS = [
    in_kernel("coefficient", mistype_a_coefficient, power, "loop"),
    in_kernel("axis", sum_along_the_other_axis, column_sums, "loop"),
    in_kernel("neutral", start_maxima_at_zero, largest, "loop"),
    in_kernel("halves", swap_halves, turned, "loop"),
    in_kernel("share", leave_the_rest_to_nobody, shared, "loop", threads=2),
    in_kernel("narrowing", cut_digits_off, narrowed, "loop", says=".* too near to zero on average"),
    in_kernel("block", drop_all_blocks_but_the_last, long_product, "matmul"),
    in_kernel("pairs", swap_pairs, short_floats, "matmul"),
    in_kernel("transposed", read_the_right_side_as_it_lies, pairwise, "matmul"),
    in_kernel("epilogue", take_all_rows_for_flat, residual, "matmul"),
    in_kernel("window", look_one_key_ahead, attending, "attention"),
    in_kernel("maximum", subtract_no_maximum, attending, "attention"),
    in_kernel("append", write_one_position_late, appended, "append"),
    in_kernel("spare", leave_the_rows_of_no_group, experts, "grouped"),
    in_kernel("groups", begin_every_group_at_the_first_row, experts, "grouped"),
    Fault(
        "layout",
        store_columns_before_rows,
        tiled,
        BrokenClaim,
        r"^the weight prepared\.w\.\w+ is not stored as it is prepared",
        "full",
        "tvm",
    ),
    Fault(
        "pointers",
        hand_over_the_wrong_pointers,
        difference,
        BrokenClaim,
        "^the steps of graph difference at .* do not compute what its kernels mean",
        "full",
        "tvm",
    ),
    in_plan(
        "overlap",
        free_a_buffer_at_its_first_use,
        chained,
        r"^graph chained at .*: kernel \w+ reads %\w+ at arena\[.*\], where %\w+ lies by then",
    ),
    in_plan("size", keep_the_first_size, widening, r"^graph widening at .*: kernel \w+ .* arena\["),
    in_plan(
        "barrier",
        omit_barriers,
        chained,
        r"^graph chained at .*: kernels \w+ and \w+ touch .* no barrier stands between them",
    ),
    Fault(
        "transfer",
        wait_for_nothing,
        busy,
        BrokenPlan,
        r"^graph busy: .* reads .* before %\w+ has come there",
        mesh={"tp": 2},
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_in_a_kernel_or_a_plan_is_stopped(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_stopped(fault, tmp_path, monkeypatch)
