"""PlainArtifactManager beyond the suite: what others put there, deletion, detection, many processes, a lost disk."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from conformance import commit
from subjects import contents, write

from artifactfs import connect
from artifactfs.columns import Columns, encode_columns
from artifactfs.errors import (
    CollectionNotFound,
    FormatError,
    IntegrityError,
    NotFound,
    StoreUnreachable,
    UnsafeStore,
    Unsupported,
    VersionNotFound,
)
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.managers.plain import PlainArtifactManager
from artifactfs.manifest import EntryKind
from artifactfs.objects.root import StoreRoot
from artifactfs.plain import local as plain_local


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def manager(root: Path) -> PlainArtifactManager:
    return PlainArtifactManager(str(root))


def foreign(root: Path, version: str = "v0", artifact: str = "model", **files: str) -> Path:
    """A version as squirrel-core leaves one."""
    return write(root / "default" / artifact / version / "files", **(files or {"f": "theirs"}))


class TestVersionsOfOthers:
    def test_they_are_read(self, root: Path, manager: PlainArtifactManager, tmp_path: Path):
        files = foreign(root, f="theirs", g="")
        write(files / "sub", run="x")
        (files / "sub" / "run").chmod(0o755)
        (files / "link").symlink_to("sub/run")
        info = manager.version_info("model")
        assert (info.version, info.file_count, info.size_bytes, info.digest) == ("v0", 3, 7, None)
        assert manager.list_versions("model") == [info]
        manifest = manager.manifest("model")
        found = manifest.find("sub/run")
        link = manifest.find("link")
        assert found is not None
        assert link is not None
        assert (found.digest, found.mode, link.kind) == (None, 0o755, EntryKind.SYMLINK)
        assert manager.read_entry(info, found) == b"x"
        assert contents(Path(str(manager.download_artifact("model", to=tmp_path)))) == contents(files)

    def test_equal_content_is_told_by_reading_them(self, root: Path, manager: PlainArtifactManager, tmp_path: Path):
        foreign(root, f="theirs")
        same = commit(manager, write(tmp_path / "t", f="theirs"), aliases=["best"])
        assert (same.info.version, same.created) == ("v0", False)
        assert manager.aliases("model") == {"best": "v0"}
        assert commit(manager, write(tmp_path / "t", f="there's")).info.version == "v1"

    def test_what_serializers_wrote(self, root: Path, manager: PlainArtifactManager):
        for name in ("jsonl", "messagepack"):
            write(root / "default" / name / "v0" / name, part="data")
            assert [entry.path for entry in manager.manifest(name)] == [name, f"{name}/part"]
        write(root / "default" / "single" / "v0", files="a file of that name")
        info = manager.version_info("single")
        (entry,) = manager.manifest("single")
        assert (entry.path, manager.read_entry(info, entry)) == ("files", b"a file of that name")

    def test_what_is_no_version(self, root: Path, manager: PlainArtifactManager):
        foreign(root)
        for stray in ("v1", "v01", "vx", "tmp"):
            (root / "default" / "model" / stray).mkdir()
        write(root / "default" / "model", stray="file")
        write(root / "default", stray="file")
        write(root, README="file")
        (root / "default" / "hollow").mkdir()
        assert manager.list_collection_names() == ["default"]
        assert manager.list_artifacts() == ["model"]
        assert manager.list_version_names("model") == ["v0"]
        # v1 exists for whoever counts directories, so its number is not used.
        assert commit(manager, write(root.parent / "t", f="1")).info.version == "v2"

    def test_what_leads_out_of_a_version(self, root: Path, manager: PlainArtifactManager, tmp_path: Path):
        write(tmp_path / "outside", secret="secret")
        files = foreign(root)
        (files / "link").symlink_to(tmp_path / "outside" / "secret")
        with pytest.raises(FormatError, match="link"):
            manager.manifest("model")
        (files / "link").unlink()
        os.mkfifo(files / "fifo")
        with pytest.raises(FormatError, match="fifo"):
            manager.version_info("model")
        (files / "fifo").unlink()
        info = manager.version_info("model")
        entry = manager.manifest("model").find("f")
        assert entry is not None
        (files / "f").unlink()
        (files / "f").symlink_to(tmp_path / "outside" / "secret")
        for read in (manager.read_entry, manager.local_range):
            with pytest.raises(IntegrityError):
                read(info, entry)
        shutil.rmtree(files)
        files.symlink_to(tmp_path / "outside")
        with pytest.raises(FormatError):
            PlainArtifactManager(str(root)).manifest("model")

    def test_names_beyond_the_rules(self, root: Path, manager: PlainArtifactManager):
        write(root / "a b" / "ü" / "v0" / "files", f="1")
        assert manager.list_collection_names() == ["a%20b"]
        assert manager.list_artifacts("a%20b") == ["%C3%BC"]
        assert manager.version_info("%C3%BC", "a%20b").file_count == 1

    def test_deleting_them(self, root: Path, manager: PlainArtifactManager, tmp_path: Path):
        for number in range(2):
            foreign(root, f"v{number}", f=str(number))
        manager.delete_version("model", "v1")
        assert manager.list_version_names("model") == ["v0"]
        assert sorted(os.listdir(root / "default" / "model")) == ["v0", "v1"]
        assert not (root / "default/model/v1/files").exists()
        assert commit(manager, write(tmp_path / "t", f="1")).info.version == "v2"


class TestOurs:
    def test_nothing_but_versions_lies_in_an_artifact(self, root: Path, manager: PlainArtifactManager, tmp_path: Path):
        tree = write(tmp_path / "t", f="1")
        manager.log_files("model", tree, message="m", aliases=["best"])
        manager.delete_version("model", manager.log_files("model", write(tree, f="2")).metadata["version"])
        assert os.listdir(root) == ["default"]
        assert sorted(os.listdir(root / "default" / "model")) == ["v0", "v1"]
        assert sorted(os.listdir(root / "default/model/v0/.artifactfs")) == ["best.alias", "v1.deleted"]
        with pytest.raises(CollectionNotFound):
            manager.list_artifacts(".artifactfs")

    def test_given_away_is_linked_not_copied(self, root: Path, manager: PlainArtifactManager, tmp_path: Path):
        tree = write(tmp_path / "t", f="1")
        commit(manager, tree, consume=True)
        assert (root / "default/model/v0/files/f").samefile(tree / "f")
        commit(manager, write(tmp_path / "u", f="2"))
        assert not (root / "default/model/v1/files/f").samefile(tmp_path / "u" / "f")

    def test_what_a_sync_failed_for_is_written_anew(
        self, root: Path, manager: PlainArtifactManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A second sync of the same file that succeeds proves nothing, so a copy takes its place."""
        tree = write(tmp_path / "t", f="1")

        def lost(path: str) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

        with monkeypatch.context() as patch:
            patch.setattr("artifactfs.plain.local.sync_file", lost)
            with pytest.raises(StoreUnreachable):
                commit(manager, tree, consume=True)
        assert commit(manager, tree, consume=True).info.version == "v0"
        assert not (root / "default/model/v0/files/f").samefile(tree / "f")

    def test_no_program_of_somebody_gets_into_a_version(
        self, root: Path, manager: PlainArtifactManager, tmp_path: Path
    ):
        """setuid and setgid bits are not kept, whether a file is linked or copied."""
        for number, consume in enumerate((True, False)):
            tree = write(tmp_path / f"t{number}", f=str(number))
            (tree / "f").chmod(0o6755)
            commit(manager, tree, consume=consume)
            assert stat.S_IMODE((root / f"default/model/v{number}/files/f").stat().st_mode) == 0o755

    @pytest.mark.parametrize("path", [b"../x", b"/etc/x", b"a/../../x"])
    def test_a_hostile_manifest(self, root: Path, manager: PlainArtifactManager, tmp_path: Path, path: bytes):
        commit(manager, write(tmp_path / "t", f="1"))
        place = root / "default/model/v0"
        zero = bytes(8)
        raw = encode_columns(
            Columns(1, "blake3", path, b"\0", b"\xa4\x01", zero, zero, b"", b"", b"\xff" * 4, zero, {})  # one file
        )
        record = (place / ".artifactfs.json").read_text()
        old = blake3((place / ".artifactfs.manifest").read_bytes()).hexdigest()
        assert old in record
        for name, data in (
            (".artifactfs.manifest", raw),
            (".artifactfs.json", record.replace(old, blake3(raw).hexdigest()).encode()),
        ):
            (place / name).unlink()
            (place / name).write_bytes(data)
        fresh = PlainArtifactManager(str(root))
        with pytest.raises(FormatError, match="hostile"):
            fresh.download_artifact("model", to=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_damaged_manifest(self, root: Path, manager: PlainArtifactManager, tmp_path: Path):
        commit(manager, write(tmp_path / "t", f="1"))
        place = root / "default/model/v0/.artifactfs.manifest"
        place.unlink()
        with pytest.raises(IntegrityError, match="missing"):
            PlainArtifactManager(str(root)).manifest("model")
        place.write_bytes(b"other")
        with pytest.raises(IntegrityError, match="digest"):
            PlainArtifactManager(str(root)).manifest("model")

    def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(
        self, root: Path, manager: PlainArtifactManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        commit(manager, write(tmp_path / "t", f="1"))
        aside = root / ".artifactfs/store/v0/tmp"
        write(aside / "dead", f="1")
        # Whatever the clock of this host says: that of the file system counts.
        monkeypatch.setattr("time.time_ns", lambda: 1 << 62)
        commit(manager, write(tmp_path / "t", f="1 more"))
        assert os.listdir(aside) == ["dead"]
        monkeypatch.setattr(plain_local, "_STALE_NS", 0)
        committer = plain_local.LocalCommitter(StoreRoot(str(root)), manager._history, manager._contents)
        with committer.aside() as (_, alive):
            commit(manager, write(tmp_path / "t", f="2"))
            assert os.listdir(aside) == [os.path.basename(alive)]
        assert os.listdir(root) == ["default"]

    def test_without_renameat2(self, manager: PlainArtifactManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("artifactfs.objects.disk._libc", lambda name: None)
        for text in "ab":
            commit(manager, write(tmp_path / "t", f=text))
        assert manager.list_version_names("model") == ["v0", "v1"]
        taken = tmp_path / "store" / "default" / "model"
        assert not plain_local.rename_new(str(tmp_path / "t"), str(taken / "v0"))
        (taken / "v9").mkdir()
        assert not plain_local.rename_new(str(tmp_path / "t"), str(taken / "v9"))

    def test_references_are_refused(self, manager: PlainArtifactManager, tmp_path: Path):
        assert not manager.takes_references
        with pytest.raises(Unsupported):
            commit(manager, write(tmp_path / "t", f="1"), reference_of=lambda path: None)


class TestPlaces:
    def test_detection(self, root: Path, tmp_path: Path):
        for empty in (tmp_path / "none", write(tmp_path / "file", f="1"), tmp_path / "store"):
            assert isinstance(connect(str(empty)), FileSystemArtifactManager)
        write(tmp_path / "project" / "api" / "v1", f="not ours")
        assert isinstance(connect(str(tmp_path)), FileSystemArtifactManager)
        foreign(root)
        for url in (str(root), f"file://{root}", f"plain+file://{root}"):
            assert isinstance(connect(url), PlainArtifactManager)
        write(root, **{"artifactfs.json": "{}"})
        assert isinstance(connect(str(root)), FileSystemArtifactManager)
        with pytest.raises(FormatError, match=r"plain\+"):
            connect(f"plain+file://{root}").list_collection_names()

    def test_the_message_for_an_undetected_one_says_what_to_do(self, tmp_path: Path):
        write(tmp_path / "default" / "model" / "v0", stray="1")
        with pytest.raises(FormatError, match=r"plain\+"):
            connect(str(tmp_path)).list_collection_names()

    def test_an_empty_one_is_known_again(self, root: Path):
        with pytest.raises(NotFound):
            connect(f"plain+file://{root}").list_collection_names()
        connect(f"plain+file://{root}").ensure_created()
        again = connect(str(root))
        assert isinstance(again, PlainArtifactManager)
        assert again.list_collection_names() == []

    def test_a_disk_that_went_away(self, root: Path, manager: PlainArtifactManager, tmp_path: Path):
        tree = write(tmp_path / "t", f="1")
        commit(manager, tree)
        root.rename(tmp_path / "elsewhere")
        for missing in (True, False):
            for call in (manager.list_collection_names, manager.list_artifacts, lambda: manager.version_info("model")):
                with pytest.raises(StoreUnreachable, match="gone"):
                    call()
            with pytest.raises(StoreUnreachable):
                commit(manager, tree)
            assert root.exists() != missing
            root.mkdir(exist_ok=True)  # the mountpoint that is left of an unmounted disk

    def test_remote_stores_take_one_writer(self, tmp_path: Path):
        url = f"plain+memory://{uuid.uuid4().hex}"
        tree = write(tmp_path / "t", f="1")
        reader, writer = connect(url), connect(url, single_writer=True)
        commit(writer, tree)
        for call in (
            lambda: commit(reader, tree),
            lambda: reader.set_alias("model", "best", "v0"),
            lambda: reader.delete_version("model", "v0"),
            reader.ensure_created,
        ):
            with pytest.raises(UnsafeStore, match="single_writer=True"):
                call()
        assert reader.list_version_names("model") == ["v0"]

    @pytest.mark.parametrize("deaths", [0, 1, 2, 3, 4, 5])
    def test_notes_of_the_first_programs_are_moved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int):
        """At any moment, whoever dies, an artifact reads the same."""
        import fsspec

        name = uuid.uuid4().hex
        fs = fsspec.filesystem("memory")
        writer = connect(f"plain+memory://{name}", single_writer=True)
        tree = write(tmp_path / "t", f="0")
        for number in range(3):
            commit(writer, write(tree, f=str(number)), aliases=[f"a{number}"])
        writer.delete_version("model", "v1")
        for path in fs.find(f"/{name}/default/model/v0/.artifactfs"):
            old = f"/{name}/.artifactfs/store/v0/collections/default/model/{path.rpartition('/')[2]}"
            fs.pipe(old, fs.cat(path))
            fs.rm(path)

        def state() -> tuple[list[str], dict[str, str]]:
            reader = connect(f"plain+memory://{name}")
            return reader.list_version_names("model"), reader.aliases("model")

        before = state()
        assert before == (["v0", "v2"], {"a0": "v0", "a2": "v2"})
        writer = connect(f"plain+memory://{name}", single_writer=True)
        assert isinstance(writer, PlainArtifactManager)
        left = deaths

        def dying(call: Callable[..., Any]) -> Callable[..., Any]:
            def called(*arguments: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
                return call(*arguments)

            return called

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            for method in ("put_exclusive", "delete"):
                patch.setattr(writer.store, method, dying(getattr(writer.store, method)))
            writer.ensure_created()
        assert state() == before
        writer.set_alias("model", "a2", "v0")
        assert state() == (["v0", "v2"], {"a0": "v0", "a2": "v0"})
        assert not fs.exists(f"/{name}/.artifactfs/store")

    def test_remote_versions_of_others(self, tmp_path: Path):
        import fsspec

        name = uuid.uuid4().hex
        fs = fsspec.filesystem("memory")
        fs.pipe({f"/{name}/default/model/v0/files/{path}": b"theirs" for path in ("f", "sub/g")})
        manager = connect(f"plain+memory://{name}", single_writer=True)
        info = manager.version_info("model")
        assert (info.file_count, info.size_bytes, info.digest) == (2, 12, None)
        assert contents(Path(str(manager.download_artifact("model", to=tmp_path / "out")))) == {
            "f": b"theirs",
            "sub/g": b"theirs",
        }
        tree = write(tmp_path / "t", f="theirs")
        write(tree / "sub", g="theirs")
        assert not commit(manager, tree).created
        manager.delete_version("model", "v0")
        assert manager.list_artifacts() == []
        assert fs.exists(f"/{name}/default/model/v0")
        assert commit(manager, tree).info.version == "v1"

    def test_a_remote_directory_without_files_is_no_version(self, tmp_path: Path):
        """O12, whatever left it: a note that could not be written, files that were cleared away, somebody's rm."""
        import fsspec

        name = uuid.uuid4().hex
        fs = fsspec.filesystem("memory")
        for left in ("notes/v0/.artifactfs", "cleared/v0/files/sub", "later/v1/files", "bare/v0"):
            fs.makedirs(f"/{name}/default/{left}")
        fs.pipe(f"/{name}/default/gone/v0/.artifactfs/best.alias", b'{"version":"v1"}')
        fs.pipe(f"/{name}/default/gone/v1/files/f", b"theirs")
        fs.pipe(f"/{name}/default/later/v0/files/f", b"theirs")
        manager = connect(f"plain+memory://{name}", single_writer=True)
        assert manager.list_artifacts() == ["gone", "later"]
        assert manager.list_version_names("gone") == ["v1"]
        assert manager.list_version_names("later") == ["v0"]
        for artifact, version in {"notes": "v0", "cleared": "v0", "bare": "v0", "later": "v1", "gone": "v2"}.items():
            assert manager.exists(artifact) == (artifact in ("gone", "later"))
            assert commit(manager, write(tmp_path / "t", f="ours"), artifact).info.version == version
            assert contents(Path(str(manager.download_artifact(artifact, to=tmp_path / "o")))) == {"f": b"ours"}
        empty = tmp_path / "empty"
        empty.mkdir()
        commit(manager, empty, "without")
        assert connect(f"plain+memory://{name}").list_version_names("without") == ["v0"]

    def test_pickling(self, manager: PlainArtifactManager, tmp_path: Path):
        import pickle

        manager.active_collection = "other"
        commit(manager, write(tmp_path / "t", f="1"))
        copy = pickle.loads(pickle.dumps(manager))
        assert (copy.active_collection, copy.list_version_names("model")) == ("other", ["v0"])


def test_many_processes(root: Path, tmp_path: Path):
    processes, commits = 4, 10
    worker = Path(__file__).parent.parent / "store" / "race_worker.py"
    arguments = [sys.executable, "-W", "error", str(worker), f"plain+file://{root}", str(tmp_path)]
    workers = [
        subprocess.Popen([*arguments, str(i), str(commits)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for i in range(processes)
    ]
    for started in workers:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
    for started in workers:
        started.communicate("go\n")
    assert [started.returncode for started in workers] == [0] * processes
    versions = connect(f"plain+file://{root}").list_versions("model")
    assert [info.version for info in versions] == [f"v{i}" for i in range(processes * commits)]
    assert len({info.commit_id for info in versions}) == processes * commits
    for info in versions:
        assert contents(root / "default" / "model" / info.version / "files")["who"] == info.message.encode()


@pytest.mark.parametrize("how", ["copy", "consume"])
def test_killed_at_any_call(how: str, tmp_path: Path):
    sweep = Path(__file__).with_name("plain_crash_sweep.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(sweep), how, str(tmp_path / "sweep")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 50


def test_a_deletion_that_died_half_way_is_a_deletion(
    manager: PlainArtifactManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    commit(manager, write(tmp_path / "t", f="1"), aliases=["best"])
    with monkeypatch.context() as patched:
        patched.setattr(
            "artifactfs.managers.plain.remove_locally", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            manager.delete_version("model", "v0")
    assert manager.list_version_names("model") == []
    with pytest.raises(VersionNotFound):
        manager.version_info("model", version="best")
    assert commit(manager, write(tmp_path / "t", f="1")).info.version == "v1"
