"""Which files a Python program opens, as an audit hook sees it from the moment it is set."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent

_HOOK = """
def _watch():
    import os, sys
    handle = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)

    def seen(event, arguments):
        if event in ("open", "os.listdir", "os.scandir", "ctypes.dlopen"):
            name = arguments[0]
            if isinstance(name, (str, bytes, os.PathLike)):
                os.write(handle, os.path.abspath(os.fsencode(name)) + b"\\n")

    sys.addaudithook(seen)

_watch()
"""


def opened(imports: str, program: str, log: Path, arguments: Sequence[str] = ()) -> set[str]:
    """What `program` opens, lists or loads after `imports` have been run; both are Python text.

    Left out are Python's own modules, this package's, /proc and /sys.
    """
    log.write_bytes(b"")
    text = f"{imports}\n{_HOOK}\n{program}"
    subprocess.run(
        [sys.executable, "-c", text, str(log), *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    found = set(log.read_text().splitlines())
    return {name for name in found if not name.startswith(_modules())}


def _modules() -> tuple[str, ...]:
    paths = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders = {os.path.abspath(path) for path in paths} | {
        str(ROOT / "tilewright"),
        "/proc",
        "/sys",
    }
    return tuple(f"{folder}{os.sep}" for folder in sorted(folders))
