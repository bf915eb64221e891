"""The smallest manager with squirrel's interface and nothing else, in memory of directories: what an adapter gets."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace


class SquirrelLike:
    """Keeps ``<root>/<collection>/<artifact>/vN/``; errors and catalogs are as squirrel's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(exist_ok=True)

    def list_collection_names(self):
        return iter([path.name for path in self.root.iterdir()])

    def exists_in_collection(self, artifact, collection=None):
        return (self.root / collection / artifact).exists()

    def collection_to_catalog(self, collection=None):
        catalog = {}
        for artifact in (self.root / collection).iterdir():
            versions = {
                int(path.name[1:]) + 1: SimpleNamespace(driver_name="like", driver_kwargs={}, metadata=None)
                for path in artifact.iterdir()
            }
            catalog[f"{collection}/{artifact.name}"] = SimpleNamespace(versions=versions)
        return catalog

    def get_artifact(self, artifact, collection=None, version=None):
        raise NotImplementedError("objects are not kept")

    def log_artifact(self, obj, name, collection=None):
        raise NotImplementedError("objects are not kept")

    def log_files(self, artifact_name, local_path, collection=None, artifact_path=None):
        artifact = self.root / collection / artifact_name
        number = len(list(artifact.iterdir())) if artifact.exists() else 0
        shutil.copytree(local_path, artifact / f"v{number}" / (artifact_path or ""))

    def download_artifact(self, artifact, collection=None, version=None, to=None):
        shutil.copytree(self.root / collection / artifact / version, to / artifact, dirs_exist_ok=True)
        return to / artifact
