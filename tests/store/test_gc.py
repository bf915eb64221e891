"""gc frees what nobody needs, and never what anybody does, whenever it runs."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import pytest
from clocked_store import GRACE_S, Clocked, Stopped, objects_in, tree_of
from store_helpers import contents

from artifactfs.errors import AccessDenied, FormatError, IntegrityError, Unsupported
from artifactfs.managers.base import ArtifactManager
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.objects import layout, packs
from artifactfs.objects.gc import UNREFERENCED_KEY, collect, store_time_ns
from artifactfs.objects.open import open_store


def age(manager: FileSystemArtifactManager, key: str) -> None:
    """Go on until the clock of a real disk, which is coarse, shows another time than that of the key."""
    (made,) = [file.changed_ns for file in manager.store.walk(key.rpartition("/")[0]) if file.key == key]
    assert made is not None
    while store_time_ns(manager.store) <= made:
        pass


@pytest.fixture(autouse=True)
def _one_object_per_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "SMALL_FILE_BYTES", 1)


@pytest.fixture
def clocked() -> Clocked:
    return Clocked()


def test_two_passes_a_grace_period_apart(clocked: Clocked, tmp_path: Path):
    clocked.commit(tree_of(tmp_path, "a", "b"))
    clocked.commit(tree_of(tmp_path, "b", "c"))
    clocked.days(2)
    clocked.manager.delete_version("m", "v0")
    before = objects_in(clocked.store)
    for _ in range(3):
        report = clocked.manager.gc()
        assert (report.versions, report.objects, report.deleted_objects, report.waiting_objects) == (1, 5, 0, 2)
    clocked.days(0.999)
    assert clocked.gc() == 0
    assert objects_in(clocked.store) == before
    clocked.days(0.001)
    assert clocked.manager.gc(dry_run=False).deleted_objects == 2
    assert len(before - objects_in(clocked.store)) == 2
    assert contents(clocked.manager, "m", "v1") == {"b": b"b", "c": b"c"}
    assert clocked.commit(tree_of(tmp_path, "b", "d")) == "v2"
    clocked.check()


def test_the_first_pass_deletes_nothing_however_old_things_are(clocked: Clocked, tmp_path: Path):
    clocked.commit(tree_of(tmp_path, "a"))
    clocked.manager.delete_version("m", "v0")
    clocked.days(1000)
    assert clocked.gc() == 0
    clocked.days(1)
    assert clocked.gc() == 2


def test_a_number_is_never_used_again(clocked: Clocked, tmp_path: Path):
    for name in "abc":
        clocked.commit(tree_of(tmp_path, name))
    for version in ("v0", "v1", "v2"):
        clocked.manager.delete_version("m", version)
    for _ in range(3):
        clocked.gc()
        clocked.days(1)
    assert objects_in(clocked.store) == set()
    assert clocked.commit(tree_of(tmp_path, "a")) == "v3"
    clocked.check()


def test_put_again_between_two_passes(clocked: Clocked, tmp_path: Path):
    """Needed and not needed any more since the first pass: that pass does not count."""
    tree = tree_of(tmp_path, "a")
    clocked.commit(tree)
    clocked.manager.delete_version("m", "v0")
    clocked.days(2)
    clocked.gc()
    clocked.days(0.1)
    clocked.commit(tree, "other")
    clocked.manager.delete_version("other", "v0")
    clocked.days(1)
    assert clocked.gc() == 0
    clocked.days(1)
    assert clocked.gc() == 2


def test_a_record_removed_by_hand(clocked: Clocked, tmp_path: Path):
    """No tombstone tells when it went; the two passes still keep a commit that learned from it safe."""
    clocked.commit(tree_of(tmp_path, "a"))
    clocked.commit(tree_of(tmp_path, "x"), "other")
    clocked.days(30)
    clocked.gc()
    running = Stopped(clocked.store, lambda: clocked.commit(tree_of(tmp_path, "a", "b")), 8)
    clocked.store.delete("collections/default/m/v0.version")
    assert clocked.gc() == 0
    clocked.days(0.9)
    assert clocked.gc() == 0
    running.finish()
    clocked.check()


@pytest.mark.parametrize("may_write", [True, False])
@pytest.mark.parametrize("years", [-50, 50])
def test_a_dry_run_goes_by_the_clock_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int, may_write: bool
):
    """What it says does not hang on the clock of the host, and who may not write to the store is told as well."""
    manager = FileSystemArtifactManager(str(tmp_path / "store"))
    manager.commit_tree("m", tree_of(tmp_path, "a"), commit_id="a")
    manager.delete_version("m", "v0")
    age(manager, next(iter(objects_in(manager.store))))
    manager.gc(grace_s=0)
    real_ns = time.time_ns()
    monkeypatch.setattr("time.time_ns", lambda: real_ns + years * 31_536_000 * 10**9)
    if not may_write:

        def denied(key: str, data: bytes) -> None:
            raise AccessDenied(key)

        monkeypatch.setattr(manager.store, "replace", denied)
    report = manager.gc(dry_run=True, grace_s=GRACE_S)
    assert (report.deleted_objects, report.waiting_objects) == (0, 2)
    report = manager.gc(dry_run=True, grace_s=0)
    assert report.deleted_objects == (2 if may_write else 0)


def test_a_dry_run_changes_nothing(url: str, tmp_path: Path):
    manager = FileSystemArtifactManager(url)
    manager.ensure_created()
    assert manager.gc(dry_run=True).objects == 0
    manager.commit_tree("m", tree_of(tmp_path, "a"), commit_id="a")
    manager.delete_version("m", "v0")

    def state() -> list[tuple[str, int, int | None]]:
        return sorted(manager.store.walk(""))  # type: ignore[arg-type]

    before = state()
    assert manager.gc(dry_run=True, grace_s=0).waiting_objects == 2
    assert state() == before
    age(manager, next(iter(objects_in(manager.store))))
    manager.gc(grace_s=0)
    before = state()
    assert manager.gc(dry_run=True, grace_s=0).deleted_objects == 2
    assert state() == before
    seen: list[tuple[int, int]] = []
    report = manager.gc(grace_s=0, progress=lambda *done: seen.append(done))
    assert report.deleted_objects == 2
    assert seen[-1] == (report.deleted_bytes, 2)
    assert objects_in(manager.store) == set()


def test_leftovers_go_and_unknown_files_stay(local: FileSystemArtifactManager, tmp_path: Path):
    local.commit_tree("m", tree_of(tmp_path, "a"), commit_id="a")
    root = local.local_root
    assert root is not None
    temporary = f".tmp-{uuid.uuid4().hex}"
    directory = next(root.glob("objects/??"))
    ours = [root / temporary, directory / temporary, root / "collections/default/m" / temporary]
    theirs = [
        root / "staging/default/m" / temporary,
        root / "notes.txt",
        root / ".tmp-notes",
        directory / "README",
        directory / ("0" * 64),
        root / "objects" / ("f" * 64),
        root / "collections/default/m/notes.version",
        root / "collections" / "notes",
    ]
    for path in [*ours, *theirs]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"?")
    assert local.gc().deleted_leftovers == 0
    age(local, f"{directory.relative_to(root)}/{temporary}")
    for _ in range(3):
        report = local.gc(grace_s=0)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in theirs)
    assert report.unknown_files == 5
    assert local.verify().ok


@pytest.mark.parametrize("what", ["record", "manifest", "missing manifest", "newer manifest"])
def test_nothing_goes_while_something_cannot_be_read(local: FileSystemArtifactManager, tmp_path: Path, what: str):
    local.commit_tree("m", tree_of(tmp_path, "a"), commit_id="a")
    local.commit_tree("gone", tree_of(tmp_path, "b"), commit_id="b")
    local.delete_version("gone", "v0")
    age(local, "collections/default/gone/v0.deleted")
    local.gc(grace_s=0)
    root = local.local_root
    assert root is not None
    record = root / "collections/default/m/v0.version"
    manifest = root / layout.object_key(layout.decode_record(record.read_bytes(), "", 0).manifest)
    broken = record if what == "record" else manifest
    broken.chmod(0o644)
    whole = broken.read_bytes()
    if what == "missing manifest":
        broken.unlink()
    else:
        broken.write_bytes(whole[:-1] if what != "record" else b'{"format": 2}')
    before = objects_in(local.store)
    for dry_run in (True, False):
        with pytest.raises((IntegrityError, FormatError), match=r"nothing was deleted.*default/m@v0"):
            local.gc(grace_s=0, dry_run=dry_run)
    assert objects_in(local.store) == before
    broken.write_bytes(whole)
    assert local.gc(grace_s=0).deleted_objects == 2
    assert local.verify().ok


def test_a_damaged_version_that_was_deleted_does_not_stop_gc_for_ever(clocked: Clocked, tmp_path: Path):
    clocked.commit(tree_of(tmp_path, "a"))
    clocked.commit(tree_of(tmp_path, "b"))
    (first, _) = clocked.manager.list_versions("m")
    raw = clocked.store.get("collections/default/m/v0.version")
    manifest = layout.object_key(layout.decode_record(raw, "", 0).manifest)
    clocked.store.replace(manifest, b"damaged")
    clocked.manager.delete_version("m", first.version)
    with pytest.raises(IntegrityError, match="nothing was deleted"):
        clocked.gc()
    clocked.days(1)
    assert clocked.gc() == 0
    clocked.days(1)
    assert clocked.gc() == 2


def test_a_store_without_a_version_keeps_its_objects(local: FileSystemArtifactManager, tmp_path: Path):
    local.commit_tree("m", tree_of(tmp_path, "a"), commit_id="a")
    root = local.local_root
    assert root is not None
    (root / "collections").rename(tmp_path / "aside")
    assert local.gc().waiting_objects == 2
    with pytest.raises(IntegrityError, match="not one version"):
        local.gc(grace_s=0)
    for link in ("collections", "collections/default", "collections/default/m", "collections/default/m/v0.version"):
        (tmp_path / "aside").rename(root / "collections")
        (root / link).rename(tmp_path / "elsewhere")
        (root / link).symlink_to(tmp_path / "elsewhere")
        for fresh in (local, FileSystemArtifactManager(str(root))):
            with pytest.raises(IntegrityError, match="symlink"):
                fresh.gc(grace_s=0)
            if link != "collections":
                assert not fresh.verify().ok
        (root / link).unlink()
        (tmp_path / "elsewhere").rename(root / link)
        (root / "collections").rename(tmp_path / "aside")
    (tmp_path / "aside").rename(root / "collections")
    assert local.gc(grace_s=0).versions == 1
    assert local.verify().ok


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"passes": [{"since_ns": "x", "objects": []}]}'])
def test_a_damaged_list_counts_as_none(clocked: Clocked, tmp_path: Path, raw: bytes, caplog: pytest.LogCaptureFixture):
    clocked.commit(tree_of(tmp_path, "a"))
    clocked.manager.delete_version("m", "v0")
    clocked.gc()
    clocked.days(2)
    clocked.store.replace(UNREFERENCED_KEY, raw)
    assert clocked.gc() == 0
    assert "counts as the first pass" in caplog.text
    clocked.store.replace(UNREFERENCED_KEY, b'{"passes": [], "format": 2}')
    with pytest.raises(FormatError, match="upgrade"):
        clocked.gc()


def test_backends_that_cannot(clocked: Clocked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(Unsupported):
        ArtifactManager.gc(clocked.manager)
    clocked.commit(tree_of(tmp_path, "a"))
    walk = clocked.store.inner.walk
    monkeypatch.setattr(clocked.store, "walk", lambda prefix: (f._replace(changed_ns=None) for f in walk(prefix)))
    with pytest.raises(Unsupported, match="does not tell when"):
        clocked.gc()
    with pytest.raises(ValueError, match="number of seconds from 0"):
        clocked.gc(grace_s=-1)


def test_an_object_found_counts_as_put_now(url: str, tmp_path: Path):
    """What condition 4 rests on, with the times of real backends."""
    manager = FileSystemArtifactManager(url)
    for number, consume in enumerate((False, False, True, True)):
        manager.commit_tree(f"m{number}", tree_of(tmp_path, "a"), commit_id=str(number), consume=consume)
        keys = objects_in(manager.store)
        for key in keys:
            age(manager, key)
        now_ns = store_time_ns(manager.store)
        manager.commit_tree(f"n{number}", tree_of(tmp_path, "a"), commit_id=f"n{number}", consume=consume)
        renewed = {file.key for file in manager.store.walk(layout.OBJECTS) if (file.changed_ns or 0) >= now_ns}
        # The manifests of the two commits may differ by the time of the file.
        assert len(renewed & keys) >= 1
        assert next(iter(manager.manifest(f"m{number}").objects)) in {key.rpartition("/")[2] for key in renewed}


def test_collect_needs_no_manager(tmp_path: Path):
    store = open_store(str(tmp_path / "store"))
    manager = FileSystemArtifactManager(os.fspath(tmp_path / "store"))
    manager.commit_tree("m", tree_of(tmp_path, "a"), commit_id="a")
    assert collect(store).objects == 2
