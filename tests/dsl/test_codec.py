"""Codecs: what is encoded decodes to what the components say, and as near as the format allows."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.depth import count
from tilewright.dsl import ops as ops
from tilewright.dsl.codec import decode_components, encode_array
from tilewright.dsl.codec_numbers import minifloats
from tilewright.dsl.dtypes import bf16, f32
from tilewright.dsl.encoding import (
    CSR,
    NM,
    SHORT,
    BlockFloat,
    Blocks,
    Codebook,
    Columns,
    Encoding,
    FloatFormat,
    IntFormat,
    LowRank,
    Quantized,
    Sparse,
    Sum,
    Tiled,
    components,
)
from tilewright.dsl.errors import EncodingError, PlacementError
from tilewright.dsl.op import checked_attrs, get
from tilewright.dsl.placement import Mesh, Partial, Placement, Shard
from tilewright.dsl.types import TensorType

Array = NDArray[Any]

INT8 = Quantized(IntFormat(8), 1)
INT4 = Quantized(IntFormat(4), 1, 4, packing="nibbles")
NM24 = Sparse(NM(2, 4), 1)


def drawn(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def through(x: Array, encoding: Encoding) -> tuple[dict[str, Array], Array]:
    type_ = f32[x.shape].with_encoding(encoding)
    parts = encode_array(x, type_)
    return parts, decode_components(parts, type_)


FORMATS = st.sampled_from(
    [
        *(IntFormat(bits) for bits in (2, 3, 4, 5, 8)),
        *(FloatFormat(*f) for f in ((2, 1), (3, 2), (2, 3), (4, 3), (5, 2), (3, 0), (1, 2))),
        *(FloatFormat(*f) for f in ((4, 7), (5, 6), (3, 5))),
        *(BlockFloat(bits) for bits in (2, 4, 8)),
        *(Codebook(bits) for bits in (1, 3, 4, 8)),
    ]
)


@st.composite
def quantized(draw: st.DrawFn) -> Quantized:
    fmt = draw(FORMATS)
    packing = "nibbles" if fmt.bits <= 4 and draw(st.booleans()) else "plain"
    if fmt.bits > 8:
        packing = "split"
    symmetric = not (isinstance(fmt, IntFormat) and draw(st.booleans()))
    group = draw(st.sampled_from([None, 1, 2, 4, 6, 12]))
    return Quantized(fmt, draw(st.integers(0, 2)), group, symmetric, packing)


@st.composite
def sparse(draw: st.DrawFn) -> Sparse:
    n = draw(st.integers(1, 3))
    m = draw(st.sampled_from([m for m in (2, 3, 4, 6, 12) if m > n]))
    axis = draw(st.integers(0, 2))
    values = draw(st.sampled_from([None, Quantized(IntFormat(8), axis)]))
    pattern = draw(st.sampled_from([NM(n, m), Columns(draw(st.integers(1, 12)))]))
    return Sparse(pattern, axis) if values is None else Sparse(pattern, axis, values)


SINGLE = st.one_of(quantized(), sparse(), st.builds(LowRank, st.integers(1, 12)))
ENCODINGS = st.one_of(SINGLE, st.builds(lambda *p: Sum(p), SINGLE, SINGLE))


@given(ENCODINGS, st.integers(0, 2**32 - 1), st.sampled_from(["normal", "zeros", "wide", "ints"]))
@settings(max_examples=count(ci=60, deep=2000))
def test_components_have_their_types_and_decode(encoding: Encoding, seed: int, kind: str) -> None:
    x = drawn((12, 12, 12), seed)
    if kind == "zeros":
        x[:6] = 0
    if kind == "wide":
        x *= np.float32(10) ** np.random.default_rng(seed).integers(-30, 30, x.shape)
    if kind == "ints":
        x = np.rint(x)
    type_ = f32[x.shape].with_encoding(encoding)
    parts = encode_array(x, type_)
    for name, part in components(type_).items():
        assert (parts[name].shape, parts[name].dtype) == (part.shape, part.dtype.numpy)
    assert list(parts) == list(components(type_))
    decoded = decode_components(parts, type_)
    assert decoded.dtype == np.float32
    assert np.isfinite(decoded).all()


@given(quantized(), st.integers(0, 2**32 - 1))
@settings(max_examples=count(ci=60, deep=1000))
def test_every_element_gets_the_nearest_code(enc: Quantized, seed: int) -> None:
    """No other code of the element's own group would have been nearer."""
    x = drawn((12, 12, 12), seed).astype(np.float64)
    type_ = f32[x.shape].with_encoding(enc)
    parts = {k: v.astype(np.float64) for k, v in encode_array(x, type_).items()}
    decoded = decode_components(encode_array(x, type_), type_).astype(np.float64)
    group = enc.group or 12
    scale = np.repeat(parts["scale"], group, enc.axis)
    match enc.format:
        case IntFormat(bits) if enc.symmetric:
            levels = np.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1))
        case IntFormat(bits):
            levels = np.arange(2**bits)
        case BlockFloat(bits):
            levels = np.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1))
            assert (np.frexp(parts["scale"])[0] == 0.5).all()
        case FloatFormat() as fmt:
            levels = np.concatenate([minifloats(fmt), -minifloats(fmt)])
        case Codebook():
            levels = parts["table"]
    zero = np.repeat(parts["zero"], group, enc.axis) if "zero" in parts else 0.0
    options = (levels[:, None, None, None] - zero) * scale
    best = np.abs(options - x).min(axis=0)
    assert (np.abs(decoded - x) <= best + 1e-6 * np.abs(x) + 1e-6 * scale).all()


