"""The managers that the conformance suite is run through, and what each can be held to.

A manager of another backend joins by one more function in `SUBJECTS`: it makes a Subject in a fresh place.
"""

from __future__ import annotations

import enum
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
from squirrel_like import SquirrelLike

from artifactfs import ArtifactManager, connect
from artifactfs.managers.adapter import SquirrelAdapter
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.managers.plain import PlainArtifactManager
from tests.servers import Server
from tests.wandb_server.handle import ENTITY
from tests.wandb_server.shared import wandb_server


class Keeps(enum.Enum):
    """What not every backend has."""

    ALIASES = "aliases"
    ANY_BYTES_IN_NAMES = "names that are no UTF-8"
    COLONS = "':' in names of collections"
    DELETION = "delete_version"
    DIGESTS = "digests, so damage is noticed"
    MANY_WRITERS = "the versions of writers that know nothing of each other"
    METADATA = "messages and metadata"
    MODES = "modes and times"
    OBJECTS = "log_artifact"
    REPEATED_COMMITS = "one version per commit id, whatever the content"
    SYMLINKS = "symlinks"
    TOMBSTONES = "what deleted versions were"


EVERYTHING = frozenset(Keeps)


@dataclass
class Subject:
    """One store in a fresh place. `stored` is the directory or fsspec URL in which its bytes lie."""

    name: str
    open: Callable[[], ArtifactManager]
    stored: str
    keeps: frozenset[Keeps] = EVERYTHING
    threads: int = 8
    commits_of_a_thread: int = 4
    local: bool = False
    sparse: bool = False
    """Whether a large sparse file given away costs no room."""
    many_files: int = 10_000
    options: dict[str, Any] = field(default_factory=dict)
    """What fsspec needs besides `stored`."""
    opened_by_url: dict[str, Any] | None = field(default_factory=dict)
    """The options for `connect` with the manager's own URL; None where no URL opens it."""

    def files_with(self, content: bytes) -> list[str]:
        """Where the store keeps these bytes."""
        fs, root = self._fs()
        return [path for path in fs.find(root) if content in fs.cat_file(path)]

    def _fs(self) -> tuple[Any, str]:
        if self.stored.startswith("gs://"):
            # What fsspec gives asks the emulator for what it does not know: see `artifactfs.objects.gcs`.
            from gcsfs.core import GCSFileSystem

            fs, root = GCSFileSystem(**self.options), self.stored.removeprefix("gs://")
        else:
            fs, root = fsspec.url_to_fs(self.stored, **self.options)
        fs.invalidate_cache()
        return fs, root

    def damage(self, content: bytes, replacement: bytes | None) -> None:
        """Put other bytes of the same length in their place, or delete what holds them, behind the manager's back."""
        fs, _ = self._fs()
        found = self.files_with(content)
        assert found
        for path in found:
            data = fs.cat_file(path)
            fs.rm_file(path)
            if replacement is not None:
                fs.pipe_file(path, data.replace(content, replacement))


def _objects_local(base: Path) -> Subject:
    url = str(base / "store")
    return Subject("objects-local", lambda: connect(url), url, local=True, sparse=True)


def _objects_memory(base: Path) -> Subject:
    url = f"memory://objects-{uuid.uuid4().hex}"
    return Subject("objects-memory", lambda: connect(url), url)


def _plain_local(base: Path) -> Subject:
    url = str(base / "store")
    return Subject("plain-local", lambda: connect(f"plain+file://{url}"), url, local=True, sparse=True)


def _plain_memory(base: Path) -> Subject:
    url = f"memory://plain-{uuid.uuid4().hex}"
    # One manager for all: that nothing else writes is the caller's promise.
    manager = connect(f"plain+{url}", single_writer=True)
    keeps = EVERYTHING - {Keeps.ANY_BYTES_IN_NAMES, Keeps.MANY_WRITERS}
    return Subject("plain-memory", lambda: manager, url, keeps, opened_by_url={"single_writer": True})


def _adapted(base: Path) -> Subject:
    root = base / "store"
    keeps = frozenset({Keeps.ANY_BYTES_IN_NAMES})
    return Subject(
        "adapted",
        lambda: SquirrelAdapter(SquirrelLike(root)),
        str(root),
        keeps,
        threads=1,
        local=True,
        many_files=1000,
        opened_by_url=None,
    )


def _wandb(base: Path) -> Subject:
    server = wandb_server()
    project = f"project-{uuid.uuid4().hex}"
    server.add_project(project)
    return Subject(
        "wandb",
        lambda: connect(f"wandb://{ENTITY}/{project}"),
        str(server.blobs),
        EVERYTHING - {Keeps.ANY_BYTES_IN_NAMES, Keeps.COLONS, Keeps.TOMBSTONES},
        threads=3,
        many_files=1000,
    )


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "objects-local": _objects_local,
    "objects-memory": _objects_memory,
    "plain-local": _plain_local,
    "plain-memory": _plain_memory,
    "adapted": _adapted,
    "wandb": _wandb,
}

SERVERS = ("ceph", "azurite", "gcs", "moto", "sftp", "webdav")


def on_server(server: Server) -> Subject:
    """A store of the object layout on a real server."""
    url, options = server.fresh(), server.options
    opened = options if server.exclusive else {**options, "single_writer": True}
    manager = connect(url, **opened)
    return Subject(
        f"objects-{server.name}",
        # One manager where nothing else may write.
        (lambda: connect(url, **opened)) if server.exclusive else lambda: manager,
        url,
        EVERYTHING if server.exclusive else EVERYTHING - {Keeps.MANY_WRITERS},
        threads=4,
        commits_of_a_thread=2,
        many_files=1000,
        options=options,
        # How to reach the SSH key is an option that catalogs leave out.
        opened_by_url=None if server.name == "sftp" else opened,
    )


REMOTE_KINDS: dict[str, Callable[[str], ArtifactManager]] = {
    "objects": lambda url: FileSystemArtifactManager(url, single_writer=True),
    "plain": lambda url: PlainArtifactManager(url, single_writer=True),
}
"""Managers at any fsspec URL, for stores that fail."""


def write(directory: Path, **files: str | bytes) -> Path:
    """Files in a directory, both made where needed."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory by its path."""
    found = {}
    for top, _, names in os.walk(directory):
        for name in names:
            path = Path(top, name)
            if not path.is_symlink():
                found[str(path.relative_to(directory))] = path.read_bytes()
    return found
