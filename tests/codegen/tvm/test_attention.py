"""Attention kernels against the meaning of the operation: odd shapes, masks, groups, prologues."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.codegen.corners import corners
from tests.codegen.tvm.kernels import CPUS, Compiled, isa
from tests.dsl.tracing import traced
from tilewright.codegen.tvm.attention_schedule import AttentionSchedule
from tilewright.codegen.tvm.backend import TvmBackend
from tilewright.codegen.tvm.region import Argument
from tilewright.dsl.attrs import Attrs
from tilewright.dsl.builder import graph, state
from tilewright.dsl.dims import Dim, dim
from tilewright.dsl.dims import evaluate as evaluate_dim
from tilewright.dsl.dtypes import DType, bf16, bool_, f16, f32, f64
from tilewright.dsl.errors import InvalidSchedule
from tilewright.dsl.graph import Graph, Node, extract
from tilewright.dsl.ident import Ident
from tilewright.dsl.mask import EVERYTHING, K, Mask, Q, causal, sinks, window
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.attention import attention
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import CacheType, TensorType
from tilewright.target.cpu import CpuIsa

STORED = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16, "bool": np.bool_}
B, S, T = dim("b", 1, 8), dim("s", 1, 4096), dim("t", 1, 4096)
Array = NDArray[np.generic]


def region_of(graph: Graph) -> Node:
    """All nodes of a graph as one attention region."""
    outputs = [output.value for output in graph.outputs]
    body = extract(Ident("body"), graph.nodes, outputs)
    attrs = Attrs({"family": "attention", "body": body})
    return Node("fused", body.input_values, tuple(outputs), attrs)


class Kernel:
    """One region's kernel, compiled; runs on arrays in the order of the inputs that it reads."""

    def __init__(
        self, graph: Graph, isa: CpuIsa, folder: Path, schedule: AttentionSchedule | None = None
    ) -> None:
        self.graph = graph
        self.region = region_of(graph)
        self.inputs = [entry for entry in graph.inputs if entry.value in self.region.operands]
        backend = TvmBackend(isa)
        refusal = backend.accepts(self.region)
        assert refusal is None, refusal
        lowered = backend.lower("kernel", self.region, schedule)
        self.symbols = lowered.function.symbols
        self.arguments: Sequence[Argument] = lowered.arguments
        self.compiled = Compiled([lowered.function], isa, folder, None)

    def __call__(
        self, symbols: Mapping[str, int], arrays: Sequence[Any], threads: int = 1
    ) -> list[Array]:
        """The results; what the kernel does not write stays NaN."""
        names = [entry.value.name for entry in self.inputs]
        given = dict(zip(names, arrays, strict=True))
        results = [self._poisoned(output.value.tensor, symbols) for output in self.graph.outputs]
        found: list[Array] = []
        for argument in self.arguments:
            if argument.role == "y":
                found.append(results[argument.place])
                continue
            value = given[self.region.operands[argument.place].name]
            found.append(value["kv".index(argument.component)] if type(value) is tuple else value)
        self.compiled([symbols[name] for name in self.symbols], found, threads)
        return results

    def _poisoned(self, tensor: TensorType, symbols: Mapping[str, int]) -> Array:
        shape = [d if isinstance(d, int) else evaluate_dim(d, symbols) for d in tensor.shape]
        return np.full(shape, np.nan, STORED[tensor.dtype.name])


def normal(shape: Sequence[int], dtype: DType, seed: int = 0) -> Array:
    values = np.random.default_rng(seed).standard_normal(shape)
    return values.astype(STORED[dtype.name])


