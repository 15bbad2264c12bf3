"""Random bits against published vectors, and equal wherever an element happens to be computed."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.depth import count
from tilewright.dsl import ops as ops
from tilewright.dsl.builder import graph
from tilewright.dsl.dtypes import bf16, f32, u32
from tilewright.dsl.errors import AttributeError_, ShapeError
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.op import checked_attrs, get
from tilewright.dsl.ops.random import BLOCK, bits_at, dropout, philox, random_bits, uniform
from tilewright.dsl.placement import Mesh
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType

Array = NDArray[Any]
KEY = np.array([0x12345678, 0x9ABCDEF0], np.uint32)


def words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(
    ("counter", "key", "wanted"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers_of_random123(counter: str, key: str, wanted: str) -> None:
    assert philox(words(counter), words(key)) == words(wanted)
    arrays = [np.full(3, word, np.int64) for word in words(counter)]
    for got, word in zip(philox(arrays, words(key)), words(wanted), strict=True):
        np.testing.assert_array_equal(got, word)


def bits(shape: tuple[int, ...], **attrs: Any) -> Array:
    op = get("random_bits")
    checked = checked_attrs(op, {"shape": shape, **attrs})
    out = op.infer([u32[2]], checked, Mesh())
    (found,) = op.meaning(np, [KEY], checked, out)
    assert found.dtype == np.uint32
    return found


def test_words_lie_as_documented() -> None:
    """Sixteen neighbours share a lane of sixteen consecutive counters."""
    found = bits((5 * BLOCK,), stream=9)
    for i in (0, 15, 16, 63, 64, 200, 319):
        block = philox((i // 64 * 16 + i % 16, 0, 9, 0), (int(KEY[0]), int(KEY[1])))
        assert found[i] == block[i % 64 // 16]


def test_positions_beyond_32_bits_have_counters_of_their_own() -> None:
    index = np.array([5, 5 + (1 << 34), 5 + (1 << 36)])
    assert len(set(bits_at(np, (1, 2), index, 0).tolist())) == 3


@given(st.data())
@settings(max_examples=count(ci=50, deep=1000))
def test_a_piece_holds_the_bits_of_the_whole(data: st.DataObject) -> None:
    whole = tuple(data.draw(st.lists(st.integers(1, 20), max_size=3)))
    piece = [sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in whole]
    offset, shape = tuple(p[0] for p in piece), tuple(p[1] - p[0] for p in piece)
    window = tuple(slice(*p) for p in piece)
    found = bits(shape, global_shape=whole, offset=offset)
    np.testing.assert_array_equal(found, bits(whole)[window])


def test_shape_does_not_matter_only_the_position() -> None:
    np.testing.assert_array_equal(bits((6, 50)).ravel(), bits((300,)))
    assert bits(()).shape == ()


def test_keys_and_streams_are_independent() -> None:
    a, b = bits((1000,)), bits((1000,), stream=1)
    assert (a == b).sum() == 0
    assert len(set(a.tolist())) == 1000


def run(shape: tuple[int, ...], rate: float, x: Array, dtype: Any = f32) -> Array:
    @graph(x=dtype[shape], key=u32[2])
    def dropped(x: Tensor, key: Tensor) -> Tensor:
        return dropout(x, key, rate)

    return evaluate(dropped.graph(), {"x": x, "key": KEY})["out"]


def test_uniform_is_uniform_and_below_one() -> None:
    @graph(key=u32[2])
    def drawn(key: Tensor) -> tuple[Tensor, Tensor]:
        return uniform(key, (100, 200)), random_bits(key, (100, 200))

    out = evaluate(drawn.graph(), {"key": KEY})
    u = out["out0"]
    assert u.dtype == np.float32
    assert 0 <= u.min() < 0.001 < 0.999 < u.max() < 1
    counts = np.histogram(u, 10, (0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 30
    np.testing.assert_array_equal(u, (out["out1"] >> 8) / np.float32(2**24))


@pytest.mark.parametrize("dtype", [f32, bf16], ids=str)
def test_dropout_keeps_the_mean(dtype: Any) -> None:
    x = np.ones((100, 200), dtype.numpy)
    out = run((100, 200), 0.3, x, dtype).astype(np.float64)
    kept = out != 0
    assert abs(kept.mean() - 0.7) < 0.02
    scale = np.float32(1 / 0.7).astype(dtype.numpy)
    np.testing.assert_array_equal(out[kept], float(scale))


def test_dropout_of_nothing_and_of_everything() -> None:
    x = np.random.default_rng(0).standard_normal((7, 9)).astype(np.float32)
    np.testing.assert_array_equal(run((7, 9), 0.0, x), x)
    np.testing.assert_array_equal(run((7, 9), 1.0, x), 0)
    x[0, 0] = np.nan
    assert not np.isnan(run((7, 9), 1.0, x)).any()


def test_an_element_is_kept_when_its_number_equals_the_rate() -> None:
    """Else a rate of zero would drop an element now and then."""

    @graph(key=u32[2])
    def drawn(key: Tensor) -> Tensor:
        return uniform(key, (4, 8))

    numbers = evaluate(drawn.graph(), {"key": KEY})["out"]
    rate = float(numbers[2, 5])
    kept = run((4, 8), rate, np.ones((4, 8), np.float32)) != 0
    np.testing.assert_array_equal(kept, numbers >= rate)


@pytest.mark.parametrize("name", ["random_bits", "uniform", "dropout"])
def test_samples_are_what_they_say(name: str) -> None:
    op = get(name)
    for sample in op.samples():
        if sample.error is None:
            op.infer(sample.operands, checked_attrs(op, sample.attrs), Mesh())
        else:
            with pytest.raises(sample.error):
                op.infer(sample.operands, checked_attrs(op, sample.attrs), Mesh())


def test_wrong_uses_are_refused() -> None:
    op = get("random_bits")
    for attrs, mistake in (
        ({"shape": (4,), "offset": (1,)}, ShapeError),
        ({"shape": (4,), "offset": (-1,), "global_shape": (8,)}, ShapeError),
        ({"shape": (4,), "global_shape": (8, 8)}, ShapeError),
        ({"shape": (4,), "stream": 1 << 32}, AttributeError_),
    ):
        with pytest.raises(mistake):
            op.infer([u32[2]], checked_attrs(op, attrs), Mesh())


def test_the_cost_grows_with_the_elements() -> None:
    op = get("random_bits")
    flops = [
        op.flops([u32[2]], checked_attrs(op, {"shape": s}), [TensorType(s, u32)])
        for s in ((8,), (8, 4))
    ]
    assert flops[1] == 4 * flops[0] == 4 * 20 * prod((8,))
