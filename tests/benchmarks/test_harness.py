"""The benchmark harness: children answer in turn, and those that cannot say why."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import Measured, Peaks, Row, Work, compare, timed, write_rows

ROOT = Path(__file__).parent.parent.parent
SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from benchmarks.harness import NotAvailable, WrongNumbers, serve

system, case = sys.argv[2], sys.argv[4]

def prepare():
    print("a library that talks on stdout")
    if system == "absent":
        raise NotAvailable("not today")
    if system == "wrong":
        raise WrongNumbers("off by one")
    if system == "broken":
        sys.exit("it broke")
    if system == "unimportable":
        import no_such_module
    seconds = dict(slow=2.0, fast=0.5)[system] * len(case)
    return lambda calls: [seconds, 100.0, 0.0][: 3 if calls > 2 else 1]

serve(prepare)
"""

WHOLE = """
import sys
from dataclasses import dataclass
from pathlib import Path
sys.path.insert(0, {root!r})
from benchmarks.harness import Script, Work

@dataclass(frozen=True)
class Case:
    seconds: float
    systems = ("whole", "half", "absent")

    def figure(self, seconds):
        return seconds * 1e3

    def work(self, system):
        return Work("f32", flops=1.0)

def prepare(system, case, setting):
    assert (setting.threads, setting.trials, str(setting.folder)) == (1, 3, "kept")
    return lambda calls: [dict(whole=1.0, half=0.5)[system] * case.seconds] * calls

Script(
    Path(__file__), "about", ("2", "4"), "SECONDS", "ms", 1, 2, lambda t: Case(float(t)), prepare,
    lambda results: print("in all", sum(result.seconds for result in results)),
).main()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(root=str(ROOT)))
    return path


def test_medians_of_blocks_and_reasons_of_the_absent(script: Path) -> None:
    systems = ["slow", "absent", "wrong", "broken", "unimportable", "fast"]
    results, absent = compare(script, "ab", systems, rounds=3, calls=3)
    assert results == [Measured("ab", "slow", (4.0,) * 3), Measured("ab", "fast", (1.0,) * 3)]
    assert absent["absent"] == "not available: not today"
    assert absent["wrong"] == "wrong: off by one"
    assert "it broke" in absent["broken"]
    assert "no_such_module" in absent["unimportable"]
    assert "pip install" in absent["unimportable"]


def test_the_fraction_of_the_peak_is_of_what_bounds_the_work() -> None:
    peaks = Peaks({"f32": 100.0}, 10.0)
    assert Work("f32", flops=50.0).fraction(1.0, peaks) == 0.5
    assert Work("f32", flops=50.0, read_bytes=5.0).fraction(2.0, peaks) == 0.25
    assert Work("bf16", flops=50.0).fraction(1.0, peaks) is None
    assert Work("f32", read_bytes=5.0).fraction(1.0, Peaks({}, None)) is None


def test_rows_are_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    write_rows(path, [Row("1x128/f32", "openvino", 7.62, "ms", (0.0075, 0.0077))])
    expected = {
        "case": "1x128/f32", "system": "openvino", "value": 7.62, "unit": "ms",
        "blocks": [0.0075, 0.0077],
    }  # fmt: skip
    assert json.loads(path.read_text()) == [expected]


def test_a_script_measures_its_cases_by_the_systems_that_were_asked_for(tmp_path: Path) -> None:
    script, rows = tmp_path / "script.py", tmp_path / "rows.json"
    script.write_text(WHOLE.format(root=str(ROOT)))
    options = ["--threads", "1", "--systems", "half", "whole", "--json", str(rows)]
    options += ["--trials", "3", "--work-dir", "kept"]
    ran = subprocess.run([sys.executable, script, *options], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = [(row["case"], row["system"], row["value"]) for row in json.loads(rows.read_text())]
    assert found == [
        ("2", "whole", 2000.0), ("2", "half", 1000.0),
        ("4", "whole", 4000.0), ("4", "half", 2000.0),
    ]  # fmt: skip
    assert "1 threads" in ran.stdout
    assert ran.stdout.count(" ms ") == 4
    assert "absent" not in ran.stdout
    assert "in all 9.0" in ran.stdout


def test_what_is_no_case_is_wrong_usage(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(WHOLE.format(root=str(ROOT)))
    ran = subprocess.run(
        [sys.executable, script, "--cases", "2", "two"], capture_output=True, text=True
    )
    assert ran.returncode == 2
    assert "'two'" in ran.stderr


def test_a_block_of_slow_calls_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def call() -> None:
        nonlocal now
        now += 0.9

    monkeypatch.setattr("benchmarks.harness.time.perf_counter", lambda: now)
    assert len(timed(call)(2)) == 2
    assert len(timed(call)(40)) == 3  # the third begins before two seconds are over
