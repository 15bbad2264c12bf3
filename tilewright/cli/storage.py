"""The store of tuning records that a command line names: `tune export`, `import` and `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.cli.shell import Json, Traceback
from tilewright.cli.talk import Talk

if TYPE_CHECKING:
    from tilewright.autotune.records import Records

Storage = Annotated[
    str | None,
    typer.Option(
        help="Where tuning records are: a file, or postgresql://USER@HOST/NAME.",
        show_default="a file in the user's cache folder",
    ),
]


def open_records(location: str | None) -> Records:
    """The records of a location, by default the user's.

    Raises MissingPackage and RecordsUnreadable.
    """
    from tilewright.dsl.errors import MissingPackage
    from tilewright.settings import cache_folder

    try:
        from tilewright.autotune.records import Records
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"tuning records need {error.name}", fix="pip install 'tilewright[tune]'"
        ) from error
    return Records.at(location or cache_folder() / "tuning.db")


def export_records(
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    storage: Storage = None,
    won: Annotated[bool, typer.Option("--won", help="Only what has won.")] = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Write the records of a store as one file of JSON."""
    records = open_records(storage)
    from tilewright.autotune.exchange import file_of
    from tilewright.autotune.rows import write_file

    talk, found = Talk(json), file_of(records, only_won=won)
    write_file(file, found)
    talk.say(f"{len(found.rows)} records of {records.store.name} are in {file}")
    talk.result({"records": len(found.rows), "file": str(file)})


def import_records(
    file: Annotated[Path, typer.Argument(help="A file that `tune export` wrote.")],
    storage: Storage = None,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Add the records of a file to a store; what the store knows already stays."""
    records = open_records(storage)
    from tilewright.autotune.exchange import merge
    from tilewright.autotune.rows import read_file

    found = read_file(file)
    _tell(Talk(json), records, len(found.rows), merge(records, found))


def merge_records(
    other: Annotated[str, typer.Argument(help="The store to read: a file or an address.")],
    storage: Storage = None,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Add the records of one store to another; what that knows already stays."""
    records = open_records(storage)
    from tilewright.autotune.exchange import file_of, merge

    found = file_of(open_records(other))
    _tell(Talk(json), records, len(found.rows), merge(records, found))


def _tell(talk: Talk, records: Records, given: int, added: int) -> None:
    talk.say(f"{added} of {given} records are new in {records.store.name}")
    talk.result({"records": given, "new": added, "storage": records.store.name})
