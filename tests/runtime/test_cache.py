"""The cache: content addresses, damage, sharing, full disks."""

import hashlib
import multiprocessing
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults import FailingCalls
from tilewright import files
from tilewright.dsl.errors import InvalidName, UnsafeCacheFolder, WriteFailed
from tilewright.runtime import cache as module
from tilewright.runtime.cache import Cache


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def blobs(cache: Cache) -> list[Path]:
    return sorted((cache.root / "blobs").glob("*/*"))


def entries(cache: Cache) -> list[Path]:
    return sorted((cache.root / "keys").glob("*/*"))


def test_what_was_put_is_got(cache: Cache) -> None:
    entry = cache.put("tvm/a", b"kernel", kind="object")
    assert cache.get("tvm/a") == b"kernel"
    assert cache.get("tvm/b") is None
    assert (entry.key, entry.kind, entry.size) == ("tvm/a", "object", 6)
    assert entry.blob == hashlib.sha256(b"kernel").hexdigest()
    assert Cache(cache.root).ls() == (entry,)


def test_equal_content_is_kept_once(cache: Cache) -> None:
    cache.put("a", b"same")
    cache.put("b", b"same")
    assert len(blobs(cache)) == 1
    assert cache.size() == 4


def test_a_key_can_be_put_again(cache: Cache) -> None:
    cache.put("a", b"old")
    cache.put("a", b"new")
    assert cache.get("a") == b"new"
    assert len(cache.ls()) == 1


def test_file_is_checked_and_holds_the_content(cache: Cache) -> None:
    cache.put("a", b"library")
    path = cache.file("a")
    assert path is not None
    assert path.read_bytes() == b"library"
    path.write_bytes(b"librarx")
    assert cache.file("a") is None


@pytest.mark.parametrize("key", ["", "a\nb", "a\0", "x" * 2000, "\u200b"])
def test_strange_keys_are_refused(key: str, cache: Cache) -> None:
    with pytest.raises(InvalidName):
        cache.put(key, b"")


@pytest.mark.parametrize("key", ["../../etc/passwd", "/abs", "a b", ".", "ключ", "a" * 1024])
def test_a_key_never_becomes_a_path(key: str, cache: Cache) -> None:
    cache.put(key, b"x")
    assert cache.get(key) == b"x"
    names = [p.name for p in (*blobs(cache), *entries(cache))]
    assert all(len(name.removesuffix(".json")) == 64 for name in names)


def test_everything_is_private(cache: Cache) -> None:
    cache.put("a", b"x")
    for path in cache.root.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


def test_a_folder_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(0o777)
    with pytest.raises(UnsafeCacheFolder):
        Cache(tmp_path / "c")


def test_default_folder_obeys_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "mine"))
    assert Cache().root == tmp_path / "mine"


@settings(max_examples=60)
@given(data=st.data())
def test_any_flipped_byte_of_a_blob_is_noticed(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = Cache(tmp_path_factory.mktemp("flip") / "c")
    content = data.draw(st.binary(min_size=1, max_size=200))
    cache.put("a", content)
    (blob,) = blobs(cache)
    damaged = bytearray(content)
    damaged[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    blob.write_bytes(damaged)
    assert cache.get("a") is None
    assert "damaged" in cache.notes[0]
    assert blobs(cache) == entries(cache) == []
    cache.put("a", content)
    assert cache.get("a") == content


@settings(max_examples=100)
@given(data=st.data())
def test_any_flipped_byte_of_an_entry_is_noticed_or_harmless(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = Cache(tmp_path_factory.mktemp("flip") / "c")
    cache.put("a", b"content")
    (entry,) = entries(cache)
    damaged = bytearray(entry.read_bytes())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    entry.write_bytes(damaged)
    assert cache.get("a") in (None, b"content")
    assert cache.get("a") is not None or cache.notes


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"key":"a","kind":"k","blob":"../../../x","size":1}',
        b'{"key":"b","kind":"k","blob":"' + b"0" * 64 + b'","size":1}',
        b'{"key":"a","kind":"k","blob":"' + b"0" * 64 + b'","size":1,"more":1}',
        b'{"key":"a","kind":"k","blob":"' + b"0" * 64 + b'","size":1}',
    ],
)
def test_hostile_entry_is_dropped_with_a_note(text: bytes, cache: Cache) -> None:
    cache.put("a", b"x")
    (entry,) = entries(cache)
    entry.write_bytes(text)
    assert cache.get("a") is None
    assert len(cache.notes) == 1
    assert entries(cache) == []


