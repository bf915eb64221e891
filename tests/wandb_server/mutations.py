"""What the stand-in changes when it is told to. The state's lock is held by the caller, which saves `changed` after."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from tests.wandb_server.state import Artifact, Project, hex_md5, new_id, now
from tests.wandb_server.views import Denied, Views


class Mutations:
    """The fields of `Mutation`, for one user. `upload_url` makes where the bytes of a key go."""

    def __init__(self, views: Views, upload_url: Callable[[str, str], str]) -> None:
        self._views = views
        self._state = views.state
        self._upload_url = upload_url
        self.changed: dict[str, Project] = {}

    def root(self) -> dict[str, Any]:
        """The fields by name."""
        names = [name for name in vars(type(self)) if not name.startswith("_") and name != "root"]
        return {name: self._field(getattr(self, name)) for name in names}

    @staticmethod
    def _field(method: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
        return lambda _info, input: method(input)

    def _project(self, entity: str | None, name: str | None, *, make: bool = False) -> Project:
        entity = entity or self._views.user.entity
        if entity not in self._views.user.writes:
            raise Denied("permission denied")
        if not make and (entity, name or "") not in self._state.projects:
            raise ValueError(f"could not find project {entity}/{name} during a change")
        return self._change(self._state.project(entity, name or "uncategorized"))

    def _change(self, project: Project) -> Project:
        self.changed[project.id] = project
        return project

    def _artifact(self, id: str) -> Artifact:
        artifact = self._state.artifacts.get(id)
        if artifact is None or artifact.sequence.project.entity not in self._views.user.reads:
            raise ValueError(f"could not find artifact {id}")
        if artifact.sequence.project.entity not in self._views.user.writes:
            raise Denied("permission denied")
        self._change(artifact.sequence.project)
        return artifact

    # -- runs -------------------------------------------------------------------------------------------------------

    def upsertBucket(self, input: dict[str, Any]) -> dict[str, Any]:
        project = self._project(input.get("entityName"), input.get("modelName"), make=True)
        name = input.get("name") or uuid.uuid4().hex[:8]
        inserted = name not in project.runs
        run = project.runs.setdefault(name, {"id": new_id("Run"), "name": name, "historyLineCount": 0})
        for key in ("displayName", "description", "config", "summaryMetrics", "notes", "tags", "state", "host"):
            if input.get(key) is not None:
                run[key] = input[key]
        return {"bucket": self._views._run(project, name), "inserted": inserted}

    def createRunFiles(self, input: dict[str, Any]) -> dict[str, Any]:
        project = self._project(input["entityName"], input["projectName"])
        run = project.runs[input["runName"]]
        run.setdefault("files", []).extend(input["files"])
        files = [
            {"id": f"file-{name}", "name": name, "uploadUrl": self._upload_url(f"run-{uuid.uuid4().hex}", "")}
            for name in input["files"]
        ]
        return {"runID": run["id"], "uploadHeaders": [], "files": files}

    def markRunFilesUploaded(self, input: dict[str, Any]) -> dict[str, Any]:
        self._project(input["entityName"], input["projectName"])
        return {"success": True}

    # -- logging an artifact ----------------------------------------------------------------------------------------

    def createArtifact(self, input: dict[str, Any]) -> dict[str, Any]:
        project = self._project(input["entityName"], input["projectName"])
        name = input.get("artifactCollectionName") or input["artifactCollectionNames"][0]
        sequence = self._state.sequence(project, input["artifactTypeName"], name)
        aliases = [given["alias"] for given in input.get("aliases") or []]
        if input["enableDigestDeduplication"]:
            for known in sequence.live():
                if known.digest == input["digest"]:
                    sequence.aliases.update(dict.fromkeys(aliases, known.id))
                    return {"artifact": self._views.artifact(known)}
        artifact = Artifact(
            new_id("Artifact"),
            sequence,
            input["digest"],
            description=input.get("description"),
            metadata=input.get("metadata"),
            wanted_aliases=aliases,
            created=now(),
            run=input.get("runName"),
        )
        sequence.artifacts.append(artifact)
        self._state.artifacts[artifact.id] = artifact
        return {"artifact": self._views.artifact(artifact)}

    def createArtifactManifest(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self._artifact(input["artifactID"])
        manifest = {
            "id": new_id("ArtifactManifest"),
            "artifact": artifact.id,
            "key": f"manifest-{uuid.uuid4().hex}",
            "digest": input["digest"],
        }
        artifact.sequence.project.manifests[manifest["id"]] = manifest
        return {"artifactManifest": self._manifest(manifest)}

    def updateArtifactManifest(self, input: dict[str, Any]) -> dict[str, Any]:
        id = input["artifactManifestID"]
        manifest = next(p.manifests[id] for p in self._state.projects.values() if id in p.manifests)
        if input.get("digest"):
            manifest["digest"] = input["digest"]
        return {"artifactManifest": self._manifest(manifest)}

    def _manifest(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self._artifact(manifest["artifact"]).manifest = manifest["key"]
        file = {
            "id": manifest["id"],
            "name": "wandb_manifest.json",
            "uploadUrl": self._upload_url(manifest["key"], manifest["digest"]),
            "uploadHeaders": [f"Content-MD5:{manifest['digest']}"],
        }
        return {"id": manifest["id"], "digest": manifest["digest"], "file": file}

    def createArtifactFiles(self, input: dict[str, Any]) -> dict[str, Any]:
        return {"files": {"edges": [{"node": self._new_file(spec)} for spec in input["artifactFiles"]]}}

    def _new_file(self, spec: dict[str, Any]) -> dict[str, Any]:
        artifact = self._artifact(spec["artifactID"])
        key = hex_md5(spec["md5"])
        birth = artifact.sequence.project.births.get(spec["md5"])
        return {
            "id": f"file-{spec['name']}",
            "name": spec["name"],
            "storagePath": f"wandb_artifacts/{key}",
            "uploadUrl": None if birth else self._upload_url(key, spec["md5"]),
            "uploadHeaders": [f"Content-MD5:{spec['md5']}"],
            "uploadMultipartUrls": None,
            "artifact": self._views.artifact(self._state.artifacts[birth] if birth else artifact),
        }

    def commitArtifact(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self._artifact(input["artifactID"])
        if artifact.state == "PENDING":
            self._state.commit(artifact)
        return {"artifact": self._views.artifact(artifact)}

    # -- changing a version -----------------------------------------------------------------------------------------

    def addAliases(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self._artifact(input["artifactID"])
        for given in input["aliases"]:
            artifact.sequence.aliases[given["alias"]] = artifact.id
        return {"success": True}

    def deleteAliases(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self._artifact(input["artifactID"])
        for given in input["aliases"]:
            if artifact.sequence.aliases.get(given["alias"]) == artifact.id:
                del artifact.sequence.aliases[given["alias"]]
        return {"success": True}

    def updateArtifact(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self._artifact(input["artifactID"])
        for key in ("description", "metadata"):
            if input.get(key) is not None:
                setattr(artifact, key, input[key])
        return {"artifact": self._views.artifact(artifact)}

    def deleteArtifact(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self._artifact(input["artifactID"])
        pointing = [name for name, id in artifact.sequence.aliases.items() if id == artifact.id]
        if pointing and not input["deleteAliases"]:
            raise ValueError("cannot delete an artifact with aliases")
        for name in pointing:
            del artifact.sequence.aliases[name]
        artifact.state = "DELETED"
        return {"artifact": self._views.artifact(artifact)}
