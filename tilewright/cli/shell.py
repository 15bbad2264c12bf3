"""How every verb begins and ends: shared options, messages for mistakes, exit codes.

0 done    1 the user's mistake    2 wrong usage    3 a bug of the compiler    130 Ctrl-C
"""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

JSON: Final = "tilewright.json"
TRACEBACK: Final = "tilewright.traceback"

USER_ERROR: Final = 1
COMPILER_BUG: Final = 3
INTERRUPTED: Final = 130
_LINES: Final = 40
_WIDTH: Final = 400


def _remember(name: str) -> Any:
    def callback(ctx: typer.Context, value: bool) -> bool:
        ctx.meta[name] = value
        return value

    return callback


Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON value on stdout.", callback=_remember(JSON))
]
Traceback = Annotated[
    bool,
    typer.Option(
        "--traceback",
        help="On a mistake, print where in the compiler it was found.",
        callback=_remember(TRACEBACK),
    ),
]


class Shell(TyperGroup):
    """The group of all verbs; turns exceptions into messages and exit codes."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """A verb may have two words: `tune export`."""
        verb = " ".join(args[:2])
        if len(args) > 1 and verb in self.commands:
            return verb, self.commands[verb], args[2:]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        from tilewright.dsl.errors import CompilerBug, TilewrightError

        try:
            return super().invoke(ctx)
        except CompilerBug as bug:
            raise _bug(ctx, bug) from None
        except TilewrightError as mistake:
            _show(ctx, mistake, type(mistake).__name__, str(mistake))
            raise typer.Exit(USER_ERROR) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError):
            raise
        except OSError as error:
            # A disk, a permission, a name too long: the system's refusal, not a fault of the code.
            where = "" if error.filename is None else f" (at {error.filename})"
            _show(ctx, error, type(error).__name__, f"{error.strerror or error}{where}")
            raise typer.Exit(USER_ERROR) from None
        except MemoryError:
            _show(ctx, None, "OutOfMemory", "there is not enough memory")
            raise typer.Exit(USER_ERROR) from None
        except Exception as bug:
            raise _bug(ctx, bug) from None


def _bug(ctx: Any, bug: Exception) -> typer.Exit:
    text = f"a bug of the compiler: {type(bug).__name__}: {bug}"
    _show(ctx, bug, type(bug).__name__, f"{text}\n  fix: report it, with what --traceback prints")
    return typer.Exit(COMPILER_BUG)


def _show(ctx: Any, mistake: Exception | None, kind: str, text: str) -> None:
    """One screen on stderr, and the same as data under `--json`."""
    if ctx.meta.get(TRACEBACK) and mistake is not None:
        traceback.print_exception(mistake, file=sys.stderr)
    lines = text.splitlines()
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 3], f"  ... and {len(lines) - _LINES + 2} more lines", lines[-1]]
    print(f"{kind}: " + "\n".join(map(_printable, lines)), file=sys.stderr, flush=True)
    if ctx.meta.get(JSON):
        from tilewright.cli.talk import print_json

        message = getattr(mistake, "message", text)
        details = {name: getattr(mistake, name, None) for name in ("where", "fix")}
        with suppress(OSError):  # stdout may be what has failed; stderr has said it
            print_json({"error": kind, "message": message, **details})


def _printable(line: str) -> str:
    """A hostile name in a message must not reach the terminal as control characters."""
    line = line if len(line) <= _WIDTH else f"{line[:_WIDTH]} ..."
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line)
