"""What users do wrong: exit code 1 (2: usage), one screen, no traceback, nothing half-written."""

import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.cli.shell import arrays, call, compiled, write_model, write_weights
from tests.runtime.programs import write_counter

REFERENCE = ("--backend", "reference")


def expect(result: object, word: str, code: int = 1) -> None:
    text = f"{result}"
    assert getattr(result, "code", None) == code, text
    assert word in getattr(result, "err", ""), text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("absent.gguf", "ModelFileNotFound"),
        ("absent.tw", "ModelFileNotFound"),
        ("absent.py:f", "ModelFileNotFound"),
        ("absent", "ModelFileNotFound"),
        ("model.py", "name of a function"),
        ("model.py:absent", "InvalidModelFunction"),
        ("model.py:nothing", "InvalidModelFunction"),
        ("model.py:__name__", "InvalidModelFunction"),
        ("model.py:broken", "ZeroDivisionError"),
        ("model.py:wrong", "model.py:2"),
        ("model.py:linear", "MissingWeights"),
        ("../\x1b[31m\n.tw", "ModelFileNotFound"),
        ("x" * 5000, "too long"),
        ("notes.txt", "UnsupportedModel"),
        ("junk.gguf", "UnsupportedModel"),
        ("short.gguf", "MalformedModelFile"),
        ("junk.tw", "TextSyntaxError"),
        ("syntax.py:f", "SyntaxError"),
        ("nul.py:f", "(at nul.py)"),
        ("absent_import.py:f", "(at absent_import.py:2)"),
        ("bad_name.py:f", "(at bad_name.py:2)"),
        ("json.py:f", "json.py:1"),
        ("latin.tw", "TextSyntaxError"),
        ("endless.tw", "ModelFileNotFound"),
    ],
)
def test_sources_that_cannot_be_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path)
    Path("notes.txt").write_text("hello")
    Path("junk.gguf").write_bytes(b"GGUF" + bytes(40))
    Path("short.gguf").write_bytes(b"GGUF\3\0\0\0" + bytes(3))
    Path("junk.tw").write_text("program p { nonsense")
    Path("syntax.py").write_text("def f(:")
    Path("nul.py").write_text("f = 1\0")
    Path("absent_import.py").write_text("import os\nimport absent_module")
    Path("bad_name.py").write_text("import tilewright as tw\ntw.dim('a b')")
    Path("json.py").write_text("import absent_module")
    Path("latin.tw").write_bytes(b"program \xe9")
    Path("endless.tw").symlink_to("/dev/zero")
    before = set(tmp_path.iterdir())
    done = call("compile", source, *REFERENCE, "-o", "out")
    expect(done, word)
    assert "\x1b" not in done.err
    assert {p for p in tmp_path.iterdir() if p.name != "__pycache__"} == before


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--untrusted"], "UntrustedCode"),
        (["--target", "cpu:marble"], "UnknownTarget"),
        (["--target", "cuda:sm_90"], "UnknownTarget"),
        (["--passes", "no_such_pass"], "UnknownPass"),
        (["--passes", "partition,recognize_norm"], "UnknownPass"),
        (["--plan", "absent.json"], "PlanError"),
        (["--plan", "model.py"], "PlanError"),
        (["--plan", "/dev/zero"], "PlanError"),
        (["--storage", "absent/records.db"], "RecordsUnreadable"),
        (["--dtype", "bf16"], "UnsuitableOption"),
        (["--context", "5"], "UnsuitableOption"),
        (["--weights", "absent.safetensors"], "ModelFileNotFound"),
        (["--weights", "w.safetensors"], "UnexpectedWeights"),
        (["--backend", "magic"], "UnknownBackend"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path)
    write_weights(tmp_path, w=np.ones((3, 4), np.float32))
    expect(call("compile", "model.py:layer", *REFERENCE, "-o", "out", *options), word)
    assert not Path("out").exists()
    assert not Path("absent").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile"],
        ["nonsense"],
        ["run", "x", "--max-tokens", "y"],
        ["bench", "x", "--runs", "99999999999999999999"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert call(*arguments).code == 2


def test_a_prompt_or_inputs_but_not_both(tmp_path: Path) -> None:
    out = compiled(tmp_path)
    assert call("run", out).code == 2
    assert call("run", out, "--prompt", "x", "--inputs", "y").code == 2
    assert call("run", out, "--prompt", "x", "--outputs", "y").code == 2


def test_output_folder_of_another_kind_stays(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    expect(call("compile", f"{model}:layer", *REFERENCE, "-o", tmp_path / "out"), "NotAnArtifact")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_output_folder_that_cannot_be_made(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    (tmp_path / "file").write_text("")
    done = call("compile", f"{model}:layer", *REFERENCE, "-o", tmp_path / "file" / "out")
    expect(done, "WriteFailed")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({}, "MissingInput"),
        ({"y": np.ones((2, 4), np.float32)}, "Input"),
        ({"x": np.ones((2, 5), np.float32)}, "ShapeError"),
        ({"x": np.ones((2, 4), np.float64)}, "DTypeError"),
        ({"x": np.ones((65, 4), np.float32)}, "SymbolRangeError"),
        ({"x": np.array(["text"])}, "DTypeError"),
        ({"x": np.array([None])}, "InvalidArrayFile"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, values: dict[str, object], word: str) -> None:
    out = compiled(tmp_path)
    given, made = arrays(tmp_path / "in.npz", **values), tmp_path / "out.npz"
    expect(call("run", out, "--inputs", given, "--outputs", made), word)
    assert not made.exists()


class Planted:
    """Makes a file when a pickle of it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path, str]]:
        return open, (self.mark, "w")


def test_a_pickle_among_the_arrays_is_not_read(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    given = arrays(tmp_path / "in.npz", x=np.array([Planted(mark)], object))
    expect(call("run", compiled(tmp_path), "--inputs", given), "InvalidArrayFile")
    assert not mark.exists()
    with np.load(given, allow_pickle=True) as file:
        assert file["x"].dtype == object
    assert mark.exists()


def _npy(header: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header.encode() + data


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }\n"


@pytest.mark.parametrize(
    "member",
    [
        b"hello",
        _npy(HEADER % "(1000000000000, 4)", b"abcd"),  # the memory that it asks for is not taken
        _npy(HEADER % "(-2, 4)", bytes(32)),
        _npy(HEADER % "(-1, -1)", bytes(32)),
        _npy("__import__('os')\n", bytes(32)),
        _npy(HEADER.replace("<f4", "|O") % "(2, 4)", bytes(64)),
        _npy(HEADER % "(2, 4)", bytes(32), version=b"\7\0"),
        _npy(HEADER % "(2, 4)"),  # no data at all
        _npy('"""\n', bytes(32)),
        _npy(HEADER % "(2, 4)", bytes(10_000_000)),  # more than 64 rows can have
    ],
    ids=lambda content: str(content[10:60]),
)
def test_arrays_that_lie(tmp_path: Path, member: bytes) -> None:
    path = tmp_path / "in.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", member)
    expect(call("run", compiled(tmp_path), "--inputs", path), "InvalidArrayFile")


