"""Trees to log and ways to compare them, shared by the store's tests and the processes they start."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from blake3 import blake3

from artifactfs import ArtifactManager, EntryKind

MIB = 1 << 20


def make_tree(root: Path) -> Path:
    """A tree with one of everything a version keeps, modes and mtimes that no default gives."""
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "a.txt").write_bytes(b"alpha")
    (root / "a").write_bytes(b"")
    (root / "run.sh").write_bytes(b"#!/bin/sh\n")
    (root / "same").write_bytes(b"alpha")
    (root / "sub" / "big.bin").write_bytes(bytes(range(256)) * 6000)
    (root / "sub" / "deep" / "tool").write_bytes(b"\x7fELF" * (MIB // 4 + 9))
    (root / os.fsdecode(b"not-utf8-\xff\xfe")).write_bytes(b"beta")
    (root / "sub" / "link").symlink_to("../a.txt")
    (root / "run.sh").chmod(0o755)
    (root / "sub" / "deep" / "tool").chmod(0o751)
    (root / "a.txt").chmod(0o600)
    for number, path in enumerate(sorted(root.rglob("*"))):
        os.utime(path, ns=(10**18, 10**18 + number * 1_000_003), follow_symlinks=False)
    (root / "empty").chmod(0o750)
    return root


def snapshot(root: Path, *, metadata: bool = True) -> dict[bytes, tuple[object, ...]]:
    """Everything below `root`: kind, bytes or target and, with `metadata`, mode and mtime."""
    found: dict[bytes, tuple[object, ...]] = {}
    for directory, directories, files in os.walk(os.fsencode(root)):
        for name in directories + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            more = (stat.S_IMODE(status.st_mode), status.st_mtime_ns) if metadata else ()
            found[os.path.relpath(path, os.fsencode(root))] = (stat.S_IFMT(status.st_mode), content, *more)
    return found


def contents(manager: ArtifactManager, artifact: str, version: str) -> dict[str, bytes]:
    """Every file of a version, each read whole and so checked against its digest."""
    info = manager.version_info(artifact, version=version)
    found = {}
    for entry in manager.manifest(artifact, version=version):
        if entry.kind is EntryKind.FILE:
            data = manager.read_entry(info, entry)
            assert blake3(data).hexdigest() == entry.digest
            found[entry.path] = data
    return found