def check(
    kernel: Kernel, symbols: Mapping[str, int], arrays: Sequence[Any], threads: int = 1
) -> list[Array]:
    """Runs the kernel and compares with the exact meaning, up to one rounding of the result."""
    inputs = {entry.path: x for entry, x in zip(kernel.inputs, arrays, strict=True)}
    ideal = evaluate(kernel.graph, {**inputs, **symbols}, reading="ideal").values()
    found = kernel(symbols, arrays, threads)
    for wanted, got in zip(ideal, found, strict=True):
        step = {"float32": 2e-6, "float16": 2.0**-10, "bfloat16": 2.0**-8}[got.dtype.name]
        np.testing.assert_allclose(got.astype(np.float64), wanted, rtol=step, atol=4e-6)
    return found


def operands(
    b: int, s: int, t: int, heads: int, groups: int, d: int, e: int, dtype: DType = f32
) -> list[Array]:
    shapes = ((b, s, heads, d), (b, t, groups, d), (b, t, groups, e))
    return [normal(shape, dtype, seed) for seed, shape in enumerate(shapes)]


def plain(
    heads: int, groups: int, d: int, e: int, dtype: DType = f32, hidden: bool = False, **attrs: Any
) -> Graph:
    types = [dtype[B, S, heads, d], dtype[B, T, groups, d], dtype[B, T, groups, e]]
    types += [bool_[B, T]] if hidden else []
    return traced(lambda *xs: attention(*xs, scale=d**-0.5, **attrs), *types)


