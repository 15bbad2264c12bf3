"""Faults planted in passes are stopped by local validation, the verifier or `check="full"`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.planted import Fault, Patch, assert_stopped
from tilewright.dsl.builder import graph, param, state
from tilewright.dsl.dims import Dim, dim
from tilewright.dsl.dtypes import DType, bf16, f32
from tilewright.dsl.encoding import IntFormat, Quantized
from tilewright.dsl.errors import BrokenClaim, CompilerBug
from tilewright.dsl.graph import Graph, Node, Value, map_values
from tilewright.dsl.mask import Mask
from tilewright.dsl.ops.create import iota
from tilewright.dsl.ops.elementwise import exp, tanh, where
from tilewright.dsl.ops.norm import softmax
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import CacheType
from tilewright.passes import (
    algebra,
    cse,
    expand_composites,
    fuse_regions,
    horizontal_matmul,
    predicates,
    prepare_params,
    quantize_weights,
    recognize_gelu,
    recognize_softmax,
    simplify_casts,
    simplify_movement,
    transpose_matmul,
)
from tilewright.passes.base import PassContext, Rewrite
from tilewright.passes.dce import Dce
from tilewright.passes.editor import Editor
from tilewright.passes.match import Match, forward_to

N, PAST = dim("n", 1, 64), dim("past", 0, 32)


# --- canonical forms ------------------------------------------------------------------------------


@graph(x=f32[3, 3])
def two_sums(x: Tensor) -> dict[str, Tensor]:
    return {"columns": x.sum(0), "rows": x.sum(1)}


def blind_for_attributes(patch: Patch) -> None:
    def key(node: Node) -> object:
        return node.op, tuple(operand.name for operand in node.operands)

    patch.setattr(cse, "_key", key)


@graph(x=f32[N, 3])
def negated(x: Tensor) -> Tensor:
    return x * -1.0


def lose_the_sign(patch: Patch) -> None:
    def negate(node: Node, x: Value, match: Match) -> Rewrite | None:
        return forward_to(node, x, match, "planted")

    patch.setattr(algebra, "_negated", negate)


@graph(x=f32[N, 3])
def shifted_by_zero(x: Tensor) -> Tensor:
    return x + 0.0


def lose_minus_zero(patch: Patch) -> None:
    def add(node: Node, match: Match) -> Rewrite | None:
        match.number(node.operands[1])
        return forward_to(node, node.operands[0], match, "planted")

    patch.setitem(vars(algebra)["_RULES"], "add", add)


@graph(x=f32[4, 4])
def by_transposed(x: Tensor) -> Tensor:
    return x @ param("w", f32[4, 4]).T


def turn_the_other_operand(patch: Patch) -> None:
    patch.setattr(transpose_matmul, "_FLAGS", ("transpose_b", "transpose_a"))


@graph(x=f32[3, 3, 3])
def moved_twice(x: Tensor) -> Tensor:
    return x.permute_dims(1, 2, 0).permute_dims(0, 2, 1)


def compose_backwards(patch: Patch) -> None:
    def compose(inner: Node, outer: Node) -> Mapping[str, object]:
        last = outer.attrs.ints("axes")
        return {"axes": tuple(last[axis] for axis in inner.attrs.ints("axes"))}

    patch.setitem(vars(simplify_movement)["_MERGES"], "permute_dims", compose)


@graph(x=f32[N, 3])
def rounded(x: Tensor) -> Tensor:
    return x.cast(bf16).cast(f32)


def omit_a_rounding(patch: Patch) -> None:
    def widens(narrow: DType, wide: DType) -> bool:
        return True

    patch.setattr(simplify_casts, "widens", widens)


# --- patterns -------------------------------------------------------------------------------------


@graph(x=f32[5, 5])
def written_softmax(x: Tensor) -> Tensor:
    weights = exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def normalise_another_axis(patch: Patch) -> None:
    right = vars(recognize_softmax)["reduced"]

    def reduced(match: Match, value: Value, op: str) -> tuple[Node, int] | None:
        found = right(match, value, op)
        return None if found is None else (found[0], 0)

    patch.setattr(recognize_softmax, "reduced", reduced)


@graph(x=f32[N, 8])
def written_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + tanh(0.7978845608 * (x + 0.044715 * x**3.0)))


def name_the_other_gelu(patch: Patch) -> None:
    patch.setattr(recognize_gelu, "_NAME", {"erf": "gelu_tanh", "tanh": "gelu"})


@graph(q=f32[1, 2, 5, 4], k=f32[1, 2, 5, 4], v=f32[1, 2, 5, 4])
def written_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    seen = iota((1, 5), axis=1) <= iota((5, 1))
    return softmax(where(seen, q @ k.T * 0.5, float("-inf"))) @ v


def see_one_key_less(patch: Patch) -> None:
    def strictly(x: Dim, y: Dim) -> Mask:
        return Mask(((y - x - 1,),))

    patch.setitem(vars(predicates)["_COMPARE"], ("less_equal", False), strictly)


@graph(x=f32[N, 8])
def two_products(x: Tensor) -> dict[str, Tensor]:
    return {"q": x @ param("q", f32[4, 8]).T, "k": x @ param("k", f32[4, 8]).T}


def cut_the_same_columns(patch: Patch) -> None:
    def columns(whole: Value, start: Dim, result: Value, editor: Editor) -> Node:
        attrs = {"start": (0, 0), "size": result.tensor.shape}
        return editor.defining("slice", whole, result=result, attrs=attrs)

    patch.setattr(horizontal_matmul, "_columns", columns)


# --- storage, composites, regions -----------------------------------------------------------------


@graph(x=f32[N, 16])
def one_product(x: Tensor) -> Tensor:
    return x @ param("w", f32[16, 16]).T


def quantize_too_coarsely(patch: Patch) -> None:
    patch.setattr(quantize_weights, "INT8", Quantized(IntFormat(6), axis=1))


@graph(x=f32[N, 4])
def two_sums_of_weights(x: Tensor) -> Tensor:
    a, b, c = (param(name, f32[4, 4]) for name in "abc")
    return x @ (a + b) - tanh(x) @ (a + c)


def name_by_the_first_source(patch: Patch) -> None:
    def path(recipe: Graph) -> str:
        return f"prepared.{recipe.inputs[0].path}"

    patch.setattr(prepare_params, "_path", path)


@graph(x=f32[N, 5])
def soft(x: Tensor) -> Tensor:
    return softmax(x)


def expand_without_the_maximum(patch: Patch) -> None:
    """In the pass alone: what the composite means stays."""

    def mapped(body: Graph, value: Callable[[Value], Value]) -> Graph:
        shifted = next(node for node in body.nodes if node.op == "sub")
        x = shifted.operands[0]

        def unshifted(node: Node) -> Node:
            read = (x if o == shifted.result else o for o in node.operands)
            return replace(node, operands=tuple(read))

        return map_values(replace(body, nodes=tuple(map(unshifted, body.nodes))), value)

    patch.setattr(expand_composites, "map_values", mapped)


@graph(x=f32[N, 4], y=f32[N, 4])
def difference(x: Tensor, y: Tensor) -> Tensor:
    return exp(x - y)


def swap_what_a_region_reads(patch: Patch) -> None:
    right: Callable[..., Node] = vars(fuse_regions)["_region"]

    def region(*given: object) -> Node:
        found = right(*given)
        return replace(found, operands=found.operands[::-1])

    patch.setattr(fuse_regions, "_region", region)


@graph(x=f32[1, N, 1, 4], past=PAST)
def appended(x: Tensor, past: Dim) -> Tensor:
    state("cache", CacheType(1, 96, 1, 4, f32)).append(x, x, at=past)
    return x * 2.0


def forget_states(patch: Patch) -> None:
    right = Dce.run_graph

    def run_graph(self: Dce, whole: Graph, ctx: PassContext) -> Graph:
        seen = tuple(output for output in whole.outputs if output.replaces is None)
        return replace(right(self, replace(whole, outputs=seen), ctx), outputs=whole.outputs)

    patch.setattr(Dce, "run_graph", run_graph)


EXACTLY = "claims exact"
FAULTS = [
    Fault("cse", blind_for_attributes, two_sums, BrokenClaim, f"^cse {EXACTLY}"),
    Fault("sign", lose_the_sign, negated, BrokenClaim, f"^algebra {EXACTLY}"),
    Fault("minus_zero", lose_minus_zero, shifted_by_zero, BrokenClaim, f"^algebra {EXACTLY}"),
    Fault(
        "transpose",
        turn_the_other_operand,
        by_transposed,
        BrokenClaim,
        f"^transpose_matmul {EXACTLY}",
    ),
    Fault(
        "permutation", compose_backwards, moved_twice, BrokenClaim, f"^simplify_movement {EXACTLY}"
    ),
    Fault("rounding", omit_a_rounding, rounded, BrokenClaim, f"^simplify_casts {EXACTLY}"),
    Fault(
        "softmax_axis", normalise_another_axis, written_softmax, BrokenClaim, "^recognize_softmax "
    ),
    Fault("gelu", name_the_other_gelu, written_gelu, BrokenClaim, "^recognize_gelu "),
    Fault("mask", see_one_key_less, written_attention, BrokenClaim, "^recognize_attention "),
    Fault("columns", cut_the_same_columns, two_products, BrokenClaim, "^horizontal_matmul "),
    Fault(
        "quantized",
        quantize_too_coarsely,
        one_product,
        BrokenClaim,
        "^quantize_weights claims approximates",
        passes="+quantize_weights{minimum=1}",
    ),
    Fault(
        "prepared",
        name_by_the_first_source,
        two_sums_of_weights,
        BrokenClaim,
        "^pass prepare_params changed graph two_sums_of_weights",
        check="full",
    ),
    Fault(
        "maximum",
        expand_without_the_maximum,
        soft,
        BrokenClaim,
        f"^expand_composites {EXACTLY}",
    ),
    Fault(
        "region",
        swap_what_a_region_reads,
        difference,
        BrokenClaim,
        "^pass fuse_regions changed graph difference",
        check="full",
    ),
    Fault("state", forget_states, appended, CompilerBug, "^pass dce leaves an invalid program"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_in_a_pass_is_stopped(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_stopped(fault, tmp_path, monkeypatch)
