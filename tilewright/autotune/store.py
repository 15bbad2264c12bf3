"""Where records live: one SQLite file by default, a PostgreSQL database for many hosts.

Every transaction that writes takes the write lock of SQLite at its beginning: one that reads first
and then finds the file changed would fail at once, however long it is willing to wait. PostgreSQL
orders writers by the rows they touch.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock

from tilewright.dsl.errors import MissingPackage, RecordsUnreadable
from tilewright.files import private_folder
from tilewright.settings import cache_folder

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy import ColumnElement, Connection, Engine, Table

VERSION: Final = 3
"""Of the tables in `tables.py`; a store of a newer one is left alone."""
_BEFORE: Final = 2
"""The version that is brought up by who writes, and read as it is by who does not."""

_PATIENCE: Final = 60
"""Seconds that a transaction waits for another to end."""
_MAKING: Final = 0x7469_6C65
"""The advisory lock under which a PostgreSQL server's tables are made."""


@dataclass(frozen=True, slots=True)
class Store:
    """A database of records, by a path or by `postgresql://USER@HOST/NAME`.

    What its methods give raises RecordsUnreadable where the database is damaged, absent, locked,
    full, out of reach or of a newer version; and MissingPackage without SQLAlchemy or psycopg.
    """

    location: str

    @staticmethod
    def at(location: Path | str) -> Store:
        """The store of a path or URL. Raises RecordsUnreadable for other databases."""
        text = str(location)
        scheme, separator, _ = text.partition("://")
        if separator and scheme not in ("postgresql", "postgres"):
            raise RecordsUnreadable(
                f"records are not kept in {scheme[:40]}",
                fix="name a file, or a database as postgresql://USER@HOST/NAME",
            )
        return Store(text)

    @property
    def path(self) -> Path | None:
        """The file; None for a server."""
        return None if "://" in self.location else Path(self.location)

    @property
    def name(self) -> str:
        """What a person may read: without a password."""
        if self.path is not None:
            return self.location
        head, separator, host = self.location.rpartition("@")
        scheme, _, user = head.partition("://")
        return f"{scheme}://{user.partition(':')[0]}@{host}" if separator else self.location

    @property
    def exists(self) -> bool:
        """Whether there is something to read; of a server this is only known when it is asked."""
        return self.path is None or self.path.is_file()

    @contextmanager
    def writing(self) -> Generator[Connection]:
        """A transaction that may write; makes the tables where there are none."""
        with self.mistakes(), _engine(self.location).begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Generator[Connection]:
        """A transaction that makes and changes nothing."""
        if not self.exists:
            raise RecordsUnreadable(
                "there is no file of records",
                where=self.name,
                fix="name the file that `tilewright tune` wrote",
            )
        with self.mistakes(), _reader(self.location).connect() as connection:
            _require_version(connection, _BEFORE, VERSION)
            yield connection

    def studies(self) -> RDBStorage:
        """Optuna's view of the same database: what its dashboard opens."""
        with self.mistakes():
            return _studies(self.location)

    @contextmanager
    def mistakes(self) -> Generator[None]:
        """Makes what the database raises a RecordsUnreadable."""
        try:
            from sqlalchemy.exc import SQLAlchemyError
        except ModuleNotFoundError as error:
            raise MissingPackage(
                "records need SQLAlchemy", fix="pip install 'tilewright[tune]'"
            ) from error
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            raise _mistake(self, error) from error
        except ModuleNotFoundError as error:
            raise MissingPackage(
                f"{self.name} needs {error.name}", fix="pip install 'tilewright[tune,postgres]'"
            ) from error


def unusable(store: Store, error: object) -> RecordsUnreadable:
    """The mistake of a store that is damaged, or none, or not to be written."""
    return RecordsUnreadable(
        f"the records cannot be used: {error}",
        where=store.name,
        fix="name another file, or remove this one",
    )


def upsert(
    connection: Connection, table: Table, row: Mapping[str, object], changed: Iterable[str]
) -> None:
    """Adds a row; where its key is there already, these columns of it are changed."""
    from sqlalchemy.dialects import postgresql, sqlite

    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    new = dialect.insert(table).values(row)
    values = {name: row[name] for name in changed}
    connection.execute(
        new.on_conflict_do_update(index_elements=list(table.primary_key), set_=values)
    )


def columns_there(connection: Connection, names: Iterable[str]) -> list[ColumnElement[Any]]:
    """Columns of the candidates; null for what an older store that is only read does not have."""
    from sqlalchemy import inspect, null

    from tilewright.autotune.tables import CANDIDATES

    there = {column["name"] for column in inspect(connection).get_columns(CANDIDATES.name)}
    return [CANDIDATES.c[name] if name in there else null().label(name) for name in names]


def as_template(url: str) -> str:
    """An address as Optuna's storage takes it: it formats the text."""
    return url.replace("{", "{{").replace("}", "}}")


