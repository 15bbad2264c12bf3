"""Streams that the caller has closed or that are full."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.shell import arrays, compiled, write_model
from tilewright.cli import talk
from tilewright.cli.interrupt import remember_interrupts
from tilewright.cli.talk import Steps, Talk

LINE = f"{sys.executable} -m tilewright.cli.main"


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    """Files that are opened later must not take the place of stdout."""
    out = compiled(tmp_path)
    given = arrays(tmp_path / "in.npz", x=np.ones((2, 4), np.float32))
    result = tmp_path / "o.npz"
    done = shell(f"{LINE} run {out} --inputs {given} --outputs {result} --json {closed}")
    assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr
    assert np.load(result)["y"].shape == (2, 4)


@pytest.mark.parametrize("option", ["", "--json"])
def test_full_stdout(option: str) -> None:
    done = shell(f"{LINE} list targets {option} >/dev/full")
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_names_that_a_terminal_cannot_write(tmp_path: Path) -> None:
    source = f"{write_model(tmp_path)}:layer --backend reference"
    for out, shown in (("日本", "\\u65e5\\u672c"), ("\udcff", "\\udcff")):
        line = f"cd {tmp_path}; PYTHONIOENCODING=ascii {LINE} compile {source} -o {out}"
        done = shell(line)
        assert (done.returncode, done.stdout.strip()) == (0, shown), done.stderr
        done = shell(f"{line} --json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.encode().decode())["cached"]


def test_plain_lines_of_many_alike_steps_come_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 1.0, 4.9, 5.0, 6.0, 7.0])
    monkeypatch.setattr(talk, "monotonic", lambda: next(clock))
    with Talk(json=False).working("tuning") as work:
        for number in range(5):
            work.often(f"trial {number}")
        work("the next kernel")
        work.often("trial 5")
    said = capsys.readouterr().err.splitlines()
    assert said == ["tuning ...", "  trial 0", "  trial 3", "  the next kernel", "  trial 5"]


def test_a_live_line_tells_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    steps = Steps(shown.append)
    for number in range(3):
        steps.often(f"trial {number}")
    assert shown == ["trial 0", "trial 1", "trial 2"]


def test_reader_that_has_seen_enough() -> None:
    done = shell(f"{LINE} list ops --json | head -c 1")
    assert (done.stdout, "Traceback" in done.stderr) == ("[", False)


def test_interrupt_that_a_finalizer_has_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*_: object) -> None:
        pass

    monkeypatch.setattr(signal, "default_int_handler", lost)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        remember_interrupts()
        with Talk(False).working("working") as step:
            step("one")
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                step("two")
            step("three")
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.split() == ["working", "...", "one", "three"]
