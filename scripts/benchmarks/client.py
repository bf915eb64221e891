"""The reading and copying programs: each times one way of using a tree and tells what it found.

Run as ``client.py OPERATION ARGUMENT…``, prints ``{"seconds": …, "digest": …}``. A process of its own with nothing
imported but the standard library, so that neither the interpreter lock nor the memory of the bench is in the way. The
digest is taken after the clock has stopped; it is null where it would cost more than the reading and was not asked for.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

BLOCK_BYTES = 1 << 20
PAGE_BYTES = 4096
READER_BYTES = 64 << 10


def read_sequentially(path: str, verify: str) -> tuple[float, str | None]:
    """Read a file from front to back in blocks of 1 MiB. With `verify` = 1, the digest of a second pass."""
    block = bytearray(BLOCK_BYTES)
    total = 0
    started = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            total += count
    seconds = time.perf_counter() - started
    if total != os.stat(path).st_size:
        sys.exit(f"{path}: read {total} bytes of {os.stat(path).st_size}")
    return seconds, _hash_file(path) if verify == "1" else None


def _hash_file(path: str) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    with open(path, "rb") as file:
        while data := file.read(BLOCK_BYTES):
            digest.update(data)
    return digest.hexdigest()


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


def read_pages(path: str, count: str) -> tuple[float, str]:
    """Read `count` pages in random order (the same in every run) with pread."""
    pages = os.stat(path).st_size // PAGE_BYTES
    generator = random.Random(0)
    wanted = [generator.randrange(pages) * PAGE_BYTES for _ in range(int(count))]
    started = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        got = [os.pread(file.fileno(), PAGE_BYTES, offset) for offset in wanted]
    return time.perf_counter() - started, hash_of(got)


def load_tensors(path: str, verify: str) -> tuple[float, str | None]:
    """Load a file of safetensors as its library does: map it, read the header, copy out one tensor after the other."""
    digest = hashlib.sha1(usedforsecurity=False)
    seconds = 0.0
    started = time.perf_counter()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        header_end = 8 + int.from_bytes(mapped[:8], "little")
        header = json.loads(mapped[8:header_end])
        for tensor in header.values():
            begin, end = tensor["data_offsets"]
            loaded = mapped[header_end + begin : header_end + end]
            if verify == "1":
                seconds += time.perf_counter() - started
                digest.update(loaded)
                started = time.perf_counter()
    seconds += time.perf_counter() - started
    return seconds, digest.hexdigest() if verify == "1" else None


def read_files(directory: str, count: str, warm: str) -> tuple[float, str]:
    """Open, read and close `count` files in the order of their names; with `warm` = 1, for the second time."""
    paths = small_files(int(count), directory)
    if warm == "1":
        read_all(paths)
    started = time.perf_counter()
    got = read_all(paths)
    return time.perf_counter() - started, hash_of(got)


def read_all(paths: Iterable[str]) -> list[bytes]:
    """The content of each file."""
    got: list[bytes] = []
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        got.append(os.read(descriptor, BLOCK_BYTES))
        os.close(descriptor)
    return got


def read_in_processes(directory: str, count: str, processes: str) -> tuple[float, str]:
    """`count` files read by so many processes at once, as the workers of a data loader do: each every n-th file."""
    paths, workers = small_files(int(count), directory), int(processes)
    return at_once(workers, lambda worker: read_all(paths[worker::workers]))


def read_randomly(path: str, processes: str, count: str) -> tuple[float, str]:
    """So many processes at once, each reading `count` blocks of 64 KiB at random places of one file."""
    blocks = os.stat(path).st_size // READER_BYTES

    def read(reader: int) -> list[bytes]:
        generator = random.Random(reader)
        with open(path, "rb", buffering=0) as file:
            places = [generator.randrange(blocks) * READER_BYTES for _ in range(int(count))]
            return [os.pread(file.fileno(), READER_BYTES, place) for place in places]

    return at_once(int(processes), read)


def at_once(processes: int, work: Callable[[int], list[bytes]]) -> tuple[float, str]:
    """Run `work(number)` in so many processes that start together; seconds until the last is done, and what all got."""
    begin_read, begin_write = os.pipe()
    digests, children = [], []
    for number in range(processes):
        digest_read, digest_write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(begin_write)
            os.read(begin_read, 1)
            try:
                got = work(number)
                # Said before hashing: the clock stops when the last one has read.
                os.write(digest_write, b".")
                os.write(digest_write, hash_of(got).encode())
                os._exit(0)
            except OSError as error:
                print(error, file=sys.stderr, flush=True)
                os._exit(1)
        os.close(digest_write)
        digests.append(digest_read)
        children.append(child)
    os.close(begin_read)
    started = time.perf_counter()
    os.close(begin_write)
    done = [os.read(digest, 1) for digest in digests]
    seconds = time.perf_counter() - started
    if any(os.waitpid(child, 0)[1] != 0 for child in children) or b"" in done:
        sys.exit("a reading process failed")
    return seconds, hash_of([os.read(digest, 100) for digest in digests])


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


def git_status(git_directory: str, tree: str) -> tuple[float, str]:
    """``git status`` of a work tree whose repository lies elsewhere; the index is not rewritten."""
    # A file system has inode numbers and change times of its own: git compares size and time of modification.
    settings = ("safe.directory=*", "core.checkStat=minimal", "core.trustctime=false", "core.fileMode=false")
    options = [word for setting in settings for word in ("-c", setting)]
    command = ["git", *options, "--git-dir", git_directory, "--work-tree", tree, "status", "--porcelain"]
    return run(command, cwd=tree, environment={**os.environ, "GIT_OPTIONAL_LOCKS": "0"})


def rsync_dry(source: str, target: str) -> tuple[float, str]:
    """``rsync -an``: which files of `source` are not in `target` as they are."""
    # Owners and permissions are each file system's own, and so are the times of directories, which `run` leaves out.
    own = ("--no-owner", "--no-group", "--no-perms")
    return run(["rsync", "-an", *own, "--out-format=%n", f"{source}/", f"{target}/"])


def run(command: list[str], cwd: str | None = None, environment: dict[str, str] | None = None) -> tuple[float, str]:
    """Time of a program, and the digest of the files it names."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        sys.exit(f"{command[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}")
    return seconds, hash_of([line for line in done.stdout.splitlines() if not line.endswith(b"/")])


def copy(source: str, target: str, copiers: str) -> tuple[float, None]:
    """``cp -r`` of what is in a directory, or of one file, by so many copiers at once, each with its share."""
    names = sorted(os.listdir(source)) if os.path.isdir(source) else [""]
    paths = [os.path.join(source, name).rstrip("/") for name in names]
    shares = [paths[number :: int(copiers)] for number in range(int(copiers))]
    started = time.perf_counter()
    running = [subprocess.Popen(["cp", "-r", *share, target], stderr=subprocess.PIPE) for share in shares]
    errors = [(program.communicate()[1], program.returncode) for program in running]
    seconds = time.perf_counter() - started
    for said, status in errors:
        if status != 0:
            sys.exit(f"cp ended with {status}: {said.decode(errors='replace')[-300:]}")
    return seconds, None


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


def list_long(directory: str) -> tuple[float, str]:
    """``ls -lR`` of a directory; the digest is that of the number of lines."""
    started = time.perf_counter()
    listing = subprocess.run(["ls", "-lR", directory], stdout=subprocess.PIPE, check=True).stdout
    return time.perf_counter() - started, hash_of([b"%d" % listing.count(b"\n-")])


def small_files(count: int, directory: str) -> list[str]:
    """The paths that `benchmarks.ground` gave the small files: 100 in a directory."""
    return [f"{directory}/{number // 100:03}/{number:06}.bin" for number in range(count)]


def hash_of(pieces: list[bytes]) -> str:
    """One digest of all pieces."""
    digest = hashlib.sha1(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


OPERATIONS: dict[str, Callable[..., tuple[float, str | None]]] = {
    "sequential": read_sequentially,
    "mapped": read_mapped,
    "pages": read_pages,
    "tensors": load_tensors,
    "files": read_files,
    "processes": read_in_processes,
    "readers": read_randomly,
    "walk": walk,
    "git": git_status,
    "rsync": rsync_dry,
    "copy": copy,
    "hash": hash_tree,
    "list": list_directory,
    "list-long": list_long,
}


if __name__ == "__main__":
    try:
        elapsed, content = OPERATIONS[sys.argv[1]](*sys.argv[2:])
    except OSError as problem:
        sys.exit(f"{problem}")
    print(json.dumps({"seconds": elapsed, "digest": content}))
