"""Types: everything there is to say about a value before it is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tilewright.dsl.dims import EXTENT_LIMIT, Dim, DimExpr, bounds, to_text
from tilewright.dsl.dtypes import DType, bool_
from tilewright.dsl.encoding import DENSE, Dense, Encoding
from tilewright.dsl.errors import PlacementError, RankError, ShapeError
from tilewright.dsl.placement import REPLICATED, Partial, Placement, Shard

Shape = tuple[Dim, ...]

MAX_RANK = 32


@dataclass(frozen=True, slots=True)
class TensorType:
    """Global shape, number format, placement on the mesh and storage encoding."""

    shape: Shape
    dtype: DType
    placement: Placement = REPLICATED
    encoding: Encoding = DENSE

    def __post_init__(self) -> None:
        if len(self.shape) > MAX_RANK:
            raise RankError(f"a tensor has at most {MAX_RANK} dimensions, not {len(self.shape)}")
        for axis, size in enumerate(self.shape):
            low = size if isinstance(size, int) else bounds(size)[0]
            if low < 0:
                raise ShapeError(
                    f"dimension {axis} of {shape_text(self.shape)} can be negative ({low})"
                )
            if low >= EXTENT_LIMIT:
                raise ShapeError(
                    f"dimension {axis} of {shape_text(self.shape)} is too large",
                    fix="a dimension is less than 2**40",
                )
        for axis, place in self.placement.entries:
            if isinstance(place, Shard) and not 0 <= place.dim < len(self.shape):
                raise ShapeError(
                    f"mesh axis {axis} shards dimension {place.dim} of a tensor of rank {self.rank}"
                )
            if place == Partial("sum") and self.dtype == bool_:
                raise PlacementError("bools have no sum", fix="use partial(max) or partial(min)")

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def is_dense(self) -> bool:
        """True where the elements themselves are stored."""
        return isinstance(self.encoding, Dense)

    @property
    def numel(self) -> Dim:
        """Number of elements (of the logical value, not of its components)."""
        count: Dim = 1
        for size in self.shape:
            count = count * size
        return count

    @property
    def nbytes(self) -> Dim:
        """Bytes of all component tensors."""
        from tilewright.dsl.encoding import components

        total: Dim = 0
        for part in components(self).values():
            total = total + part.numel * part.dtype.itemsize
        return total

    def with_shape(self, shape: Shape) -> TensorType:
        """The same type with another shape."""
        return replace(self, shape=shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        """The same type with another number format."""
        return replace(self, dtype=dtype)

    def with_placement(self, placement: Placement) -> TensorType:
        """The same type placed otherwise."""
        return self if placement == self.placement else replace(self, placement=placement)

    def with_encoding(self, encoding: Encoding) -> TensorType:
        """The same type stored otherwise."""
        return replace(self, encoding=encoding)

    def __str__(self) -> str:
        text = f"{self.dtype}{shape_text(self.shape)}"
        if self.placement:
            text += f" @ {self.placement}"
        return text if self.is_dense else f"{text} as {self.encoding}"


@dataclass(frozen=True, slots=True)
class CacheType:
    """A KV cache: keys and values of shape [batch, capacity, heads, head_dim], filled in order.

    `window` promises that no reader looks further back than that many positions (None: no
    promise), `page` is the unit of allocation in positions (None: one contiguous block).
    """

    batch: Dim
    capacity: Dim
    heads: int
    head_dim: int
    dtype: DType
    page: int | None = None
    window: int | None = None
    encoding: Encoding = DENSE

    @property
    def part(self) -> TensorType:
        """The type of the stored keys (and, equally, of the stored values)."""
        shape = (self.batch, self.capacity, self.heads, self.head_dim)
        return TensorType(shape, self.dtype, encoding=self.encoding)

    @property
    def nbytes(self) -> Dim:
        """Bytes of keys and values at full capacity."""
        return 2 * self.part.nbytes

    def __str__(self) -> str:
        text = f"kv<{self.part}"
        if self.page is not None:
            text += f", page={self.page}"
        if self.window is not None:
            text += f", window={self.window}"
        return text + ">"


Type = TensorType | CacheType


def shape_text(shape: Shape) -> str:
    """`[2, seq + past]`."""
    return "[" + ", ".join(str(d) if isinstance(d, int) else to_text(d) for d in shape) + "]"


def is_static(shape: Shape) -> bool:
    """True where no dimension depends on a symbol."""
    return not any(isinstance(d, DimExpr) for d in shape)
