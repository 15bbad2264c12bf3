"""The roofline of this machine: peak rates per number format, read bandwidth, and their bound.

The constants are measured once for each machine and set of tools, in a child process, and kept in
the user's cache folder. They explain and predict; they must not decide what an artifact contains,
or two machines (or two moments) would compile different bytes from the same input.

Source of the model: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from tilewright.dsl.dtypes import DType
from tilewright.dsl.errors import MeasurementFailed, WriteFailed
from tilewright.files import private_folder, read_private_file, replace_file
from tilewright.settings import cache_folder
from tilewright.target.host import host, usable_threads
from tilewright.target.measure import Measurement

Bound = Literal["compute", "memory"]
_VERSION: Final = 1
_SECONDS: Final = 60

# The units that may do a format's multiply-adds, best first, and the share of the unit's rate that
# the format gets. A format without a unit of its own is widened to f32 first.
_UNITS: Final[Mapping[str, tuple[tuple[str, float], ...]]] = MappingProxyType(
    {
        "f64": (("f32_fma", 0.5),),
        "bf16": (("bf16_dot", 1.0), ("f32_fma", 1.0)),
        "i8": (("i8_dot", 1.0), ("f32_fma", 1.0)),
        "u8": (("i8_dot", 1.0), ("f32_fma", 1.0)),
    }
)
_PLAIN: Final = (("f32_fma", 1.0),)


@dataclass(frozen=True, slots=True)
class Roofline:
    """Rates per second of a machine: `rates[unit]` is (one thread, all `threads`).

    Units are `f32_fma`, `bf16_dot`, `bf16_tile` and `i8_dot` (operations; a multiply-add is two)
    and `stream_read` (bytes). `source` tells whether they were measured or only estimated; `note`
    says what was wrong with an older record.
    """

    threads: int
    rates: Mapping[str, tuple[float, float]]
    source: Literal["measured", "estimated"]
    note: str | None = None

    def rate(self, unit: str, threads: int) -> float:
        """The rate of a unit on `threads` threads: one's times their number, up to all's."""
        one, every = self.rates[unit]
        return every if threads >= self.threads else min(one * max(threads, 1), every)

    def peak(self, dtype: DType | str, threads: int, *, tiles: bool = False) -> float:
        """Operations a second for matrix products of `dtype`: the fastest unit that can do them.

        Matrix tiles (AMX) count only if `tiles` says that kernels use them.
        """
        units = _UNITS.get(str(dtype), _PLAIN)
        if tiles and str(dtype) == "bf16":
            units = (("bf16_tile", 1.0), *units)
        return max(share * self.rate(u, threads) for u, share in units if u in self.rates)

    def bandwidth(self, threads: int) -> float:
        """Bytes a second read from memory."""
        return self.rate("stream_read", threads)

    def bound(
        self, flops: float, bytes: float, dtype: DType | str, threads: int, *, tiles: bool = False
    ) -> tuple[float, Bound]:
        """The least seconds that the work can take, and what sets them."""
        compute = flops / self.peak(dtype, threads, tiles=tiles)
        memory = bytes / self.bandwidth(threads)
        return (compute, "compute") if compute >= memory else (memory, "memory")


def roofline(folder: Path | None = None, *, fresh: bool = False) -> Roofline:
    """This machine's roofline, from the cache in `folder` (the user's by default) or measured now.

    `fresh` measures in any case. Raises `MeasurementFailed` if the child process fails; a cache
    that cannot be written only costs another measurement next time.
    """
    place = cache_folder() if folder is None else folder
    return _remembered(place, usable_threads()) if not fresh else _measured(place, None)


@functools.cache
def _remembered(folder: Path, threads: int) -> Roofline:
    del threads  # part of the key: another affinity mask is another machine
    known, note = _load(folder)
    if known is None or (known.source == "estimated" and _tvm_installed()):
        return _measured(folder, note)
    return _as_roofline(known, None)


def recorded_roofline(folder: Path | None = None) -> Roofline | None:
    """This machine's roofline if it has been measured before; never measures."""
    known, _ = _load(cache_folder() if folder is None else folder)
    return None if known is None else _as_roofline(known, None)


def _measured(folder: Path, note: str | None) -> Roofline:
    found = run_measurement()
    try:
        replace_file(_record(private_folder(folder)), msgspec.json.encode(found))
    except WriteFailed as error:
        note = f"the measurement could not be kept: {error.message}"
    return _as_roofline(found, note)


def run_measurement() -> Measurement:
    """Measure in a child process. Raises `MeasurementFailed`."""
    quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    paths = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "tilewright.target.measure"],
            env={**os.environ, **quiet, "PYTHONPATH": paths, "TVM_BIND_THREADS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=True,
        )
        return _decode(done.stdout)
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise MeasurementFailed(
            f"the measurement ended with status {error.returncode}: {' '.join(last)}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise MeasurementFailed(f"the measurement took more than {_SECONDS} s") from error
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise MeasurementFailed(f"the measurement gave no result: {error}") from error


def fingerprint() -> str:
    """A name for this machine as far as rates go: processor, features, caches, usable threads."""
    here = host()
    parts = (
        str(_VERSION), here.machine, here.vendor, here.model, " ".join(sorted(here.features)),
        str(here.caches), str(here.cores), str(usable_threads()),
    )  # fmt: skip
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _record(folder: Path) -> Path:
    return folder / f"machine-{fingerprint()}.json"


def _load(folder: Path) -> tuple[Measurement | None, str | None]:
    if not folder.exists():
        return None, None
    data = read_private_file(_record(private_folder(folder)))
    if data is None:
        return None, None
    try:
        return _decode(data), None
    except (msgspec.DecodeError, ValueError) as error:
        return None, f"the machine's record was damaged ({error}); measured again"


def _decode(data: bytes) -> Measurement:
    found = msgspec.json.decode(data, type=Measurement)
    if not {"f32_fma", "stream_read"} <= found.rates.keys() or found.threads < 1:
        raise ValueError("a rate is missing")
    if not all(0 < rate < 1e18 for pair in found.rates.values() for rate in pair):
        raise ValueError("a rate is not positive and finite")
    return found


def _as_roofline(found: Measurement, note: str | None) -> Roofline:
    return Roofline(found.threads, MappingProxyType(dict(found.rates)), found.source, note)


def _tvm_installed() -> bool:
    return importlib.util.find_spec("tvm") is not None
