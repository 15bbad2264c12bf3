"""What a Python program does to files, as an audit hook sees it from the moment it is set."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Paths are read from the hook's own process, where descriptors and the working folder are known.
# shutil.rmtree opens folders by names relative to a descriptor, which its event does not tell; what
# it removes is reported by events that do.
_HOOK = """
def _watch():
    import json, os, shutil, sys
    log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    reads = {"os.listdir", "os.scandir", "os.getxattr", "os.listxattr"}
    changes = {  # the places of paths among an event's arguments, each with that of its descriptor
        "os.chmod": ((0, 2),), "os.chown": ((0, 3),), "os.link": ((0, 2), (1, 3)),
        "os.mkdir": ((0, 2),), "os.remove": ((0, 1),), "os.removexattr": ((0, None),),
        "os.rename": ((0, 2), (1, 3)), "os.rmdir": ((0, 1),), "os.setxattr": ((0, None),),
        "os.symlink": ((0, None), (1, 2)), "os.truncate": ((0, None),), "os.utime": ((0, 3),),
        "shutil.rmtree": ((0, 1),),
    }
    starts = {
        "subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn",
        "os.system", "pty.spawn",
    }

    def tell(kind, what):
        os.write(log, json.dumps([kind, what]).encode() + b"\\n")

    def touch(kind, name, at=None):
        if not isinstance(name, (str, bytes, os.PathLike)):
            return  # a descriptor: what it stands for was reported when it was opened
        base = os.getcwd() if at in (None, -1) else os.readlink(f"/proc/self/fd/{at}")
        tell(kind, os.path.normpath(os.path.join(base, os.fsdecode(name))))

    def seen(event, args):
        if event == "open":
            name, _, flags = args
            known = isinstance(name, int) or os.path.isabs(os.fsdecode(name))
            if known or sys._getframe(1).f_code.co_filename != shutil.__file__:
                touch("changed" if flags & writing else "read", name)
        elif event in reads:
            if event != "os.listdir" or args[0] not in sys.path:  # else the import system looks
                touch("read", "." if args[0] is None else args[0])
        elif event in changes:
            for place, at in changes[event]:
                touch("changed", args[place], None if at is None else args[at])
        elif event == "ctypes.dlopen":
            if args[0] is not None:
                touch("loaded", os.path.realpath(args[0]))  # maybe named by its descriptor
        elif event == "sqlite3.connect":
            path, _, options = args[0].removeprefix("file://").partition("?")
            touch("read" if "mode=ro" in options else "changed", path)
        elif event in starts:
            tell("started", os.fsdecode(args[0]) if args else event)
        elif event.startswith(("socket.", "urllib.", "http.", "ftplib.", "smtplib.")):
            tell("network", event)
        elif event == "pickle.find_class":
            tell("unpickled", ".".join(args))

    sys.addaudithook(seen)

_watch()
"""


@dataclass(frozen=True)
class Touched:
    """What a program did; files of Python modules, of this package, of /proc and of /sys left out.

    read: opened to be read, or listed. changed: opened to be written, made, moved, removed.
    loaded: native libraries. started: programs. network: events. unpickled: classes.
    """

    read: frozenset[str]
    changed: frozenset[str]
    loaded: frozenset[str]
    started: tuple[str, ...]
    network: frozenset[str]
    unpickled: frozenset[str]
    output: str

    @property
    def opened(self) -> frozenset[str]:
        """Every file that was touched in whatever way."""
        return self.read | self.changed | self.loaded


def audited(
    imports: str,
    program: str,
    log: Path,
    arguments: Sequence[object] = (),
    *,
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> Touched:
    """What `program` does after `imports` have been run; both are Python text."""
    log.write_bytes(b"")
    text = f"{imports}\n{_HOOK}\n{program}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", text, str(log), *map(str, arguments)],
        cwd=cwd,
        env={**(os.environ if environment is None else environment), "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: list[tuple[str, str]] = [tuple(json.loads(line)) for line in log.open()]

    def of(kind: str) -> frozenset[str]:
        return frozenset(what for each, what in found if each == kind)

    modules = _modules()
    return Touched(
        frozenset(name for name in of("read") if not _inside(name, modules)),
        frozenset(n for n in of("changed") if not (_inside(n, modules) and "/__pycache__" in n)),
        frozenset(name for name in of("loaded") if not _inside(name, modules)),
        tuple(what for kind, what in found if kind == "started"),
        of("network"),
        of("unpickled"),
        done.stdout,
    )


def _inside(name: str, folders: Sequence[Path]) -> bool:
    """Whether a file lies in one of the folders, by its name or by what links make of it."""
    paths = Path(name), Path(os.path.realpath(name))
    return any(path.is_relative_to(folder) for path in paths for folder in folders)


def _modules() -> list[Path]:
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    paths = {sysconfig.get_path(kind) for kind in kinds}
    paths |= {path for path in sys.path if path.endswith(".zip")}  # the standard library's, too
    named = {Path(os.path.abspath(path)) for path in paths}
    real = {Path(os.path.realpath(path)) for path in paths}
    return [*sorted(named | real), ROOT / "tilewright", Path("/proc"), Path("/sys")]
