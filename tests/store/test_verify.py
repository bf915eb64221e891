"""Every kind of damage is found, named with the versions and files it concerns, and does not end the check."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3
from clocked_store import ClockedStore, Stopped
from store_helpers import MIB

from artifactfs.errors import AccessDenied, CollectionNotFound, StoreUnreachable, VersionNotFound
from artifactfs.findings import Finding, FindingKind, VerifyReport
from artifactfs.managers import filesystem
from artifactfs.managers.base import ArtifactManager
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.manifest import Entry, Manifest
from artifactfs.objects import examine, layout
from artifactfs.objects.examine import ROW, Needed, read_object
from artifactfs.objects.open import open_store

FILES = {"a": b"alpha", "b": b"beta", "sub/big": bytes(range(256)) * 6000, "empty": b""}


@pytest.fixture
def filled(manager: FileSystemArtifactManager, tmp_path: Path) -> FileSystemArtifactManager:
    """v0 and v1 share a pack and a large object; v1 has one more file."""
    for path, data in FILES.items():
        (tmp_path / "t" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / path).write_bytes(data)
    manager.commit_tree("m", tmp_path / "t", commit_id="a", aliases=["first"])
    (tmp_path / "t" / "c").write_bytes(b"gamma")
    manager.commit_tree("m", tmp_path / "t", commit_id="b")
    return manager


def object_of(manager: ArtifactManager, path: str, version: str = "v0") -> str:
    entry = manager.manifest("m", version=version).find(path)
    assert entry is not None
    assert entry.object is not None
    return layout.object_key(entry.object)


def manifest_of(manager: FileSystemArtifactManager, version: str) -> str:
    key = f"collections/default/m/{version}.version"
    return layout.object_key(layout.decode_record(manager.store.get(key), key, int(version[1:])).manifest)


def overwrite(manager: FileSystemArtifactManager, key: str, change: Callable[[bytearray], object]) -> None:
    data = bytearray(manager.store.get(key))
    change(data)
    manager.store.replace(key, bytes(data))


def fresh(manager: FileSystemArtifactManager) -> FileSystemArtifactManager:
    """Another manager, which remembers nothing of what it has read."""
    return FileSystemArtifactManager(manager.url)


def only(report: VerifyReport) -> Finding:
    (found,) = report.findings
    return found


def test_a_whole_store_that_is_whole(filled: FileSystemArtifactManager):
    seen: list[tuple[int, int]] = []
    report = filled.verify(progress=lambda *done: seen.append(done))
    assert report.findings == ()
    # Two manifests, two packs (one of them with 'c' alone), one large object; the empty files lie nowhere.
    assert (report.versions, report.objects, report.files) == (2, 5, 4)
    assert seen[-1] == (report.size_bytes, report.files)
    assert report.size_bytes == sum(file.size_bytes for file in filled.store.walk(layout.OBJECTS))
    assert filled.verify("m", version="first").versions == 1


def test_an_empty_store(manager: FileSystemArtifactManager):
    manager.ensure_created()
    assert manager.verify() == VerifyReport()


@pytest.mark.parametrize("what", ["flip", "cut", "empty", "longer"])
@pytest.mark.parametrize("path", ["b", "sub/big"])
def test_a_damaged_object(filled: FileSystemArtifactManager, path: str, what: str):
    entry = filled.manifest("m").find(path)
    assert entry is not None

    def damage(data: bytearray) -> None:
        if what == "flip":
            data[entry.offset] ^= 1
        elif what == "longer":
            data.append(0)
        else:
            del data[entry.offset if what == "cut" else 0 :]

    overwrite(filled, object_of(filled, path), damage)
    told: list[Finding] = []
    report = fresh(filled).verify(on_finding=told.append)
    found = only(report)
    assert told == [found]
    assert (found.kind, found.where) == (FindingKind.DAMAGED_OBJECT, object_of(filled, path))
    assert found.versions == ("default/m@v0", "default/m@v1")
    if path == "sub/big":
        assert found.paths == ("sub/big",)
    else:
        assert found.paths == {"flip": ("b",), "cut": ("b",), "empty": ("a", "b"), "longer": ()}[what]
    assert not report.ok
    part = only(fresh(filled).verify("m", version="v0"))
    assert (part.kind, part.versions, part.paths) == (found.kind, ("default/m@v0",), found.paths)


def test_a_missing_object(filled: FileSystemArtifactManager):
    filled.store.delete(object_of(filled, "c", "v1"))
    found = only(fresh(filled).verify())
    assert (found.kind, found.versions, found.paths) == (FindingKind.MISSING_OBJECT, ("default/m@v1",), ("c",))
    assert found.size_bytes == 5
    assert fresh(filled).verify("m", version="v0").ok


def test_a_missing_or_damaged_manifest(filled: FileSystemArtifactManager):
    filled.store.delete(manifest_of(filled, "v0"))
    overwrite(filled, manifest_of(filled, "v1"), lambda data: data.pop())
    report = fresh(filled).verify()
    found = {finding.kind: finding.versions for finding in report.damage}
    assert found == {
        FindingKind.MISSING_MANIFEST: ("default/m@v0",),
        FindingKind.DAMAGED_MANIFEST: ("default/m@v1",),
    }
    rest = [finding for finding in report.findings if finding not in report.damage]
    assert {finding.kind for finding in rest} == {FindingKind.UNREFERENCED_OBJECT}
    assert all("can be read" in finding.detail for finding in rest)


def test_a_manifest_that_says_what_is_not_so(filled: FileSystemArtifactManager):
    """Written by a bug, not by a bad disk: every digest is right, but not of these bytes."""
    key = "collections/default/m/v1.version"
    record = layout.decode_record(filled.store.get(key), key, 1)
    entries = [e._replace(offset=e.offset + 1) if e.path == "a" else e for e in filled.manifest("m")]
    entries.append(Entry("nowhere", size_bytes=3, digest="ab" * 32))
    lying = Manifest(entries)
    raw = lying.encode()
    name = blake3(raw).hexdigest()
    filled.store.put(layout.object_key(name), raw)
    filled.store.replace(key, layout.encode(msgspec.structs.replace(record, manifest=name)))
    found = {finding.kind: finding for finding in fresh(filled).verify().damage}
    assert set(found) == {FindingKind.DAMAGED_RECORD, FindingKind.DAMAGED_MANIFEST, FindingKind.DAMAGED_FILE}
    assert found[FindingKind.DAMAGED_RECORD].where == key
    assert found[FindingKind.DAMAGED_FILE].paths == ("a",)


def test_damaged_small_files(filled: FileSystemArtifactManager):
    prefix = "collections/default/m"
    filled.delete_version("m", "v0")
    filled.store.replace(f"{prefix}/v0.deleted", b"{")
    filled.store.replace(f"{prefix}/v1.version", b"[]")
    filled.store.replace(f"{prefix}/bad.alias", b"?")
    filled.store.replace(f"{prefix}/old.alias", b'{"version": "v0"}')
    found = sorted((finding.kind.value, finding.where) for finding in fresh(filled).verify().damage)
    assert found == [
        ("damaged-alias", f"{prefix}/bad.alias"),
        ("damaged-record", f"{prefix}/v0.deleted"),
        ("damaged-record", f"{prefix}/v1.version"),
        ("dangling-alias", f"{prefix}/old.alias"),
    ]


def test_what_harms_nobody(filled: FileSystemArtifactManager):
    loose = [
        (f"objects/{'f' * 2}/{'f' * 64}", FindingKind.UNREFERENCED_OBJECT),
        (f"objects/ff/.tmp-{uuid.uuid4().hex}", FindingKind.LEFTOVER),
        ("objects/ff/notes", FindingKind.UNKNOWN_FILE),
        ("collections/default/m/notes", FindingKind.UNKNOWN_FILE),
    ]
    for key, _ in loose:
        filled.store.replace(key, b"?")
    report = filled.verify()
    assert report.ok
    assert sorted((finding.where, finding.kind) for finding in report.findings) == sorted(loose)
    assert any("do not match its name" in str(finding) for finding in report.findings)
    assert filled.verify("m").findings == ()


def test_parts_and_names(filled: FileSystemArtifactManager):
    assert filled.verify(collection="default").versions == 2
    assert filled.verify("m", version="latest").versions == 1
    with pytest.raises(VersionNotFound):
        filled.verify("m", version="v7")
    with pytest.raises(VersionNotFound):
        filled.verify("m", version="nobody")


def test_one_object_refused(filled: FileSystemArtifactManager, monkeypatch: pytest.MonkeyPatch):
    bad = object_of(filled, "sub/big")
    record = "collections/default/m/v1.version"
    get_range, get_many = filled.store.get_range, filled.store.get_many

    def refuse(key: str, *more: int) -> bytes:
        if key == bad:
            raise StoreUnreachable("a sector cannot be read")
        return get_range(key, *more)

    def refuse_many(keys: list[str]) -> list[bytes | None]:
        if record in keys:
            raise AccessDenied("not yours")
        return get_many(keys)

    monkeypatch.setattr(filled.store, "get_range", refuse)
    monkeypatch.setattr(filled.store, "get_many", refuse_many)
    found = {finding.where: finding.kind for finding in filled.verify().damage}
    assert found == {bad: FindingKind.UNREADABLE, record: FindingKind.UNREADABLE}


def test_a_store_that_goes_away(filled: FileSystemArtifactManager, monkeypatch: pytest.MonkeyPatch):
    def gone(*_: object) -> bytes:
        for file in list(filled.store.walk("")):
            filled.store.delete(file.key)
        raise StoreUnreachable("gone")

    monkeypatch.setattr(filled.store, "get_range", gone)
    with pytest.raises(StoreUnreachable):
        filled.verify()


def test_a_version_deleted_and_freed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """At whatever call of the check."""
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a").write_bytes(b"a")
    calls = 0
    over = False
    while not over:
        store = ClockedStore(open_store(f"memory://verify-{uuid.uuid4().hex}"))
        monkeypatch.setattr(filesystem, "open_store", lambda *_, store=store, **__: store)
        manager = FileSystemArtifactManager(store.url)
        manager.commit_tree("m", tmp_path / "t", commit_id="a", aliases=["x"])
        running = Stopped(store, manager.verify, calls)
        over = running.over
        manager.delete_version("m", "v0")
        for file in list(store.walk(layout.OBJECTS)):
            store.delete(file.key)
        assert running.finish().ok
        calls += 1
    assert calls > 5


def test_files_that_span_reads(monkeypatch: pytest.MonkeyPatch, manager: FileSystemArtifactManager):
    """Whatever the size of a read, files that overlap, touch, or end with the object are told apart."""
    data = bytes(range(200))
    name = blake3(data).hexdigest()
    manager.store.put(layout.object_key(name), data)
    good = [(0, 200), (0, 10), (5, 100), (199, 1), (7, 0), (200, 0), (64, 64)]
    rows = [ROW.pack(offset, size, blake3(data[offset : offset + size]).digest()) for offset, size in good]
    bad = [ROW.pack(3, 50, bytes([1]) * 32), ROW.pack(150, 51, bytes(32)), ROW.pack(300, 5, bytes(32))]
    needed = Needed()
    needed.add(b"".join(sorted(rows)), 0)
    needed.add(b"".join(sorted([*bad, rows[1], ROW.pack(2, 90, bytes(32))])), 1)
    for chunk in (1, 2, 7, 64, 199, 200, 201, MIB):
        monkeypatch.setattr(examine, "_CHUNK_BYTES", chunk)
        read = read_object(manager.store, name, needed.rows)
        assert (read.size_bytes, read.intact, sorted(read.bad)) == (200, True, sorted(bad))


def test_managers_without_objects_read_every_file(filled: FileSystemArtifactManager):
    """The default of ArtifactManager, on a store whose damage is known."""
    report = ArtifactManager.verify(filled)
    assert (report.ok, report.versions, report.files) == (True, 2, 9)
    assert report.size_bytes == 2 * sum(map(len, FILES.values())) + 5
    overwrite(filled, object_of(filled, "sub/big"), lambda data: data.reverse())
    filled.store.delete(object_of(filled, "c", "v1"))
    filled.store.delete(manifest_of(filled, "v0"))
    again = ArtifactManager.verify(fresh(filled), collection="default")
    assert {(finding.kind.value, finding.where) for finding in again.damage} == {
        ("damaged-manifest", "default/m@v0"),
        ("damaged-file", "default/m@v1:sub/big"),
        ("damaged-file", "default/m@v1:c"),
    }
    with pytest.raises(CollectionNotFound):
        ArtifactManager.verify(filled, collection="nobody")
