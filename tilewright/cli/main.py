"""The command line: `tilewright compile`, `run`, `tune`, `explain`, `bench` and the other verbs.

Nothing heavy is imported here or in the modules of the verbs: each does so when it is called.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from tilewright.cli.bench import bench
from tilewright.cli.cache import cache
from tilewright.cli.compile import compile
from tilewright.cli.doctor import doctor
from tilewright.cli.explain import explain
from tilewright.cli.interrupt import remember_interrupts
from tilewright.cli.listing import listing
from tilewright.cli.report.verb import report
from tilewright.cli.run import run
from tilewright.cli.shell import Shell
from tilewright.cli.storage import export_records, import_records, merge_records
from tilewright.cli.tune import tune
from tilewright.version import __version__

# Pools of threads that spin after a call would slow ours; read when torch or TVM is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TVM_BIND_THREADS", "0")

app = typer.Typer(
    cls=Shell,
    name="tilewright",
    help="A compiler and autotuner for model kernels.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for name, verb in {
    "compile": compile,
    "run": run,
    "tune": tune,
    "tune export": export_records,
    "tune import": import_records,
    "tune merge": merge_records,
    "explain": explain,
    "bench": bench,
    "report": report,
    "doctor": doctor,
    "list": listing,
}.items():
    app.command(name)(verb)
app.add_typer(cache, name="cache")


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """A compiler and autotuner for model kernels."""


def hold_streams() -> None:
    """Let what a caller has closed be /dev/null, and escape what a terminal cannot write.

    Else the next file that is opened is stdout, and what is printed goes into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run the command line with the process's arguments."""
    hold_streams()
    remember_interrupts()
    app(prog_name="tilewright")


if __name__ == "__main__":
    main()
