"""One face for two harnesses: a drive driven through its vfs, and the same drive mounted.

Scenarios are written against `Drive`; every failure is an OSError with the errno a program would see. Paths are
relative to the top of the drive. `DirectDrive` does what the kernel and a FUSE library do for a mount: it follows
symlinks, tells create from open, and looks again when a name is stale.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from artifactfs.managers.base import ArtifactManager
from artifactfs.managers.commit_id import new_commit_id
from mount import control
from mount.area import StagingArea
from mount.committer import Committer
from mount.control import ArtifactState, CommitRequest, CommitState, Finished, Status
from mount.disk import rename as rename_on_disk
from mount.errno_map import errno_of
from mount.handles import Handle, StagedFile
from mount.settings import MountSettings
from mount.tree import Attrs, Caller, Node
from mount.vfs import Vfs

WAIT_S = 60.0
_AT_FDCWD = -100
_artifacts = itertools.count()


def rename_paths(path: str, new_path: str, flags: int) -> None:
    """renameat2(2), by paths."""
    rename_on_disk(_AT_FDCWD, path, _AT_FDCWD, new_path, flags)


class Stat(NamedTuple):
    """What both harnesses tell of a path."""

    ino: int
    mode: int
    size_bytes: int
    mtime_ns: int
    nlink: int
    uid: int
    gid: int
    blocks: int
    rdev: int = 0

    @property
    def permissions(self) -> int:
        """The bits without the file type."""
        return stat.S_IMODE(self.mode)


class File(ABC):
    """An open file."""

    @abstractmethod
    def read(self, size_bytes: int, offset: int) -> bytes: ...

    @abstractmethod
    def write(self, data: bytes, offset: int) -> int: ...

    @abstractmethod
    def truncate(self, size_bytes: int) -> None: ...

    @abstractmethod
    def stat(self) -> Stat: ...

    @abstractmethod
    def fsync(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Drive(ABC):
    """A drive with a store behind it."""

    manager: ArtifactManager
    """The store, as another program on this machine sees it."""
    store_root: Path | None
    """Where the store lies, when it is on the local disk."""
    is_mounted: bool

    # -- primitives, one per system call

    @abstractmethod
    def mkdir(self, path: str, mode: int = 0o755) -> None: ...

    @abstractmethod
    def rmdir(self, path: str) -> None: ...

    @abstractmethod
    def listdir(self, path: str) -> list[str]: ...

    @abstractmethod
    def lstat(self, path: str) -> Stat: ...

    @abstractmethod
    def readlink(self, path: str) -> str: ...

    @abstractmethod
    def symlink(self, target: str, path: str) -> None: ...

    @abstractmethod
    def link(self, path: str, new_path: str) -> None: ...

    @abstractmethod
    def unlink(self, path: str) -> None: ...

    @abstractmethod
    def rename(self, path: str, new_path: str, flags: int = 0) -> None: ...

    @abstractmethod
    def chmod(self, path: str, mode: int) -> None: ...

    @abstractmethod
    def chown(self, path: str, uid: int, gid: int) -> None: ...

    @abstractmethod
    def utime(self, path: str, ns: tuple[int, int]) -> None: ...

    @abstractmethod
    def truncate(self, path: str, size_bytes: int) -> None: ...

    @abstractmethod
    def mknod(self, path: str, mode: int) -> None: ...

    @abstractmethod
    def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> File: ...

    @abstractmethod
    def getxattr(self, path: str, name: str) -> bytes: ...

    @abstractmethod
    def setxattr(self, path: str, name: str, value: bytes) -> None: ...

    @abstractmethod
    def another(self) -> AbstractContextManager[Drive]:
        """The same store, read-only, on a second drive."""

    # -- on top of them

    def make_artifact(self) -> str:
        """A new artifact; returns ``collection/artifact``."""
        collection = f"c{next(_artifacts)}"
        self.mkdir(collection)
        self.mkdir(f"{collection}/a")
        return f"{collection}/a"

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Make or replace a file, as the shell's ``>`` does."""
        with self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode) as file:
            file.write(data, 0)

    def read(self, path: str) -> bytes:
        """A whole file."""
        with self.open(path) as file:
            data = b""
            while block := file.read(1 << 17, len(data)):
                data += block
            return data

    def exists(self, path: str) -> bool:
        """Whether lstat finds it."""
        try:
            self.lstat(path)
        except FileNotFoundError:
            return False
        return True

    def walk(self, path: str) -> Iterator[tuple[str, Stat]]:
        """Everything below a directory, by relative path."""
        for name in sorted(self.listdir(path)):
            found = self.lstat(f"{path}/{name}")
            yield name, found
            if stat.S_ISDIR(found.mode):
                for below, each in self.walk(f"{path}/{name}"):
                    yield f"{name}/{below}", each

    def contents(self, path: str) -> dict[str, bytes]:
        """The regular files below a directory."""
        return {name: self.read(f"{path}/{name}") for name, found in self.walk(path) if stat.S_ISREG(found.mode)}

    def versions(self, label: str) -> list[str]:
        """The versions that the artifact's directory lists."""
        return sorted((n for n in self.listdir(label) if n[0] == "v" and n[1:].isdigit()), key=lambda n: int(n[1:]))

    def state(self, label: str) -> ArtifactState:
        """What is staged, pending and finished."""
        return control.decode(self.getxattr(f"{label}/staging", control.STATE), ArtifactState)

    def status(self) -> Status:
        """The whole drive."""
        return control.decode(self.getxattr("", control.STATUS), Status)

    def seal(self, label: str, message: str = "", aliases: Sequence[str] = ()) -> str:
        """Ask for a commit; returns its id once the files are set aside."""
        request = CommitRequest(new_commit_id(), message, list(aliases))
        self.setxattr(f"{label}/staging", control.COMMIT, control.encode(request))
        return request.commit_id

    def commit(self, label: str, message: str = "", aliases: Sequence[str] = ()) -> Finished:
        """Commit and wait; fails when the commit is blocked."""
        return self.wait_for(label, self.seal(label, message, aliases))

    def wait_for(self, label: str, commit_id: str) -> Finished:
        """The result of a commit, with its sealed tree gone."""
        deadline = time.monotonic() + WAIT_S
        while True:
            state = self.state(label)
            found = next((f for f in state.finished if f.commit_id == commit_id), None)
            waiting = [p for p in state.pending if p.commit_id == commit_id]
            if found and not waiting:
                return found
            blocked = [p.error for p in state.pending if p.state is CommitState.BLOCKED]
            assert not blocked, blocked
            assert time.monotonic() < deadline, state
            time.sleep(0.005)

    def is_idle(self, label: str) -> bool:
        """Whether nothing is staged or pending."""
        state = self.state(label)
        return state.staged is None and not state.pending


