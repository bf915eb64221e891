"""squirrel-core behind two pipes: a JSON request per line in, a JSON answer per line out.

Run by the fixture `squirrel` with the interpreter of squirrel-core's environment; see `conftest`.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

import numpy as np

# squirrel-core 0.20.2 names np.float_, which NumPy 2 dropped; in NumPy 1 it is float64.
if not hasattr(np, "float_"):
    np.float_ = np.float64

import fs_logging
import squirrel.artifact_manager.base as squirrel_base
from exchange import build, describe
from squirrel.artifact_manager.filesystem import FileSystemArtifactManager
from squirrel.catalog import Catalog, Source
from squirrel.serialization import JsonSerializer, MessagepackSerializer

SERIALIZERS = {"json": JsonSerializer, "messagepack": MessagepackSerializer}


def catalog_of(rows):
    catalog = Catalog()
    for identifier, version, driver_name, driver_kwargs, metadata in rows:
        catalog[identifier, version] = Source(driver_name, build(driver_kwargs), build(metadata))
    return catalog


def rows_of(catalog):
    return [
        [key, version, source.driver_name, describe(source.driver_kwargs), describe(source.metadata)]
        for key in catalog.keys()  # noqa: SIM118 - iterating gives pairs
        for version, source in catalog[key].versions.items()
    ]


def write_catalog(rows, path):
    catalog_of(rows).to_file(path)


def read_catalog_text(text):
    return rows_of(Catalog.from_str(text))


def read_catalog_files(paths):
    return rows_of(Catalog.from_files(paths))


def serialize(name, description):
    return SERIALIZERS[name].serialize(build(description)).hex()


def deserialize(name, data):
    return describe(SERIALIZERS[name]().deserialize(bytes.fromhex(data)))


def collections(root):
    return sorted(FileSystemArtifactManager(root).list_collection_names())


def exists(root, artifact):
    return FileSystemArtifactManager(root).exists(artifact)


def versions(root):
    catalog = FileSystemArtifactManager(root).store_to_catalog()
    return {key: sorted(catalog[key].versions) for key in catalog.keys()}  # noqa: SIM118 - iterating gives pairs


def log(root, artifact, path):
    return FileSystemArtifactManager(root).log_files(artifact, Path(path)).version


def download(root, artifact, version, to):
    return str(FileSystemArtifactManager(root).download_artifact(artifact, version=version, to=Path(to)))


def read_source(root, artifact):
    return _read(FileSystemArtifactManager(root).collection_to_catalog()[f"default/{artifact}"])


def read_catalog_source(path, identifier):
    return _read(Catalog.from_files([path])[identifier])


def log_as_squirrel(kind, scenario, directory):
    fs_logging.run(kind, scenario, directory)


def public_face():
    """The public methods of squirrel's classes with their parameters, None for properties."""
    face = {}
    for name, kinds in {
        "ArtifactManager": (squirrel_base.ArtifactManager, FileSystemArtifactManager),
        "DirectoryLogger": (squirrel_base.DirectoryLogger,),
        "TmpArtifact": (squirrel_base.TmpArtifact,),
    }.items():
        for kind in kinds:
            for member in dir(kind):
                if not member.startswith("_"):
                    found = getattr(kind, member)
                    parameters = list(inspect.signature(found).parameters) if callable(found) else None
                    face.setdefault(name, {})[member] = parameters
    return face


def _read(source):
    store = source.get_driver().store
    prefix = store.url.removeprefix("file://") + "/"
    return {path.removeprefix(prefix): store.fs.cat_file(path).hex() for path in store.fs.find(store.url)}


def main():
    operations = {
        function.__name__: function
        for function in (
            *(write_catalog, read_catalog_text, read_catalog_files, serialize, deserialize),
            *(collections, exists, versions, log, download, read_source, read_catalog_source),
            *(log_as_squirrel, public_face),
        )
    }
    # Whatever squirrel prints must not get between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"result": operations[name](*arguments)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