def test_another_keys_entry_is_not_believed(cache: Cache) -> None:
    cache.put("a", b"x")
    cache.put("b", b"y")
    ours, theirs = cache._name("a"), cache._name("b")
    ours.write_bytes(theirs.read_bytes())
    assert cache.get("a") is None
    assert cache.get("b") == b"y"


def test_blob_that_is_a_link_is_not_followed(cache: Cache, tmp_path: Path) -> None:
    cache.put("a", b"x")
    (blob,) = blobs(cache)
    (tmp_path / "x").write_bytes(b"x")
    blob.unlink()
    blob.symlink_to(tmp_path / "x")
    assert cache.get("a") is None


def test_verify_drops_what_is_damaged_and_keeps_the_rest(cache: Cache) -> None:
    for name in "abcd":
        cache.put(name, name.encode() * 10)
    cache._blob_file(hashlib.sha256(b"a" * 10).hexdigest()).write_bytes(b"?")
    cache._blob_file(hashlib.sha256(b"b" * 10).hexdigest()).unlink()
    cache._name("c").write_bytes(b"{")
    assert len(cache.verify()) == 3
    assert [entry.key for entry in cache.ls()] == ["d"]
    assert cache.verify() == ()


def test_gc_drops_the_longest_unused(cache: Cache) -> None:
    for age, name in enumerate("abcd"):
        cache.put(name, name.encode() * 100)
        os.utime(cache._name(name), (1000 - age, 1000 - age))
    cache.get("d")  # the oldest becomes the youngest
    assert cache.gc(250) == 200
    assert [entry.key for entry in cache.ls()] == ["a", "d"]
    assert cache.get("d") == b"d" * 100


def test_gc_keeps_a_blob_that_a_young_key_shares(cache: Cache) -> None:
    cache.put("old", b"same" * 10)
    os.utime(cache._name("old"), (1, 1))
    cache.put("new", b"same" * 10)
    assert cache.gc(40) == 0
    assert cache.get("new") == cache.get("old") == b"same" * 10


def test_gc_drops_orphans_and_spares_what_was_just_used(cache: Cache) -> None:
    cache.put("a", b"x" * 100)
    cache.put("b", b"y" * 50)
    cache._name("b").unlink()
    assert cache.gc(0, keep_seconds=3600) == 50
    assert cache.get("a") == b"x" * 100
    assert cache.gc(0) == 100
    assert cache.ls() == ()


def test_clear_drops_everything(cache: Cache) -> None:
    cache.put("a", b"x" * 100)
    assert cache.clear() == 100
    assert cache.ls() == ()
    assert blobs(cache) == []


def test_a_cache_that_we_may_only_read_still_serves(cache: Cache) -> None:
    cache.put("a", b"x")

    def no(path: object, times: object = None) -> None:
        raise PermissionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.os, "utime", no)
        assert cache.get("a") == b"x"


@pytest.mark.parametrize("known", [True, False])
def test_a_full_disk_at_any_call_keeps_the_old_state(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = 0
    for call in range(16):
        cache = Cache(tmp_path / f"cache{call}")
        cache.put("other", b"other")
        if known:
            cache.put("a", b"old")
        with monkeypatch.context() as patch:
            faults = FailingCalls(patch, files, fail_at=call)
            done = faults.run(lambda cache=cache: cache.put("a", b"new" * 100))
            assert done or faults.calls > call
        refused += not done
        after = Cache(cache.root)
        assert after.get("a") == (b"new" * 100 if done else b"old" if known else None)
        assert after.get("other") == b"other"
        assert after.notes == ()
        assert not list(cache.root.rglob(".new-*"))
        after.put("a", b"later")
        assert after.get("a") == b"later"
    assert refused >= 7  # the lock, and for blob and entry: making, writing, replacing


def test_a_held_lock_is_our_error(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.05)
    with cache._lock(), pytest.raises(WriteFailed, match="lock"):
        Cache(cache.root).put("a", b"x")


def put_many(root: str, worker: int) -> None:
    cache = Cache(Path(root))
    for i in range(20):
        cache.put(f"shared/{i}", f"shared {i}".encode())
        cache.put(f"own/{worker}/{i}", f"own {worker} {i}".encode())
        assert cache.get(f"shared/{i}") == f"shared {i}".encode()


def test_processes_share_a_cache(cache: Cache) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=put_many, args=(str(cache.root), w)) for w in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(cache.ls()) == 60
    assert cache.verify() == ()


def test_records_hold_no_pickle(cache: Cache) -> None:
    cache.put("a", b"x")
    (entry,) = entries(cache)
    assert msgspec.json.decode(entry.read_bytes()).keys() == {"key", "kind", "blob", "size"}
