"""The tables of a store, beside those of Optuna."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, MetaData, Table, Text

METADATA: Final = MetaData()

STORE: Final = Table("tilewright_store", METADATA, Column("version", Integer, primary_key=True))
"""One row: the version of these tables."""

KEY: Final = ("kind", "subject", "shapes", "target", "tools")
"""What a candidate was a candidate for: the columns that begin each key."""


def _key() -> list[Column[str]]:
    return [Column(name, Text, primary_key=True) for name in KEY]


CANDIDATES: Final = Table(
    "tilewright_candidates",
    METADATA,
    *_key(),
    Column("candidate", Text, primary_key=True),
    Column("ratio", Double),
    Column("low", Double),
    Column("high", Double),
    Column("seconds", Double),
    Column("failure", Text),
    Column("won", Boolean, nullable=False, default=False),
    Column("bytes", BigInteger),
    Column("default_bytes", BigInteger),
)
"""A row for each candidate that was measured. Rows outlive the space they were drawn from.

`ratio` is beside the default, and so each row tells the bytes of both.
"""

ADDED: Final = (CANDIDATES.c.bytes, CANDIDATES.c.default_bytes)
"""What a store of the version before does not have."""

SUBJECTS: Final = Table(
    "tilewright_subjects",
    METADATA,
    *_key(),
    Column("family", Text, nullable=False),
    Column("traits", Text, nullable=False),
)
"""What the kernels are, by which similar ones are found; a row for each that was tuned."""

CLAIMS: Final = Table(
    "tilewright_claims",
    METADATA,
    *_key(),
    Column("candidate", Text, primary_key=True),
    Column("worker", Text, nullable=False),
)
"""Candidates that a worker measures at this moment."""

WORKERS: Final = Table(
    "tilewright_workers",
    METADATA,
    Column("worker", Text, primary_key=True),
    Column("seen", Double, nullable=False),
)
"""When each worker last gave a sign of life, in seconds of the epoch."""
