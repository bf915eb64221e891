"""Trees of files for tests: making them, and comparing them by means of their own (no code of the product).

A snapshot holds for every path what a version must keep: kind, permission bits, bytes, mtime in ns, symlink target.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

Snapshot = dict[str, "Item"]


class Item(NamedTuple):
    """One file, directory or symlink."""

    kind: str
    mode: int
    content: str
    mtime_ns: int


def snapshot(root: str | os.PathLike[str]) -> Snapshot:
    """Everything below `root`, the root itself left out."""
    found: Snapshot = {}
    pending = [""]
    while pending:
        directory = pending.pop()
        for name in os.listdir(os.path.join(root, directory)):
            path = os.path.join(directory, name)
            item = _item(os.path.join(root, path))
            found[path] = item
            if item.kind == "directory":
                pending.append(path)
    return found


def _item(path: str) -> Item:
    status = os.lstat(path)
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        return Item("directory", mode, "", status.st_mtime_ns)
    if stat.S_ISLNK(status.st_mode):
        return Item("symlink", 0o777, os.readlink(path), status.st_mtime_ns)
    digest = hashlib.sha256()
    size_bytes = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size_bytes += len(block)
    assert size_bytes == status.st_size, f"{path}: {size_bytes} bytes read, stat says {status.st_size}"
    return Item("file", mode, digest.hexdigest(), status.st_mtime_ns)


def differences(left: Snapshot, right: Snapshot, *, ignore: tuple[str, ...] = ()) -> list[str]:
    """What differs, a line each; `ignore` names fields such as ``mtime_ns``."""
    lines = [f"only left: {path!r}" for path in sorted(left.keys() - right.keys())]
    lines += [f"only right: {path!r}" for path in sorted(right.keys() - left.keys())]
    for path in sorted(left.keys() & right.keys()):
        for field in Item._fields:
            a, b = getattr(left[path], field), getattr(right[path], field)
            if a != b and field not in ignore:
                lines.append(f"{path!r}: {field} {a!r} against {b!r}")
    return lines


def assert_same(left: str | os.PathLike[str], right: str | os.PathLike[str], *, ignore: tuple[str, ...] = ()) -> None:
    """Fails with the differences of two trees on disk."""
    found = differences(snapshot(left), snapshot(right), ignore=ignore)
    assert not found, "\n".join(found[:40])


def make_tree(root: Path, *, seed: str = "") -> Path:
    """A tree with everything that a version keeps. Times have odd nanoseconds and lie in the past."""
    root.mkdir(parents=True)
    files = {
        "read me.txt": b"hello " + seed.encode(),
        "empty": b"",
        "run.sh": b"#!/bin/sh\necho hi\n",
        "secret": b"only mine",
        "-rf": b"a name with a leading dash",
        "new\nline": b"a name of two lines",
        "ünïcode/ﬁle": b"names beyond ASCII",
        "src/a/b/c/deep.txt": b"deep",
        "src/a/one.bin": bytes(range(256)) * 50,
        "big.bin": (seed.encode() or b"x").ljust(7, b"-") * 400_000,
        "twice": bytes(range(256)) * 50,
    }
    for path, content in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    with open(os.path.join(os.fsencode(root), b"not-utf8-\xff\xfe"), "wb") as file:
        file.write(b"any bytes")
    (root / "hollow/inner").mkdir(parents=True)
    (root / "run.sh").chmod(0o755)
    (root / "secret").chmod(0o600)
    (root / "src/a/one.bin").chmod(0o444)
    (root / "hollow").chmod(0o711)
    (root / "link").symlink_to("src/a/one.bin")
    (root / "src/a/up").symlink_to("../../empty")
    (root / "dangling").symlink_to("nowhere")
    (root / "src/dirlink").symlink_to("a")
    _set_times(root)
    return root


def _set_times(root: Path) -> None:
    base_ns = 1_600_000_000_123_456_789
    paths = [os.path.join(top, name) for top, dirs, files in os.walk(root) for name in dirs + files]
    # Deepest first: setting the time of what is inside leaves that of the directory alone, making it would not.
    for number, path in enumerate(sorted(paths, key=lambda p: -p.count("/"))):
        os.utime(path, ns=(base_ns, base_ns + number * 1_000_000_001), follow_symlinks=False)
