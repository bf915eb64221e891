"""What every peer shows: a native tree, a store that has it as one version, and a tar of it.

The tree is ``small/`` (files of 16 KiB, 100 in a directory), ``big.bin`` (random bytes) and ``model.safetensors``,
twice as large, in the format of https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from artifactfs import EntryKind, connect
from artifactfs.managers.commit_id import new_commit_id
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.manifest import Manifest
from artifactfs.manifest_builder import ManifestBuilder
from artifactfs.objects import layout
from artifactfs.objects.layout import Record
from benchmarks import client
from benchmarks.programs import run

MIB = 1 << 20
SMALL_BYTES = 16 << 10
COLLECTION = "bench"
ARTIFACT = "data"
MODIFIED_S = 1_700_000_000
"""The time of every file: long ago, so that git trusts what it knows of them."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured. `far_files` are read one by one, `far_commit_files` sent, where a request takes 50 ms."""

    big_bytes: int = 1 << 30
    small_files: int = 10_000
    mapped_pages: int = 20_000
    many_files: int = 1_000_000
    readers: int = 100
    reads_each: int = 50
    far_files: int = 300
    far_commit_files: int = 2_000
    s3_pages: int = 200


QUICK = Sizes(big_bytes=64 * MIB, small_files=1_000, mapped_pages=2_000, many_files=20_000, readers=100, reads_each=10)


@dataclass(frozen=True)
class Ground:
    """The directory of a run of the bench."""

    directory: Path

    @property
    def data(self) -> Path:
        """The native tree."""
        return self.directory / "data"

    @property
    def target(self) -> Path:
        """Where native peers are written to."""
        return self.directory / "target"

    @property
    def store(self) -> Path:
        """A store on the same file system; it has the tree as bench/data/v0."""
        return self.directory / "store"

    @property
    def tar(self) -> Path:
        """The tree as a tar."""
        return self.directory / "data.tar"


def prepare_ground(ground: Ground, sizes: Sizes, with_tar: bool) -> None:
    """Write the native tree, commit it to the store, and pack it."""
    ground.target.mkdir(parents=True)
    make_small_files(ground.data / "small", sizes.small_files)
    with open(ground.data / "big.bin", "wb") as big:
        for _ in range(sizes.big_bytes // MIB):
            big.write(os.urandom(MIB))
    _make_tensors(ground.data / "model.safetensors", ground.data / "big.bin", sizes.big_bytes)
    connect(str(ground.store)).commit_tree(ARTIFACT, ground.data, COLLECTION, commit_id=new_commit_id())
    if with_tar:
        run("tar", "-C", str(ground.directory), "-cf", str(ground.tar), "data")


def make_small_files(directory: Path, count: int) -> None:
    """`count` files of random content, 100 in a directory."""
    for path in map(Path, client.small_files(count, str(directory))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.randbytes(SMALL_BYTES))
        os.utime(path, (MODIFIED_S, MODIFIED_S))


def _make_tensors(path: Path, big: Path, big_bytes: int) -> None:
    """A file of safetensors twice the size of `big`: tensors of 16 MiB, and one of the rest."""
    header, offset, step = {}, 0, 16 * MIB
    while offset < 2 * big_bytes:
        size_bytes = min(step, 2 * big_bytes - offset)
        header[f"layer{offset // step}.weight"] = {
            "dtype": "F32",
            "shape": [size_bytes // 4],
            "data_offsets": [offset, offset + size_bytes],
        }
        offset += size_bytes
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as model:
        model.write(len(encoded).to_bytes(8, "little") + encoded)
        for _ in range(2):
            with open(big, "rb") as source:
                shutil.copyfileobj(source, model, MIB)


def make_many_files(store: str, artifact: str, count: int, **options: Any) -> None:
    """A version of `count` files, 1,000 in a directory, written as a commit of that tree would have written it."""
    manager = connect(store, **options)
    assert isinstance(manager, FileSystemArtifactManager)
    contents = [b"%d" % number for number in range(count)]
    packed = b"".join(contents)
    name = blake3(packed).digest()
    builder = ManifestBuilder()
    offset = 0
    for number, content in enumerate(contents):
        path = b"%04d/%07d" % (number // 1000, number)
        row = builder.add(path, EntryKind.FILE, size_bytes=len(content), mtime_ns=MODIFIED_S * 10**9)
        builder.set_content(row, blake3(content).digest(), name, offset)
        offset += len(content)
    manifest = Manifest.of(builder.rows())
    encoded = manifest.encode()
    manifest_object = blake3(encoded).hexdigest()
    record = Record(
        version="v0",
        created=time.time_ns(),
        commit=new_commit_id(),
        digest=manifest.content_digest(),
        manifest=manifest_object,
        file_count=manifest.file_count,
        size_bytes=manifest.size_bytes,
    )
    manager.store.put(layout.object_key(name.hex()), packed)
    manager.store.put(layout.object_key(manifest_object), encoded)
    key = layout.record_key(layout.artifact_prefix(COLLECTION, artifact), 0)
    manager.store.put_exclusive(key, layout.encode(record))


def warm(directory: Path) -> None:
    """Bring every file into the page cache."""
    for path in directory.rglob("*"):
        if path.is_file():
            with open(path, "rb", buffering=0) as file:
                while file.read(MIB):
                    pass
