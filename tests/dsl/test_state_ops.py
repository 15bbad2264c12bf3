"""Caches: what is appended is what a view shows, at the positions that were proved to exist."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tilewright.dsl import ops as ops
from tilewright.dsl.builder import graph, state
from tilewright.dsl.codec import decode_components, encode_array
from tilewright.dsl.dims import Dim, dim
from tilewright.dsl.dtypes import f32, i32
from tilewright.dsl.encoding import (
    NM,
    Codebook,
    Columns,
    Encoding,
    IntFormat,
    Quantized,
    Sparse,
    components,
)
from tilewright.dsl.errors import EncodingError, IndexOutOfRange, PlacementError, ShapeError
from tilewright.dsl.graph import Graph
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.op import checked_attrs, get
from tilewright.dsl.ops.encoding import decode
from tilewright.dsl.ops.shape import concrete
from tilewright.dsl.ops.state import cache_gather, fork, rollback
from tilewright.dsl.placement import Mesh, Placement, Shard
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import CacheType
from tilewright.dsl.verify import verify

Array = NDArray[Any]

CAPACITY = 12
PAST = dim("past", 0, 8)
SEQ = dim("seq", 1, 4)
PLAIN = CacheType(2, CAPACITY, 3, 4, f32)
ENCODINGS = [
    Quantized(IntFormat(8), 3),
    Quantized(IntFormat(4), 3, 2, symmetric=False, packing="nibbles"),
    Sparse(NM(2, 4), 3),
    Sparse(NM(2, 4), 3, Quantized(IntFormat(8), 3, 2)),
]


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def empty(cache: CacheType) -> tuple[Any, Any]:
    def part() -> Any:
        parts = components(cache.part).items()
        made = {name: np.zeros(concrete(t.shape), t.dtype.numpy) for name, t in parts}
        return made["data"] if cache.part.is_dense else made

    return part(), part()


def step(cache: CacheType) -> Graph:
    """Appends, and returns what is visible then."""
    new = f32[2, SEQ, 3, 4]

    @graph(k=new, v=new, past=PAST)
    def step(k: Tensor, v: Tensor, past: Dim) -> tuple[Tensor, Tensor]:
        grown = state("cache", cache).append(k, v, at=past)
        keys, values = grown.view(past + SEQ)
        return decode(keys), decode(values)

    found = step.graph()
    verify(found)
    return found


def test_a_view_shows_what_was_appended() -> None:
    run, cache = step(PLAIN), empty(PLAIN)
    k, v = drawn(2, 9, 3, 4), drawn(2, 9, 3, 4, seed=1)
    for past, stop in ((0, 4), (4, 5), (5, 9)):
        fed = {"k": k[:, past:stop], "v": v[:, past:stop], "past": past, "cache": cache}
        before = cache[0].copy()
        out = evaluate(run, fed)
        np.testing.assert_array_equal(out["out0"], k[:, :stop])
        np.testing.assert_array_equal(out["out1"], v[:, :stop])
        np.testing.assert_array_equal(cache[0], before)
        cache = out["cache"]
    np.testing.assert_array_equal(cache[0][:, 9:], 0)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_an_encoded_cache_encodes_what_it_writes(encoding: Encoding) -> None:
    """Position by position: how a sequence is cut into appends makes no difference."""
    declared = CacheType(2, CAPACITY, 3, 4, f32, encoding=encoding)
    run, k = step(declared), drawn(2, 7, 3, 4)
    whole = f32[k.shape].with_encoding(encoding)
    wanted = decode_components(encode_array(k, whole), whole)
    for cuts in ((0, 4, 7), (0, 1, 3, 7)):
        cache: Any = empty(declared)
        out: dict[str, Any] = {}
        for past, stop in pairwise(cuts):
            part = k[:, past:stop]
            out = evaluate(run, {"k": part, "v": -part, "past": past, "cache": cache})
            cache = out["cache"]
        np.testing.assert_array_equal(out["out0"], wanted)
        assert {name: p.dtype for name, p in cache[0].items()} == {
            name: t.dtype.numpy for name, t in components(declared.part).items()
        }


def test_append_needs_room_that_can_exist() -> None:
    late = dim("late", 12, 19)
    new = f32[2, SEQ, 3, 4]

    @graph(k=new, late=late)
    def overflow(k: Tensor, late: Dim) -> Tensor:
        return state("cache", PLAIN).append(k, k, at=late).view(4)[0]

    with pytest.raises(ShapeError, match="never lie in a cache of 12") as caught:
        overflow.graph()
    assert "late + seq <= 12" in str(caught.value)
    assert __file__ in str(caught.value)


def test_a_tie_between_symbols_is_used_in_the_proof() -> None:
    """`at = 12 - seq` fits exactly, though its bounds and those of seq add up to more."""
    new = f32[2, SEQ, 3, 4]
    op = get("append")
    assert op.infer([PLAIN, new, new], checked_attrs(op, {"at": 12 - SEQ}), Mesh()) == (PLAIN,)


def test_a_fork_goes_its_own_way() -> None:
    @graph(k=f32[2, 2, 3, 4])
    def speculate(k: Tensor) -> tuple[Tensor, Tensor]:
        c = state("cache", PLAIN)
        draft = fork(c).append(k, k, at=0)
        ahead = draft.view(2)[0]
        kept = c.append(-k, -k, at=0)
        return ahead, kept.view(2)[0]

    k = drawn(2, 2, 3, 4)
    out = evaluate(speculate.graph(), {"k": k, "cache": empty(PLAIN)})
    np.testing.assert_array_equal(out["out0"], k)
    np.testing.assert_array_equal(out["out1"], -k)
    np.testing.assert_array_equal(out["cache"][0][:, :2], -k)


def test_rollback_forgets_and_later_appends_write_over() -> None:
    @graph(k=f32[2, 4, 3, 4], fix=f32[2, 1, 3, 4])
    def retry(k: Tensor, fix: Tensor) -> Tensor:
        c = state("cache", PLAIN).append(k, k, at=0)
        c = rollback(c, 2).append(fix, fix, at=2)
        return c.view(3)[0]

    found = retry.graph()
    verify(found)
    k, fix = drawn(2, 4, 3, 4), drawn(2, 1, 3, 4, seed=1)
    out = evaluate(found, {"k": k, "fix": fix, "cache": empty(PLAIN)})
    np.testing.assert_array_equal(out["out"], np.concatenate([k[:, :2], fix], 1))


@pytest.mark.parametrize("encoding", [None, ENCODINGS[1]], ids=str)
def test_gather_reorders_the_beams(encoding: Encoding | None) -> None:
    declared = PLAIN if encoding is None else CacheType(2, 12, 3, 4, f32, encoding=encoding)

    @graph(k=f32[2, 3, 3, 4], beams=i32[2])
    def reorder(k: Tensor, beams: Tensor) -> tuple[Tensor, Tensor]:
        c = state("cache", declared).append(k, k, at=0)
        before = decode(c.view(3)[0])
        return before, decode(cache_gather(c, beams).view(3)[1])

    found = reorder.graph()
    verify(found)
    fed = {"k": drawn(2, 3, 3, 4), "beams": np.array([1, 1], np.int32), "cache": empty(declared)}
    out = evaluate(found, fed)
    np.testing.assert_array_equal(out["out1"], out["out0"][[1, 1]])
    with pytest.raises(IndexOutOfRange):
        evaluate(found, {**fed, "beams": np.array([0, 2], np.int32)})


@pytest.mark.parametrize(
    "encoding",
    [
        Quantized(IntFormat(8), 1),
        Quantized(IntFormat(8), 1, 4),
        Quantized(Codebook(4), 3),
        Sparse(Columns(2), 3),
    ],
    ids=str,
)
def test_encodings_that_join_positions_are_refused(encoding: Encoding) -> None:
    with pytest.raises(EncodingError, match="positions"):
        step(CacheType(2, CAPACITY, 3, 4, f32, encoding=encoding))


def test_a_sharded_operand_does_not_enter_a_cache() -> None:
    op = get("append")
    new = f32[2, 2, 3, 4].with_placement(Placement.of(tp=Shard(2)))
    with pytest.raises(PlacementError, match="all_gather"):
        op.infer([PLAIN, new, new], checked_attrs(op, {"at": 0}), Mesh.of(tp=3))


def test_an_append_costs_what_is_new_and_a_view_nothing() -> None:
    new = f32[2, 2, 3, 4]
    append, view = get("append"), get("view")
    paid = append.cost([PLAIN, new, new], checked_attrs(append, {"at": 0}), [PLAIN])
    assert (paid.bytes_read, paid.bytes_written) == (2 * 192, 2 * 192)
    assert view.cost([PLAIN], checked_attrs(view, {"length": 3}), []).bytes == 0


@pytest.mark.parametrize("name", ["append", "view", "rollback", "fork", "cache_gather"])
def test_samples_are_what_they_say(name: str) -> None:
    op = get(name)
    for sample in op.samples():
        attrs = checked_attrs(op, sample.attrs)
        if sample.error is None:
            op.infer(sample.operands, attrs, Mesh())
        else:
            with pytest.raises(sample.error):
                op.infer(sample.operands, attrs, Mesh())
