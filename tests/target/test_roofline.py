"""Bounds, and the record of a machine's rates."""

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from tests.pickles import pickles_in
from tilewright.dsl.dtypes import bf16, f32, i8
from tilewright.dsl.errors import MeasurementFailed, UnsafeCacheFolder
from tilewright.target import roofline as module
from tilewright.target.measure import Measurement
from tilewright.target.roofline import Roofline, roofline, run_measurement

RATES = {
    "f32_fma": (100.0, 350.0),
    "bf16_dot": (50.0, 200.0),
    "bf16_tile": (1000.0, 4000.0),
    "i8_dot": (400.0, 1400.0),
    "stream_read": (10.0, 18.0),
}
LINE = Roofline(4, RATES, "measured")
MEASURED = Measurement("measured", 4, RATES)


class Child:
    """Stands for the measuring process; counts how often it is asked."""

    def __init__(self, answer: Measurement = MEASURED) -> None:
        self.answer = answer
        self.calls = 0

    def __call__(self) -> Measurement:
        self.calls += 1
        return self.answer


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Child:
    stand_in = Child()
    monkeypatch.setattr(module, "run_measurement", stand_in)
    module._remembered.cache_clear()
    return stand_in


@pytest.mark.parametrize(
    ("threads", "rate"), [(0, 100), (1, 100), (2, 200), (3, 300), (4, 350), (9, 350)]
)
def test_rate_grows_with_threads_up_to_that_of_all(threads: int, rate: float) -> None:
    assert LINE.rate("f32_fma", threads) == rate


def test_peak_is_that_of_the_fastest_unit() -> None:
    assert LINE.peak(f32, 1) == 100
    assert LINE.peak("f64", 1) == 50
    assert LINE.peak("f16", 1) == 100
    assert LINE.peak(i8, 4) == 1400
    assert LINE.peak(bf16, 1) == 100  # its dot is the slower way here
    assert LINE.peak(bf16, 1, tiles=True) == 1000
    without = Roofline(4, {k: RATES[k] for k in ("f32_fma", "stream_read")}, "measured")
    assert without.peak(bf16, 1, tiles=True) == without.peak(i8, 1) == 100


def test_bound_is_the_larger_of_the_two_times() -> None:
    assert LINE.bound(1000, 10, f32, 1) == (10.0, "compute")
    assert LINE.bound(1000, 1000, f32, 1) == (100.0, "memory")
    assert LINE.bound(1000, 100, f32, 1) == (10.0, "compute")  # the ridge
    assert LINE.bound(0, 18, bf16, 4) == (1.0, "memory")


def test_measured_once_and_read_back(child: Child, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    first = roofline(folder)
    assert roofline(folder) == first
    module._remembered.cache_clear()
    assert roofline(folder) == first == Roofline(4, RATES, "measured")
    assert child.calls == 1
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in folder.iterdir()] == [f"machine-{module.fingerprint()}.json"]
    assert pickles_in(folder) == []


def test_fresh_measures_again(child: Child, tmp_path: Path) -> None:
    roofline(tmp_path / "c")
    roofline(tmp_path / "c", fresh=True)
    assert child.calls == 2


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"source":"measured","threads":4,"rates":{}}',
        msgspec.json.encode(MEASURED)[:-9],
        msgspec.json.encode(MEASURED).replace(b"100.0", b"-100.0"),
        msgspec.json.encode(MEASURED).replace(b"100.0", b"1e300"),
        msgspec.json.encode(MEASURED).replace(b"measured", b"imagined"),
    ],
)
def test_damaged_record_is_measured_again_with_a_note(
    damage: bytes, child: Child, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    roofline(folder)
    (record,) = folder.iterdir()
    record.write_bytes(damage)
    module._remembered.cache_clear()
    found = roofline(folder)
    assert child.calls == 2
    assert found.rates == RATES
    assert "measured again" in (found.note or "")
    module._remembered.cache_clear()
    assert roofline(folder).note is None


def test_an_estimate_gives_way_to_a_measurement(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child.answer = Measurement("estimated", 4, RATES)
    monkeypatch.setattr(module, "_tvm_installed", lambda: False)
    assert roofline(tmp_path / "c").source == "estimated"
    module._remembered.cache_clear()
    roofline(tmp_path / "c")
    assert child.calls == 1
    monkeypatch.setattr(module, "_tvm_installed", lambda: True)
    child.answer = MEASURED
    module._remembered.cache_clear()
    assert roofline(tmp_path / "c").source == "measured"


def test_a_full_disk_costs_only_the_record(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tilewright.files.os.write", full)
    found = roofline(tmp_path / "cache")
    assert found.rates == RATES
    assert "No space left" in (found.note or "")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_open_to_others_is_refused(child: Child, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(UnsafeCacheFolder):
        roofline(tmp_path / "cache")
    assert child.calls == 0


def test_fingerprint_tells_thread_counts_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    names: set[str] = set()
    for threads in (1, 2):
        monkeypatch.setattr(module, "usable_threads", lambda threads=threads: threads)
        names.add(module.fingerprint())
    assert len(names) == 2


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("import sys; sys.exit('broken')", "broken"),
        ("import os; os.kill(os.getpid(), 9)", "-9"),
        ("print('hello')", "no result"),
        ("pass", "no result"),
        ("import time; time.sleep(60)", "more than"),
    ],
)
def test_a_failing_child_is_our_error(
    command: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.run

    def run(arguments: list[str], **options: object) -> object:
        return real([arguments[0], "-c", command], **options)  # pyright: ignore[reportCallIssue, reportArgumentType] - options are passed through

    monkeypatch.setattr(module.subprocess, "run", run)
    monkeypatch.setattr(module, "_SECONDS", 3)
    with pytest.raises(MeasurementFailed, match=reason):
        run_measurement()


def test_this_machine_can_be_measured(tmp_path: Path) -> None:
    pytest.importorskip("tvm")
    found = run_measurement()
    assert found.source == "measured"
    assert found.threads == len(os.sched_getaffinity(0)) or found.threads >= 1
    assert {"f32_fma", "stream_read"} <= found.rates.keys()
    assert all(1e6 < one <= every < 1e17 for one, every in found.rates.values())
