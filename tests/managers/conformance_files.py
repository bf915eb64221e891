"""What every manager promises of files: any name, any size, what is damaged, many threads, a store that goes away."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conformance import commit, needs
from subjects import Keeps, Subject, contents, write

from artifactfs import ArtifactManager, Entry, EntryKind, connect
from artifactfs.errors import ArtifactError, IntegrityError, InvalidName, PathNotFound, UnsafeStore
from artifactfs.managers.commit_id import new_commit_id
from tests.quick import quick_directory

GIB = 1 << 30
ODD_NAMES = [
    "ünï cödé 漢字",
    "-rf",
    "--",
    "new\nline",
    "tab\there",
    " lead",
    "trail ",
    "*?[a]",
    "{a,b}",
    "~",
    "%41",
    "#x",
    "a?b=c",
    "'quote\"",
    "back\\slash",
    "colon:x",
    ".hidden",
    "...",
    "n" * 255,
    "ü" * 127,
]


class Files:
    def test_odd_names(self, manager: ArtifactManager, tmp_path: Path):
        tree = tmp_path / "tree"
        for name in ODD_NAMES:
            write(tree / name, **{name: f"in {name}"})
        commit(manager, tree)
        manifest = manager.manifest("model")
        info = manager.version_info("model")
        for name in ODD_NAMES:
            entry = manifest.find(f"{name}/{name}")
            assert entry is not None, name
            assert manager.read_entry(info, entry) == f"in {name}".encode()
        assert contents(Path(str(manager.download_artifact("model", to=tmp_path / "out")))) == contents(tree)

    def test_names_that_are_no_utf8(self, subject: Subject, manager: ArtifactManager, tmp_path: Path):
        tree = write(tmp_path / "tree", f="1")
        name = os.fsdecode(b"\xff\xfe")
        (tree / name).write_bytes(b"odd")
        if Keeps.ANY_BYTES_IN_NAMES not in subject.keeps:
            with pytest.raises(ArtifactError, match="UTF-8"):
                commit(manager, tree)
            assert not manager.exists("model")
            return
        commit(manager, tree)
        assert contents(Path(str(manager.download_artifact("model", to=tmp_path / "out")))) == contents(tree)

    def test_many_files_some_empty(self, subject: Subject, manager: ArtifactManager, tmp_path: Path):
        tree = tmp_path / "tree"
        for directory in range(subject.many_files // 100):
            (tree / f"d{directory:02}").mkdir(parents=True)
            for number in range(100):
                (tree / f"d{directory:02}" / f"f{number:02}").write_bytes(b"%d" % number * (number % 3))
        result = commit(manager, tree)
        assert result.info.file_count == subject.many_files
        assert len(list(manager.manifest("model").children("d09"))) == 100
        manager.download_artifact("model", to=tmp_path / "out")
        subprocess.run(["diff", "-r", tree, tmp_path / "out" / "model"], check=True)

    def test_two_gib(self, subject: Subject, manager: ArtifactManager, tmp_path: Path):
        if not subject.sparse:
            pytest.skip(f"{subject.name} copies or holds every one of 2 GiB")
        tree = tmp_path / "tree"
        tree.mkdir()
        with open(tree / "sparse", "wb") as file:
            file.truncate(2 * GIB + 1)
            os.pwrite(file.fileno(), b"middle", GIB)
        began = time.monotonic()
        info = commit(manager, tree, consume=True).info
        entry = manager.manifest("model").find("sparse")
        assert entry is not None
        assert info.size_bytes == entry.size_bytes == 2 * GIB + 1
        assert manager.read_entry(info, entry, GIB - 1, 8) == b"\0middle\0"
        assert manager.read_entry(info, entry, 2 * GIB, 8) == b"\0"
        assert manager.read_entry(info, entry, 2 * GIB + 1, 8) == b""
        assert time.monotonic() - began < 120

    def test_empty_trees_and_directories(self, manager: ArtifactManager, tmp_path: Path):
        (tmp_path / "tree" / "hollow" / "inner").mkdir(parents=True)
        commit(manager, tmp_path / "tree", "hollow")
        path = Path(str(manager.download_artifact("hollow", to=tmp_path / "out")))
        assert (path / "hollow" / "inner").is_dir()
        (tmp_path / "none").mkdir()
        info = commit(manager, tmp_path / "none", "none").info
        assert (info.file_count, info.size_bytes) == (0, 0)
        assert list(Path(str(manager.download_artifact("none", to=tmp_path / "out"))).iterdir()) == []

    @needs(Keeps.SYMLINKS)
    def test_symlinks(self, manager: ArtifactManager, tree: Path, tmp_path: Path):
        for place, target in (("link", "a.txt"), ("sub/up", "../a.txt"), ("to-dir", "sub"), ("dangling", "nowhere")):
            (tree / place).symlink_to(target)
        commit(manager, tree)
        entry = manager.manifest("model").find("sub/up")
        assert entry is not None
        assert (entry.kind, entry.target) == (EntryKind.SYMLINK, "../a.txt")
        with pytest.raises(PathNotFound):
            manager.read_entry(manager.version_info("model"), entry)
        path = Path(str(manager.download_artifact("model", to=tmp_path / "out")))
        for place in ("link", "sub/up", "to-dir", "dangling"):
            assert os.readlink(path / place) == os.readlink(tree / place)

    @needs(Keeps.MODES)
    def test_modes_and_times(self, manager: ArtifactManager, tree: Path, tmp_path: Path):
        for path, mode in (("run", 0o755), ("a.txt", 0o600), ("none", 0o444), ("sub/deep", 0o555), ("sub", 0o711)):
            (tree / path).chmod(mode)
        for number, below in enumerate(sorted(tree.rglob("*"))):
            os.utime(below, ns=(1, 10**18 + number * 1_000_003))
        commit(manager, tree)
        path = Path(str(manager.download_artifact("model", to=tmp_path / "out")))
        for found in sorted(tree.rglob("*")):
            ours, theirs = (path / found.relative_to(tree)).lstat(), found.lstat()
            assert (ours.st_mode, ours.st_mtime_ns) == (theirs.st_mode, theirs.st_mtime_ns), found

    def test_times_that_no_version_keeps(self, subject: Subject, manager: ArtifactManager, tmp_path: Path):
        with quick_directory() as tree:
            for name, seconds in (("late", 13_569_465_600), ("later", 32_503_680_000), ("early", -11_676_096_000)):
                write(tree / name, small=name, large=name * 300_000)
                for path in ("small", "large", ""):
                    os.utime(tree / name / path, (seconds, seconds))
            found = {path.relative_to(tree).as_posix(): path.stat().st_mtime_ns for path in tree.rglob("*")}
            commit(manager, tree)
        assert found["late/small"] >= 1 << 63, "the disk keeps such times"
        if Keeps.MODES in subject.keeps:
            nearest = {path: max(-(1 << 63), min(mtime_ns, (1 << 63) - 1)) for path, mtime_ns in found.items()}
            assert {entry.path: entry.mtime_ns for entry in manager.manifest("model")} == nearest
        got = Path(str(manager.download_artifact("model", to=tmp_path / "out")))
        assert (got / "later/large").read_bytes() == b"later" * 300_000

    def test_ranges(self, manager: ArtifactManager, tree: Path):
        info = commit(manager, tree).info
        entry = manager.manifest("model").find("sub/deep/b.bin")
        assert entry is not None
        whole = (tree / "sub/deep/b.bin").read_bytes()
        for offset, size in ((0, None), (0, 10), (7, 300), (1_279_990, 100), (5_000_000, 3), (9, 0)):
            expected = whole[offset:][: len(whole) if size is None else size]
            assert manager.read_entry(info, entry, offset, size) == expected, (offset, size)

    def test_local_ranges(self, subject: Subject, manager: ArtifactManager, tree: Path):
        info = commit(manager, tree).info
        for entry in manager.manifest("model"):
            place = manager.local_range(info, entry) if entry.kind is EntryKind.FILE else None
            if not subject.local or not entry.size_bytes:
                assert place is None or place.size_bytes == 0
                continue
            assert place is not None
            with open(place.path, "rb") as file:
                file.seek(place.offset)
                assert file.read(place.size_bytes) == (tree / entry.path).read_bytes()

    def test_entries_that_lead_out_give_nothing(self, manager: ArtifactManager, tree: Path, tmp_path: Path):
        (tmp_path / "secret").write_text("secret")
        info = commit(manager, tree).info
        for path in ("../../../../secret", "/etc/passwd", "sub/../../x", "."):
            with pytest.raises((InvalidName, IntegrityError)):
                manager.read_entry(info, Entry(path, size_bytes=6))


class Damage:
    MARK = b"-only-here-"

    @pytest.fixture
    def damaged(self, subject: Subject, manager: ArtifactManager, tmp_path: Path) -> ArtifactManager:
        # Large enough to be an object of its own, so that only its bytes are damaged.
        tree = write(tmp_path / "tree", big=self.MARK + os.urandom(1_100_000), small="intact")
        commit(manager, tree)
        return manager

    def check(self, manager: ArtifactManager, tmp_path: Path) -> None:
        info = manager.version_info("model")
        manifest = manager.manifest("model")
        for name in ("big", "small"):
            entry = manifest.find(name)
            assert entry is not None
            if name == "small":
                assert manager.read_entry(info, entry) == b"intact"
                continue
            with pytest.raises(IntegrityError):
                manager.read_entry(info, entry)
        with pytest.raises(IntegrityError):
            manager.download_artifact("model", to=tmp_path / "out")
        assert not (tmp_path / "out" / "model").exists()
        assert os.listdir(tmp_path / "out") == []

    @needs(Keeps.DIGESTS)
    def test_other_bytes(self, subject: Subject, damaged: ArtifactManager, tmp_path: Path):
        subject.damage(self.MARK, b"-not-there-")
        self.check(damaged, tmp_path)

    @needs(Keeps.DIGESTS)
    def test_cut_short(self, subject: Subject, damaged: ArtifactManager, tmp_path: Path):
        subject.damage(self.MARK, b"-")
        self.check(damaged, tmp_path)

    @needs(Keeps.DIGESTS)
    def test_missing(self, subject: Subject, damaged: ArtifactManager, tmp_path: Path):
        subject.damage(self.MARK, None)
        self.check(damaged, tmp_path)


class Threads:
    def test_writers_and_readers_at_once(self, subject: Subject, tmp_path: Path):
        shared, commits = subject.open(), subject.commits_of_a_thread
        commit(shared, write(tmp_path / "first", f="first"))

        def work(number: int) -> list[str]:
            made = []
            for i in range(commits):
                tree = write(tmp_path / f"t{number}", who=f"{number}-{i}", f="shared")
                made.append(commit(shared, tree).info.version)
                for name in shared.list_version_names("model"):
                    info = shared.version_info("model", version=name)
                    manifest = shared.manifest("model", version=name)
                    assert manifest.file_count == info.file_count
                    entry = manifest.find("f")
                    assert entry is not None
                    assert shared.read_entry(info, entry) in (b"first", b"shared")
            return made

        with ThreadPoolExecutor(subject.threads) as pool:
            made = [version for done in pool.map(work, range(subject.threads)) for version in done]
        expected = [f"v{i}" for i in range(subject.threads * commits + 1)]
        assert shared.list_version_names("model") == expected
        assert sorted(made, key=lambda name: int(name[1:])) == expected[1:]

    @needs(Keeps.REPEATED_COMMITS)
    def test_one_commit_by_many_at_once(self, subject: Subject, tmp_path: Path):
        trees = [write(tmp_path / f"t{i}", f=f"different {i}") for i in range(8)]
        with ThreadPoolExecutor(8) as pool:
            done = list(pool.map(lambda tree: commit(subject.open(), tree, commit_id="once"), trees))
        assert {result.info.version for result in done} == {"v0"}
        assert subject.open().list_version_names("model") == ["v0"]

    @needs(Keeps.REPEATED_COMMITS)
    @pytest.mark.parametrize("days", [-2, 400])
    def test_a_repeated_commit_whatever_the_clocks_of_hosts_say(
        self, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
    ):
        """A host commits and dies before it hears of it; others commit, with clocks that are set to other days."""
        real = time.time_ns
        commit_id, tree = new_commit_id(), write(tmp_path / "ours", f="ours")
        first = commit(subject.open(), tree, commit_id=commit_id).info.version
        for number in range(6):
            monkeypatch.setattr(time, "time_ns", lambda: real() + days * 86_400 * 10**9)
            commit(subject.open(), write(tmp_path / f"t{number}", f=str(number)), commit_id=new_commit_id())
            monkeypatch.setattr(time, "time_ns", real)
        if Keeps.TOMBSTONES in subject.keeps:
            for version in ("v6", "v5", first):
                subject.open().delete_version("model", version)
            monkeypatch.setattr(time, "time_ns", lambda: real() + days * 86_400 * 10**9)
            commit(subject.open(), write(tmp_path / "t7", f="7"), commit_id=new_commit_id())
            monkeypatch.setattr(time, "time_ns", real)
        before = subject.open().list_version_names("model")
        assert commit(subject.open(), tree, commit_id=commit_id).info.version == first
        assert subject.open().list_version_names("model") == before

    def test_writers_that_know_nothing_of_each_other(self, subject: Subject, tmp_path: Path):
        """Each gets a number of its own; a store where that cannot be refuses all who do not promise to be alone."""
        if Keeps.MANY_WRITERS not in subject.keeps:
            if subject.opened_by_url is None:
                pytest.skip(f"{subject.name} is one manager, which is alone by itself")
            options = {**subject.opened_by_url, "single_writer": False}
            with pytest.raises(UnsafeStore, match="single_writer"):
                commit(connect(subject.open().url, **options), write(tmp_path / "t", f="1"))  # type: ignore[attr-defined]
            assert not subject.open().exists("model")
            return
        trees = [write(tmp_path / f"t{number}", f=str(number)) for number in range(3)]
        subject.open().ensure_created()
        with ThreadPoolExecutor(len(trees)) as pool:
            done = list(pool.map(lambda tree: commit(subject.open(), tree), trees))
        assert sorted(result.info.version for result in done) == ["v0", "v1", "v2"]
        found = contents_of_versions(subject.open())
        assert {result.info.version: tree.name.encode()[1:] for result, tree in zip(done, trees, strict=True)} == found


def contents_of_versions(manager: ArtifactManager) -> dict[str, bytes]:
    """What is in ``f`` of each version."""
    found = {}
    for info in manager.list_versions("model"):
        entry = manager.manifest("model", version=info.version).find("f")
        assert entry is not None
        found[info.version] = manager.read_entry(info, entry)
    return found
