"""How a value is stored: dense, quantized, sparse, low rank, and sums of these.

An encoded value is one SSA value made of named component tensors. `components(type)` names them
with their own types; planner, artifact and collectives work on components alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tilewright.dsl.dims import Dim, ceil_div, known_divides, known_lt
from tilewright.dsl.dtypes import DType, f32, i8, i32, u8
from tilewright.dsl.errors import EncodingError
from tilewright.dsl.placement import Placement, Shard

if TYPE_CHECKING:
    from tilewright.dsl.types import TensorType

Packing = Literal["plain", "nibbles", "split"]
"""A byte for each code; two codes of up to 4 bits a byte; codes of 9 to 12 bits as a byte (the high
bits) and a nibble (the low ones, by twos), in components of their own.
"""


@dataclass(frozen=True, slots=True)
class Dense:
    """One component: the elements themselves."""

    def __str__(self) -> str:
        return "dense"


@dataclass(frozen=True, slots=True)
class IntFormat:
    """Two's complement integers of `bits` bits (offset binary where the codes are asymmetric)."""

    bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise EncodingError(f"integer formats have 1 to 8 bits, got {self.bits}")

    def __str__(self) -> str:
        return f"int{self.bits}"


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """ExMy minifloats."""

    exponent: int
    mantissa: int

    def __post_init__(self) -> None:
        if self.exponent < 1 or self.mantissa < 0 or self.bits > 12:
            raise EncodingError(f"a minifloat has 2 to 12 bits, got {self}")

    @property
    def bits(self) -> int:
        """Sign, exponent and mantissa together."""
        return 1 + self.exponent + self.mantissa

    def __str__(self) -> str:
        return f"e{self.exponent}m{self.mantissa}"


@dataclass(frozen=True, slots=True)
class BlockFloat:
    """Signed mantissas of `bits` bits with one shared power-of-two exponent per group."""

    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise EncodingError(f"block floats have 2 to 8 bits, got {self.bits}")

    def __str__(self) -> str:
        return f"block{self.bits}"


@dataclass(frozen=True, slots=True)
class Codebook:
    """Indices of `bits` bits into a table of `2**bits` values."""

    bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise EncodingError(f"codebook indices have 1 to 8 bits, got {self.bits}")

    def __str__(self) -> str:
        return f"codebook{self.bits}"


NumberFormat = IntFormat | FloatFormat | BlockFloat | Codebook


@dataclass(frozen=True, slots=True)
class Quantized:
    """Codes with one scale per group of `group` elements along `axis` (None: the whole axis).

    Asymmetric codes (integers only) are offset binary: the value is (code - zero) * scale. Split
    codes (minifloats only) have scales that are powers of two, so that whatever has no more bits
    than they have, and is not too small beside the largest of its group, keeps its value.
    """

    format: NumberFormat
    axis: int
    group: int | None = None
    symmetric: bool = True
    packing: Packing = "plain"

    def __post_init__(self) -> None:
        if self.group is not None and self.group < 1:
            raise EncodingError(f"a group has at least one element, got {self.group}")
        if not self.symmetric and not isinstance(self.format, IntFormat):
            raise EncodingError(f"only integer codes can be asymmetric, not {self.format}")
        if self.packing != "split" and self.format.bits > 8:
            raise EncodingError(f"{self.format} takes more than a byte", fix='use packing="split"')
        if self.packing == "split" and not (
            isinstance(self.format, FloatFormat) and self.format.bits > 8
        ):
            raise EncodingError(f"split packing is for minifloats of 9 to 12 bits, got {self}")
        if self.symmetric and self.format == IntFormat(1):
            raise EncodingError(
                "int1 has no symmetric codes", fix="use symmetric=False, or Codebook(1)"
            )

    def __str__(self) -> str:
        group = "all" if self.group is None else str(self.group)
        kind = "symmetric" if self.symmetric else "asymmetric"
        return f"{self.format}<axis={self.axis}, group={group}, {kind}, {self.packing}>"


