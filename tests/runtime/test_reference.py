"""Regions run by their meaning: encoded operands, caches, symbols, slots that do not fit."""

import numpy as np
import pytest

from tilewright.dsl.builder import graph, param, state
from tilewright.dsl.dims import DimExpr, dim
from tilewright.dsl.dtypes import f32, i32
from tilewright.dsl.encoding import IntFormat, Quantized
from tilewright.dsl.errors import InvalidManifest, TextSyntaxError
from tilewright.dsl.ops.embedding import embedding
from tilewright.dsl.ops.encoding import decode
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.text import print_graph
from tilewright.dsl.types import CacheType
from tilewright.runtime.buffers import Array, address_of
from tilewright.runtime.reference import ReferenceRegion

INT8 = Quantized(IntFormat(8), 1)
N = dim("n", 1, 8)


@graph(x=f32[N, 4])
def quantized(x: Tensor) -> Tensor:
    return x @ decode(param("w", f32[3, 4].with_encoding(INT8))).T


@graph(x=f32[1, N, 1, 4], past=dim("past", 0, 8))
def appended(x: Tensor, past: DimExpr) -> Tensor:
    keys, values = state("c", CacheType(1, 16, 1, 4, f32)).append(x, x + x, at=past).view(past + N)
    return keys.sum(1) + values.sum(1)


@graph(ids=i32[N])
def looked_up(ids: Tensor) -> Tensor:
    return embedding(param("table", f32[5, 2]), ids)


def run(region: ReferenceRegion, reads: list[Array], writes: list[Array], **symbols: int) -> None:
    region.run([address_of(a) for a in reads], [address_of(a) for a in writes], symbols)


def test_encoded_operands_come_as_components() -> None:
    region = ReferenceRegion(print_graph(quantized.graph()), "r", 3, 1)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    codes = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    scale = np.array([[0.5], [2], [1]], np.float32)
    y = np.zeros((2, 3), np.float32)
    run(region, [x, codes, scale], [y], n=2, unrelated=9)
    assert np.array_equal(y, x @ (codes * scale).T)


def test_caches_are_changed_in_place() -> None:
    region = ReferenceRegion(print_graph(appended.graph()), "r", 3, 3)
    k, v = np.zeros((1, 16, 1, 4), np.float32), np.zeros((1, 16, 1, 4), np.float32)
    k[0, :3] = v[0, :3] = 1
    x = np.full((1, 2, 1, 4), 5, np.float32)
    y = np.zeros((1, 1, 4), np.float32)
    run(region, [x, k, v], [y, k, v], n=2, past=3)
    assert k[0, :, 0, 0].tolist() == [1, 1, 1, 5, 5] + [0] * 11
    assert v[0, :, 0, 0].tolist() == [1, 1, 1, 10, 10] + [0] * 11
    assert y.tolist() == [[[36] * 4]]


def test_indices_are_clamped_as_in_kernels() -> None:
    region = ReferenceRegion(print_graph(looked_up.graph()), "r", 2, 1)
    table = np.arange(10, dtype=np.float32).reshape(5, 2)
    y = np.zeros((3, 2), np.float32)
    run(region, [np.array([-7, 2, 99], np.int32), table], [y], n=3)
    assert y.tolist() == [[0, 1], [4, 5], [8, 9]]


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 1), (4, 1), (3, 0)])
def test_slots_that_do_not_fit_are_refused(inputs: int, outputs: int) -> None:
    with pytest.raises(InvalidManifest, match="reads 3 and writes 1"):
        ReferenceRegion(print_graph(quantized.graph()), "r", inputs, outputs)


def test_text_that_is_no_graph_is_refused() -> None:
    with pytest.raises(TextSyntaxError):
        ReferenceRegion("graph", "r", 0, 0)