LENGTHS = [(1, 7), (5, 9), (33, 33), (17, 200), (4, 64), (130, 140)]
LOCAL = Mask(((Q // 16 - K // 16, 3 - K),)) & Mask(((K + 16 * (Q // 16 - K // 16 - 1),), (Q - K,)))
MASKS = {
    "all": EVERYTHING,
    "causal": causal(),
    "window": causal() & window(5),
    "ahead": window(12),
    "sinks": causal() & (window(6) | sinks(2)),
    "local": causal() & Mask(((Q % 16 - Q + K,),)),
}


@pytest.mark.parametrize("cpu", CPUS)
def test_odd_shapes_of_any_team(cpu: str, tmp_path: Path) -> None:
    kernel = Kernel(plain(4, 2, 20, 12, mask=causal()), isa(cpu), tmp_path)
    for s, t in LENGTHS:
        for threads in (1, 2, 3):
            check(kernel, {"b": 2, "s": s, "t": t}, operands(2, s, t, 4, 2, 20, 12), threads)


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str, tmp_path: Path) -> None:
    kernel = Kernel(plain(2, 1, 8, 8, mask=MASKS[name]), isa("native"), tmp_path)
    for s, t in LENGTHS:
        check(kernel, {"b": 1, "s": s, "t": t}, operands(1, s, t, 2, 1, 8, 8), 2)


def test_masks_without_vector_masks(tmp_path: Path) -> None:
    kernel = Kernel(plain(2, 1, 9, 7, mask=MASKS["sinks"]), isa("generic"), tmp_path)
    for s, t in LENGTHS:
        check(kernel, {"b": 1, "s": s, "t": t}, operands(1, s, t, 2, 1, 9, 7), 2)


@pytest.mark.parametrize(("heads", "groups", "d"), [(1, 1, 5), (8, 1, 64), (6, 3, 33), (3, 3, 256)])
def test_groups_and_sizes_of_heads(heads: int, groups: int, d: int, tmp_path: Path) -> None:
    kernel = Kernel(plain(heads, groups, d, d, mask=causal()), isa("native"), tmp_path)
    for s, t in LENGTHS:
        check(kernel, {"b": 1, "s": s, "t": t}, operands(1, s, t, heads, groups, d, d), 2)


def test_more_queries_than_keys_see_nothing_at_first(tmp_path: Path) -> None:
    kernel = Kernel(plain(2, 2, 8, 8, mask=causal()), isa("native"), tmp_path)
    out, lse = check(kernel, {"b": 1, "s": 9, "t": 4}, operands(1, 9, 4, 2, 2, 8, 8))
    assert not out[:, :5].astype(np.float32).any()
    assert (lse[:, :5] == -np.inf).all()
    assert np.isfinite(lse[:, 5:].astype(np.float32)).all()


@pytest.mark.parametrize("s", [1, 40])
def test_hidden_keys(s: int, tmp_path: Path) -> None:
    kernel = Kernel(plain(4, 2, 16, 16, hidden=True, softcap=1.5), isa("native"), tmp_path)
    seen = np.random.default_rng(3).random((3, 90)) < 0.6
    seen[1] = False
    seen[2, :70] = False
    out, lse = check(
        kernel, {"b": 3, "s": s, "t": 90}, [*operands(3, s, 90, 4, 2, 16, 16), seen], 2
    )
    assert not out[1].astype(np.float32).any()
    assert (lse[1] == -np.inf).all()


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("dtype", [bf16, f16], ids=str)
def test_short_floats(cpu: str, dtype: DType, tmp_path: Path) -> None:
    kernel = Kernel(plain(4, 1, 24, 24, dtype, mask=causal(), softcap=3.0), isa(cpu), tmp_path)
    for s, t in LENGTHS:
        check(kernel, {"b": 1, "s": s, "t": t}, operands(1, s, t, 4, 1, 24, 24, dtype), 2)


@pytest.mark.parametrize("s", [1, 40])
def test_large_scores_do_not_overflow(s: int, tmp_path: Path) -> None:
    kernel = Kernel(plain(1, 1, 8, 8), isa("native"), tmp_path)
    q, k, v = operands(1, s, 100, 1, 1, 8, 8)
    q, k = np.round(q.astype(np.float32) * 64), np.round(k.astype(np.float32) * 64)
    check(kernel, {"b": 1, "s": s, "t": 100}, [q, k, v])


@pytest.mark.parametrize("s", [1, 40])
def test_a_nan_stays_in_its_row(s: int, tmp_path: Path) -> None:
    kernel = Kernel(plain(2, 2, 8, 8), isa("native"), tmp_path)
    arrays = operands(1, s, 100, 2, 2, 8, 8)
    arrays[0][0, 0, 1, 3] = np.nan
    out, lse = kernel({"b": 1, "s": s, "t": 100}, arrays)
    nan = np.isnan(out.astype(np.float32))
    assert nan[0, 0, 1].all()
    assert nan.sum() == 8
    assert np.isnan(lse.astype(np.float32)).sum() == 1


def test_fused_prologue_and_followers(tmp_path: Path) -> None:
    """q, k and v are parts of one buffer; the result meets other arrays and its own row's lse."""

    def body(qkv: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, seq, _ = qkv.shape
        q = qkv[:, :, 0:64].reshape(batch, seq, 4, 16)
        k = qkv[:, :, 64:96].reshape(batch, seq, 2, 16)
        v = qkv[:, :, 96:128].reshape(batch, seq, 2, 16)
        out, lse = attention(q, k, v, mask=causal(), scale=0.25)
        return out * gate + 1.0, out.cast(bf16), lse

    kernel = Kernel(traced(body, f32[B, S, 128], f32[B, S, 4, 16]), isa("native"), tmp_path)
    for s in (1, 7, 50):
        arrays = [normal((2, s, 128), f32), normal((2, s, 4, 16), f32, 1)]
        check(kernel, {"b": 2, "s": s}, arrays, 2)


@pytest.mark.parametrize("cpu", CPUS)
def test_keys_and_values_in_a_cache(cpu: str, tmp_path: Path) -> None:
    past = dim("past", 0, 60)

    @graph(q=bf16[2, S, 4, 24], past=past)
    def step(q: Tensor, past: Dim) -> Tensor:
        k, v = state("cache", CacheType(2, 64, 1, 24, bf16)).view(past + S)
        return attention(q, k, v, mask=causal() & window(20), scale=0.2)[0]

    kernel = Kernel(step.graph(), isa(cpu), tmp_path)
    cache = (normal((2, 64, 1, 24), bf16, 1), normal((2, 64, 1, 24), bf16, 2))
    for s, before in ((1, 0), (1, 60), (9, 0), (30, 30)):
        given = {"q": normal((2, s, 4, 24), bf16), "cache": cache}
        arrays = [given[entry.path] for entry in kernel.inputs]
        check(kernel, {"past": before, "s": s}, arrays, 2)


def test_blocks_of_any_schedule(tmp_path: Path) -> None:
    for rows, keys, tile, mask in (
        (32, 8, 4, causal()),
        (96, 40, 4, causal()),
        (64, 12, 6, causal() & window(20)),
        (128, 24, 6, causal() & (window(9) | sinks(3))),
    ):
        schedule = AttentionSchedule(rows, keys, key_rows=tile, sum_rows=tile)
        folder = tmp_path / str(rows)
        folder.mkdir()
        kernel = Kernel(plain(3, 1, 8, 8, mask=mask), isa("native"), folder, schedule)
        for s, t in LENGTHS:
            check(kernel, {"b": 1, "s": s, "t": t}, operands(1, s, t, 3, 1, 8, 8), 2)


@pytest.mark.parametrize(("dtype", "lines"), [(f32, 3 + 2), (bf16, 2 + 1)])
def test_the_next_keys_and_values_are_asked_for_line_by_line(dtype: DType, lines: int) -> None:
    """Once in the tiles of whole strips of rows, and once in those of the last rows."""
    region = region_of(plain(4, 2, 40, 32, dtype))
    text = str(TvmBackend(isa("generic")).lower("kernel", region, None).function.body)
    assert text.count("llvm.prefetch") == 2 * lines


@pytest.mark.parametrize(("cpu", "number"), [("native", 3), ("generic", 2)])
def test_corners_of_the_space(cpu: str, number: int, tmp_path: Path) -> None:
    has, program = isa(cpu), plain(3, 1, 20, 12, mask=causal() & window(70))
    backend, region = TvmBackend(has), region_of(program)
    (space,) = backend.spaces(region).values()
    for place, point in enumerate(corners(space, number)):
        folder = tmp_path / str(place)
        folder.mkdir()
        schedule = backend.at(region, point)
        assert isinstance(schedule, AttentionSchedule)
        kernel = Kernel(program, has, folder, schedule)
        for s, t in LENGTHS:
            check(kernel, {"b": 2, "s": s, "t": t}, operands(2, s, t, 3, 1, 20, 12), 2)


@pytest.mark.parametrize(
    "schedule", [AttentionSchedule(0, 64), AttentionSchedule(60, 64), AttentionSchedule(64, 3)]
)
def test_blocks_are_whole_tiles(schedule: AttentionSchedule, tmp_path: Path) -> None:
    with pytest.raises(InvalidSchedule, match="must be a multiple"):
        Kernel(plain(1, 1, 8, 8), isa("native"), tmp_path, schedule)


def test_sizes_of_nothing_are_refused(tmp_path: Path) -> None:
    schedule = AttentionSchedule(64, 64, sum_rows=0)
    with pytest.raises(InvalidSchedule, match="sizes start at 1"):
        Kernel(plain(1, 1, 8, 8), isa("native"), tmp_path, schedule)


def refusal(graph: Graph) -> str:
    found = TvmBackend(isa("native")).accepts(region_of(graph))
    assert found is not None
    return found.reason


def test_what_is_refused() -> None:
    assert "up to 512" in refusal(plain(1, 1, 520, 8))
    assert "arithmetic" in refusal(plain(1, 1, 8, 8, f64))
    heads = dim("h", 1, 8)
    q = f32[B, S, heads, 8]
    assert "fixed numbers" in refusal(traced(lambda q, k: attention(q, k, k), q, q))

    def flat(q: Tensor) -> Tensor:
        out = attention(q, q, q)[0]
        return out.reshape(out.shape[0], out.shape[1], 16)

    assert "neither the shape" in refusal(traced(flat, f32[B, S, 2, 8]))
