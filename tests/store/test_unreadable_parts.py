"""A record or directory that this user may not read costs itself, and neither its artifact nor its store."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from artifactfs import ArtifactManager, connect
from artifactfs.errors import AccessDenied, FormatError
from artifactfs.findings import FindingKind
from artifactfs.managers.commit_id import new_commit_id
from artifactfs.objects import layout
from mount.cli import cli

_VERSION_3 = 0x20080522
_OF_ALL_FILES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@pytest.fixture(autouse=True)
def _no_privileges() -> Iterator[None]:
    """Let modes bind this thread and those it starts, root's too."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    had, without = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, had) == 0
    without[:] = had[:]
    without[0] &= ~_OF_ALL_FILES
    assert libc.capset(header, without) == 0
    yield
    assert libc.capset(header, had) == 0


@pytest.fixture(params=["objects", "plain"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactManager:
    manager = connect(str(tmp_path / "store") if request.param == "objects" else f"plain+file://{tmp_path}/store")
    for text in ("one", "two", "three"):
        commit(manager, tmp_path, text)
    commit(manager, tmp_path, "beside", "other")
    commit(manager, tmp_path, "elsewhere", "other", "second")
    return manager


def commit(manager: ArtifactManager, tmp_path: Path, text: str, artifact: str = "m", collection: str = "c") -> str:
    tree = tmp_path / "tree"
    tree.mkdir(exist_ok=True)
    (tree / "f").write_text(text)
    done = manager.commit_tree(artifact, tree, collection, commit_id=new_commit_id(), aliases=[f"is-{text}"])
    return done.info.version


def place(manager: ArtifactManager, key: str) -> Path:
    root = manager.local_root
    assert root is not None
    return root / layout.COLLECTIONS / key if (root / layout.MARKER_KEY).exists() else root / key


def record_of(manager: ArtifactManager, version: str) -> Path:
    path = place(manager, f"c/m/{version}.version")
    return path if path.exists() else place(manager, f"c/m/{version}/.artifactfs.json")


def cataloged(manager: ArtifactManager) -> set[tuple[str, int]]:
    return {(source.identifier, source.version) for source in manager.store_to_catalog().all_versions()}


@pytest.mark.parametrize("version", ["v0", "v1", "v2"])
def test_a_record(store: ArtifactManager, tmp_path: Path, version: str):
    record_of(store, version).chmod(0)
    fresh = connect(store.url)  # type: ignore[attr-defined]
    good = [name for name in ("v0", "v1", "v2") if name != version]
    assert fresh.list_version_names("m", "c") == ["v0", "v1", "v2"]
    assert [info.version for info in fresh.list_versions("m", "c")] == good
    wanted = {("c/m", int(name[1:]) + 1) for name in good} | {("c/other", 1), ("second/other", 1)}
    assert cataloged(fresh) == wanted
    for ask in (fresh.version_info, fresh.manifest):
        with pytest.raises(AccessDenied):
            ask("m", "c", version)
    assert commit(fresh, tmp_path, "four") == "v3"
    assert commit(connect(store.url), tmp_path, "five") == "v4"  # type: ignore[attr-defined]


def test_an_alias(store: ArtifactManager, tmp_path: Path):
    assert store.local_root is not None
    (path,) = store.local_root.rglob("is-two.alias")
    path.chmod(0)
    fresh = connect(store.url)  # type: ignore[attr-defined]
    assert fresh.aliases("m", "c") == {"is-one": "v0", "is-three": "v2"}
    with pytest.raises(AccessDenied):
        fresh.version_info("m", "c", "is-two")
    assert len(cataloged(fresh)) == 5


@pytest.mark.parametrize("mode", [0, 0o444, 0o111], ids=oct)
@pytest.mark.parametrize("key", ["c/m", "c"])
def test_a_directory(store: ArtifactManager, tmp_path: Path, key: str, mode: int):
    path = place(store, key)
    path.chmod(mode)
    try:
        fresh = connect(store.url)  # type: ignore[attr-defined]
        assert ("second/other", 1) in cataloged(fresh)
        if key == "c/m":
            assert fresh.list_artifacts("c") == ["m", "other"]
            assert ("c/other", 1) in cataloged(fresh)
        if mode == 0:
            with pytest.raises(AccessDenied):
                _ = fresh.list_version_names("m", "c") if key == "c/m" else fresh.list_artifacts("c")
        assert commit(fresh, tmp_path, "more", "other", "second") == "v1"
    finally:
        path.chmod(0o755)


@pytest.mark.parametrize("key", ["c/m", "c/m/v1.version"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_gc_refuses(tmp_path: Path, key: str, dry_run: bool):
    store = connect(str(tmp_path / "store"))
    for text in ("one", "two"):
        commit(store, tmp_path, text)
    root = tmp_path / "store"
    path = place(store, key)
    path.chmod(0)
    before = set((root / "objects").rglob("*"))
    try:
        for _ in range(2):
            with pytest.raises(AccessDenied, match=r"nothing was deleted: .*a user who may read every version"):
                connect(str(root)).gc(grace_s=0, dry_run=dry_run)
    finally:
        path.chmod(0o755)
    assert set((root / "objects").rglob("*")) == before


def test_a_manifest_that_may_not_be_read_does_not_stop_commits(tmp_path: Path):
    store = connect(str(tmp_path / "store"))
    commit(store, tmp_path, "one")
    for path in (tmp_path / "store/objects").rglob("*"):
        if path.is_file():
            path.chmod(0)
    fresh = connect(str(tmp_path / "store"))
    assert commit(fresh, tmp_path, "two") == "v1"
    assert fresh.manifest("m", "c", "v1").find("f") is not None


def test_a_version_of_squirrels_that_may_not_be_read(tmp_path: Path):
    files = tmp_path / "store/c/m/v0/files"
    files.mkdir(parents=True)
    (files / "f").write_text("theirs")
    files.chmod(0)
    try:
        store = connect(f"plain+file://{tmp_path}/store")
        assert commit(store, tmp_path, "ours") == "v1"
        assert [info.version for info in store.list_versions("m", "c")] == ["v1"]
        assert cataloged(store) == {("c/m", 2)}
    finally:
        files.chmod(0o755)


OF_OBJECTS = ["collections/c", "collections/c/m", "objects/NN"]
OF_PLAIN = ["c", "c/m", "c/m/v1", "c/m/v1/files"]


@pytest.mark.parametrize(
    ("store", "key"),
    [*(("objects", key) for key in OF_OBJECTS), *(("plain", key) for key in OF_PLAIN)],
    indirect=["store"],
)
def test_verify_and_a_whole_listing_go_on(store: ArtifactManager, key: str):
    """C18: each tells what it could not look at, and of everything else what there is."""
    root = store.local_root
    assert root is not None
    if key.endswith("NN"):
        entry = store.manifest("other", "second").find("f")
        assert entry is not None
        assert entry.object is not None
        key = f"objects/{entry.object[:2]}"
    is_listed = not key.startswith("objects/") and not key.endswith("/files")
    (root / key).chmod(0)
    try:
        report = connect(store.url).verify()  # type: ignore[attr-defined]
        listing = CliRunner().invoke(cli, ["ls", "-R", "--store", store.url])  # type: ignore[attr-defined]
    finally:
        (root / key).chmod(0o755)
    assert not report.ok
    assert FindingKind.UNREADABLE in {finding.kind for finding in report.damage}
    place = key.removeprefix("collections/").removesuffix("/files").replace("/v1", "@v1")
    assert any(place in str(finding) for finding in report.damage)
    assert report.versions >= 1
    assert "second/other@v0:f" in listing.stdout
    assert isinstance(listing.exception, FormatError) == is_listed, "so the exit status tells"
    assert ("1 place could" in str(listing.exception)) == is_listed
    assert (f"{place}: " in listing.stderr) == is_listed
    if key.startswith("c/m/v1"):
        assert "c/m@v2:f" in listing.stdout