@pytest.mark.parametrize(("offset", "central", "value"), [(6, 8, 1), (8, 10, 99)])
def test_archives_that_cannot_be_unpacked(
    tmp_path: Path, offset: int, central: int, value: int
) -> None:
    """One with a password, one whose compression is unknown; and one with a name twice."""
    path = arrays(tmp_path / "in.npz", x=np.ones((2, 4), np.float32))
    content = bytearray(path.read_bytes())
    content[offset] = content[content.index(b"PK\1\2") + central] = value
    path.write_bytes(content)
    out = compiled(tmp_path)
    expect(call("run", out, "--inputs", path), "InvalidArrayFile")
    arrays(path, x=np.ones((2, 4), np.float32))
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("x.npy", file.read("x.npy"))
    expect(call("run", out, "--inputs", path), "twice")


def test_single_array_is_no_file_of_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 4), np.float32))
    expect(call("run", compiled(tmp_path), "--inputs", tmp_path / "x.npy"), "InvalidArrayFile")


def test_arrays_by_column_and_of_the_other_byte_order(tmp_path: Path) -> None:
    out, x = compiled(tmp_path), np.arange(8, dtype=np.float32).reshape(2, 4)
    found: list[np.ndarray] = []
    for given in (x, np.asfortranarray(x), x.astype(">f4")):
        path = arrays(tmp_path / "in.npz", x=given)
        assert call("run", out, "--inputs", path, "--outputs", tmp_path / "o.npz").code == 0
        found.append(np.load(tmp_path / "o.npz")["y"])
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_outputs_do_not_go_over_inputs_or_devices(tmp_path: Path) -> None:
    out = compiled(tmp_path)
    given = arrays(tmp_path / "in.npz", x=np.ones((2, 4), np.float32))
    before = given.read_bytes()
    (tmp_path / "link.npz").symlink_to(given)
    for path in (given, tmp_path / "link.npz"):
        expect(call("run", out, "--inputs", given, "--outputs", path), "UnsuitableOption")
    assert given.read_bytes() == before
    os.mkfifo(tmp_path / "pipe")
    expect(call("run", out, "--inputs", given, "--outputs", tmp_path / "pipe"), "WriteFailed")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk", b"\x93NUMPY\x01\x00", b"text"])
def test_files_that_hold_no_arrays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in.npz"
    path.write_bytes(content)
    expect(call("run", compiled(tmp_path), "--inputs", path), "InvalidArrayFile")


