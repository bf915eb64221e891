"""What differs between two versions, against a model that compares entry by entry."""

from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from artifactfs import connect
from artifactfs.diff import Added, Aspect, Diff, Removed, Uncertain, diff, differences
from artifactfs.errors import VersionNotFound
from artifactfs.manifest import Entry, EntryKind, Manifest

PARTS = st.sampled_from(["a", "b", "a.b", "a-", "ü"])


def file(path: str, data: bytes = b"x", **more: object) -> Entry:
    return Entry(path, size_bytes=len(data), digest=blake3(data).hexdigest(), **more)  # type: ignore[arg-type]


def link(path: str, target: str) -> Entry:
    return Entry(path, EntryKind.SYMLINK, target=target, mode=0o777)


def directory(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, EntryKind.DIRECTORY, mode=mode)


@st.composite
def manifests(draw: st.DrawFn, digests: bool = True) -> Manifest:
    """Small trees of few names, so that two of them have much in common; nothing lies below a file."""
    entries: dict[str, Entry] = {}
    for parts in draw(st.lists(st.lists(PARTS, min_size=1, max_size=3), max_size=12)):
        path = "/".join(parts)
        above = ["/".join(parts[:i]) for i in range(1, len(parts))]
        if path in entries or any(p in entries and entries[p].kind is not EntryKind.DIRECTORY for p in above):
            continue
        below = any(other.startswith(path + "/") for other in entries)
        kind = EntryKind.DIRECTORY if below else draw(st.sampled_from(EntryKind))
        mode = draw(st.sampled_from([0o644, 0o600, 0o755]))
        if kind is EntryKind.FILE:
            entries[path] = file(path, draw(st.sampled_from([b"", b"x", b"y"])), mode=mode, mtime_ns=len(entries))
            if digests is False and draw(st.booleans()):
                entries[path] = entries[path]._replace(digest=None)
        else:
            entries[path] = directory(path, mode) if kind is EntryKind.DIRECTORY else link(path, draw(PARTS))
    return Manifest(entries.values())


def content(manifest: Manifest) -> dict[str, Entry]:
    """What counts: everything but directories that hold something."""
    return {
        entry.path: entry
        for entry in manifest
        if entry.kind is not EntryKind.DIRECTORY or not any(manifest.children(entry.path))
    }


def model(old: Manifest, new: Manifest) -> tuple[set[str], set[str], dict[str, set[Aspect]], set[str]]:
    before, after = content(old), content(new)
    changed: dict[str, set[Aspect]] = {}
    uncertain = set()
    for path in before.keys() & after.keys():
        a, b = before[path], after[path]
        if a.kind is not b.kind:
            changed[path] = {Aspect.KIND}
            continue
        aspects = set()
        if a.size_bytes != b.size_bytes or (a.digest and b.digest and a.digest != b.digest):
            aspects.add(Aspect.CONTENT)
        elif a.size_bytes and not (a.digest and b.digest):
            uncertain.add(path)
        if a.target != b.target:
            aspects.add(Aspect.TARGET)
        if aspects:
            changed[path] = aspects
    # Permissions count for whatever both list, also for directories that hold something.
    for a in old:
        b = new.find(a.path)
        if b is not None and a.kind is b.kind is not EntryKind.SYMLINK and a.mode != b.mode:
            changed.setdefault(a.path, set()).add(Aspect.MODE)

    def only(mine: dict[str, Entry], theirs: dict[str, Entry], other: Manifest) -> set[str]:
        return {
            path
            for path in mine.keys() - theirs.keys()
            if mine[path].kind is not EntryKind.DIRECTORY or not other.is_directory(path)
        }

    return only(after, before, old), only(before, after, new), changed, uncertain


