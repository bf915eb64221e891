"""What the stand-in remembers: users, projects, collections, artifacts, and the bytes they are made of.

Everything but the bytes is pickled, a project a file, written aside and renamed after each change; bytes lie in files
beside it. `State.lock` guards it; no method waits for the network.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class User:
    """Who a key belongs to. `entity` is theirs by default; `writes` lists the entities they may write to."""

    username: str
    entity: str | None
    reads: frozenset[str]
    writes: frozenset[str]


@dataclass
class Artifact:
    """One version, of a sequence."""

    id: str
    sequence: Sequence
    digest: str
    description: str | None = None
    metadata: str | None = None
    state: str = "PENDING"
    index: int | None = None
    wanted_aliases: list[str] = field(default_factory=list)
    created: str = ""
    manifest: str | None = None
    size: int = 0
    file_count: int = 0
    run: str | None = None


@dataclass
class Sequence:
    """A collection of versions. `next_index` never goes back."""

    id: str
    name: str
    type: str
    project: Project
    created: str
    artifacts: list[Artifact] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    next_index: int = 0

    def live(self) -> list[Artifact]:
        """The committed versions, newest first."""
        return sorted((a for a in self.artifacts if a.state == "COMMITTED"), key=lambda a: -(a.index or 0))


@dataclass
class Project:
    """A project of an entity. `births` says which artifact first had the bytes of that MD5."""

    id: str
    entity: str
    name: str
    created: str
    types: dict[str, str] = field(default_factory=dict)
    sequences: dict[str, Sequence] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    births: dict[str, str] = field(default_factory=dict)


def now() -> str:
    """The time as the server writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def new_id(kind: str) -> str:
    """A base64 id, as the server's are."""
    return base64.b64encode(f"{kind}:{uuid.uuid4().int % 10**12}".encode()).decode()


def hex_md5(digest: str) -> str:
    """Hex of a base64 MD5."""
    return base64.b64decode(digest).hex()


class State:
    """See the module docstring."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lock = threading.RLock()
        self.blobs = directory / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.users: dict[str, User] = {}
        self.projects: dict[tuple[str, str], Project] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.secret = uuid.uuid4().hex
        self._contents: dict[str, dict[str, dict[str, Any]]] = {}
        if (directory / "users.pickle").exists():
            self.users, self.secret = pickle.loads((directory / "users.pickle").read_bytes())
        for saved in directory.glob("project-*.pickle"):
            project = pickle.loads(saved.read_bytes())
            self.projects[project.entity, project.name] = project
            self.artifacts.update((a.id, a) for s in project.sequences.values() for a in s.artifacts)

    def save(self, project: Project | None = None) -> None:
        """Keep a project as it was changed, or the users. The lock is held."""
        name = "users" if project is None else f"project-{project.entity}-{project.name}"
        aside = self.directory / "new"
        aside.write_bytes(pickle.dumps((self.users, self.secret) if project is None else project))
        aside.replace(self.directory / f"{name}.pickle")

    def sequence_by_id(self, id: str) -> Sequence | None:
        """The sequence of that id."""
        found = (s for p in self.projects.values() for s in p.sequences.values() if s.id == id)
        return next(found, None)

    def resolve(self, sequence: Sequence, name: str) -> Artifact | None:
        """The version that ``v3`` or an alias means; deleted ones are gone."""
        for artifact in sequence.artifacts:
            if artifact.state == "COMMITTED" and f"v{artifact.index}" == name:
                return artifact
        found = self.artifacts.get(sequence.aliases.get(name, ""))
        return found if found is not None and found.state == "COMMITTED" else None

    # -- bytes ------------------------------------------------------------------------------------------------------

    def put_blob(self, key: str, data: bytes) -> None:
        """Store bytes whole."""
        aside = self.blobs / f".{uuid.uuid4().hex}"
        aside.write_bytes(data)
        os.replace(aside, self.blobs / key)

    def blob(self, key: str) -> Path:
        """Where bytes lie."""
        return self.blobs / key

    def contents(self, artifact: Artifact) -> dict[str, dict[str, Any]]:
        """The entries of a version's manifest by path."""
        if artifact.manifest is None:
            return {}
        found = self._contents.get(artifact.manifest)
        if found is None:
            manifest = json.loads(self.blob(artifact.manifest).read_bytes())
            found = self._contents[artifact.manifest] = dict(sorted(manifest["contents"].items()))
        return found

    # -- filling ----------------------------------------------------------------------------------------------------

    def project(self, entity: str, name: str) -> Project:
        """A project, made where there is none."""
        key = entity, name
        if key not in self.projects:
            self.projects[key] = Project(new_id("Project"), entity, name, now())
            self.save(self.projects[key])
        return self.projects[key]

    def sequence(self, project: Project, type_name: str, name: str) -> Sequence:
        """A sequence, made where there is none. Raises ValueError when the name is taken by another type."""
        found = project.sequences.get(name)
        if found is None:
            project.types.setdefault(type_name, new_id("ArtifactType"))
            found = project.sequences[name] = Sequence(new_id("ArtifactSequence"), name, type_name, project, now())
        if found.type != type_name:
            raise ValueError(f"artifact collection {name} is of type {found.type}, not {type_name}")
        return found

    def commit(self, artifact: Artifact) -> None:
        """Make a pending artifact a version: number, size, aliases. Raises Conflict."""
        sequence = artifact.sequence
        contents = self.contents(artifact)
        births = sequence.project.births
        mine = {e["digest"] for e in contents.values() if e.get("birthArtifactID") == artifact.id}
        if any(births.get(digest, artifact.id) != artifact.id for digest in mine):
            raise Conflict("rebase required: files of this artifact were added by another one")
        for digest in mine:
            if not self.blob(hex_md5(digest)).exists():
                raise ValueError(f"file with digest {digest} was not uploaded")
            births[digest] = artifact.id
        artifact.state = "COMMITTED"
        artifact.index = sequence.next_index
        sequence.next_index += 1
        artifact.size = sum(entry.get("size") or 0 for entry in contents.values())
        artifact.file_count = len(contents)
        for alias in artifact.wanted_aliases:
            sequence.aliases[alias] = artifact.id

    def seed(self, entity: str, project: str, type_name: str, names: list[str], files: dict[str, Any]) -> Project:
        """A version of each name as if somebody had logged it, not saved yet.

        A file is text, or an entry of the manifest.
        """
        made = self.project(entity, project)
        ids = [new_id("Artifact") for _ in names]
        contents = {}
        for path, given in files.items():
            if isinstance(given, dict):
                contents[path] = given
                continue
            digest = hashlib.md5(given.encode())
            self.put_blob(digest.hexdigest(), given.encode())
            key = base64.b64encode(digest.digest()).decode()
            made.births.setdefault(key, ids[0])
            contents[path] = {"digest": key, "size": len(given.encode()), "birthArtifactID": made.births[key]}
        manifest = f"manifest-{uuid.uuid4().hex}"
        policy = {"storagePolicy": "wandb-storage-policy-v1", "storagePolicyConfig": {"storageLayout": "V2"}}
        self.put_blob(manifest, json.dumps({"version": 1, **policy, "contents": contents}).encode())
        for name, id in zip(names, ids, strict=True):
            sequence = self.sequence(made, type_name, name)
            artifact = Artifact(id, sequence, uuid.uuid4().hex, created=now())
            artifact.manifest, artifact.wanted_aliases = manifest, ["latest"]
            sequence.artifacts.append(artifact)
            self.artifacts[artifact.id] = artifact
            self.commit(artifact)
        return made


class Conflict(Exception):
    """Somebody else committed first."""