def test_symmetric_scale_maps_the_largest_to_the_largest_code() -> None:
    x = np.array([[0.5, -2.0, 1.1, 0.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    parts, decoded = through(x, Quantized(IntFormat(3), 1))
    np.testing.assert_array_equal(parts["scale"], np.array([[2 / 3], [1]], np.float32))
    np.testing.assert_array_equal(parts["codes"], [[1, -3, 2, 0], [0, 0, 0, 0]])
    assert parts["codes"].dtype == np.int8
    np.testing.assert_allclose(decoded[0], [2 / 3, -2, 4 / 3, 0], rtol=1e-6)


def test_codes_round_half_to_even() -> None:
    x = np.array([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float32)
    parts, _ = through(x, Quantized(IntFormat(4), 1))
    np.testing.assert_array_equal(parts["codes"], [[7, 0, 2, 2, 0, -2]])


def test_asymmetric_codes_hold_zero_exactly() -> None:
    x = np.array([[-1.0, 0.0, 0.3, 2.0], [3.0, 4.0, 5.0, 6.0]], np.float32)
    parts, decoded = through(x, Quantized(IntFormat(8), 1, symmetric=False))
    assert parts["codes"].dtype == np.uint8
    np.testing.assert_array_equal(parts["zero"], [[85.0], [0.0]])
    assert decoded[0, 1] == 0.0
    assert np.abs(decoded - x).max() <= 6 / 255


def test_nibbles_hold_the_first_code_in_the_low_half() -> None:
    x = np.array([[7.0, -1.0, 3.0, -7.0]], np.float32)
    parts, decoded = through(x, Quantized(IntFormat(4), 1, packing="nibbles"))
    np.testing.assert_array_equal(parts["codes"], [[0xF7, 0x93]])
    np.testing.assert_array_equal(decoded, x)


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [
        (FloatFormat(4, 3), ml_dtypes.float8_e4m3fn),
        (FloatFormat(5, 2), ml_dtypes.float8_e5m2),
        (FloatFormat(2, 1), ml_dtypes.float4_e2m1fn),
        (FloatFormat(3, 2), ml_dtypes.float6_e3m2fn),
        (FloatFormat(2, 3), ml_dtypes.float6_e2m3fn),
    ],
    ids=str,
)
def test_minifloats_are_those_of_the_open_compute_project(fmt: FloatFormat, dtype: Any) -> None:
    """Values, and the codes of numbers in range (scale 1), agree with ml_dtypes."""
    table = minifloats(fmt)
    codes = np.arange(len(table), dtype=np.uint8).view(dtype)
    np.testing.assert_array_equal(table, codes.astype(np.float64))
    top = table[-1]
    x = np.append(np.linspace(-top, top, 4001), [top, 0.0])[None].astype(np.float32)
    parts, decoded = through(x, Quantized(fmt, 1))
    assert parts["scale"].item() == 1.0
    np.testing.assert_array_equal(decoded, x.astype(dtype).astype(np.float32))


def test_a_group_with_a_nan_or_an_infinity_decodes_to_nan() -> None:
    x = np.array([[1.0, np.nan, 2.0, 1.0, 3.0, 2.0, np.inf, 1.0]], np.float32)
    for fmt in (IntFormat(8), FloatFormat(4, 3), BlockFloat(8), Codebook(4)):
        _, decoded = through(x, Quantized(fmt, 1, 2))
        np.testing.assert_array_equal(np.isnan(decoded[0]), [1, 1, 0, 0, 0, 0, 1, 1])


def test_two_of_four_keeps_the_largest_and_of_equals_the_first() -> None:
    x = np.array([[1.0, -3.0, 2.0, 0.5, 1.0, 1.0, -1.0, 1.0, 0.0, 0.0, 5.0, 0.0]], np.float32)
    parts, decoded = through(x, NM24)
    np.testing.assert_array_equal(parts["values"], [[-3, 2, 1, 1, 0, 5]])
    np.testing.assert_array_equal(parts["index"], [[1 | 2 << 2, 0 | 1 << 2, 0 | 2 << 2]])
    np.testing.assert_array_equal(decoded, [[0, -3, 2, 0, 1, 1, 0, 0, 0, 0, 5, 0]])


def test_of_many_equals_the_first_are_kept() -> None:
    x = np.random.default_rng(0).integers(1, 4, (1, 256)).astype(np.float32)
    wanted = sorted(sorted(range(256), key=lambda i: (-x[0, i], i))[:100])
    parts, _ = through(x, Sparse(NM(100, 256), 1))
    np.testing.assert_array_equal(parts["index"], [wanted])
    parts, _ = through(x, Sparse(Columns(100), 1))
    np.testing.assert_array_equal(parts["index"], wanted)


def test_a_block_float_takes_the_smallest_exponent_that_fits() -> None:
    x = np.array([[7.0, 1.0], [7.5, 1.0], [14.0, 0.0]], np.float32)
    parts, _ = through(x, Quantized(BlockFloat(4), 1))
    np.testing.assert_array_equal(parts["scale"], [[1], [2], [2]])


def test_wide_indices_take_a_byte_each() -> None:
    x = drawn((3, 64))
    parts, decoded = through(x, Sparse(NM(3, 32), 1))
    assert parts["index"].shape == (3, 6)
    assert (decoded != 0).sum() == 18


def test_values_of_a_sparse_tensor_may_be_quantized() -> None:
    """2:4 of INT4: the kept values, and they alone, are what the codes stand for."""
    x = drawn((4, 32))
    values = Quantized(IntFormat(4), 1, 8, packing="nibbles")
    parts, decoded = through(x, Sparse(NM(2, 4), 1, values))
    assert set(parts) == {"codes", "scale", "index"}
    _, dense = through(x, NM24)
    assert ((decoded == 0) | (dense != 0)).all()
    assert np.abs(decoded - dense).max() <= np.abs(x).max() / 14 * 1.001


def test_columns_blocks_and_rows_keep_what_is_largest() -> None:
    x = np.zeros((4, 6), np.float32)
    x[:, 2], x[1, 5], x[3, 0] = 1, 3, 0.5
    _, columns = through(x, Sparse(Columns(2), 1))
    np.testing.assert_array_equal(columns, np.where(np.isin(np.arange(6), [2, 5]), x, 0))
    parts, blocks = through(x, Sparse(Blocks(2, 3, 2), 0))
    np.testing.assert_array_equal(parts["index"], [[0, 1], [1, 0]])
    np.testing.assert_array_equal(blocks[:2, 3:], x[:2, 3:])
    np.testing.assert_array_equal(blocks[2:, :3], x[2:, :3])
    assert (blocks != 0).sum() == 4
    parts, rows = through(x, Sparse(CSR(8), 0))
    np.testing.assert_array_equal(parts["start"], [0, 1, 3, 4, 6])
    np.testing.assert_array_equal(parts["index"], [2, 2, 5, 2, 0, 2, 0, 0])
    np.testing.assert_array_equal(rows, x)
    _, few = through(x, Sparse(CSR(3), 0))
    assert few[1, 5] == 3
    np.testing.assert_array_equal(few[:2, 2], [1, 1])
    assert (few != 0).sum() == 3


def test_low_rank_is_the_best_of_its_rank() -> None:
    x = drawn((10, 8))
    _, decoded = through(x, LowRank(3))
    rest = np.linalg.svd(x, compute_uv=False)[3:]
    np.testing.assert_allclose(np.linalg.norm(x - decoded), np.linalg.norm(rest), rtol=1e-5)


def test_each_part_of_a_sum_encodes_what_the_ones_before_left() -> None:
    x = drawn((16, 16))
    low, rest = LowRank(2), Quantized(IntFormat(8), 1)
    parts, decoded = through(x, Sum((low, rest)))
    first = parts["part0_left"].astype(float) @ parts["part0_right"].astype(float)
    _, second = through((x - first).astype(np.float32), rest)
    np.testing.assert_allclose(decoded, first + second, atol=1e-5)
    assert np.abs(decoded - x).max() < np.abs(through(x, low)[1] - x).max() / 20


def test_tiles_hold_the_same_values_in_another_order() -> None:
    x = drawn((5, 6))
    parts, decoded = through(x, Tiled(4, 4, INT8))
    assert parts["codes"].shape == (2, 2, 4, 4)
    assert parts["codes"][1, 0, 0, 1] == through(x, INT8)[0]["codes"][4, 1]
    np.testing.assert_array_equal(decoded, through(x, INT8)[1])


def test_short_floats_round_once() -> None:
    type_ = bf16[4, 8].with_encoding(INT8)
    x = drawn((4, 8)).astype(ml_dtypes.bfloat16)
    assert decode_components(encode_array(x, type_), type_).dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    "encoding",
    [
        Quantized(IntFormat(8), 1, 5),
        Quantized(IntFormat(8), 2),
        Quantized(IntFormat(8), 1, packing="nibbles"),
        Tiled(4, 1, SHORT),
        Tiled(4, 3, SHORT),
        Sparse(NM(2, 5), 1),
        Sparse(Blocks(3, 4, 1), 0),
        Sparse(Blocks(4, 4, 5), 0),
        Sparse(Columns(9), 1),
        Sparse(NM(2, 4), 1, NM24),
        LowRank(9),
    ],
    ids=str,
)
def test_encodings_that_do_not_fit_are_refused(encoding: Encoding) -> None:
    with pytest.raises(EncodingError):
        encode_array(drawn((8, 8)), f32[8, 8].with_encoding(encoding))


def test_impossible_formats_are_refused() -> None:
    for build in (
        lambda: Quantized(FloatFormat(4, 3), 0, symmetric=False),
        lambda: Quantized(IntFormat(1), 0),
        lambda: Quantized(FloatFormat(4, 7), 0),
        lambda: Quantized(FloatFormat(4, 3), 0, packing="split"),
        lambda: Quantized(IntFormat(8), 0, packing="split"),
        lambda: FloatFormat(5, 7),
        lambda: Quantized(IntFormat(4), 0, 0),
        lambda: BlockFloat(9),
        lambda: Codebook(0),
    ):
        with pytest.raises(EncodingError):
            build()


def broken(parts: dict[str, Array], name: str, value: int) -> dict[str, Array]:
    return {**parts, name: np.full_like(parts[name], value)}


def test_damaged_components_are_refused() -> None:
    """What comes from a file may hold anything: no index leaves its bounds."""
    x = drawn((8, 12))
    for encoding, name, value in (
        (Sparse(NM(1, 3), 1), "index", 3),
        (Sparse(NM(3, 12), 1), "index", 12),
        (Sparse(Columns(2), 1), "index", -1),
        (Sparse(Blocks(4, 4, 2), 0), "index", 3),
        (Sparse(CSR(9), 0), "index", 12),
        (Sparse(CSR(9), 0), "start", 10),
        (Quantized(Codebook(3), 1), "codes", 8),
    ):
        type_ = f32[8, 12].with_encoding(encoding)
        with pytest.raises(EncodingError):
            decode_components(broken(encode_array(x, type_), name, value), type_)
    type_ = f32[8, 12].with_encoding(INT8)
    parts = encode_array(x, type_)
    for wrong in (
        {"codes": parts["codes"]},
        {**parts, "zero": parts["scale"]},
        {**parts, "scale": parts["scale"].astype(np.float64)},
        {**parts, "codes": parts["codes"][1:]},
    ):
        with pytest.raises(EncodingError):
            decode_components(wrong, type_)


def placed(x: TensorType, encoding: Encoding, size: int = 2) -> Placement:
    op = get("encode")
    (out,) = op.infer([x], checked_attrs(op, {"encoding": encoding}), Mesh.of(tp=size))
    assert isinstance(out, TensorType)
    return out.placement


def test_shards_end_on_group_borders() -> None:
    columns = Placement.of(tp=Shard(1))
    grouped = Quantized(IntFormat(8), 1, 4)
    assert placed(f32[8, 16].with_placement(columns), grouped) == columns
    assert placed(f32[8, 16].with_placement(Placement.of(tp=Shard(0))), INT8)
    for x, encoding, size in (
        (f32[8, 12], grouped, 2),
        (f32[8, 16], INT8, 2),
        (f32[8, 16], Sparse(NM(2, 4), 1, Quantized(IntFormat(8), 1, 8)), 4),
        (f32[8, 16], Quantized(Codebook(4), 0), 2),
        (f32[8, 16], LowRank(2), 2),
    ):
        with pytest.raises(PlacementError):
            placed(x.with_placement(columns), encoding, size)


def test_an_unreduced_value_is_not_encoded() -> None:
    with pytest.raises(PlacementError, match="all_reduce"):
        placed(f32[8, 16].with_placement(Placement.of(tp=Partial())), INT8)
