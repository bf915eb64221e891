"""The seam itself: LocalStore and FsspecStore keep the same promises; what file systems do wrong is caught."""

from __future__ import annotations

import errno
import os
import stat
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from blake3 import blake3
from fsspec.implementations.memory import MemoryFileSystem

from artifactfs.errors import (
    AccessDenied,
    AlreadyExists,
    ArtifactError,
    MissingDependency,
    NotFound,
    StoreFull,
    StoreTimeout,
    StoreUnreachable,
    UnsafeStore,
    UnsupportedTree,
)
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.objects.hashing import hash_file
from artifactfs.objects.layout import is_temporary
from artifactfs.objects.local import SYNC_EACH_LIMIT, LocalStore
from artifactfs.objects.open import open_store
from artifactfs.objects.root import HeldRoot
from artifactfs.objects.store import ObjectStore, Outcome, translate


@pytest.fixture
def store(url: str) -> ObjectStore:
    return open_store(url)


def test_put_get_list_delete(store: ObjectStore):
    store.put("objects/aa/x", b"hello")
    store.put("objects/aa/x", b"hello")
    store.put("objects/ab/y", bytearray(b"other"))
    store.flush(["objects/aa/x", "objects/ab/y"])
    assert store.get("objects/aa/x") == b"hello"
    assert [store.get_range("objects/aa/x", *args) for args in ((0, 5), (1, 3), (3, 99), (5, 1))] == [
        b"hello",
        b"ell",
        b"lo",
        b"",
    ]
    assert store.get_many(["objects/ab/y", "objects/ab/z", "nowhere/z"]) == [b"other", None, None]
    assert (store.size("objects/aa/x"), store.exists("objects/aa/x"), store.exists("objects/aa/z")) == (5, True, False)
    listing = store.listing("objects")
    assert (listing.files, sorted(listing.directories)) == ([], ["aa", "ab"])
    assert store.listing("objects/aa") == (["x"], [])
    assert store.listing("objects/none") == ([], [])
    assert sorted((f.key, f.size_bytes) for f in store.walk("")) == [("objects/aa/x", 5), ("objects/ab/y", 5)]
    assert all(f.changed_ns and f.changed_ns > 10**18 for f in store.walk("objects"))
    store.delete("objects/aa/x")
    store.delete("objects/aa/x")
    for read in (store.get, store.size, lambda key: store.get_range(key, 0, 1)):
        with pytest.raises(NotFound):
            read("objects/aa/x")


def test_put_file(store: ObjectStore, tmp_path: Path):
    source = tmp_path / "source"
    source.write_bytes(b"s" * 3_000_000)
    source.chmod(0o640)
    for _ in range(2):
        store.put_file("objects/f", hash_file(str(source)))
    assert store.get("objects/f") == source.read_bytes()
    stale = hash_file(str(source))
    source.write_bytes(b"t" * 3_000_001)
    with pytest.raises(UnsupportedTree):
        store.put_file("objects/g", stale)
    source.unlink()
    with pytest.raises(UnsupportedTree):
        store.put_file("objects/g", stale)
    assert not store.exists("objects/g")
    assert [f.key for f in store.walk("")] == ["objects/f"], "no temporary file is left"


def test_exclusive_create_has_one_winner(store: ObjectStore):
    for number in range(30):
        barrier = threading.Barrier(6)

        def create(who: int, key: str = f"k{number}", barrier: threading.Barrier = barrier) -> Outcome:
            barrier.wait()
            return store.put_exclusive(key, b"%d" % who)

        with ThreadPoolExecutor(6) as pool:
            outcomes = list(pool.map(create, range(6)))
        assert outcomes.count(Outcome.CREATED) == 1
        assert store.get(f"k{number}") == b"%d" % outcomes.index(Outcome.CREATED)


def test_exclusive_create_knows_its_own_bytes(store: ObjectStore):
    assert store.put_exclusive("a/k", b"mine") is Outcome.CREATED
    assert store.put_exclusive("a/k", b"theirs") is Outcome.TAKEN
    assert store.put_exclusive("a/k", b"mine") is Outcome.CREATED
    assert store.get("a/k") == b"mine"


