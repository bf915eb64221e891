"""The programs of the `drive` soak, each a process: they use a mount without end and check what they see.

Every version they make holds a file ``list``: the names and sizes of all its files. A file's content follows from its
first line, so that a reader knows what it has to be. A client beats (`Heart`) after each operation and tells on
standard output what it did; it ends on SIGTERM. SIGUSR1 interrupts it where it stands, in the middle of a read too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import artifactfs
from artifactfs.managers.commit_id import new_commit_id
from mount import client, control

COLLECTION = "soak"
LIST = "list"
KEPT_VERSIONS = 12
FILES = 20
# What was there a moment ago has been sealed, committed or deleted.
GONE = (errno.ENOENT, errno.ESTALE)


class Interrupted(Exception):
    """SIGUSR1 came."""


class Ended(Exception):
    """SIGTERM came."""


class Heart:
    """Shows that a client goes on, by the time of a file, and counts what it does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.counts: Counter[str] = Counter()
        path.touch()

    def beat(self, what: str) -> None:
        """One more."""
        self.counts[what] += 1
        os.utime(self._path)


def content(seed: str, size_bytes: int) -> bytes:
    """The bytes of a file; its first line says which they are."""
    head = f"{seed} {size_bytes}\n".encode()
    return head + random.Random(seed).randbytes(max(0, size_bytes - len(head)))


def check_content(path: Path, got: bytes) -> None:
    """Fails when these are not the bytes of a whole file that `content` made."""
    head = got.split(b"\n", 1)[0].decode(errors="replace").split(" ")
    assert len(head) == 2, f"{path} does not begin as it was written: {got[:60]!r}"
    assert got == content(head[0], int(head[1])), f"{path} is not what was written"


# -- clients -----------------------------------------------------------------------------------------------------------


def read(mountpoint: Path, heart: Heart, rng: random.Random) -> None:
    """Read a file of some version, in one of several ways."""
    version = _some_version(mountpoint, rng)
    if version is None:
        return
    path = version / rng.choice(os.listdir(version))
    if path.name == LIST:
        return
    way = rng.choice((_whole, _in_pieces, _mapped, _backwards))
    check_content(path, way(path))
    heart.beat("files read")


def _whole(path: Path) -> bytes:
    return path.read_bytes()


def _in_pieces(path: Path) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return b"".join(iter(lambda: file.read(10_000), b""))


def _mapped(path: Path) -> bytes:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return bytes(mapped)


def _backwards(path: Path) -> bytes:
    with open(path, "rb", buffering=0) as file:
        size_bytes, piece = os.fstat(file.fileno()).st_size, 70_000
        starts = range(0, size_bytes, piece)
        return b"".join([os.pread(file.fileno(), piece, start) for start in reversed(starts)][::-1])


def walk(mountpoint: Path, heart: Heart, rng: random.Random) -> None:
    """Compare the names and sizes of a version with its list; then stat everything there is in the mount."""
    version = _some_version(mountpoint, rng)
    if version is not None:
        wanted = json.loads((version / LIST).read_bytes())
        found = {entry.name: entry.stat().st_size for entry in os.scandir(version) if entry.name != LIST}
        assert found == wanted, f"{version}: {len(found)} files, {len(wanted)} in its list"
        heart.beat("versions compared")
    for parent, directories, files in os.walk(mountpoint):
        for name in [*directories, *files]:
            with _gone_is_fine():
                os.lstat(os.path.join(parent, name))
    heart.beat("walks")


_latest: dict[str, int] = {}


def follow(mountpoint: Path, heart: Heart, rng: random.Random) -> None:
    """``latest`` never goes back, and is a whole version; so is what the alias ``best`` names."""
    artifact = _some_artifact(mountpoint, rng)
    if artifact is None:
        return
    number = int(os.readlink(artifact / "latest")[1:])
    assert number >= _latest.get(artifact.name, 0), f"{artifact}: v{number} after v{_latest[artifact.name]}"
    _latest[artifact.name] = number
    for name in ("latest", "best"):
        wanted = json.loads((artifact / name / LIST).read_bytes())
        assert len(wanted) == FILES, f"{artifact / name} has {len(wanted)} files"
        heart.beat(f"{name} followed")


def write(mountpoint: Path, heart: Heart, rng: random.Random) -> None:
    """Make the next version of an artifact of one's own: all of it anew, or from the latest with some files changed."""
    artifact = mountpoint / COLLECTION / f"written{os.environ['SOAK_NUMBER']}"
    with contextlib.suppress(FileExistsError):
        artifact.mkdir(parents=True)
    staging = artifact / "staging"
    _discard(staging)
    sizes: dict[str, int] = {}
    if (artifact / "latest").exists() and rng.random() < 0.5:
        client.stage(staging, "latest")
        sizes = json.loads((staging / LIST).read_bytes())
        heart.beat("stagings from a version")
    for name in rng.sample([f"file{number}" for number in range(FILES)], FILES if not sizes else 3):
        sizes[name] = _write_file(staging / name, rng)
    (staging / LIST).write_text(json.dumps(sizes))
    request = control.CommitRequest(commit_id=new_commit_id(), aliases=["best"] if rng.random() < 0.3 else [])
    client.request_commit(staging, request)
    while not any(done.commit_id == request.commit_id for done in client.read_state(staging).finished):
        time.sleep(0.02)
    heart.beat("commits through the mount")


