"""What is measured of the store itself, without a mount: `put` and `get` beside ``cp -a``, and large listings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from artifactfs import connect
from artifactfs.managers.commit_id import new_commit_id
from artifactfs.objects import layout
from artifactfs.objects.layout import Record
from benchmarks import store_client
from benchmarks.ground import COLLECTION, Ground, Sizes, make_small_files
from benchmarks.peers import Native, Peer, Store
from benchmarks.programs import COMMAND_TIMEOUT_S, Failed, artifactfs, run, run_client, settle
from benchmarks.rows import Measured, Row, Target, check
from benchmarks.write_rows import ManyFiles

VERSIONS_EACH = 10


class StoreRow(Row):
    """A row of the store, beside the native directory where `against` says so."""

    chosen_by_default = False

    def takes(self, peer: Peer) -> bool:
        """No mount takes part."""
        return isinstance(peer, Store) or (isinstance(peer, Native) and self.against == "native")


class Put(StoreRow):
    """``artifactfs put`` of many small files, beside ``cp -a`` and a sync of the file system. Content is always new."""

    name = "put of the small files, against cp -a + sync"
    against = "native"
    targets = (Target("store", "native", 0.5),)

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes, first: bool) -> Measured:
        """Write, settle, put, compare."""
        source, got = ground.directory / "source", ground.directory / "got"
        make_small_files(source, sizes.small_files)
        settle()
        started = time.perf_counter()
        if isinstance(peer, Store):
            artifactfs("put", str(source), f"{COLLECTION}/source", "--store", str(ground.store))
        else:
            run("cp", "-a", str(source), str(got))
            run("sync", "--file-system", str(got))
        seconds = time.perf_counter() - started
        if isinstance(peer, Store):
            connect(str(ground.store)).download_artifact("source", COLLECTION, to=got)
            got = got / "source"
        check(run_client("hash", str(got))[1], run_client("hash", str(source))[1])
        shutil.rmtree(ground.directory / "got")
        shutil.rmtree(source)
        return Measured(seconds)


class Get(StoreRow):
    """A version of many small files copied to the disk, by the command or by `download_artifact`, beside ``cp -a``."""

    against = "native"
    targets = (Target("store", "native", 0.5),)

    def __init__(self, name: str, by_command: bool) -> None:
        self.name = name
        self._by_command = by_command

    def prepare(self, ground: Ground, sizes: Sizes) -> None:
        """Commit the files alone."""
        small = ground.data / "small"
        connect(str(ground.store)).commit_tree("small", small, COLLECTION, commit_id=new_commit_id())

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes, first: bool) -> Measured:
        """Settle, get, compare."""
        got = ground.directory / "got"
        got.mkdir()
        settle()
        started = time.perf_counter()
        if isinstance(peer, Native):
            run("cp", "-a", str(ground.data / "small"), str(got))
        elif self._by_command:
            artifactfs("get", f"{COLLECTION}/small", str(got), "--store", str(ground.store))
        else:
            connect(str(ground.store)).download_artifact("small", COLLECTION, to=got)
        seconds = time.perf_counter() - started
        expected = run_client("hash", str(ground.data / "small"))[1]
        check(run_client("hash", str(got / "small"))[1], expected)
        shutil.rmtree(got)
        return Measured(seconds)


class ListVersion(StoreRow):
    """Every name of a version of very many files through a fresh manager, in a process of its own."""

    name = "listing the version of very many files, by the manager"
    against = ""
    targets = (Target("store", seconds=2.0, rss_mib=700.0),)

    def prepare(self, ground: Ground, sizes: Sizes) -> None:
        """Commit the version, unless the row of the drive has."""
        if not connect(str(ground.store)).exists_in_collection("many", COLLECTION):
            ManyFiles().prepare(ground, sizes)

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes, first: bool) -> Measured:
        """List, count."""
        return _listed(sizes.many_files, "version", str(ground.store), COLLECTION, "many")


class ListArtifacts(StoreRow):
    """As many artifacts as there are small files, with ten versions each, listed with the names of all versions."""

    name = f"listing as many artifacts, {VERSIONS_EACH} versions each, by the manager"
    against = ""
    targets = (Target("store", seconds=2.0, rss_mib=700.0),)

    def prepare(self, ground: Ground, sizes: Sizes) -> None:
        """Write the records alone: a listing reads nothing else."""
        for number in range(sizes.small_files):
            directory = ground.store / layout.artifact_prefix("listed", f"artifact{number:06}")
            directory.mkdir(parents=True)
            for version in range(VERSIONS_EACH):
                _write_record(directory / f"v{version}{layout.VERSION_SUFFIX}", f"v{version}")

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes, first: bool) -> Measured:
        """List, count."""
        return _listed(sizes.small_files * VERSIONS_EACH, "artifacts", str(ground.store), "listed")


def _write_record(path: Path, version: str) -> None:
    nothing = bytes(32).hex()
    record = Record(version, time.time_ns(), new_commit_id(), nothing, nothing, file_count=1, size_bytes=1)
    path.write_bytes(layout.encode(record))


def _listed(expected: int, *arguments: str) -> Measured:
    """What `store_client` measured. Raises Failed when it counted something else."""
    command = [sys.executable, store_client.__file__, *arguments]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment, timeout=COMMAND_TIMEOUT_S)
    answer = json.loads(done.stdout)
    if answer["count"] != expected:
        raise Failed(f"{answer['count']} found of {expected}")
    return Measured(answer["seconds"], answer["rss_mib"])


def rows() -> dict[str, Row]:
    """Every row of the store, by the name that ``--rows`` takes."""
    return {
        "put": Put(),
        "get": Get("get of the small files, against cp -a", by_command=True),
        "download": Get("download_artifact of the small files, against cp -a", by_command=False),
        "listing": ListVersion(),
        "listing-artifacts": ListArtifacts(),
    }
