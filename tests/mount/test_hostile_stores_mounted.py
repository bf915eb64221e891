"""A mount of a store that somebody wrote to harm."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs import connect
from artifactfs.errors import FormatError
from artifactfs.managers.filesystem import FileSystemArtifactManager
from tests.hostile import CASES, put_version
from tests.mount.conftest import MakeMount
from tests.servers.fixtures import StartServer

pytestmark = pytest.mark.fuse

MOST_MEMORY_BYTES = 400 << 20


@pytest.mark.parametrize("place", ["local", "moto"])
def test_it_gives_errors_and_nothing_else(
    place: str, prepare_mount: MakeMount, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """V6: what is wrong is EIO, named in the log; other versions are served; nothing is written but to the cache."""
    url, options, arguments = str(tmp_path / "store"), {}, []
    if place != "local":
        start_server: StartServer = request.getfixturevalue("start_server")
        server = start_server(place)
        url, options, arguments = server.fresh(), server.options, server.arguments()
    manager = connect(url, **options)
    assert isinstance(manager, FileSystemArtifactManager)
    for case, (manifest, _) in CASES.items():
        put_version(manager, case, manifest)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"honest")
    manager.commit_tree("honest", tmp_path / "tree", commit_id="h")
    mount = prepare_mount(url)
    mount.expect_warning("manifest|hostile|digest|object|bytes")
    mount.mount("--read-only", *arguments)
    outside = names_below(tmp_path)

    assert sorted(os.listdir(mount / "default")) == sorted([*CASES, "honest"])
    for case, (_, error) in CASES.items():
        said = len(mount.log())
        errors = list(errors_of_reading(mount / "default" / case / "v0"))
        assert errors, case
        assert set(errors) == {errno.EIO}, case
        # All have one object: of its bytes, an error may name the version that was the first to want them.
        named = case if error is FormatError or place == "local" else r"[\w-]+"
        assert re.search(rf"default/{named}[@/]", mount.log()[said:]), f"{case} is not named"
    assert (mount / "default/honest/v0/file").read_bytes() == b"honest"
    status = Path(f"/proc/{mount.daemon.pid}/status").read_text()
    assert int(status.partition("VmHWM:")[2].split()[0]) << 10 < MOST_MEMORY_BYTES
    assert names_below(tmp_path) == outside
    assert not Path("/tmp/escaped").exists()


def errors_of_reading(top: Path) -> Iterator[int | None]:
    """What goes wrong with listing and reading everything, a little of each file."""
    failed: list[OSError] = []
    for directory, _, names in os.walk(top, onerror=failed.append):
        for name in names:
            try:
                with open(Path(directory, name), "rb") as file:
                    assert file.read(4096) == b"", f"{top}: bytes that no digest vouches for"
            except OSError as error:
                failed.append(error)
    yield from (error.errno for error in failed)


def names_below(directory: Path) -> set[str]:
    """Every name but those in the store, in what is mounted, and in the places for the cache and the state."""
    found = set()
    for top, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if name not in ("store", "mnt", "cache", "state")]
        found |= {os.path.join(top, name) for name in (*directories, *names)}
    return found