def test_replace(store: ObjectStore):
    store.replace("a/k", b"one")
    store.replace("a/k", b"two")
    assert store.get("a/k") == b"two"


class TestLocal:
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(str(tmp_path / "deep" / "store"))

    def test_objects_are_read_only(self, store: LocalStore):
        store.put("objects/x", b"x")
        assert stat.S_IMODE(os.stat(store.local_path("objects/x")).st_mode) & 0o222 == 0

    def test_a_damaged_object_is_written_again(self, store: LocalStore):
        store.put("objects/x", b"good")
        os.chmod(store.local_path("objects/x"), 0o644)
        Path(store.local_path("objects/x")).write_bytes(b"baad")
        store.put("objects/x", b"good")
        assert store.get("objects/x") == b"good"

    def test_putting_again_counts_as_recent_without_changing_the_mtime(self, store: LocalStore):
        """gc goes by ctime; the inode may be a file of the caller's tree, whose mtime is content."""
        store.put("objects/x", b"good")
        path = store.local_path("objects/x")
        os.utime(path, ns=(10**18, 10**18))
        before = next(store.walk("objects")).changed_ns
        store.put("objects/x", b"good")
        assert os.stat(path).st_mtime_ns == 10**18
        after = next(store.walk("objects")).changed_ns
        assert before is not None
        assert after is not None
        assert after >= before

    def test_temporary_names_are_walked_but_not_listed(self, store: LocalStore, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(os, "rename", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        monkeypatch.setattr(os, "unlink", lambda *args: None)
        with pytest.raises(KeyboardInterrupt):
            store.put("objects/x", b"x")
        assert store.listing("objects") == ([], [])
        (left,) = store.walk("")
        assert is_temporary(left.key)

    def test_flushing_many_syncs_the_file_system_once(self, store: LocalStore, monkeypatch: pytest.MonkeyPatch):
        synced: list[HeldRoot] = []
        monkeypatch.setattr(HeldRoot, "sync", lambda held: synced.append(held))
        keys = [f"objects/{i}" for i in range(SYNC_EACH_LIMIT + 1)]
        for key in keys:
            store.put(key, key.encode())
        store.flush(keys[:SYNC_EACH_LIMIT])
        assert synced == []
        store.flush(keys)
        assert synced == [store.root.current()]

    @pytest.mark.parametrize("count", [2, SYNC_EACH_LIMIT + 1])
    def test_a_sync_that_failed_is_remembered(
        self, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
    ):
        """S2: the kernel tells of lost bytes once, and calls the next sync a success; only new files prove anything."""

        def fails(*args: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        store.put("objects/before", b"x")
        store.flush(["objects/before"])
        (tmp_path / "given").write_bytes(b"given")
        given = hash_file(str(tmp_path / "given"))
        keys = [f"objects/{i}" for i in range(count)]

        def put() -> list[int]:
            assert store.adopt_file(keys[0], given) in (True, False)
            for key in keys[1:]:
                store.put(key, key.encode())
            return [os.stat(store.local_path(key)).st_ino for key in keys]

        before = put()
        assert before[0] == given.status.st_ino
        with monkeypatch.context() as patch:
            patch.setattr("artifactfs.durable.sync_filesystem", fails)
            patch.setattr("artifactfs.objects.local.sync_file", fails)
            with pytest.raises(StoreUnreachable):
                store.flush(keys)
        with pytest.raises(StoreUnreachable):
            store.flush(keys)
        with pytest.raises(StoreUnreachable):
            store.flush(keys[:1])
        store.flush(["objects/before"])
        after = put()
        assert all(old != new for old, new in zip(before, after, strict=True))
        store.flush(keys)
        assert put() == after

    def test_a_sync_that_failed_for_another_commit_counts(self, store: LocalStore, monkeypatch: pytest.MonkeyPatch):
        """Both wrote to one disk, and only one of them was told."""
        store.put("objects/mine", b"mine")
        store.put("objects/theirs", b"theirs")
        with monkeypatch.context() as patch:
            patch.setattr("artifactfs.objects.local.sync_file", lambda *_: (_ for _ in ()).throw(OSError(5, "EIO")))
            with pytest.raises(StoreUnreachable):
                store.flush(["objects/theirs"])
        with pytest.raises(StoreUnreachable):
            store.flush(["objects/mine"])
        store.put("objects/mine", b"mine")
        store.flush(["objects/mine"])

    def test_the_system_can_sync_a_file_system(self, store: LocalStore):
        keys = [f"objects/{i}" for i in range(SYNC_EACH_LIMIT + 1)]
        for key in keys:
            store.put(key, b"x")
        store.flush(keys)

    @pytest.mark.parametrize("call", ["write", "fsync", "link"])
    def test_a_full_disk(self, store: LocalStore, call: str, monkeypatch: pytest.MonkeyPatch):
        store.put("objects/there", b"x")

        def full(*args: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, call, full)
        with pytest.raises(StoreFull) as caught:
            store.put_exclusive("k", b"x")
        assert isinstance(caught.value.__cause__, OSError)
        monkeypatch.undo()
        assert not store.exists("k")
        assert [f.key for f in store.walk("")] == ["objects/there"]

    def test_no_hard_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def refuse(*args: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        with pytest.raises(UnsafeStore, match="single_writer"):
            LocalStore(str(tmp_path / "s")).put_exclusive("k", b"x")
        alone = LocalStore(str(tmp_path / "s"), single_writer=True)
        assert alone.put_exclusive("k", b"x") is Outcome.CREATED
        assert alone.put_exclusive("k", b"y") is Outcome.TAKEN

    def test_copying_without_copy_file_range(self, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def refuse(*args: object) -> None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(os, "copy_file_range", refuse)
        (tmp_path / "f").write_bytes(b"f" * 2_000_000)
        store.put_file("objects/f", hash_file(str(tmp_path / "f")))
        assert blake3(store.get("objects/f")).digest() == blake3((tmp_path / "f").read_bytes()).digest()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_denied(self, store: LocalStore):
        store.put("objects/x", b"x")
        os.chmod(store.local_path("objects"), 0)
        try:
            for call in (store.get, store.size, store.exists):
                with pytest.raises(AccessDenied):
                    call("objects/x")
        finally:
            os.chmod(store.local_path("objects"), 0o755)


class Unreliable(MemoryFileSystem):
    """A remote of its own for each test, with whatever is wrong with it."""

    protocol = "unreliable"
    everybody_wins = False
    lose_answers = 0
    conflicts = 0
    down = False

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if self.down:
            raise ConnectionError("no route to host")
        cls = type(self)
        if mode == "create" and cls.conflicts:
            cls.conflicts -= 1
            raise OSError(errno.EBUSY, "ConditionalRequestConflict")
        if mode == "create" and not self.everybody_wins and self.exists(path):
            raise FileExistsError(path)
        super().pipe_file(path, value)
        if mode == "create" and cls.lose_answers:
            cls.lose_answers -= 1
            raise FileExistsError(f"{path} (said of our own write)")


@pytest.fixture
def remote() -> Iterator[type[Unreliable]]:
    kind = type(f"Unreliable{uuid.uuid4().hex}", (Unreliable,), {"store": {}, "pseudo_dirs": [""]})
    fsspec.register_implementation("unreliable", kind, clobber=True)
    yield kind
    kind.clear_instance_cache()


class TestRemote:
    URL = "unreliable://bucket/store"

    def commit(
        self, tmp_path: Path, text: str = "x", commit_id: str = "c", **options: Any
    ) -> FileSystemArtifactManager:
        manager = FileSystemArtifactManager(self.URL, **options)
        (tmp_path / "t").mkdir(exist_ok=True)
        (tmp_path / "t" / "f").write_text(text)
        manager.commit_tree("m", tmp_path / "t", commit_id=commit_id)
        return manager

    def test_nothing_is_opened_before_the_first_call(self):
        FileSystemArtifactManager("unreliable-and-unknown://bucket")

    def test_a_sound_store(self, remote: type[Unreliable], tmp_path: Path):
        manager = self.commit(tmp_path)
        assert manager.list_version_names("m") == ["v0"]
        assert not [key for key in remote.store if "tmp" in key], "the probe tidies up"

    def test_a_store_where_everybody_wins_is_refused(self, remote: type[Unreliable], tmp_path: Path):
        remote.everybody_wins = True
        with pytest.raises(UnsafeStore, match="single_writer=True"):
            self.commit(tmp_path)
        assert self.commit(tmp_path, single_writer=True).list_version_names("m") == ["v0"]

    def test_answers_that_are_lost(self, remote: type[Unreliable], tmp_path: Path):
        manager = self.commit(tmp_path)
        remote.lose_answers = 1
        (tmp_path / "t" / "f").write_text("y")
        assert manager.commit_tree("m", tmp_path / "t", commit_id="d").info.version == "v1"
        assert manager.list_version_names("m") == ["v0", "v1"]

    def test_conflicts_are_tried_again(self, remote: type[Unreliable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        pauses: list[float] = []
        monkeypatch.setattr("time.sleep", pauses.append)
        manager = self.commit(tmp_path)
        remote.conflicts = 3
        (tmp_path / "t" / "f").write_text("y")
        assert manager.commit_tree("m", tmp_path / "t", commit_id="d").info.version == "v1"
        assert len(pauses) == 3
        remote.conflicts = 99
        (tmp_path / "t" / "f").write_text("z")
        with pytest.raises(StoreUnreachable):
            manager.commit_tree("m", tmp_path / "t", commit_id="e")
        remote.conflicts = 0
        assert manager.commit_tree("m", tmp_path / "t", commit_id="e").info.version == "v2"

    def test_a_store_that_is_down_is_not_empty(self, remote: type[Unreliable], tmp_path: Path, monkeypatch: Any):
        manager = self.commit(tmp_path)
        monkeypatch.setattr("artifactfs.objects.patience.time.sleep", lambda seconds: None)

        def down(*args: object, **kwargs: object) -> None:
            raise ConnectionError("no route to host")

        for name in ("ls", "find", "cat_file", "info", "exists"):
            monkeypatch.setattr(remote, name, down)
        calls = (
            manager.list_collection_names,
            manager.list_artifacts,
            lambda: manager.version_info("m"),
            lambda: manager.version_info("m", version="v0"),
            lambda: manager.aliases("m"),
        )
        for call in calls:
            with pytest.raises(StoreUnreachable):
                call()

    def test_a_full_manager_works_without_whole_puts(self, remote: type[Unreliable], tmp_path: Path):
        manager = self.commit(tmp_path, "z" * 2_000_000, single_writer=True)
        manager.download_artifact("m", to=tmp_path / "out")
        assert (tmp_path / "out/m/f").read_text() == "z" * 2_000_000


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("x"), NotFound),
        (NotADirectoryError("x"), NotFound),
        (PermissionError("x"), AccessDenied),
        (OSError(errno.EROFS, "read-only"), AccessDenied),
        (OSError(errno.ENOSPC, "full"), StoreFull),
        (OSError(errno.EDQUOT, "quota"), StoreFull),
        (FileExistsError("x"), AlreadyExists),
        (TimeoutError("x"), StoreTimeout),
        (OSError(errno.ETIMEDOUT, "x"), StoreTimeout),
        (ConnectionResetError("x"), StoreUnreachable),
        (OSError(errno.EIO, "x"), StoreUnreachable),
        (ImportError("x"), MissingDependency),
        (type("NoCredentialsError", (Exception,), {})("x"), AccessDenied),
        (type("ClientAuthenticationError", (Exception,), {})("x"), AccessDenied),
        (type("ResourceNotFoundError", (Exception,), {})("x"), NotFound),
        (type("EndpointConnectionError", (Exception,), {"__module__": "botocore.exceptions"})("x"), StoreUnreachable),
        (type("HttpError", (Exception,), {"code": 403})("x"), AccessDenied),
        (type("HttpError", (Exception,), {"status_code": 416, "__module__": "azure.core"})("x\nmore"), ArtifactError),
        (type("HttpError", (Exception,), {"status_code": 503, "__module__": "azure.core"})("x"), StoreUnreachable),
        (type("HTTPError", (Exception,), {"status_code": 507, "__module__": "webdav4.client"})("x"), StoreFull),
        (TypeError("a bug"), ArtifactError),
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_translation(error: Exception, kind: type[ArtifactError]):
    found = translate(error, "reading k")
    assert type(found) is kind
    assert str(found).startswith("reading k")
    assert "\n" not in str(found)
    assert translate(found, "again") is found
