"""`tilewright tune` on a model of one product: what it records, what it refuses, how it ends."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.audit import ROOT
from tests.cli.shell import call, write_weights
from tests.pickles import pickles_in
from tilewright.autotune.exchange import file_of, key_of
from tilewright.autotune.records import RecordKey, Records, Result
from tilewright.autotune.subjects import Subject, kernel_subjects
from tilewright.cli.source import Request, open_source
from tilewright.codegen.compiler import Options
from tilewright.target.spec import parse_target

MODEL = """
from tilewright.dsl.builder import graph, param
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32

@graph(x=f32[dim("rows", 1, 16), 24])
def linear(x):
    return x @ param("w", f32[40, 24]).T
"""


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    """The arguments that name the model."""
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    weights = write_weights(tmp_path, w=np.ones((40, 24), np.float32))
    return [f"{path}:linear", "--weights", str(weights)]


def test_one_trial_is_recorded(tmp_path: Path, model: list[str]) -> None:
    records = tmp_path / "records.db"
    flags = ["--storage", str(records), "--json"]
    done = call("tune", *model, *flags, "--trials", "1")
    assert done.code == 0, done.err
    assert done.data["complete"]
    (row,) = done.data["searched"]
    assert (row["trials"], row["failures"], row["at"]) == (1, {}, {"rows": 16})
    assert "trial 1 of 1" in done.err
    assert pickles_in(tmp_path) == []  # the study and the records, cell by cell
    done = call("compile", *model, *flags, "-o", tmp_path / "artifact")
    assert done.code == 0, done.err
    records.write_bytes(b"no database " * 100)
    done = call("compile", *model, *flags, "-o", tmp_path / "artifact")
    assert done.code == 1
    assert "RecordsUnreadable" in done.err


def test_two_aims_show_the_front(tmp_path: Path, model: list[str]) -> None:
    records = tmp_path / "records.db"
    flags = ["--storage", str(records), "--aim", "latency,memory", "--trials", "1"]
    assert call("tune", *model, *flags).code == 0
    (row,) = file_of(Records.at(records)).rows
    assert row.bytes is not None
    assert row.default_bytes is not None
    tuned = subject(model)
    small = next(p for p in tuned.space.neighbours(tuned.space.default) if p != row.candidate)
    found = Result(1.2, 1.0, None, 1.1, 1.3, 0, row.default_bytes)
    Records.at(records).put(key_of(row), small, found)
    done = call("tune", *model, *flags)
    assert "  x1.200, 0 B: {" in done.out
    assert "--prefer memory:5%" in done.err
    (searched,) = call("tune", *model, *flags, "--json").data["searched"]
    assert searched["front"][-1] == {"point": small, "ratio": 1.2, "bytes": 0}
    assert '"front"' not in call("tune", *model, *flags[:2], *flags[4:], "--json").out


def subject(model: list[str]) -> Subject:
    """The one kernel of the model."""
    program = open_source(Request(model[0], Path(model[2])), print).program
    (found,) = kernel_subjects(program, Options(parse_target("cpu:native")))
    return found


@pytest.mark.parametrize(
    ("options", "mistake", "word"),
    [
        (["--prefer", "memory:5%"], "UnsuitableOption", "--storage"),
        (["--prefer", "memory", "--storage", "x.db"], "InvalidPreference", "memory:5%"),
        (["--prefer", "memory:-5%", "--storage", "x.db"], "InvalidPreference", "memory:5%"),
        (["--prefer", "speed:5%", "--storage", "x.db"], "InvalidPreference", "memory:5%"),
        (["--prefer", "memory:5%", "--storage", "x.db"], "RecordsUnreadable", "no file"),
    ],
)
def test_what_cannot_be_preferred_is_said(
    tmp_path: Path, model: list[str], options: list[str], mistake: str, word: str
) -> None:
    done = call("compile", *model, *options, "-o", tmp_path / "artifact", "--json")
    assert (done.code, done.data["error"]) == (1, mistake)
    assert word in done.err


def test_less_memory_is_compiled_where_it_is_preferred(tmp_path: Path, model: list[str]) -> None:
    tuned, records = subject(model), Records.at(tmp_path / "records.db")
    fast, small = [*tuned.space.neighbours(tuned.space.default)][:2]
    records.put(tuned.key, fast, Result(0.8, 1.0, None, 0.79, 0.81, 2000, 1000))
    records.put(tuned.key, small, Result(0.82, 1.0, None, 0.81, 0.83, 500, 1000))
    records.crown(tuned.key, fast)
    texts: list[str] = []
    for prefer in ([], ["--prefer", "memory:0%"], ["--prefer", "memory:5%"]):
        out = tmp_path / f"artifact{len(texts)}"
        named = [*model, "--storage", records.store.name, *prefer, "-o", out]
        assert call("compile", *named).code == 0
        texts.append(call("explain", out, "--rule", "schedule", "--json").out)
    told = [", ".join(f"{n}={v}" for n, v in sorted(p.items())) for p in (fast, small)]
    assert [told[0] in text for text in texts] == [True, True, False]
    assert told[1] in texts[2]


@pytest.mark.parametrize(
    ("options", "mistake", "word"),
    [
        (["--budget", "0"], "InvalidBudget", "above 0"),
        (["--budget", "-3"], "InvalidBudget", "no length of time"),
        (["--budget", "nan"], "InvalidBudget", "no length of time"),
        (["--budget", "inf"], "InvalidBudget", "no length of time"),
        (["--budget", "1e300"], "InvalidBudget", "no length of time"),
        (["--budget", "999999999999h"], "InvalidBudget", "measures nothing"),
        (["--workers", "0"], "WorkersFailed", "0 workers"),
        (["--storage", "mysql://host/db"], "RecordsUnreadable", "mysql"),
        (["--trials", "0"], "InvalidBudget", "0 trials"),
        (["--aim", "speed"], "InvalidAim", "latency,memory"),
        (["--aim", "memory,memory"], "InvalidAim", "latency,memory"),
        (["--aim", ""], "InvalidAim", "latency,memory"),
        (["--choice", "no_such_pass:*"], "NothingToTune", "tile_weights:*"),
        (["--kernel", "softmax*"], "NothingToTune", "matmul_"),
        (["--choice", "tile_weights:*", "--at", "rows=17"], "SymbolRangeError", "1..16"),
        (["--choice", "tile_weights:*", "--at", "columns=1"], "SymbolRangeError", "rows"),
        (["--choice", "tile_weights:*", "--graph", "absent"], "ProgramError", "linear"),
        (
            ["--choice", "tile_weights:*", "--passes", "+quantize_weights"],
            "NothingToTune",
            "quantize_weights changes",
        ),
        (["--at", "rows=8"], "UnsuitableOption", "--choice"),
        (["--backend", "reference"], "UnsuitableOption", "reference"),
        (["--target", "cpu:marble"], "UnknownTarget", "marble"),
    ],
)
def test_what_cannot_be_tuned_is_said_at_once(
    tmp_path: Path, model: list[str], options: list[str], mistake: str, word: str
) -> None:
    given = [] if "--storage" in options else ["--storage", tmp_path / "records.db"]
    done = call("tune", *model, *given, "--json", *options)
    assert done.code == 1
    assert done.data["error"] == mistake
    assert word in done.err
    assert "Traceback" not in done.err


def test_a_compilation_tunes_first(tmp_path: Path, model: list[str]) -> None:
    options = ["--storage", str(tmp_path / "records.db"), "--tune", "4s", "--json"]
    done = call("compile", *model, *options, "-o", tmp_path / "artifact")
    assert done.code == 0, done.err
    assert "trial 1 of" in done.err
    assert (tmp_path / "artifact" / "manifest.json").exists()
    done = call("compile", *model, "--tune", "soon", "-o", tmp_path / "artifact", "--json")
    assert (done.code, done.data["error"]) == (1, "InvalidBudget")


def tune_elsewhere(model: list[str], records: Path, *options: str) -> None:
    """Tune the one kernel of a model to the end, in a process of its own."""
    command = [sys.executable, "-m", "tilewright.cli.main", "tune", *model, "--json"]
    given = ["--storage", str(records), *options]
    done = subprocess.run([*command, *given], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["searched"]
    assert row["complete"]


def test_workers_share_the_trials(tmp_path: Path, model: list[str]) -> None:
    records = tmp_path / "records.db"
    tune_elsewhere(model, records, "--trials", "4", "--workers", "2")
    with sqlite3.connect(records) as connection:
        count = "SELECT count(*) FROM tilewright_candidates"
        assert connection.execute(count).fetchone() == (4,)
        states = connection.execute("SELECT number, state FROM trials ORDER BY number").fetchall()
    finished = [state for _, state in states if state in ("COMPLETE", "PRUNED")]
    assert len(finished) == 4
    assert [number for number, _ in states] == [*range(len(states))]


def test_records_are_passed_on(tmp_path: Path) -> None:
    one, two, file = tmp_path / "one.db", tmp_path / "two.db", tmp_path / "records.json"
    key = RecordKey("schedule", "product", "rest", "cpu:none", "none")
    Records.at(one).put(key, {"mr": 4}, Result(0.5, 1.0, None, 0.4, 0.6))
    Records.at(one).crown(key, {"mr": 4})
    done = call("tune", "export", file, "--storage", one, "--won", "--json")
    assert done.data == {"records": 1, "file": str(file)}
    done = call("tune", "import", file, "--storage", two, "--json")
    assert (done.data["records"], done.data["new"]) == (1, 1)
    assert Records.at(two).winner(key) == ({"mr": 4}, 0.5)
    assert call("tune", "merge", one, "--storage", two, "--json").data["new"] == 0
    done = call("tune", "import", one, "--storage", two, "--json")
    assert (done.code, done.data["error"]) == (1, "RecordsUnreadable")


@pytest.mark.parametrize("place", ["", "w.safetensors/records.db"])
def test_records_that_cannot_be_written(tmp_path: Path, model: list[str], place: str) -> None:
    done = call("tune", *model, "--storage", tmp_path / place, "--json")
    assert done.code == 1
    assert done.data["error"] == "RecordsUnreadable"
    assert "Traceback" not in done.err


def test_a_compilation_wants_the_records_that_it_names(tmp_path: Path, model: list[str]) -> None:
    absent = tmp_path / "absent.db"
    done = call("compile", *model, "--storage", absent, "-o", tmp_path / "artifact")
    assert done.code == 1
    assert "RecordsUnreadable" in done.err
    assert not absent.exists()


def test_a_baseline_that_cannot_run_here_is_a_mistake(
    tmp_path: Path, model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_LIMIT", "none")  # the child refuses its settings
    monkeypatch.setattr("tilewright.cli.settings.settings_here", _settings)
    monkeypatch.setattr("tilewright.autotune.store.cache_folder", lambda: tmp_path / "cache")
    done = call("tune", *model, "--storage", tmp_path / "records.db", "--json")
    assert done.code == 1
    assert done.data["error"] == "BaselineFailed"
    assert "InvalidSetting" in done.err


def _settings(flags: object = None) -> object:
    from tilewright.settings import load_settings

    return load_settings(environment={})


def test_ctrl_c_keeps_the_records_and_leaves_nothing_running(
    tmp_path: Path, model: list[str]
) -> None:
    records, scratch = tmp_path / "records.db", tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "tilewright.cli.main", "tune", *model, "--json"]
    tuning = subprocess.Popen(
        [*command, "--storage", str(records)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell hands down an interrupt that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert tuning.stderr is not None
    said = ""
    while re.search(r"trial ([2-9]|1\d) of", said) is None:
        line = tuning.stderr.readline()
        assert line, said
        said += line
    time.sleep(0.2)
    tuning.send_signal(signal.SIGINT)
    out, err = tuning.communicate(timeout=120)
    assert tuning.returncode == 130, err
    assert "Traceback" not in err
    assert '"reason":"interrupted"' in out
    assert '"complete":false' in out
    assert list(scratch.iterdir()) == []
    assert "tilewright.autotune.child" not in _running(scratch)
    Records.at(records).require_writable()


def _running(scratch: Path) -> str:
    """The command lines of all processes whose scratch space is this."""
    found = ""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(scratch) in (process / "environ").read_text(errors="replace"):
                found += (process / "cmdline").read_text()
        except OSError:  # it has ended, or is not ours
            continue
    return found
