"""The audit hook of the tests sees whatever a program does to files, and starts, and unpickles."""

from pathlib import Path

import pytest

from tests.audit import Touched, audited

IMPORTS = "import ctypes, os, pickle, shutil, socket, sqlite3, subprocess, sys, tempfile"


def audit(program: str, folder: Path) -> Touched:
    """What a program does whose working folder holds `file`, and `tree/branch/leaf`."""
    work = folder / "work"
    (work / "tree" / "branch").mkdir(parents=True)
    (work / "tree" / "branch" / "leaf").touch()
    (work / "file").touch()
    return audited(IMPORTS, program, folder / "log", cwd=work)


@pytest.mark.parametrize(
    ("program", "names"),
    [
        ("open('file').close()", {"file"}),
        ("os.close(os.open('file', os.O_RDONLY))", {"file"}),
        ("os.listdir()", {"."}),
        ("os.listdir('tree')", {"tree"}),
        ("list(os.scandir())", {"."}),
        ("list(os.walk('tree'))", {"tree", "tree/branch"}),
        ("sqlite3.connect(f'file://{os.getcwd()}/file?mode=ro', uri=True).close()", {"file"}),
    ],
)
def test_reading(program: str, names: set[str], tmp_path: Path) -> None:
    found = audit(program, tmp_path)
    assert found.read == {str(tmp_path / "work" / name) for name in names}
    assert found.changed == found.loaded == set()


@pytest.mark.parametrize(
    ("program", "names"),
    [
        ("open('file', 'a').close()", {"file"}),
        ("open('new', 'x').close()", {"new"}),
        ("os.close(os.open('file', os.O_RDWR))", {"file"}),
        ("os.mkdir('new')", {"new"}),
        ("os.makedirs('new/er')", {"new", "new/er"}),
        ("os.rename('file', 'tree/file')", {"file", "tree/file"}),
        ("os.replace('file', 'tree/file')", {"file", "tree/file"}),
        ("shutil.move('file', 'tree')", {"file", "tree/file"}),
        ("os.remove('file')", {"file"}),
        ("os.unlink('file')", {"file"}),
        ("os.remove('leaf', dir_fd=os.open('tree/branch', os.O_RDONLY))", {"tree/branch/leaf"}),
        ("os.rmdir('tree/branch/') if os.remove('tree/branch/leaf') else 0", {"tree/branch/leaf"}),
        ("shutil.rmtree('tree')", {"tree", "tree/branch", "tree/branch/leaf"}),
        ("shutil.copy('file', 'copy')", {"copy"}),
        ("os.link('file', 'copy')", {"file", "copy"}),
        ("os.symlink('file', 'copy')", {"file", "copy"}),
        ("os.truncate('file', 0)", {"file"}),
        ("os.chmod('file', 0o600)", {"file"}),
        ("os.utime('file')", {"file"}),
        ("sqlite3.connect('new').close()", {"new"}),
    ],
)
def test_changing(program: str, names: set[str], tmp_path: Path) -> None:
    assert audit(program, tmp_path).changed == {str(tmp_path / "work" / name) for name in names}


def test_threads_are_seen(tmp_path: Path) -> None:
    program = (
        "import threading; t = threading.Thread(target=lambda: open('file')); t.start(); t.join()"
    )
    assert audit(program, tmp_path).read == {str(tmp_path / "work" / "file")}


def test_loading(tmp_path: Path) -> None:
    program = (
        "shutil.copy('/proc/self/exe', 'lib')\n"
        "for name in ('./lib', f'/proc/self/fd/{os.open(\"lib\", os.O_RDONLY)}'):\n"
        "    try: ctypes.CDLL(name)\n"
        "    except OSError: pass\n"
    )
    assert audit(program, tmp_path).loaded == {str(tmp_path / "work" / "lib")}


@pytest.mark.parametrize(
    "program", ["subprocess.run(['/bin/true'])", "os.posix_spawn('/bin/true', ['true'], {})"]
)
def test_starting(program: str, tmp_path: Path) -> None:
    assert audit(program, tmp_path).started == ("/bin/true",)


def test_unpickling_and_talking(tmp_path: Path) -> None:
    program = "pickle.loads(pickle.dumps(tempfile.SpooledTemporaryFile)); socket.socket()"
    found = audit(program, tmp_path)
    assert found.unpickled == {"tempfile.SpooledTemporaryFile"}
    assert found.network == {"socket.__new__"}


def test_what_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        audit("1 / 0", tmp_path)