def check(old: Manifest, new: Manifest) -> Diff:
    found = diff(old, new)
    added, removed, changed, uncertain = model(old, new)
    assert {entry.path for entry in found.added} == added
    assert {entry.path for entry in found.removed} == removed
    assert {change.path: set(change.aspects) for change in found.changed} == changed
    assert {each.path for each in differences(old, new) if isinstance(each, Uncertain)} == uncertain
    assert found.uncertain == len(uncertain)
    for entries in (found.added, found.removed, [change.new for change in found.changed]):
        paths = [entry.path.encode() for entry in entries]
        assert paths == sorted(paths)
    assert all(entry == new.find(entry.path) for entry in found.added)
    assert all((change.old, change.new) == (old.find(change.path), new.find(change.path)) for change in found.changed)
    assert found.grown_bytes == new.size_bytes - old.size_bytes
    return found


@given(manifests(), manifests())
def test_as_the_model_and_the_content_digest_say(old: Manifest, new: Manifest):
    same = old.content_digest() == new.content_digest() and old.has_modes_of(new)
    assert bool(check(old, new)) == (not same)
    assert not diff(new, new)


@pytest.mark.parametrize("block", [1, 2, 3])
@given(old=manifests(), new=manifests())
def test_whatever_the_blocks(block: int, old: Manifest, new: Manifest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("artifactfs.diff._BLOCK_ROWS", block)
        check(old, new)


@given(manifests(digests=False), manifests(digests=False))
def test_unknown_digests(old: Manifest, new: Manifest):
    check(old, new)


def test_directories_count_only_while_they_are_empty():
    listed = Manifest([directory("d"), file("d/f")])
    implied = Manifest([file("d/f")])
    empty = Manifest([directory("d")])
    assert not diff(listed, implied)
    assert [entry.path for entry in diff(empty, listed).added] == ["d/f"]
    assert [entry.path for entry in diff(implied, empty).removed] == ["d/f"]
    assert [entry.path for entry in diff(Manifest(), empty).added] == ["d"]
    became_a_file = diff(listed, Manifest([file("d")]))
    assert [entry.path for entry in became_a_file.added] == ["d"]
    assert [entry.path for entry in became_a_file.removed] == ["d/f"]
    assert diff(empty, Manifest([file("d")])).changed[0].aspects == (Aspect.KIND,)


def test_permissions_are_a_difference_and_times_are_none():
    old = Manifest([directory("d"), file("d/f", mtime_ns=1), file("x", mode=0o644)])
    new = Manifest([directory("d", 0o700), file("d/f", mtime_ns=2), file("x", mode=0o640)])
    assert [(change.path, change.aspects) for change in diff(old, new).changed] == [
        ("d", (Aspect.MODE,)),
        ("x", (Aspect.MODE,)),
    ]


def test_digests_of_two_algorithms_are_not_compared():
    old = Manifest([file("same"), file("grew"), file("empty", b"")])
    other = [Entry("same", size_bytes=1, digest="aa" * 16), Entry("grew", size_bytes=2, digest="bb" * 16)]
    found = diff(old, Manifest([*other, Entry("empty")], algorithm="md5"))
    assert [change.path for change in found.changed] == ["grew"]
    assert found.uncertain == 1


def test_one_by_one():
    found = list(differences(Manifest([file("a"), file("c")]), Manifest([file("b"), file("c")])))
    assert found == [Removed(file("a")), Added(file("b"))]


def test_a_manager_diffs_its_versions(tmp_path: Path):
    manager = connect(str(tmp_path / "store"))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_bytes(b"1")
    manager.log_files("m", tmp_path / "tree", "models")
    (tmp_path / "tree" / "a").write_bytes(b"22")
    (tmp_path / "tree" / "b").write_bytes(b"333")
    manager.log_files("m", tmp_path / "tree", "models", aliases=["best"])
    found = manager.diff("m", "v0", "best", "models")
    assert ([entry.path for entry in found.added], found.grown_bytes) == (["b"], 4)
    assert not manager.diff("m", "latest", "v1", "models")
    with pytest.raises(VersionNotFound):
        manager.diff("m", "v0", "v9", "models")