@dataclass(frozen=True, slots=True)
class NM:
    """At most `n` non-zeros in every `m` consecutive elements."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m <= 256:
            raise EncodingError(f"N:M sparsity needs 1 <= n < m <= 256, got {self.n}:{self.m}")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


@dataclass(frozen=True, slots=True)
class Blocks:
    """At most `capacity` non-zero blocks of `rows` x `columns`."""

    rows: int
    columns: int
    capacity: int

    def __str__(self) -> str:
        return f"blocks<{self.rows}, {self.columns}, {self.capacity}>"


@dataclass(frozen=True, slots=True)
class CSR:
    """Compressed sparse rows with room for `capacity` non-zeros."""

    capacity: int

    def __str__(self) -> str:
        return f"csr<{self.capacity}>"


@dataclass(frozen=True, slots=True)
class Columns:
    """Only `count` whole slices along the axis are non-zero."""

    count: int

    def __str__(self) -> str:
        return f"columns<{self.count}>"


Pattern = NM | Blocks | CSR | Columns


@dataclass(frozen=True, slots=True)
class Sparse:
    """Kept values (themselves encoded as `values` says) and where they stand along `axis`."""

    pattern: Pattern
    axis: int
    values: Encoding = Dense()

    def __str__(self) -> str:
        inner = "" if isinstance(self.values, Dense) else f", {self.values}"
        return f"sparse<{self.pattern}, axis={self.axis}{inner}>"


@dataclass(frozen=True, slots=True)
class LowRank:
    """A product of two factors of inner dimension `rank`, over the last two dimensions."""

    rank: int

    def __str__(self) -> str:
        return f"lowrank<{self.rank}>"


@dataclass(frozen=True, slots=True)
class Sum:
    """The sum of several encodings of one shape (dense + low rank + sparse)."""

    parts: tuple[Encoding, ...]

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise EncodingError("a sum encoding has at least two parts")

    def __str__(self) -> str:
        return "sum<" + ", ".join(map(str, self.parts)) + ">"


@dataclass(frozen=True, slots=True)
class Tiled:
    """A matrix cut into panels of `rows` rows, each stored column block by column block.

    Element (n, k) of the matrix stands at [n // rows, k // columns, n % rows, k % columns]; the
    edge is filled with zeros. The layout in which a matmul kernel streams its constant operand.
    """

    rows: int
    columns: int = 1
    values: Encoding = Dense()

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise EncodingError(f"tiles have at least one element, got {self}")

    def __str__(self) -> str:
        inner = "" if isinstance(self.values, Dense) else f", {self.values}"
        return f"tiled<{self.rows}, {self.columns}{inner}>"


Encoding = Dense | Quantized | Sparse | LowRank | Sum | Tiled
DENSE = Dense()
SHORT = Quantized(FloatFormat(4, 7), axis=1, packing="split")
"""A matrix of bf16 in 12 bits an element: whole mantissas, and exponents counted from the largest
of the row. An element within 14 binades of it is exact.
"""


def components(of: TensorType) -> dict[str, TensorType]:
    """The component tensors of a value, by name, in storage order.

    Raises EncodingError where the encoding does not fit the shape (groups must be whole).
    """
    match of.encoding:
        case Dense():
            return {"data": of}
        case Quantized() as enc:
            return _quantized(of, enc)
        case Sparse() as enc:
            return _sparse(of, enc)
        case LowRank(rank):
            return _low_rank(of, rank)
        case Tiled() as enc:
            return _tiled(of, enc)
        case Sum(parts):
            found: dict[str, TensorType] = {}
            for index, part in enumerate(parts):
                for name, type_ in components(of.with_encoding(part)).items():
                    found[f"part{index}_{name}"] = type_
            return found


def _check_axis(of: TensorType, axis: int) -> None:
    if not 0 <= axis < len(of.shape):
        raise EncodingError(
            f"encoding axis {axis} is out of range for rank {len(of.shape)}",
            fix="name the axis from 0, without negative numbers",
        )


def _along(of: TensorType, axis: int, size: Dim, dtype: DType) -> TensorType:
    shape = (*of.shape[:axis], size, *of.shape[axis + 1 :])
    return of.with_encoding(DENSE).with_shape(shape).with_dtype(dtype)


def _quantized(of: TensorType, enc: Quantized) -> dict[str, TensorType]:
    _check_axis(of, enc.axis)
    extent = of.shape[enc.axis]
    if enc.group is not None and not known_divides(enc.group, extent):
        raise EncodingError(
            f"groups of {enc.group} do not divide dimension {enc.axis} of size {extent}",
            fix="choose a group size that divides it, or pad first",
        )
    groups: Dim = 1 if enc.group is None else extent // enc.group
    found = {"codes": _codes(of, enc, extent)}
    if enc.packing == "split":
        found["low"] = _along(of, enc.axis, _half(extent, enc), u8)
    found["scale"] = _along(of, enc.axis, groups, f32)
    if not enc.symmetric:
        found["zero"] = _along(of, enc.axis, groups, f32)
    if isinstance(enc.format, Codebook):
        found["table"] = _whole(of, (2**enc.format.bits,), f32)
    return found


def _codes(of: TensorType, enc: Quantized, extent: Dim) -> TensorType:
    if enc.packing == "nibbles":
        if enc.format.bits > 4:
            raise EncodingError(f"nibble packing needs codes of at most 4 bits, got {enc}")
        return _along(of, enc.axis, _half(extent, enc), u8)
    signed = isinstance(enc.format, IntFormat | BlockFloat) and enc.symmetric
    return _along(of, enc.axis, extent, i8 if signed else u8)


def _half(extent: Dim, enc: Quantized) -> Dim:
    """Bytes of an axis of nibbles."""
    if not known_divides(2, extent):
        raise EncodingError(
            f"{enc} stores nibbles by twos, and {extent} of them are not known to be even",
            fix="pad the dimension to an even size",
        )
    return extent // 2


def _sparse(of: TensorType, enc: Sparse) -> dict[str, TensorType]:
    _check_axis(of, enc.axis)
    extent = of.shape[enc.axis]
    index: dict[str, TensorType]
    match enc.pattern:
        case NM(n, m):
            if not known_divides(m, extent):
                raise EncodingError(
                    f"{n}:{m} groups do not divide dimension {enc.axis} of size {extent}",
                    fix="pad the dimension to a multiple of the group",
                )
            kept = _along(of, enc.axis, (extent // m) * n, of.dtype)
            packed = n * (m - 1).bit_length() <= 8
            count = extent // m if packed else (extent // m) * n
            index = {"index": _along(of, enc.axis, count, u8)}
        case Columns(count):
            if count < 1 or known_lt(extent, count):
                raise EncodingError(f"{enc} keeps {count} of {extent} slices")
            kept = _along(of, enc.axis, count, of.dtype)
            index = {"index": _whole(of, (count,), i32)}
        case Blocks(rows, columns, capacity):
            _check_blocks(of, enc.pattern)
            kept = _whole(of, (capacity, rows, columns), of.dtype)
            index = {"index": _whole(of, (capacity, 2), i32)}
        case CSR(capacity):
            if len(of.shape) != 2:
                raise EncodingError(f"{enc.pattern} stores matrices, got {of.shape}")
            kept = _whole(of, (capacity,), of.dtype)
            index = {
                "index": _whole(of, (capacity,), i32),
                "start": _whole(of, (of.shape[0] + 1,), i32),
            }
    inner = components(kept.with_encoding(enc.values))
    values = {("values" if name == "data" else name): type_ for name, type_ in inner.items()}
    if "index" in values:
        raise EncodingError(f"{enc}: the values of a sparse encoding cannot be sparse again")
    return {**values, **index}


def _check_blocks(of: TensorType, pattern: Blocks) -> None:
    if len(of.shape) != 2:
        raise EncodingError(f"{pattern} stores matrices, got {of.shape}")
    if not (
        known_divides(pattern.rows, of.shape[0]) and known_divides(pattern.columns, of.shape[1])
    ):
        raise EncodingError(
            f"blocks of {pattern.rows} x {pattern.columns} do not divide {of.shape}",
            fix="pad the matrix to whole blocks",
        )
    count = (of.shape[0] // pattern.rows) * (of.shape[1] // pattern.columns)
    if pattern.capacity < 1 or known_lt(count, pattern.capacity):
        raise EncodingError(f"{pattern} keeps {pattern.capacity} of {count} blocks")


def _low_rank(of: TensorType, rank: int) -> dict[str, TensorType]:
    if len(of.shape) < 2:
        raise EncodingError("a low-rank encoding needs at least two dimensions")
    *lead, rows, columns = of.shape
    if rank < 1 or known_lt(rows, rank) or known_lt(columns, rank):
        raise EncodingError(f"a matrix of {rows} x {columns} has no factors of rank {rank}")
    return {
        "left": _whole(of, (*lead, rows, rank), of.dtype),
        "right": _whole(of, (*lead, rank, columns), of.dtype),
    }


def _whole(of: TensorType, shape: tuple[Dim, ...], dtype: DType) -> TensorType:
    """A component of another layout than the tensor: placed as it is, but in one piece."""
    entries = ((axis, p) for axis, p in of.placement.entries if not isinstance(p, Shard))
    return dtype[shape].with_placement(Placement(tuple(entries)))


_PER_ELEMENT = ("data", "codes", "low", "values", "index")


def _tiled(of: TensorType, enc: Tiled) -> dict[str, TensorType]:
    if of.rank != 2:
        raise EncodingError(f"only matrices are stored in tiles, got rank {of.rank}")
    inner = components(of.with_encoding(enc.values))
    if "low" in inner and enc.columns % 2:
        raise EncodingError(
            f"{enc} would cut pairs of nibbles", fix="use an even number of columns"
        )
    return {
        name: _tile(part, enc.rows, enc.columns // 2 if name == "low" else enc.columns)
        if name in _PER_ELEMENT and part.rank == 2
        else part
        for name, part in inner.items()
    }


def _tile(part: TensorType, height: int, width: int) -> TensorType:
    rows, columns = part.shape
    panels, blocks = ceil_div(rows, height), ceil_div(columns, width)
    return part.with_shape((panels, blocks, height, width))
