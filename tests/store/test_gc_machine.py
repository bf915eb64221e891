"""Commits, deletes and passes of gc in any order, several of them halfway at once: no version ever loses an object."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

import fsspec
import pytest
from clocked_store import HOUR_S, ClockedStore, Stopped
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from artifactfs.managers import filesystem
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.objects import layout, packs
from artifactfs.objects.open import open_store

GRACE_NS = 24 * HOUR_S * 10**9
ARTIFACTS = st.sampled_from(["m", "n"])
FILES = st.sets(st.sampled_from("abc"), min_size=1)


class GcMachine(RuleBasedStateMachine):
    """Time passes as the rules say, and never so much that a commit takes as long as the grace period."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.directory = tempfile.TemporaryDirectory()
        self.commits: list[Stopped] = []
        self.passes: list[Stopped] = []

    @initialize()
    def begin(self) -> None:
        self.store = ClockedStore(open_store(f"memory://machine-{uuid.uuid4().hex}"))
        self.patch.setattr(packs, "SMALL_FILE_BYTES", 1)
        self.patch.setattr(filesystem, "open_store", lambda *_, **__: self.store)
        self.manager = FileSystemArtifactManager(self.store.url)
        self.manager.ensure_created()

    def tree(self, files: set[str]) -> Path:
        tree = Path(self.directory.name, uuid.uuid4().hex)
        tree.mkdir()
        for name in files:
            (tree / name).write_text(name)
        return tree

    @rule(artifact=ARTIFACTS, files=FILES, calls=st.integers(0, 40))
    def commit(self, artifact: str, files: set[str], calls: int) -> None:
        tree, commit_id = self.tree(files), uuid.uuid4().hex
        # Another manager, as on another host: nothing it has read is in memory.
        other = FileSystemArtifactManager(self.store.url)
        running = Stopped(self.store, lambda: other.commit_tree(artifact, tree, commit_id=commit_id), calls)
        self.commits.append(running)

    @precondition(lambda self: self.commits)
    @rule(which=st.integers(0, 9))
    def end_commit(self, which: int) -> None:
        self.commits.pop(which % len(self.commits)).finish()

    @rule(artifact=ARTIFACTS, which=st.integers(0, 9))
    def delete(self, artifact: str, which: int) -> None:
        if self.manager.exists_in_collection(artifact):
            live = self.manager.list_version_names(artifact)
            self.manager.delete_version(artifact, live[which % len(live)])

    @rule(hours=st.sampled_from([1, 11, 23.9, 24, 60]))
    def pass_time(self, hours: float) -> None:
        after = self.store.now_ns + int(hours * HOUR_S * 10**9)
        for commit in [one for one in self.commits if after - one.began_ns >= GRACE_NS]:
            self.commits.remove(commit)
            commit.finish()
        self.store.pass_time(hours * HOUR_S)

    @rule()
    def collect(self) -> None:
        self.manager.gc()

    @rule(calls=st.integers(0, 40))
    def begin_pass(self, calls: int) -> None:
        self.passes.append(Stopped(self.store, self.manager.gc, calls, never_at="delete"))

    @precondition(lambda self: self.passes)
    @rule(which=st.integers(0, 9))
    def end_pass(self, which: int) -> None:
        self.passes.pop(which % len(self.passes)).finish()

    @invariant()
    def every_version_is_whole(self) -> None:
        held = {file.key for file in self.store.walk(layout.OBJECTS)}
        for collection in self.manager.list_collection_names():
            for artifact in self.manager.list_artifacts(collection):
                for info in self.manager.list_versions(artifact):
                    manifest = FileSystemArtifactManager(self.store.url).manifest(artifact, version=info.version)
                    assert {layout.object_key(name) for name in manifest.objects} <= held

    def teardown(self) -> None:
        try:
            for running in [*self.commits, *self.passes]:
                running.finish()
            self.every_version_is_whole()
            for _ in range(2):
                self.store.pass_time(25 * HOUR_S)
                self.manager.gc()
            self.store.pass_time(25 * HOUR_S)
            self.manager.gc()
            assert self.manager.verify().findings == ()
        finally:
            # fsspec keeps what is in memory for ever, and looks through all of it at each listing.
            fsspec.filesystem("memory").rm(self.store.url.partition(":/")[2], recursive=True)
            self.patch.undo()
            self.directory.cleanup()


TestGc = GcMachine.TestCase
TestGc.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
