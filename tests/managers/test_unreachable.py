"""A store that fails midway: never mistaken for one that answered, and nothing half made is left to be seen."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from conformance import commit
from fsspec.implementations.memory import MemoryFileSystem
from subjects import REMOTE_KINDS, contents, write

from artifactfs import ArtifactManager
from artifactfs.errors import AccessDenied, NotFound, StoreTimeout, StoreUnreachable

CALLS = ("cat_file", "pipe_file", "put_file", "rm_file", "ls", "find", "info", "cat_ranges", "exists")


class FlakyFileSystem(MemoryFileSystem):
    """Memory that fails from the call on that `fails_in` counts down to."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    error: ClassVar[Exception] = ConnectionError("connection refused")
    fails_in: ClassVar[int | None] = None

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return MemoryFileSystem._strip_protocol(str(path).replace("flaky://", "memory://"))


def _failing(name: str) -> Any:
    def call(self: FlakyFileSystem, *args: Any, **kwargs: Any) -> Any:
        cls = type(self)
        if cls.fails_in is not None:
            cls.fails_in -= 1
            if cls.fails_in < 0:
                raise cls.error
        return getattr(MemoryFileSystem, name)(self, *args, **kwargs)

    return call


for _name in CALLS:
    setattr(FlakyFileSystem, _name, _failing(_name))


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FlakyFileSystem]]:
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    # Waiting between attempts is for servers.
    monkeypatch.setattr("artifactfs.objects.patience.time.sleep", lambda seconds: None)
    yield FlakyFileSystem
    FlakyFileSystem.fails_in = None
    FlakyFileSystem.error = ConnectionError("connection refused")
    FlakyFileSystem.store.clear()


@pytest.fixture(params=sorted(REMOTE_KINDS))
def manager(request: pytest.FixtureRequest, flaky: type[FlakyFileSystem]) -> ArtifactManager:
    return REMOTE_KINDS[request.param](f"flaky://store-{uuid.uuid4().hex}")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionError("refused"), StoreUnreachable),
        (TimeoutError("slow"), StoreTimeout),
        (OSError(5, "input/output error"), StoreUnreachable),
        (PermissionError("403"), AccessDenied),
    ],
)
def test_what_failed_is_not_said_to_be_absent(
    manager: ArtifactManager, flaky: type[FlakyFileSystem], tmp_path: Path, error: Exception, kind: type[Exception]
):
    info = commit(manager, write(tmp_path / "t", f="1")).info
    entry = manager.manifest("model").find("f")
    assert entry is not None
    flaky.error, flaky.fails_in = error, 0
    for call in (
        manager.list_collection_names,
        manager.list_artifacts,
        lambda: manager.list_artifacts("none"),
        lambda: manager.list_version_names("model"),
        lambda: manager.version_info("none"),
        lambda: manager.version_info("model", version="v7"),
        lambda: manager.aliases("model"),
        lambda: manager.exists("none"),
        lambda: manager.exists_in_collection("none"),
        lambda: manager.read_entry(info, entry),
        lambda: manager.download_artifact("model", to=tmp_path / "out"),
        lambda: manager.delete_version("model", "v0"),
        lambda: commit(manager, write(tmp_path / "t", f="2")),
        manager.store_to_catalog,
    ):
        with pytest.raises(kind) as caught:
            call()
        assert not isinstance(caught.value, NotFound)
    flaky.fails_in = None
    assert manager.list_version_names("model") == ["v0"]
    assert not (tmp_path / "out" / "model").exists()


def test_a_commit_that_fails_at_any_call_is_repeated(
    manager: ArtifactManager, flaky: type[FlakyFileSystem], tmp_path: Path
):
    for step in range(200):
        tree = write(tmp_path / f"t{step}", f=f"content {step}", g="x" * (1 << 20))
        artifact = f"model{step}"
        flaky.fails_in = step
        try:
            commit(manager, tree, artifact, commit_id=f"c{step}", aliases=["best"])
            failed = False
        except StoreUnreachable:
            failed = True
        flaky.fails_in = None
        if failed:
            # Whole or not there at all.
            if manager.exists(artifact):
                assert contents(Path(str(manager.download_artifact(artifact, to=tmp_path / "seen")))) == contents(tree)
            result = commit(manager, tree, artifact, commit_id=f"c{step}", aliases=["best"])
            assert (result.info.version, result.created) == ("v0", True)
        assert manager.list_version_names(artifact) == ["v0"]
        assert manager.aliases(artifact) == {"best": "v0"}
        assert contents(Path(str(manager.download_artifact(artifact, to=tmp_path / "out")))) == contents(tree)
        if not failed:
            assert step > 5
            return
    pytest.fail("every commit failed")


def test_a_download_that_fails_at_any_call_leaves_nothing(
    manager: ArtifactManager, flaky: type[FlakyFileSystem], tmp_path: Path
):
    tree = write(tmp_path / "t", f="1", g="x" * (1 << 20))
    commit(manager, tree)
    for step in range(100):
        flaky.fails_in = step
        try:
            manager.download_artifact("model", to=tmp_path / "out")
        except StoreUnreachable:
            assert not list((tmp_path / "out").iterdir()) if (tmp_path / "out").exists() else True
        else:
            assert step > 1
            assert contents(tmp_path / "out" / "model") == contents(tree)
            return
    pytest.fail("every download failed")
