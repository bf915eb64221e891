"""Every call that the drive itself makes fails in every way: an error, or what is so, and writing goes on all the time.

The committer's calls are in `test_faults`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import artifactfs
from artifactfs.errors import AccessDenied, StoreTimeout, StoreUnreachable
from artifactfs.names import PENDING_PREFIX
from mount import control
from mount.settings import MountSettings
from tests.drives import DirectDrive, File
from tests.mount.harness import eventually
from tests.quick import quick_directory
from tests.scenarios import refused
from tests.vfs.faults import Faulty, When

LABEL = "c/a"
FILES = {"f": b"small" * 10, "d/large": b"large" * 300_000}


class Call(NamedTuple):
    """What makes the drive call the manager, and what comes of it when nothing fails."""

    ask: Callable[[DirectDrive], Any]
    answer: Any


def name_it(drive: DirectDrive) -> str:
    """Give v0 an alias, and look."""
    drive.setxattr(f"{LABEL}/v0", control.ALIASES, b'["named"]')
    return drive.readlink(f"{LABEL}/named")


def names_in(drive: DirectDrive) -> list[str]:
    """What the artifact shows, but for what is on its way to a version."""
    return sorted(name for name in drive.listdir(LABEL) if not name.startswith(PENDING_PREFIX))


LOCAL = {
    "list_collection_names": Call(lambda drive: drive.listdir(""), ["c"]),
    "list_artifacts": Call(lambda drive: drive.listdir("c"), ["a"]),
    "list_version_names": Call(lambda drive: names_in(drive), ["best", "latest", "staging", "v0"]),
    "aliases": Call(lambda drive: drive.readlink(f"{LABEL}/best"), "v0"),
    "version_info": Call(lambda drive: drive.listdir(f"{LABEL}/v0"), ["d", "f"]),
    "manifest": Call(lambda drive: drive.lstat(f"{LABEL}/v0/f").size_bytes, len(FILES["f"])),
    "local_range": Call(lambda drive: drive.read(f"{LABEL}/v0/d/large"), FILES["d/large"]),
    "open_local": Call(lambda drive: drive.read(f"{LABEL}/v0/d/large"), FILES["d/large"]),
    "set_alias": Call(name_it, "v0"),
}
# Only where bytes are not read in place.
REMOTE = {"read_object": Call(lambda drive: drive.read(f"{LABEL}/v0/f"), FILES["f"])}
FAULTS = {
    "unreachable": (StoreUnreachable("no route"), errno.EIO),
    "denied": (AccessDenied("the store says no"), errno.EACCES),
    "disk": (OSError(errno.EIO, "Input/output error"), errno.EIO),
    "defect": (RuntimeError("a defect"), errno.EIO),
}
EVERY = {**LOCAL, **REMOTE}


class World:
    """A store with c/a@v0, best, and a new drive on it that has asked the store for nothing."""

    def __init__(self, directory: Path, *, remote: bool) -> None:
        self.store = f"memory://{uuid.uuid4().hex}" if remote else str(directory / "store")
        self.manager = artifactfs.connect(self.store)
        source = directory / "source"
        for path, data in FILES.items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(data)
        self.manager.commit_tree("a", source, "c", commit_id="0" * 32, aliases=["best"])
        self.faulty = Faulty(artifactfs.connect(self.store), committing=False)
        settings = MountSettings(
            self.store,
            directory / "mnt",
            commit_after_s=None,
            refresh_s=0.0,
            state_dir=directory / "state",
            cache_dir=directory / "cache",
            min_free_bytes=0,
        )
        self.drive = DirectDrive(self.faulty, settings)  # type: ignore[arg-type]
        self.number = itertools.count(1)

    def close(self) -> None:
        self.faulty.heal()
        self.drive.close()

    def write_on(self, file: File) -> None:
        """Whatever fails: a file that is open can be written and closed, and is one version when it is sealed."""
        number = next(self.number)
        file.write(f"file {number}".encode(), 0)
        file.fsync()
        file.close()
        assert self.drive.area is not None
        self.drive.area.artifact("c", "a").seal(control.CommitRequest())
        assert self.drive.committer is not None
        self.drive.committer.wake()
        eventually(lambda: self.manager.list_version_names("a", "c") == [f"v{n}" for n in range(number + 1)])
        info = self.manager.version_info("a", "c")
        [entry] = self.manager.manifest("a", "c", info.version)
        assert self.manager.read_entry(info, entry) == f"file {number}".encode()


@pytest.fixture
def make_world() -> Iterator[Callable[[str], World]]:
    """The store that the call is made to."""
    with quick_directory() as directory, contextlib.ExitStack() as stack:
        yield lambda name: stack.enter_context(contextlib.closing(World(directory, remote=name in REMOTE)))


def outcome(call: Call, drive: DirectDrive) -> Any:
    """The answer, or the errno."""
    try:
        return call.ask(drive)
    except OSError as error:
        return error.errno


def new_file(world: World) -> File:
    """An open file in staging."""
    return world.drive.open(f"{LABEL}/staging/new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)


def test_these_are_all_the_calls(make_world: Callable[[str], World]) -> None:
    """What the drive is used for here makes no other call of the manager than those that fail below."""
    for name in ("list_artifacts", "read_object"):
        world = make_world(name)
        drive = world.drive
        for call in (LOCAL | REMOTE if name in REMOTE else LOCAL).values():
            outcome(call, drive)
        for path in ("", "c", LABEL, f"{LABEL}/v0", f"{LABEL}/v0/f"):
            drive.lstat(path)
        drive.status()
        drive.setxattr(f"{LABEL}/staging", control.STAGE, b"v0")
        drive.write(f"{LABEL}/staging/f", b"changed")
        with drive.open(f"{LABEL}/staging/d/large", os.O_WRONLY) as file:
            file.write(b"changed", 5)
        drive.mkdir("new")
        drive.mkdir("new/artifact")
        drive.rmdir("new/artifact")
        drive.rmdir("new")
        drive.commit(LABEL)
        assert set(world.faulty.calls) <= set(EVERY)
        assert set(world.faulty.calls) >= set(REMOTE if name in REMOTE else LOCAL)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("when", [When.BEFORE, When.AFTER])
@pytest.mark.parametrize("name", EVERY)
def test_a_call_that_fails(make_world: Callable[[str], World], name: str, when: When, fault: str) -> None:
    """O1: the unknown is an error, what is known may be told; files are written and committed, and all comes back."""
    error, number = FAULTS[fault]
    world, call = make_world(name), EVERY[name]
    world.faulty.arm(name, when, error)
    assert outcome(call, world.drive) == number
    world.faulty.heal()
    assert outcome(call, world.drive) == call.answer
    file = new_file(world)
    reader = world.drive.open(f"{LABEL}/v0/f")
    assert reader.read(100, 0) == FILES["f"]
    world.faulty.arm(name, when, error)
    assert outcome(call, world.drive) in (call.answer, number)
    assert reader.read(100, 0) == FILES["f"]
    reader.close()
    world.write_on(file)
    world.faulty.heal()
    assert world.drive.contents(f"{LABEL}/v1") == {"new": b"file 1"}
    assert world.drive.contents(f"{LABEL}/v0") == FILES
    assert world.drive.listdir(f"{LABEL}/staging") == []


@pytest.mark.parametrize("name", EVERY)
def test_a_call_that_hangs(make_world: Callable[[str], World], name: str) -> None:
    """O1, C3: while a call hangs, open files are written, sealed and committed; then it is an error like any other."""
    world, call = make_world(name), EVERY[name]
    file = new_file(world)
    # Not where that would load what the call is to load, or needs the bytes that hang.
    by_itself = ("version_info", "manifest", "open_local", *REMOTE)
    reader = None if name in by_itself else world.drive.open(f"{LABEL}/v0/d/large")
    world.faulty.arm(name, When.HANG, StoreTimeout("no answer within the bound"))
    outcomes: list[Any] = []
    thread = threading.Thread(target=lambda: outcomes.append(outcome(call, world.drive)), daemon=True)
    thread.start()
    assert world.faulty.reached.wait(60)
    assert reader is None or reader.read(5, 5) == b"large"
    world.write_on(file)
    assert outcomes == []
    world.faulty.release()
    thread.join(60)
    # A version that was committed meanwhile is known, whether the store answers or not.
    known_since = [*call.answer, "v1"] if name == "list_version_names" else call.answer
    assert outcomes[0] in (call.answer, known_since, errno.EIO)
    world.faulty.heal()
    if reader is not None:
        assert reader.read(5, 10) == b"large"
        reader.close()
    assert world.drive.contents(f"{LABEL}/v0") == FILES
    assert world.drive.contents(f"{LABEL}/v1") == {"new": b"file 1"}


def test_an_alias_whose_answer_was_lost(make_world: Callable[[str], World]) -> None:
    """V8: it is there, and asking once more changes nothing."""
    world = make_world("set_alias")
    world.faulty.arm("set_alias", When.AFTER, StoreUnreachable("no route"))
    with refused(errno.EIO):
        world.drive.setxattr(f"{LABEL}/v0", control.ALIASES, b'["named"]')
    assert world.manager.aliases("a", "c") == {"best": "v0", "named": "v0"}
    world.faulty.heal()
    assert name_it(world.drive) == "v0"
    assert world.manager.aliases("a", "c") == {"best": "v0", "named": "v0"}