_REMEDIES: Final = (
    ("is locked", "another process holds it for a minute: end that one, or try again"),
    ("disk is full", "make room: what was recorded before is kept"),
    ("password", "give the right one, in ~/.pgpass or in the address"),
    ("permission denied", "let its owner grant the right, or name another"),
    ("connection", "start the server, or correct the address: see `tilewright tune --help`"),
    ("readonly", "make it writable, or name another file"),
)


def _mistake(store: Store, error: Exception) -> RecordsUnreadable:
    """With the remedy that fits."""
    said = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    for sign, remedy in _REMEDIES:
        if sign in said:
            return RecordsUnreadable(
                f"the records cannot be used: {said}", where=store.name, fix=remedy
            )
    return unusable(store, said)


def _url(location: str) -> str:
    from sqlalchemy import URL

    _, separator, rest = location.partition("://")
    if separator:
        return f"postgresql+psycopg://{rest}"
    # Made of its parts: in a text, %20 of a file's name would be a blank.
    path = str(Path(location).resolve())
    return URL.create("sqlite", database=path).render_as_string(hide_password=False)


@functools.cache
def _engine(location: str) -> Engine:
    """An engine whose tables are there."""
    engine = _connected(location)
    with _alone(location, engine), engine.begin() as connection:
        _make_tables(connection)
    return engine


@functools.cache
def _studies(location: str) -> RDBStorage:
    import optuna
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    engine = _engine(location)
    try:
        with _alone(location, engine):
            storage = RDBStorage(as_template(_url(location)), engine_kwargs=_arguments(location))
    except (RuntimeError, StorageInternalError) as error:  # tables of another version of Optuna
        raise unusable(Store(location), error) from error
    _lock_at_begin(storage.engine)
    return storage


def _connected(location: str) -> Engine:
    import sqlalchemy

    if "://" not in location:
        Path(location).resolve().parent.mkdir(parents=True, exist_ok=True)
    engine = sqlalchemy.create_engine(_url(location), **_arguments(location))
    _lock_at_begin(engine)
    return engine


@functools.cache
def _reader(location: str) -> Engine:
    """Opens what exists, and never writes."""
    import sqlalchemy

    if "://" in location:
        return _connected(location)
    file, query = Path(location).resolve().as_uri(), {"mode": "ro", "uri": "true"}
    url = sqlalchemy.URL.create("sqlite", database=file, query=query)
    return sqlalchemy.create_engine(url, **_arguments(location))


def _arguments(location: str) -> dict[str, Any]:
    from sqlalchemy import NullPool

    if "://" in location:
        return {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
    # Each transaction opens the file anew: it may have been replaced.
    return {"poolclass": NullPool, "connect_args": {"timeout": _PATIENCE}}


def _lock_at_begin(engine: Engine) -> None:
    """Let SQLite begin transactions itself, with the lock (SQLAlchemy's recipe for pysqlite)."""
    if engine.dialect.name != "sqlite":
        return
    from sqlalchemy import event

    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", begin)


@contextmanager
def _alone(location: str, engine: Engine) -> Generator[None]:
    """No other process makes tables meanwhile."""
    from sqlalchemy import func, select

    if engine.dialect.name == "sqlite":
        file = hashlib.sha256(str(Path(location).resolve()).encode()).hexdigest()
        lock = private_folder(cache_folder()) / f"store-{file[:16]}.lock"
        with FileLock(lock, timeout=_PATIENCE):
            yield
        return
    with engine.begin() as connection:
        connection.execute(select(func.pg_advisory_xact_lock(_MAKING)))
        yield


def _make_tables(connection: Connection) -> None:
    """Makes what is not there. Raises OSError for a store that another version wrote."""
    from sqlalchemy import insert, inspect, select

    from tilewright.autotune.tables import CANDIDATES, METADATA, STORE

    there = inspect(connection).get_table_names()
    if CANDIDATES.name in there and STORE.name not in there:
        raise OSError("an older version of Tilewright wrote it")
    METADATA.create_all(connection)
    found = connection.execute(select(STORE.c.version)).scalar()
    if found is None:
        connection.execute(insert(STORE).values(version=VERSION))
    elif found == _BEFORE:
        _bring_up(connection)
    _require_version(connection, VERSION)


def _bring_up(connection: Connection) -> None:
    """Adds the columns that the version before does not have; its rows stay."""
    from sqlalchemy import update
    from sqlalchemy.schema import CreateColumn

    from tilewright.autotune.tables import ADDED, STORE

    for column in ADDED:
        made = CreateColumn(column).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {made}")
    connection.execute(update(STORE).values(version=VERSION))


def _require_version(connection: Connection, *wanted: int) -> None:
    """Raises OSError for a store that another version wrote."""
    from sqlalchemy import inspect, select

    from tilewright.autotune.tables import STORE

    if not inspect(connection).has_table(STORE.name):
        raise OSError("it holds no records of this version of Tilewright")
    found = connection.execute(select(STORE.c.version)).scalar()
    if found not in wanted:
        raise OSError(f"it is of version {found}, and this Tilewright has version {VERSION}")