def test_array_files_that_are_absent_or_cannot_be_written(tmp_path: Path) -> None:
    out = compiled(tmp_path)
    expect(call("run", out, "--inputs", tmp_path / "absent.npz"), "InvalidArrayFile")
    given = arrays(tmp_path / "in.npz", x=np.ones((2, 4), np.float32))
    done = call("run", out, "--inputs", given, "--outputs", tmp_path / "no" / "out.npz")
    expect(done, "WriteFailed")


def test_scalar_that_is_no_integer(tmp_path: Path) -> None:
    write_counter(tmp_path / "lm")
    given = arrays(tmp_path / "in.npz", tokens=np.array([[1]], np.int32), past=0.5)
    done = call("run", tmp_path / "lm", "--graph", "decode", "--inputs", given)
    expect(done, "InvalidArrayFile")


def test_artifacts_that_do_not_do_what_is_asked(tmp_path: Path) -> None:
    out = compiled(tmp_path)
    expect(call("run", out, "--prompt", "hello"), "UnsuitableOption")
    expect(call("run", tmp_path / "absent", "--prompt", "hello"), "ArtifactNotFound")
    given = arrays(tmp_path / "in.npz", x=np.ones((2, 4), np.float32))
    expect(call("run", out, "--inputs", given, "--graph", "absent"), "UnknownGraph")
    expect(call("run", out, "--prompt", "x", "--temperature", "-1"), "InvalidSampling")
    write_counter(tmp_path / "lm")
    expect(call("run", tmp_path / "lm", "--prompt", "hello"), "TokenizerMissing")
    expect(call("run", tmp_path / "lm", "--inputs", given), "UnknownGraph")


def test_explain_of_an_artifact_compiles_nothing(tmp_path: Path) -> None:
    expect(call("explain", compiled(tmp_path), "--target", "cpu"), "UnsuitableOption")


def test_threads_that_no_machine_gives(tmp_path: Path) -> None:
    out = compiled(tmp_path)
    given = arrays(tmp_path / "in.npz", x=np.ones((2, 4), np.float32))
    for threads in ("0", "-1", "10000", "9" * 30):
        expect(call("run", out, "--inputs", given, f"--threads={threads}"), "TeamError")


def test_settings_of_the_working_folder_hold_for_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = compiled(tmp_path)
    given = arrays(tmp_path / "in.npz", x=np.ones((2, 4), np.float32))
    monkeypatch.chdir(tmp_path)
    Path("tilewright.toml").write_text("threads = 1")
    assert call("bench", out, "--runs", "1", "--json").data[0]["threads"] == 1
    Path("tilewright.toml").write_text("threads = 'many'")
    expect(call("run", out, "--inputs", given), "InvalidSetting")
    expect(call("bench", out), "InvalidSetting")


def test_model_file_named_like_a_module(tmp_path: Path) -> None:
    """What is imported later must be Python's, not the user's."""
    path = write_model(tmp_path).rename(tmp_path / "json.py")
    done = call("compile", f"{path}:layer", *REFERENCE, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert not hasattr(sys.modules.get("json"), "layer")


def test_damaged_artifact(tmp_path: Path) -> None:
    out = compiled(tmp_path)
    text = bytearray((out / "graph.tw").read_bytes())
    text[7] ^= 1
    (out / "graph.tw").write_bytes(text)
    expect(call("explain", out), "DamagedArtifact")
    expect(call("bench", out), "DamagedArtifact")


def test_sizes_that_do_not_exist(tmp_path: Path) -> None:
    out = compiled(tmp_path)
    for size in ("rows", "rows=x", "rows=65", "columns=3", "rows=-1", "rows=²"):
        expect(call("bench", out, "--at", size), "SymbolRangeError")


def test_mistakes_as_data(tmp_path: Path) -> None:
    done = call("run", tmp_path / "absent", "--prompt", "x", "--json")
    assert done.data["error"] == "ArtifactNotFound"
    assert done.data["fix"]


def test_traceback_is_there_for_those_who_ask(tmp_path: Path) -> None:
    done = call("run", tmp_path / "absent", "--prompt", "x", "--traceback")
    assert done.code == 1
    assert "Traceback" in done.err


def test_bugs_and_interrupts_have_their_own_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilewright.dsl.errors import CompilerBug
    from tilewright.runtime import model

    out = compiled(tmp_path)
    for raised, code in ((CompilerBug("x"), 3), (ValueError("x"), 3), (KeyboardInterrupt(), 130)):

        def fail(folder: Path, *, huge_pages: bool, raised: BaseException = raised) -> None:
            raise raised

        monkeypatch.setattr(model, "open_artifact", fail)
        done = call("run", out, "--prompt", "x")
        assert done.code == code
        assert "Traceback" not in done.err
