"""Pickles are found, alone and inside of files, and nothing else is taken for one."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pickles import holds_pickle, pickles_in

LISTS = (
    b"(lp0\nI1\naI2\naI3\na.",
    b"]q\x00(K\x01K\x02K\x03e.",
    b"\x80\x02]q\x00(K\x01K\x02K\x03e.",
    b"\x80\x03]q\x00(K\x01K\x02K\x03e.",
    b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00]\x94(K\x01K\x02K\x03e.",
    b"\x80\x05\x95\x0b\x00\x00\x00\x00\x00\x00\x00]\x94(K\x01K\x02K\x03e.",
)
"""[1, 2, 3] by every protocol."""
FUNCTIONS = (
    b"c__builtin__\nprint\np0\n.",
    b"c__builtin__\nprint\nq\x00.",
    b"\x80\x02c__builtin__\nprint\nq\x00.",
    b"\x80\x03cbuiltins\nprint\nq\x00.",
    b"\x80\x04\x95\x16\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94\x8c\x05print\x94\x93\x94.",
    b"\x80\x05\x95\x16\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94\x8c\x05print\x94\x93\x94.",
)
"""The function `print` by every protocol."""


@pytest.mark.parametrize("pickle", [*LISTS, *FUNCTIONS])
def test_pickles_of_every_protocol(pickle: bytes) -> None:
    assert holds_pickle(pickle)
    assert holds_pickle(pickle + b"more")


@pytest.mark.parametrize("pickle", [*LISTS[2:], *FUNCTIONS[2:]])
def test_pickles_inside(pickle: bytes) -> None:
    assert holds_pickle(b"\x7fELF" + pickle + b"more")


@pytest.mark.parametrize("data", [b"", b"{}", b"program p {\n}\n", b"\x7fELF", b"\x80\x04", b"PK"])
def test_what_is_no_pickle(data: bytes) -> None:
    assert not holds_pickle(data)


def test_random_bytes_are_no_pickle() -> None:
    assert not holds_pickle(b"\0" + np.random.default_rng(0).bytes(1 << 20))


def test_pickles_in_archives_and_databases(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", x=np.arange(3))
    objects: Any = np.array([{1}], object)
    np.savez_compressed(tmp_path / "objects.npz", allow_pickle=True, x=objects)
    with closing(sqlite3.connect(tmp_path / "base.db")) as base, base:
        base.execute("CREATE TABLE words (word TEXT)")
        base.execute("CREATE TABLE things (name TEXT, thing BLOB)")
        base.execute("INSERT INTO words VALUES ('hello')")
        base.execute("INSERT INTO things VALUES ('a', ?)", (LISTS[0],))
    assert pickles_in(tmp_path) == ["base.db: things", "objects.npz: x.npy"]
