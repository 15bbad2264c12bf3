"""The free choices of a matmul kernel, and the layout of its packed weights.

Needs no TVM: spaces, plans and the packing of weights are made without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.errors import InvalidSchedule
from tilewright.target.cpu import CpuIsa

Instruction: TypeAlias = Literal["fma", "dot", "amx"]
"""How products are formed: f32 FMA (others widened), bf16 pair dot into f32, or bf16 tiles."""

PanelDtype: TypeAlias = Literal["f32", "bf16", "e4m7", "i8"]
"""What panels hold; e4m7 and i8 codes are multiplied as f32, and scaled in the epilogue."""

FEW_ROWS: Final = 8
"""Up to so many rows a product is bound by reading its weights."""

TILE: Final = 16
"""Rows of an AMX tile, and its columns of f32."""

TILE_K: Final = 32
"""bf16 elements of the reduced axis in an AMX tile."""

# Bytes of the left operand that stay in L2 (1 MB or more on the machines this is for) while the
# panels pass by.
_A_BUDGET: Final = 800 << 10

# Elements of the longest rows of which a batched product packs a block of `mc`.
_WHOLE: Final = 1024

# Tiles after which converting a panel's part has paid (Zen 3: six, and two where a conversion takes
# seven operations instead of one).
_WIDEN: Final[dict[PanelDtype, int]] = {"f32": 0, "bf16": 8, "e4m7": 2, "i8": 8}

# Bytes of a converted part: it is to leave half of the smallest L2 caches to the rows.
_MOST_WIDE: Final = 256 << 10

_STORAGE: Final[dict[str, type[np.generic]]] = {
    "f32": np.float32,
    "bf16": ml_dtypes.bfloat16,
    "i8": np.int8,
}


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit) * unit


@dataclass(frozen=True, slots=True)
class MatmulSchedule:
    """A tile of `mr` rows by `nv` vectors of columns is summed in registers.

    `kc` elements of the reduced axis are summed before the next tile of the same columns is taken
    up, so that this part of a panel stays in the L1 cache; `mc` rows stay in L2 while all panels
    pass by. `unroll` steps of the reduced axis form one turn of the inner loop. `pack_rows` copies
    the left operand into scratch first even where it could be read in place. While a tile is
    summed, `prefetch` cache lines of the panel's next part are asked for in each turn: weights that
    do not fit L2 else arrive only when the first tile waits for them.

    A last tile of fewer than `mr` rows, which of a few rows is the only one, asks for its own lines
    instead, `stream` lines before it reads them (0: left to the hardware). Where at least `widen`
    whole tiles meet a panel's part that is not f32, it is converted once, into scratch that they
    all read (0: never). Where converting is dear (e4m7) a last tile counts, and reads it, as well.
    """

    mr: int
    nv: int
    kc: int
    mc: int
    unroll: int = 4
    instruction: Instruction = "fma"
    pack_rows: bool = False
    prefetch: int = 1
    stream: int = 16
    widen: int = 0


@dataclass(frozen=True, slots=True)
class TableSchedule:
    """`mr` rows against `entries` rows of a table are summed in registers.

    Meanwhile the lines of the group of entries `ahead` groups on are asked for (0: left to the
    hardware).
    """

    mr: int = 8
    entries: int = 4
    ahead: int = 1


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """Weights [k, n] as panels of `nr` columns: [panels, k_padded (/2), nr (x2)], zero-padded.

    bf16 weights are stored in pairs along k, which all three instructions can use. The high bytes
    of e4m7 codes lie as bf16 do, their low nibbles in [panels, k_padded / 2, nr]. i8 codes lie as
    f32 do. `interleave`
    matrices of equal shape (gate and up of a gated MLP) lie beside each other, `lanes` columns of
    each in turn, so that an epilogue sees the same columns of all.
    """

    n: int
    k: int
    nr: int
    dtype: PanelDtype
    lanes: int
    k_unit: int = 1
    interleave: int = 1

    @property
    def in_pairs(self) -> bool:
        """Whether rows lie two by two."""
        return self.dtype in ("bf16", "e4m7")

    @property
    def panels(self) -> int:
        return -(-self.n * self.interleave // self.nr)

    @property
    def k_padded(self) -> int:
        return _ceil(self.k, self.k_unit)

    @property
    def panel_elements(self) -> int:
        return self.k_padded * self.nr

    @property
    def elements(self) -> int:
        """Elements of the packed tensor."""
        return self.panels * self.panel_elements

    def pack(self, weights: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
        """Pack `interleave` matrices [k, n] into one flat array of the layout's dtype.

        Raises:
            InvalidSchedule: a matrix has another shape, there are not `interleave` of them, or the
                layout is of codes that are not made one by one.
        """
        if self.dtype not in _STORAGE:
            raise InvalidSchedule(f"{self.dtype} is packed where it is encoded, not by {self}")
        shapes = [w.shape for w in weights]
        if shapes != [(self.k, self.n)] * self.interleave:
            raise InvalidSchedule(
                f"packing needs {self.interleave} x [{self.k}, {self.n}], got {shapes}"
            )
        storage = _STORAGE[self.dtype]
        width = self.panels * self.nr
        padded = np.zeros((self.k_padded, width), storage)
        for number, matrix in enumerate(weights):
            for start in range(0, self.n, self.lanes):
                stop = min(start + self.lanes, self.n)
                at = start * self.interleave + number * self.lanes
                padded[: self.k, at : at + stop - start] = matrix[:, start:stop].astype(storage)
        if not self.in_pairs:
            return padded.reshape(self.k_padded, self.panels, self.nr).swapaxes(0, 1).ravel()
        pairs = padded.reshape(self.k_padded // 2, 2, self.panels, self.nr)
        return pairs.transpose(2, 0, 3, 1).ravel()


def packed_layout(
    n: int,
    k: int,
    dtype: PanelDtype,
    schedule: MatmulSchedule,
    isa: CpuIsa,
    interleave: int = 1,
) -> PackedLayout:
    """The layout that a kernel of this schedule reads."""
    lanes = isa.lanes_f32
    unit = 1 if dtype in ("f32", "i8") else TILE_K if schedule.instruction == "amx" else 2
    return PackedLayout(n, k, schedule.nv * lanes, dtype, lanes, unit, interleave)


def default_schedule(
    n: int, k: int, dtype: PanelDtype, isa: CpuIsa, interleave: int = 1, *, few: bool = False
) -> MatmulSchedule:
    """A schedule that is already good for any number of rows, or for `few` (up to `FEW_ROWS`).

    Both read the same panels. A few rows are bound by streaming them: AMX tiles do not pay.
    """
    if dtype == "bf16" and isa.amx_bf16 and isa.lanes_f32 == TILE:
        if few:
            dot: Instruction = "dot" if isa.bf16_dot else "fma"
            return MatmulSchedule(FEW_ROWS, 2, _ceil(k, TILE_K), FEW_ROWS, 4, dot)
        rows = max(2 * TILE, min(256, _A_BUDGET // (2 * _ceil(k, TILE_K)) // 32 * 32))
        return MatmulSchedule(2 * TILE, 2, _ceil(k, TILE_K), rows, 1, "amx")
    mr, nv = _register_tile(n * interleave, isa, interleave)
    instruction: Instruction = "dot" if dtype == "bf16" and isa.bf16_dot else "fma"
    kc = k if k <= 768 else 512
    rows = max(1, _A_BUDGET // (4 * k * mr))
    mc = mr * min(rows, max(1, 264 // mr))
    widen = _WIDEN[dtype] if instruction == "fma" else 0
    return MatmulSchedule(mr, nv, kc, mc, 4, instruction, widen=widen)


def default_table_schedule(lanes: int) -> TableSchedule:
    """Good for one row and for eight, by the number of registers."""
    return TableSchedule(8, 2) if lanes == 16 else TableSchedule(4, 2)


def most_tiles(dtype: PanelDtype) -> int:
    """How many tiles convert a panel's part for themselves, by default; 0: nothing to convert."""
    return _WIDEN[dtype]