def device_of(mode: int) -> int:
    """The numbers of /dev/null for a device, whichever kind."""
    return os.makedev(1, 3) if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0


# -- directly on the vfs -----------------------------------------------------------------------------------------------


def _as_stat(attrs: Attrs) -> Stat:
    a = attrs
    return Stat(a.ino, a.mode, a.size_bytes, a.mtime_ns, a.nlink, a.uid, a.gid, a.blocks, a.rdev)


@contextlib.contextmanager
def translated(path: object = "") -> Iterator[None]:
    """Failures as a program sees them."""
    try:
        yield
    except Exception as error:
        number = errno_of(error)
        raise OSError(number, f"{os.strerror(number)}: {error}", str(path)) from error


class DirectFile(File):
    """A handle of the vfs. Closing twice is once, as with descriptors of a program."""

    def __init__(self, vfs: Vfs, handle: Handle, *, append: bool) -> None:
        self._vfs = vfs
        self._handle: Handle | None = handle
        self._append = append

    def _open(self) -> Handle:
        assert self._handle is not None
        return self._handle

    def _staged(self) -> StagedFile:
        handle = self._open()
        if not isinstance(handle, StagedFile) or not handle.writable:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return handle

    def read(self, size_bytes: int, offset: int) -> bytes:
        with translated():
            return self._open().read(size_bytes, offset)

    def write(self, data: bytes, offset: int) -> int:
        with translated():
            return self._staged().write(data, self.stat().size_bytes if self._append else offset)

    def truncate(self, size_bytes: int) -> None:
        with translated():
            self._staged().truncate(size_bytes)

    def stat(self) -> Stat:
        with translated():
            return _as_stat(self._vfs.getattr_of(self._open()))

    def fsync(self) -> None:
        handle = self._open()
        if isinstance(handle, StagedFile):
            with translated():
                handle.fsync(False)

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            with translated():
                handle.close()