def _discard(staging: Path) -> None:
    """Throw away what a writer left that was killed; its last file may still be on the way to being closed."""
    while True:
        try:
            client.discard(staging)
        except OSError as error:
            if error.errno == errno.ENODATA:
                return
            if error.errno != errno.EBUSY:
                raise
        time.sleep(0.02)


def _write_file(path: Path, rng: random.Random) -> int:
    size_bytes = rng.choice((100, 5_000, 100_000, rng.randrange(100, 3 << 20)))
    data = content(f"{path.name}-{rng.randrange(1 << 40)}", size_bytes)
    way = rng.randrange(3)
    if way == 0:
        path.write_bytes(data)
    elif way == 1:
        with open(path, "wb", buffering=0) as file:
            for start in range(0, len(data), 50_000):
                file.write(data[start : start + 50_000])
            os.fsync(file.fileno())
    else:
        temporary = path.with_name(f"{path.name}.part")
        temporary.write_bytes(data)
        os.replace(temporary, path)
    return len(data)


def commit_elsewhere(mountpoint: Path, heart: Heart, rng: random.Random) -> None:
    """Another host on the same store: makes versions, moves the alias, deletes old versions of all artifacts."""
    store = artifactfs.connect(os.environ["SOAK_STORE"], collection=COLLECTION)
    local = Path(os.environ["SOAK_SCRATCH"])
    # The last one may have been killed while it wrote.
    shutil.rmtree(local, ignore_errors=True)
    local.mkdir()
    sizes = {name: _write_file(local / name, rng) for name in (f"file{number}" for number in range(FILES))}
    (local / LIST).write_text(json.dumps(sizes))
    made = store.commit_tree("elsewhere", local, COLLECTION, commit_id=new_commit_id())
    heart.beat("commits by another host")
    store.set_alias("elsewhere", "best", made.info.version)
    heart.beat("aliases moved by another host")
    for artifact in store.list_artifacts():
        versions, used = store.list_version_names(artifact), set(store.aliases(artifact).values())
        for version in versions[:-KEPT_VERSIONS]:
            if version not in used:
                store.delete_version(artifact, version)
                heart.beat("versions deleted by another host")
    time.sleep(rng.random())


def visit(mountpoint: Path, heart: Heart, rng: random.Random) -> None:
    """What is done on a mount that comes and goes."""
    for _ in range(3):
        with _gone_is_fine():
            read(mountpoint, heart, rng)
    with _gone_is_fine():
        follow(mountpoint, heart, rng)
    if not client.read_status(mountpoint).read_only:
        write(mountpoint, heart, rng)


def _some_artifact(mountpoint: Path, rng: random.Random) -> Path | None:
    artifacts = os.listdir(mountpoint / COLLECTION)
    return mountpoint / COLLECTION / rng.choice(artifacts) if artifacts else None


def _some_version(mountpoint: Path, rng: random.Random) -> Path | None:
    artifact = _some_artifact(mountpoint, rng)
    if artifact is None:
        return None
    # Not the oldest, which are about to be deleted.
    versions = sorted((name for name in os.listdir(artifact) if name[1:].isdigit()), key=lambda name: int(name[1:]))
    return artifact / rng.choice(versions[-KEPT_VERSIONS // 2 :]) if versions else None


@contextlib.contextmanager
def _gone_is_fine():
    try:
        yield
    except OSError as error:
        if error.errno not in GONE:
            raise


CLIENTS: dict[str, Callable[[Path, Heart, random.Random], None]] = {
    "read": read,
    "walk": walk,
    "follow": follow,
    "write": write,
    "elsewhere": commit_elsewhere,
    "visit": visit,
}


# -- the process -------------------------------------------------------------------------------------------------------


def run(kind: str, mountpoint: Path, heart_path: Path, seed: int) -> None:
    """Use the mount until SIGTERM, then print what was done. A ``visit`` ends by itself."""
    rng = random.Random(seed)
    interruptible = kind in ("read", "walk", "follow")
    ended = working = False

    def end(*_: object) -> None:
        nonlocal ended, working
        ended = True
        _break_off(Ended)

    def interrupt(*_: object) -> None:
        _break_off(Interrupted)

    def _break_off(how: type[Exception]) -> None:
        nonlocal working
        if interruptible and working:
            working = False
            raise how

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGUSR1, interrupt)
    heart = Heart(heart_path)
    while not ended:
        try:
            working = True
            with _gone_is_fine():
                CLIENTS[kind](mountpoint, heart, rng)
            working = False
            # Also where there is nothing to read yet.
            heart.beat("rounds")
        except Interrupted:
            heart.beat("interrupted calls")
        except Ended:
            break
        ended = ended or kind == "visit"
    print(json.dumps(heart.counts))


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