def batched_schedule(lanes: int, registers: int) -> MatmulSchedule:
    """Tiles for the register file; panels of 256 elements along k stay in the L1 cache."""
    mr, nv = (8, 3) if registers == 32 else (6, 2) if lanes == 8 else (4, 2)
    return MatmulSchedule(mr, nv, 256, 144 // mr * mr, prefetch=0)


def batched_room(schedule: MatmulSchedule) -> int:
    """Elements of scratch for a block's rows of a batched product: whole rows of usual lengths."""
    return schedule.mc * row_stride(max(_WHOLE, schedule.kc))


def _register_tile(n: int, isa: CpuIsa, interleave: int) -> tuple[int, int]:
    """Rows and vectors of a tile: the best-shaped one of those that waste the fewest columns."""
    if isa.vector_registers == 32:
        shapes = ((8, 3), (6, 4), (12, 2))
    elif isa.fma:
        shapes = ((6, 2), (4, 3))
    else:
        shapes = ((4, 2), (4, 3))
    fitting = [s for s in shapes if s[1] % interleave == 0]
    # Up to 2 % of padding costs less than a worse shape.
    return min(fitting, key=lambda s: (round(_ceil(n, s[1] * isa.lanes_f32) / n / 0.02), 0))


def check(schedule: MatmulSchedule, layout: PackedLayout, isa: CpuIsa) -> None:
    """Raise `InvalidSchedule` unless the schedule, the layout and the machine fit together."""
    lanes = isa.lanes_f32

    def require(holds: bool, why: str) -> None:
        if not holds:
            raise InvalidSchedule(f"{schedule} does not fit {layout}: {why}")

    require(min(schedule.mr, schedule.nv, schedule.kc, schedule.unroll) >= 1, "sizes start at 1")
    require(layout.nr == schedule.nv * lanes and layout.lanes == lanes, "the panels' width")
    require(schedule.mc % schedule.mr == 0 and schedule.mc > 0, "mc is no multiple of mr")
    require(schedule.nv % layout.interleave == 0, "nv is no multiple of the interleaved matrices")
    require(not layout.in_pairs or layout.k_padded % 2 == 0, f"{layout.dtype} needs pairs along k")
    require(min(schedule.prefetch, schedule.stream, schedule.widen) >= 0, "counts start at 0")
    if schedule.widen:
        wide = 4 * layout.nr * min(schedule.kc, layout.k_padded)
        require(layout.dtype != "f32", "f32 panels are as wide as can be")
        require(schedule.instruction == "fma", "only FMA reads f32 panels")
        require(wide <= _MOST_WIDE, f"{wide} bytes of a converted part are too many")
    match schedule.instruction:
        case "fma":
            pass
        case "dot":
            require(layout.dtype == "bf16" and isa.bf16_dot and lanes == 16, "no bf16 dot")
        case "amx":
            require(layout.dtype == "bf16" and isa.amx_bf16 and lanes == TILE, "no AMX for this")
            require(layout.k_padded % TILE_K == 0, "k is not padded to a tile")
            require((schedule.mr, schedule.nv) == (2 * TILE, 2), "AMX tiles are 32 rows by 2")


def check_table(schedule: TableSchedule, dtype: str, isa: CpuIsa) -> None:
    """Raise `InvalidSchedule` unless the table's format and the schedule have a kernel."""
    if dtype not in ("f32", "bf16", "e4m7"):
        raise InvalidSchedule(f"{schedule} does not fit a table of {dtype}")
    if min(schedule.mr, schedule.entries) < 1 or schedule.ahead < 0:
        raise InvalidSchedule(f"{schedule}: sizes start at 1, and nothing is asked for behind")
    if isa.lanes_f32 % schedule.entries:
        raise InvalidSchedule(f"{schedule}: entries must divide {isa.lanes_f32}")


def row_stride(elements: int) -> int:
    """Elements from row to row in scratch: an odd number of cache lines, and room for a vector."""
    return _ceil(elements, 32) + 16
