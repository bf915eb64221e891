"""What the stand-in answers of each object: a dict per object of the schema, its fields worked out when asked for.

graphql-core calls a value of the dict that is a function with the field's arguments. The state's lock is held.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tests.wandb_server.state import Artifact, Project, State, User, hex_md5
from tests.wandb_server.state import Sequence as Collection

T = TypeVar("T")
Sign = Callable[[str], str]
MAX_PAGE = 10_000


class Denied(Exception):
    """The user may not do that; what W&B answers as HTTP 403."""


class Views:
    """The objects as one user sees them; `sign` makes the URL of a blob's key."""

    def __init__(self, state: State, user: User, sign: Sign) -> None:
        self.state = state
        self.user = user
        self.sign = sign

    # -- the top ----------------------------------------------------------------------------------------------------

    def root(self) -> dict[str, Any]:
        return {
            "serverInfo": {"features": [{"name": name, "isEnabled": True} for name in FEATURES]},
            "viewer": self.viewer(),
            "entity": lambda _info, name=None: {"id": f"entity-{name}", "name": name, "xxhashDigestsEnabled": False},
            "project": lambda _info, name=None, entityName=None: self.find_project(entityName, name),
            "model": lambda _info, name=None, entityName=None: self.find_project(entityName, name),
            "artifact": lambda _info, id: self.find_artifact(id),
            "artifactCollection": lambda _info, id: self.find_collection(id),
            "organization": None,
            "clientIDMapping": None,
        }

    def viewer(self) -> dict[str, Any]:
        return {
            "id": f"user-{self.user.username}",
            "entity": self.user.entity,
            "username": self.user.username,
            "email": f"{self.user.username}@example.org",
            "flags": "{}",
            "teams": {"edges": [{"node": {"id": f"entity-{name}", "name": name}} for name in sorted(self.user.reads)]},
        }

    def find_project(self, entity: str | None, name: str | None) -> dict[str, Any] | None:
        """What may not be read is as if it were not there."""
        entity = entity or self.user.entity
        if entity not in self.user.reads:
            return None
        project = self.state.projects.get((entity, name or ""))
        return None if project is None else self.project(project)

    def find_artifact(self, id: str) -> dict[str, Any] | None:
        artifact = self.state.artifacts.get(id)
        if artifact is None or artifact.sequence.project.entity not in self.user.reads:
            return None
        return self.artifact(artifact)

    def find_collection(self, id: str) -> dict[str, Any] | None:
        sequence = self.state.sequence_by_id(id)
        if sequence is None or sequence.project.entity not in self.user.reads:
            return None
        return self.collection(sequence)

    # -- objects ----------------------------------------------------------------------------------------------------

    def project(self, project: Project) -> dict[str, Any]:
        def collections(_info: Any, after: str | None = None, first: int | None = None, **_: Any) -> dict[str, Any]:
            return connection(list(project.sequences.values()), after, first, self.collection)

        def types(_info: Any, after: str | None = None, first: int | None = None) -> dict[str, Any]:
            return connection(list(project.types), after, first, lambda name: self.type(project, name))

        def collection(_info: Any, name: str) -> dict[str, Any] | None:
            return self.collection(project.sequences[name]) if name in project.sequences else None

        return {
            "id": project.id,
            "internalId": project.id,
            "name": project.name,
            "entity": {"id": f"entity-{project.entity}", "name": project.entity, "xxhashDigestsEnabled": False},
            "artifact": lambda _info, name: self._field(self._membership_named(project, name), "artifact"),
            "artifactType": lambda _info, name: self.type(project, name) if name in project.types else None,
            "artifactTypes": types,
            "artifactCollection": collection,
            "artifactCollections": collections,
            "artifactCollectionMembership": lambda _info, name: self._membership_named(project, name),
            "bucket": lambda _info, name, missingOk=False: self._run(project, name),
            "run": lambda _info, name: self._run(project, name),
        }

    def type(self, project: Project, type_name: str) -> dict[str, Any]:
        mine = [s for s in project.sequences.values() if s.type == type_name]

        def collections(_info: Any, after: str | None = None, first: int | None = None, **_: Any) -> dict[str, Any]:
            return connection(mine, after, first, self.collection)

        def collection(_info: Any, name: str) -> dict[str, Any] | None:
            return next((self.collection(s) for s in mine if s.name == name), None)

        return {
            "id": project.types[type_name],
            "name": type_name,
            "description": None,
            "createdAt": project.created,
            "artifactCollection": collection,
            "artifactCollections": collections,
        }

    def collection(self, sequence: Collection) -> dict[str, Any]:
        def artifacts(
            _info: Any, after: str | None = None, first: int | None = None, order: Any = None, filters: Any = None
        ) -> dict[str, Any]:
            assert order is None, "the order of versions is not simulated"
            wanted = json.loads(filters) if filters else {}
            assert wanted in ({}, {"state": "COMMITTED"}), f"filters are not simulated: {filters}"
            page = connection(sequence.live(), after, first, self.artifact)
            for edge in page["edges"]:
                edge["version"] = f"v{edge['node']['versionIndex']}"
            return page

        def aliases(_info: Any, after: str | None = None, first: int | None = None) -> dict[str, Any]:
            return connection(list(sequence.aliases), after, first, lambda name: self._alias(sequence, name))

        def membership(_info: Any, aliasName: str) -> dict[str, Any] | None:
            return self.membership(sequence, aliasName)

        return {
            "__typename": "ArtifactSequence",
            "id": sequence.id,
            "name": sequence.name,
            "description": None,
            "createdAt": sequence.created,
            "updatedAt": None,
            "project": lambda _info: self.project(sequence.project),
            "defaultArtifactType": lambda _info: self.type(sequence.project, sequence.type),
            "tags": {"edges": []},
            "aliases": aliases,
            "artifactMembership": membership,
            "artifacts": artifacts,
            "latestArtifact": lambda _info: next((self.artifact(artifact) for artifact in sequence.live()), None),
            "digestAlgorithm": "MANIFEST_MD5",
        }

    def membership(self, sequence: Collection, name: str) -> dict[str, Any] | None:
        artifact = self.state.resolve(sequence, name)
        if artifact is None:
            return None
        return {
            "id": f"membership-{artifact.id}",
            "versionIndex": artifact.index,
            "createdAt": artifact.created,
            "aliases": lambda _info: self._aliases_of(artifact),
            "artifactCollection": lambda _info: self.collection(sequence),
            "artifact": lambda _info: self.artifact(artifact),
            "files": lambda _info, **arguments: self._files(artifact, **arguments),
        }

    def artifact(self, artifact: Artifact) -> dict[str, Any]:
        return {
            "id": artifact.id,
            "artifactSequence": lambda _info: self.collection(artifact.sequence),
            "artifactType": lambda _info: self.type(artifact.sequence.project, artifact.sequence.type),
            "versionIndex": artifact.index,
            "description": artifact.description,
            "metadata": artifact.metadata,
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": artifact.state,
            "size": artifact.size,
            "digest": artifact.digest,
            "digestAlgorithm": "MANIFEST_MD5",
            "commitHash": None,
            "fileCount": artifact.file_count,
            "createdAt": artifact.created,
            "updatedAt": None,
            "aliases": lambda _info: self._aliases_of(artifact),
            "currentManifest": lambda _info: self._manifest(artifact),
            "createdBy": lambda _info: self._run(artifact.sequence.project, artifact.run or ""),
        }

    # -- parts ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _field(found: dict[str, Any] | None, name: str) -> Any:
        return None if found is None else found[name](None)

    def _membership_named(self, project: Project, name: str) -> dict[str, Any] | None:
        collection, _, version = name.partition(":")
        sequence = project.sequences.get(collection)
        return None if sequence is None else self.membership(sequence, version or "latest")

    def _alias(self, sequence: Collection, name: str) -> dict[str, Any]:
        return {
            "id": f"alias-{sequence.id}-{name}",
            "alias": name,
            "artifactCollection": lambda _info: self.collection(sequence),
        }

    def _aliases_of(self, artifact: Artifact) -> list[dict[str, Any]]:
        sequence = artifact.sequence
        return [self._alias(sequence, name) for name, id in sequence.aliases.items() if id == artifact.id]

    def _manifest(self, artifact: Artifact) -> dict[str, Any] | None:
        if artifact.manifest is None:
            return None
        file = {"id": artifact.manifest, "name": "wandb_manifest.json", "directUrl": self.sign(artifact.manifest)}
        return {"id": artifact.manifest, "digest": artifact.digest, "file": file}

    def _files(
        self, artifact: Artifact, names: Sequence[str] | None = None, after: str | None = None, first: int | None = None
    ) -> dict[str, Any]:
        contents = self.state.contents(artifact)
        wanted = None if names is None else set(names)
        chosen = contents if wanted is None else [name for name in contents if name in wanted]
        return connection(list(chosen), after, first, lambda path: self._file(path, contents[path]))

    def _file(self, path: str, entry: dict[str, Any]) -> dict[str, Any]:
        reference = entry.get("ref")
        key = None if reference else hex_md5(entry["digest"])
        url = reference or self.sign(key)
        return {
            "id": f"file-{path}",
            "name": path,
            "displayName": path,
            "url": url,
            "directUrl": url,
            "storagePath": key,
            "sizeBytes": entry.get("size") or 0,
            "mimetype": None,
            "updatedAt": None,
            "digest": entry["digest"],
            "md5": entry["digest"],
        }

    def _run(self, project: Project, name: str) -> dict[str, Any] | None:
        run = project.runs.get(name)
        return None if run is None else {**run, "project": lambda _info: self.project(project)}


def connection(found: list[T], after: str | None, first: int | None, node: Callable[[T], Any]) -> dict[str, Any]:
    """A page of what was found, in the relay style; only the nodes of the page are made."""
    start = int(base64.b64decode(after)) if after else 0
    end = min(len(found), start + min(first or 50, MAX_PAGE))

    def cursor(i: int) -> str:
        return base64.b64encode(str(i).encode()).decode()

    return {
        "totalCount": len(found),
        "pageInfo": {"endCursor": cursor(end), "hasNextPage": end < len(found)},
        "edges": [{"node": node(found[i]), "cursor": cursor(i + 1)} for i in range(start, end)],
    }


FEATURES = (
    "LARGE_FILENAMES",
    "ARTIFACT_TAGS",
    "CLIENT_IDS",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILE_DOWNLOAD_HANDLER",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "ARTIFACT_COLLECTIONS_FILTERING_SORTING",
    "ARTIFACT_V2_DOWNLOAD_HANDLER_SUPPORTS_ARTIFACT_ID",
)
