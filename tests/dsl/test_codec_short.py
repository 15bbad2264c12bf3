"""bf16 in 12 bits: exact beside the largest of a row, and near it for what is much smaller."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilewright.dsl.codec import decode_components, encode_array, encode_values
from tilewright.dsl.dtypes import bf16, f32
from tilewright.dsl.encoding import SHORT, Tiled, components
from tilewright.dsl.errors import EncodingError

Array = NDArray[Any]


def short(x: Array) -> tuple[dict[str, Array], Array]:
    type_ = bf16[x.shape].with_encoding(SHORT)
    parts = encode_array(x, type_)
    return parts, decode_components(parts, type_)


def row(*values: float) -> Array:
    return np.array([values], ml_dtypes.bfloat16)


def bits(x: Array) -> Array:
    return x.view(np.uint16)


def drawn(seed: int, top: int, span: int) -> Array:
    """Rows of any bits whose exponents lie in the `span` below `top`, zeros among them."""
    random = np.random.default_rng(seed)
    exponent = np.clip(top - random.integers(0, span + 1, (9, 64)), 0, 254)
    found = random.integers(0, 1 << 16, (9, 64)) & 0x807F | exponent << 7
    found[random.random((9, 64)) < 0.1] = 0
    return found.astype(np.uint16).view(bf16.numpy)


def test_components_are_bytes_nibbles_and_a_power_of_two() -> None:
    parts, decoded = short(row(1.5, -1.0078125, 2.0**-14, 0.0))
    # The largest is 2**0 * 1.5: exponent code 15, so that 2**-14 has code 1.
    np.testing.assert_array_equal(parts["codes"], [[0x7C, 0xF8, 0x08, 0x00]])
    np.testing.assert_array_equal(parts["low"], [[0x10, 0x00]])
    np.testing.assert_array_equal(parts["scale"], [[2.0**-8]])
    np.testing.assert_array_equal(decoded, row(1.5, -1.0078125, 2.0**-14, 0.0))


@given(st.integers(0, 2**32 - 1), st.integers(0, 254), st.sampled_from([3, 14, 15, 40, 254]))
def test_what_is_near_the_largest_is_exact_and_the_rest_within_the_bound(
    seed: int, top: int, span: int
) -> None:
    x = drawn(seed, top, span)
    _, decoded = short(x)
    wide = x.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True)
    near = np.abs(wide) >= largest * 2.0**-14
    assert np.array_equal(bits(decoded)[near], bits(x)[near])
    assert (np.abs(decoded.astype(np.float64) - wide) <= 2.0**-22 * largest).all()
    assert np.array_equal(np.signbit(decoded), np.signbit(x))


@given(st.integers(0, 2**32 - 1), st.integers(0, 254), st.sampled_from([3, 15, 40, 254]))
def test_integers_alone_give_what_the_general_way_gives(seed: int, top: int, span: int) -> None:
    x = drawn(seed, top, span)
    type_ = bf16[x.shape].with_encoding(SHORT)
    parts = encode_array(x, type_)
    wanted = encode_values(x.astype(np.float64), type_)
    for name, part in parts.items():
        assert np.array_equal(part, wanted[name]), name
    general = f32[x.shape].with_encoding(SHORT)
    assert np.array_equal(decode_components(parts, type_), decode_components(parts, general))


def test_the_bound_is_met() -> None:
    """Half of a step below the least normal code, and the odd neighbour is the farther one."""
    x = row(1.0, 2.0**-22, 3 * 2.0**-22, -(2.0**-23))
    _, decoded = short(x)
    np.testing.assert_array_equal(decoded, row(1.0, 0.0, 4 * 2.0**-22, -0.0))
    assert np.signbit(decoded[0, 3])


def test_zeros_keep_their_sign() -> None:
    x = np.concatenate([row(0.0, -0.0), row(-0.0, 3.0)])
    parts, decoded = short(x)
    assert np.array_equal(bits(decoded), bits(x))
    np.testing.assert_array_equal(parts["scale"], [[1.0], [2.0**-7]])


def test_the_extremes_of_bf16_are_exact() -> None:
    huge, least = float(ml_dtypes.finfo(bf16.numpy).max), 2.0**-133
    for x in (row(huge, -huge), row(least, -3 * least), row(least, 2.0**-119), row(2.0**127, 1e35)):
        parts, decoded = short(x)
        assert np.array_equal(bits(decoded), bits(x))
        assert np.isfinite(parts["scale"]).all()
        assert parts["scale"].min() >= 2.0**-126


def test_a_row_with_a_nan_or_an_infinity_decodes_to_nan_and_no_other() -> None:
    x = np.array([[1, np.nan], [1, np.inf], [-np.inf, 0], [1, 2]], ml_dtypes.bfloat16)
    _, decoded = short(x)
    assert np.isnan(decoded[:3].astype(np.float32)).all()
    np.testing.assert_array_equal(decoded[3:], x[3:])


def test_tiles_hold_nibbles_beside_their_bytes() -> None:
    x = np.random.default_rng(0).standard_normal((5, 6)).astype(ml_dtypes.bfloat16)
    type_ = bf16[5, 6].with_encoding(Tiled(4, 2, SHORT))
    parts, flat = encode_array(x, type_), short(x)[0]
    shapes = {name: part.shape for name, part in components(type_).items()}
    assert shapes == {"codes": (2, 3, 4, 2), "low": (2, 3, 4, 1), "scale": (5, 1)}
    for n, k in np.ndindex(5, 6):
        assert parts["codes"][n // 4, k // 2, n % 4, k % 2] == flat["codes"][n, k]
        assert parts["low"][n // 4, k // 2, n % 4, 0] == flat["low"][n, k // 2]
    assert not parts["low"][1, :, 1:].any()
    np.testing.assert_array_equal(decode_components(parts, type_), x)


def test_odd_rows_are_refused() -> None:
    with pytest.raises(EncodingError, match="even"):
        encode_array(np.zeros((2, 5), ml_dtypes.bfloat16), bf16[2, 5].with_encoding(SHORT))


def test_blocks_of_rows_are_encoded_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    from tilewright.dsl import codec_short

    x = np.concatenate([drawn(3, 130, 20), np.zeros((1, 64), bf16.numpy), drawn(4, 12, 20)])
    whole, _ = short(x)
    monkeypatch.setattr(codec_short, "_BLOCK", 192)
    pieces, decoded = short(x)
    for name in whole:
        assert np.array_equal(pieces[name], whole[name]), name
    assert np.array_equal(bits(decoded), bits(short(x)[1]))
