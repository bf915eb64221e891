"""The reading programs: each times one way of reading a tree and tells what it read.

Run as ``client.py OPERATION ARGUMENT…``, prints ``{"seconds": …, "digest": …}``. A process of its own with nothing
imported but the standard library, so that neither the interpreter lock nor the memory of the bench is in the way. The
digest is taken after the clock has stopped.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

BLOCK_BYTES = 1 << 20
PAGE_BYTES = 4096


def read_sequentially(path: str) -> tuple[float, str]:
    """Read a file from front to back in blocks of 1 MiB. The digest is that of a second pass."""
    block = bytearray(BLOCK_BYTES)
    total = 0
    started = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            total += count
    seconds = time.perf_counter() - started
    if total != os.stat(path).st_size:
        sys.exit(f"{path}: read {total} bytes of {os.stat(path).st_size}")
    with open(path, "rb") as file:
        digest = hashlib.sha1(usedforsecurity=False)
        while data := file.read(BLOCK_BYTES):
            digest.update(data)
    return seconds, digest.hexdigest()


def read_mapped(path: str, count: str) -> tuple[float, str]:
    """Read `count` pages in random order (the same in every run) through a memory map."""
    pages = os.stat(path).st_size // PAGE_BYTES
    generator = random.Random(0)
    wanted = [generator.randrange(pages) * PAGE_BYTES for _ in range(int(count))]
    got: list[bytes] = []
    started = time.perf_counter()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for offset in wanted:
            got.append(mapped[offset : offset + PAGE_BYTES])
    return time.perf_counter() - started, hash_of(got)


def read_files(directory: str, count: str, warm: str) -> tuple[float, str]:
    """Open, read and close `count` files in the order of their names; with `warm` = 1, for the second time."""
    paths = small_files(int(count), directory)
    if warm == "1":
        read_all(paths)
    started = time.perf_counter()
    got = read_all(paths)
    return time.perf_counter() - started, hash_of(got)


def read_all(paths: list[str]) -> list[bytes]:
    """The content of each file."""
    got: list[bytes] = []
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        got.append(os.read(descriptor, BLOCK_BYTES))
        os.close(descriptor)
    return got


def walk(directory: str) -> tuple[float, str]:
    """Stat every name below a directory, as ``find -size`` and ``du`` do."""
    seen: list[bytes] = []
    started = time.perf_counter()
    for parent, directories, files in os.walk(directory):
        directories.sort()
        for name in sorted(files):
            status = os.lstat(f"{parent}/{name}")
            seen.append(f"{name} {status.st_size}\n".encode())
    return time.perf_counter() - started, hash_of(seen)


def hash_tree(directory: str) -> tuple[float, str]:
    """Read every file below a directory; one digest of names and content."""
    digest = hashlib.sha1(usedforsecurity=False)
    started = time.perf_counter()
    for parent, directories, files in os.walk(directory):
        directories.sort()
        for name in sorted(files):
            digest.update(f"{os.path.relpath(parent, directory)}/{name}\n".encode())
            digest.update(Path(parent, name).read_bytes())
    return time.perf_counter() - started, digest.hexdigest()


def list_directory(directory: str, deeper: str) -> tuple[float, str]:
    """List a directory and one below it, as somebody does who looks around."""
    started = time.perf_counter()
    found = sorted(os.listdir(directory)) + sorted(os.listdir(f"{directory}/{deeper}"))
    return time.perf_counter() - started, hash_of([f"{name}\n".encode() for name in found])


def small_files(count: int, directory: str) -> list[str]:
    """The paths that `benchmarks.rows` gave the small files: 100 in a directory."""
    return [f"{directory}/{number // 100:03}/{number:06}.bin" for number in range(count)]


def hash_of(pieces: list[bytes]) -> str:
    """One digest of all pieces."""
    digest = hashlib.sha1(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


OPERATIONS: dict[str, Callable[..., tuple[float, str]]] = {
    "sequential": read_sequentially,
    "mapped": read_mapped,
    "files": read_files,
    "walk": walk,
    "hash": hash_tree,
    "list": list_directory,
}


if __name__ == "__main__":
    elapsed, content = OPERATIONS[sys.argv[1]](*sys.argv[2:])
    print(json.dumps({"seconds": elapsed, "digest": content}))
