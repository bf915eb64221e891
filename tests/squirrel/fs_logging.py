"""What squirrel-core's tests demand of its own file-system manager, for any manager.

Each scenario gets a manager of an empty store and a directory to work in; both are of no other's. They run in the
interpreter of squirrel-core as well as in ours, so nothing here needs a test framework.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from artifactfs import ArtifactManager, connect

COLLECTION = "my_collection"
TEXTS = {"foo.txt": "Test: Foo", "bar.txt": "Test: Bar", "baz.txt": "Test: Baz"}
PLACES = {"foo": COLLECTION, "bar": COLLECTION, "baz": "default"}

URLS: dict[str, str] = {"objects": "{}", "plain": "plain+file://{}", "squirrel": "squirrel+file://{}"}
DRIVERS = {"objects": "artifactfs", "plain": "directory", "squirrel": "directory"}


def run(kind: str, scenario: str, directory: str) -> None:
    """Run a scenario on a store of that kind."""
    base = Path(directory)
    for name in ("source", "out"):
        (base / name).mkdir()
    manager = connect(URLS[kind].format(base / "store"), auto_mkdir=True)
    SCENARIOS[scenario](manager, base, kind)


def log_each(manager: ArtifactManager, base: Path) -> None:
    """One file an artifact, in two collections."""
    for artifact, collection in PLACES.items():
        name = f"{artifact}.txt"
        path = base / "source" / name
        path.write_text(TEXTS[name])
        manager.log_files(artifact, path, collection, Path(name))


def files_in(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def files_and_a_folder(manager: ArtifactManager, base: Path, kind: str) -> None:
    for artifact, name, number in (("foo_file", "foo.txt", 0), ("bar_file", "bar.txt", 0), ("bar_file", "baz.txt", 1)):
        path = base / "source" / name
        path.write_text(TEXTS[name])
        source = manager.log_files(artifact, path, COLLECTION, Path(name))
        assert source.driver_name == DRIVERS[kind]
        said = {key: source.metadata[key] for key in ("collection", "artifact", "version")}
        assert said == {"collection": COLLECTION, "artifact": artifact, "version": f"v{number}"}
        assert source.version == number + 1
        if kind != "objects":
            version = base / "store" / COLLECTION / artifact / f"v{number}"
            assert files_in(version / "files") == {name: TEXTS[name]}
    source = manager.log_files("folder", base / "source", COLLECTION)
    assert (source.driver_name, source.metadata["artifact"], source.version) == (DRIVERS[kind], "folder", 1)
    assert sorted(source.get_driver().keys()) == sorted(TEXTS)


def another_name_for_a_file(manager: ArtifactManager, base: Path, kind: str) -> None:
    path = base / "source" / "foo.txt"
    path.write_text("text")
    manager.log_files("renamed", path, COLLECTION, Path("other.txt"))
    assert files_in(manager.download_artifact("renamed", COLLECTION, to=base / "out")) == {"other.txt": "text"}


def existence(manager: ArtifactManager, base: Path, kind: str) -> None:
    log_each(manager, base)
    for artifact, collection in PLACES.items():
        assert manager.exists(artifact)
        for other in (COLLECTION, "default"):
            assert manager.exists_in_collection(artifact, other) == (other == collection)
    assert not manager.exists("none")


def downloads(manager: ArtifactManager, base: Path, kind: str) -> None:
    for name in ("bar.txt", "baz.txt"):
        (base / "source" / name).write_text(TEXTS[name])
        manager.log_files("both", base / "source" / name, COLLECTION, Path(name))
    manager.log_files("folder", base / "source", COLLECTION)
    for number, name in enumerate(("bar.txt", "baz.txt")):
        to = base / "out" / str(number)
        assert manager.download_artifact("both", COLLECTION, f"v{number}", to) == to / "both"
        assert files_in(to / "both") == {name: TEXTS[name]}
    manager.download_artifact("folder", COLLECTION, "v0", base / "out" / "folders")
    assert files_in(base / "out" / "folders" / "folder") == {name: TEXTS[name] for name in ("bar.txt", "baz.txt")}


def a_folder_that_is_written(manager: ArtifactManager, base: Path, kind: str) -> None:
    with manager.log_folder("folder", COLLECTION) as folder:
        for name, text in TEXTS.items():
            Path(folder, name).write_text(text)
    assert manager.exists_in_collection("folder", COLLECTION)
    source = manager.collection_to_catalog(COLLECTION)[f"{COLLECTION}/folder"]
    for found in (source, manager.get_artifact_source("folder", COLLECTION)):
        said = [found.metadata[key] for key in ("collection", "artifact", "version")]
        assert (found.driver_name, said) == (DRIVERS[kind], [COLLECTION, "folder", "v0"])
        assert (found.identifier, found.version) == (f"{COLLECTION}/folder", 1)
    if kind != "objects":
        assert files_in(base / "store" / COLLECTION / "folder" / "v0" / "files") == TEXTS
    manager.download_artifact("folder", COLLECTION, "v0", base / "out")
    assert files_in(base / "out" / "folder") == TEXTS
    with manager.download_artifact("folder", COLLECTION, "v0") as path:
        assert files_in(path) == TEXTS
    assert not path.exists()


def catalogs(manager: ArtifactManager, base: Path, kind: str) -> None:
    log_each(manager, base)
    assert sorted(manager.collection_to_catalog(COLLECTION).keys()) == [f"{COLLECTION}/bar", f"{COLLECTION}/foo"]
    assert list(manager.collection_to_catalog().keys()) == ["default/baz"]
    catalog = manager.store_to_catalog()
    assert len(catalog) == len(PLACES)
    for artifact, collection in PLACES.items():
        assert f"{collection}/{artifact}" in catalog
        source = catalog[f"{collection}/{artifact}"]
        assert (source.metadata["collection"], source.metadata["artifact"]) == (collection, artifact)
        assert source.version == 1


def whole_collections(manager: ArtifactManager, base: Path, kind: str) -> None:
    log_each(manager, base)
    for collection, count in ((COLLECTION, 2), ("default", 1)):
        assert len(manager.download_collection(collection, base / "out" / collection)) == count
    for artifact, collection in PLACES.items():
        name = f"{artifact}.txt"
        assert files_in(base / "out" / collection / artifact) == {name: TEXTS[name]}


SCENARIOS: dict[str, Callable[[ArtifactManager, Path, str], None]] = {
    scenario.__name__: scenario
    for scenario in (
        *(files_and_a_folder, another_name_for_a_file, existence, downloads),
        *(a_folder_that_is_written, catalogs, whole_collections),
    )
}
