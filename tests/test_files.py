"""Private folders and files that are replaced as a whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from tests.faults import FailingCalls
from tests.power import ForgetfulDisk
from tilewright import files
from tilewright.dsl.errors import UnsafeCacheFolder, WriteFailed
from tilewright.files import private_folder, read_private_file, replace_file


def test_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "a" / "b")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder(folder) == folder


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_folder_that_others_may_write_is_refused(mode: int, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    with pytest.raises(UnsafeCacheFolder, match="other users may write"):
        private_folder(tmp_path / "open")


def test_link_and_file_are_no_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(UnsafeCacheFolder, match="link"):
        private_folder(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(WriteFailed):
        private_folder(tmp_path / "file")


def test_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = os.geteuid() + 1
    monkeypatch.setattr(files.os, "geteuid", lambda: stranger)
    with pytest.raises(UnsafeCacheFolder, match="another user"):
        private_folder(tmp_path / "mine")


@pytest.mark.parametrize("data", [b"", b"new", bytes(range(256)) * 5000])
def test_replaced_file_holds_the_new_content(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    replace_file(path, data)
    assert read_private_file(path) == data
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", range(12))
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failure_at_any_call_keeps_the_old_file(
    call: int, old: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with monkeypatch.context() as patch:
        faults = FailingCalls(patch, files, fail_at=call)
        if faults.run(lambda: replace_file(path, b"new" * 1000)):
            assert path.read_bytes() == b"new" * 1000
        else:
            assert read_private_file(path) == old
    assert [p for p in tmp_path.iterdir() if p != path] == []


def test_failure_says_why_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "write", full)
    with pytest.raises(WriteFailed) as caught:
        replace_file(tmp_path / "file", b"x")
    assert "No space left" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_power_cut_leaves_the_old_file_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, cut = tmp_path / "disk", tmp_path / "cut"
    disk.mkdir()
    (disk / "file").write_bytes(b"old")
    found: list[bytes] = []

    def look() -> None:
        for names in ("synced", "latest"):
            forgetful.restore(cut, names)
            found.append((cut / "file").read_bytes())

    with monkeypatch.context() as patch:
        forgetful = ForgetfulDisk(patch, disk, look)
        replace_file(disk / "file", b"new")
        look()
    assert found == [b"old"] * 5 + [b"new"] * 3


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def seven(handle: int, data: memoryview) -> int:
        return real(handle, data[:7])

    monkeypatch.setattr(files.os, "write", seven)
    replace_file(tmp_path / "file", b"0123456789" * 10)
    assert (tmp_path / "file").read_bytes() == b"0123456789" * 10


def test_reading_follows_no_link_and_wants_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    assert read_private_file(tmp_path / "link") is None
    assert read_private_file(tmp_path / "absent") is None
    assert read_private_file(tmp_path) is None
    os.mkfifo(tmp_path / "pipe")
    assert read_private_file(tmp_path / "pipe") is None
    assert read_private_file(tmp_path / "secret") == b"secret"
