"""`tilewright cache`: the store of compiled kernels."""

from __future__ import annotations

from typing import Annotated

import typer

from tilewright.cli.shell import Json, Shell, Traceback
from tilewright.cli.talk import Talk, amount

cache = typer.Typer(
    cls=Shell, help="Look at the store of compiled kernels, or clean it.", no_args_is_help=True
)


@cache.command("ls")
def ls(json: Json = False, traceback: Traceback = False) -> None:
    """List what is kept."""
    from tilewright.runtime.cache import Cache

    talk, store = Talk(json), Cache()
    entries = store.ls()
    talk.table("", ("kind", "key", "bytes"), [(e.kind, e.key, e.size) for e in entries])
    talk.say(f"{len(entries)} entries, {amount(store.size(), 'B')} in {store.root}")
    listed = [{"kind": e.kind, "key": e.key, "bytes": e.size} for e in entries]
    talk.result({"folder": str(store.root), "bytes": store.size(), "entries": listed})


@cache.command("verify")
def verify(json: Json = False, traceback: Traceback = False) -> None:
    """Hash everything again and drop what is damaged."""
    from tilewright.runtime.cache import Cache

    talk, store = Talk(json), Cache()
    notes = store.verify()
    for note in notes:
        talk.line(note)
    talk.say(f"{len(notes)} damaged entries dropped, {len(store.ls())} are whole")
    talk.result({"dropped": list(notes), "whole": len(store.ls())})


@cache.command("gc")
def gc(
    limit: Annotated[str | None, typer.Option(help="How large it may be, such as 500M.")] = None,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Drop what was longest unused beyond the limit."""
    from tilewright.cli.settings import settings_here
    from tilewright.runtime.cache import Cache

    settings = settings_here({"cache_limit": limit})
    _freed(Talk(json), Cache().gc(settings.cache_limit))


@cache.command("clear")
def clear(json: Json = False, traceback: Traceback = False) -> None:
    """Drop everything."""
    from tilewright.runtime.cache import Cache

    _freed(Talk(json), Cache().clear())


def _freed(talk: Talk, count: int) -> None:
    talk.say(f"freed {amount(count, 'B')}")
    talk.result({"freed": count})