class DirectDrive(Drive):
    """The drive without a mount. As a context it starts and stops the committer."""

    is_mounted = False

    def __init__(self, manager: ArtifactManager, settings: MountSettings) -> None:
        self.manager = manager
        self.store_root = manager.local_root
        self.settings = settings
        self._closed = False
        self.area: StagingArea | None = None
        self.committer: Committer | None = None
        if not settings.read_only:
            self.area = StagingArea.open(manager, settings)
            self.committer = Committer(self.area, manager, settings, lambda *names: self.vfs.on_commit(*names))
        self.vfs = Vfs(manager, settings, self.area, self.committer, driver="direct", log_file=None)
        if self.committer is not None:
            self.committer.start()
        self.caller = Caller(os.getuid(), os.getgid())

    def close(self) -> None:
        """As the daemon does at its end; once."""
        if self._closed:
            return
        self._closed = True
        if self.committer is not None:
            self.committer.stop(WAIT_S)
        if self.area is not None:
            self.area.close()
        self.vfs.close()

    def __enter__(self) -> DirectDrive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def another(self) -> Iterator[Drive]:
        settings = MountSettings(self.settings.url, Path("/mnt/other"), read_only=True, state_dir=Path("/nowhere"))
        with DirectDrive(self.manager, settings) as drive:
            yield drive

    # -- paths, as the kernel walks them

    def node(self, path: str, *, follow: bool = False) -> Node:
        """The node at a path; it exists. Raises OSError."""
        with translated(path):
            return self._walk(path, follow)[0]

    def _walk(self, path: str, follow: bool) -> tuple[Node, str]:
        todo = [part for part in path.split("/") if part]
        node, done = self.vfs.resolve("/"), ""
        for _ in range(1000):
            if not todo:
                return node, done
            name = todo.pop(0)
            if not stat.S_ISDIR(self.vfs.getattr(node).mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), done)
            if len(os.fsencode(name)) > 255:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
            found = self.vfs.lookup(node, name)
            if stat.S_ISLNK(self.vfs.getattr(found).mode) and (todo or follow):
                target = self.vfs.readlink(found)
                parts = (f"{done}/{target}" if not target.startswith("/") else target).split("/")
                todo = [*os.path.normpath("/".join(parts)).split("/"), *todo]
                todo = [part for part in todo if part not in ("", ".")]
                node, done = self.vfs.resolve("/"), ""
            else:
                node, done = found, f"{done}/{name}"
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[Node, str]]:
        directory, _, name = path.rpartition("/")
        if len(os.fsencode(name)) > 255:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
        with translated(path):
            parent, _ = self._walk(directory, True)
            if not stat.S_ISDIR(self.vfs.getattr(parent).mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
            yield parent, name

    def _must_not_exist(self, path: str) -> None:
        if self.exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)

    # -- the calls

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        with self._parent(path) as (parent, name):
            self._must_not_exist(path)
            self.vfs.mkdir(parent, name, mode, self.caller)

    def rmdir(self, path: str) -> None:
        if not stat.S_ISDIR(self.lstat(path).mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        with self._parent(path) as (parent, name):
            self.vfs.rmdir(parent, name)

    def listdir(self, path: str) -> list[str]:
        node = self.node(path, follow=True)
        with translated(path):
            return [dirent.name for dirent in self.vfs.readdir(node)]

    def lstat(self, path: str) -> Stat:
        node = self.node(path)
        with translated(path):
            return _as_stat(self.vfs.getattr(node))

    def readlink(self, path: str) -> str:
        node = self.node(path)
        with translated(path):
            return self.vfs.readlink(node)

    def symlink(self, target: str, path: str) -> None:
        with self._parent(path) as (parent, name):
            self._must_not_exist(path)
            self.vfs.symlink(parent, name, target, self.caller)

    def link(self, path: str, new_path: str) -> None:
        node = self.node(path)
        with self._parent(new_path) as (parent, name):
            self._must_not_exist(new_path)
            self.vfs.link(node, parent, name)

    def unlink(self, path: str) -> None:
        if stat.S_ISDIR(self.lstat(path).mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        with self._parent(path) as (parent, name):
            self.vfs.unlink(parent, name)

    def rename(self, path: str, new_path: str, flags: int = 0) -> None:
        self.lstat(path)
        with self._parent(path) as (parent, name), self._parent(new_path) as (new_parent, new_name):
            self.vfs.rename(parent, name, new_parent, new_name, flags)

    def chmod(self, path: str, mode: int) -> None:
        node = self.node(path, follow=True)
        with translated(path):
            self.vfs.chmod(node, mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        node = self.node(path, follow=True)
        with translated(path):
            self.vfs.chown(node, uid, gid)

    def utime(self, path: str, ns: tuple[int, int]) -> None:
        node = self.node(path)
        with translated(path):
            self.vfs.utime(node, ns)

    def truncate(self, path: str, size_bytes: int) -> None:
        node = self.node(path, follow=True)
        with translated(path):
            self.vfs.truncate(node, size_bytes)

    def mknod(self, path: str, mode: int) -> None:
        with self._parent(path) as (parent, name):
            self._must_not_exist(path)
            self.vfs.mknod(parent, name, mode, self.caller, device_of(mode))

    def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> File:
        for last in (False, True):
            try:
                with translated(path):
                    return DirectFile(self.vfs, self._open(path, flags, mode), append=bool(flags & os.O_APPEND))
            except OSError as error:
                # The kernel looks a stale path up again, once.
                if last or error.errno != errno.ESTALE:
                    raise
        raise AssertionError

    def _open(self, path: str, flags: int, mode: int) -> Handle:
        try:
            node, _ = self._walk(path, not flags & os.O_NOFOLLOW)
        except OSError as error:
            if not flags & os.O_CREAT or errno_of(error) != errno.ENOENT:
                raise
            with self._parent(path) as (parent, name):
                return self.vfs.create(parent, name, flags & ~os.O_CREAT, mode, self.caller)[1]
        if flags & os.O_CREAT and flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        kind = stat.S_IFMT(self.vfs.getattr(node).mode)
        if kind == stat.S_IFDIR and flags & (os.O_ACCMODE | os.O_CREAT):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return self.vfs.open(node, flags & ~os.O_CREAT)

    def getxattr(self, path: str, name: str) -> bytes:
        node = self.node(path, follow=True)
        with translated(path):
            value = self.vfs.getxattr(node, name)
        assert len(value) <= control.MAX_VALUE_BYTES, "the kernel does not carry it"
        return value

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        node = self.node(path, follow=True)
        with translated(path):
            self.vfs.setxattr(node, name, value)


# -- mounted -----------------------------------------------------------------------------------------------------------


class MountedFile(File):
    """A descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read(self, size_bytes: int, offset: int) -> bytes:
        return os.pread(self.fd, size_bytes, offset)

    def write(self, data: bytes, offset: int) -> int:
        done = 0
        while done < len(data):
            done += os.pwrite(self.fd, data[done:], offset + done)
        return done

    def truncate(self, size_bytes: int) -> None:
        os.ftruncate(self.fd, size_bytes)

    def stat(self) -> Stat:
        return _of_os(os.fstat(self.fd))

    def fsync(self) -> None:
        os.fsync(self.fd)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _of_os(s: os.stat_result) -> Stat:
    return Stat(s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns, s.st_nlink, s.st_uid, s.st_gid, s.st_blocks, s.st_rdev)


class MountedDrive(Drive):
    """The drive behind a mountpoint; whoever makes this mounts and unmounts."""

    is_mounted = True

    def __init__(
        self, mountpoint: Path, manager: ArtifactManager, another: Callable[[], AbstractContextManager[Drive]]
    ) -> None:
        self.mountpoint = mountpoint
        self.manager = manager
        self.store_root = manager.local_root
        self._another = another

    def at(self, path: str) -> str:
        """The path on the mount."""
        return f"{self.mountpoint}/{path}" if path else str(self.mountpoint)

    @contextlib.contextmanager
    def another(self) -> Iterator[Drive]:
        with self._another() as drive:
            yield drive

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        os.mkdir(self.at(path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self.at(path))

    def listdir(self, path: str) -> list[str]:
        return os.listdir(self.at(path))

    def lstat(self, path: str) -> Stat:
        return _of_os(os.lstat(self.at(path)))

    def readlink(self, path: str) -> str:
        return os.readlink(self.at(path))

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self.at(path))

    def link(self, path: str, new_path: str) -> None:
        os.link(self.at(path), self.at(new_path), follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(self.at(path))

    def rename(self, path: str, new_path: str, flags: int = 0) -> None:
        rename_paths(self.at(path), self.at(new_path), flags)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self.at(path), uid, gid)

    def utime(self, path: str, ns: tuple[int, int]) -> None:
        os.utime(self.at(path), ns=ns, follow_symlinks=False)

    def truncate(self, path: str, size_bytes: int) -> None:
        os.truncate(self.at(path), size_bytes)

    def mknod(self, path: str, mode: int) -> None:
        os.mknod(self.at(path), mode, device_of(mode))

    def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> File:
        return MountedFile(os.open(self.at(path), flags | os.O_CLOEXEC, mode))

    def getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(self.at(path), name)

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(self.at(path), name, value)
