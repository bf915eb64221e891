"""The portable driver: libfuse 3 through mfusepy. It translates; the vfs decides.

libfuse's high-level interface speaks in paths. Timeouts are conservative because libfuse has one for the whole mount:
the kernel may believe what it knows of a staged file for `TIMEOUT_S`, and looks again (ESTALE) when it was sealed.

A file that is removed while open is renamed by libfuse to ``.fuse_hidden…``. That name must not reach a version, so
the file is really removed and lives on as a descriptor (`_hidden`) until libfuse removes the name. libfuse does the
same to a file that is open and about to be replaced by a rename, before it knows whether the rename succeeds:
`_replaced` remembers it until then.

Threading: libfuse calls the operations from threads of its own; all state here is `_handles`, `_directories`,
`_hidden` and `_replaced`, changed by single dict operations, and `_numbers`, an iterator that is safe under the
interpreter lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import itertools
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

from mount import control
from mount.asking import ASKING, WRITE_BACK
from mount.descriptors import OwnedFd
from mount.drivers import DriverUnavailable
from mount.drivers.failures import errno_after
from mount.errors import NoSuchAttribute
from mount.handles import Handle, StagedFile
from mount.settings import MountSettings
from mount.staged_tree import StagedTree
from mount.tree import ROOT_INO, Attrs, Caller, Dirent, Node, StagedNode
from mount.vfs import Vfs

# Long enough for a program that asks for the same names again and again; every commit on request waits for it.
TIMEOUT_S = 0.2
IDLE_THREADS = 10
_LIBRARIES = ("libfuse3.so.3", "libfuse3.so.4")
_HIDDEN = re.compile(r"\.fuse_hidden[0-9a-f]{16}\Z")
# From <sys/stat.h>: in place of nanoseconds, "the current time" and "leave it".
_UTIME_NOW = (1 << 30) - 1
_UTIME_OMIT = (1 << 30) - 2
_NO_ID = 0xFFFFFFFF

# The requests of which it matters who asks: they change what is staged, or tell of an error of a change.
_BY_SOMEBODY = frozenset(
    (
        *(
            "chmod",
            "chown",
            "copy_file_range",
            "create",
            "fallocate",
            "flush",
            "fsync",
            "link",
            "mkdir",
            "mknod",
            "open",
        ),
        *("rename", "rmdir", "setxattr", "symlink", "truncate", "unlink", "utimens", "write"),
    )
)


def _import_mfusepy() -> Any:
    """mfusepy, bound to libfuse 3 even where libfuse 2 is installed too. Raises DriverUnavailable."""
    if "FUSE_LIBRARY_PATH" not in os.environ:
        found = next((name for name in _LIBRARIES if _loads(name)), ctypes.util.find_library("fuse3"))
        if found is None:
            raise DriverUnavailable("libfuse 3 is not installed: apt install fuse3")
        os.environ["FUSE_LIBRARY_PATH"] = found
    try:
        import mfusepy
    except (ImportError, OSError, AttributeError) as error:
        raise DriverUnavailable(f"libfuse 3 cannot be used: {error}. Try: apt install fuse3") from error
    return mfusepy


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


class LibfuseDriver:
    """See the module docstring."""

    name = "libfuse"

    def __init__(self) -> None:
        """Raises DriverUnavailable."""
        self._mfusepy = _import_mfusepy()

    def serve(self, vfs: Vfs, settings: MountSettings, on_ready: Callable[[], None]) -> None:
        """Mount and serve until unmounted. Raises DriverUnavailable."""
        operations = _operations(self._mfusepy, vfs, on_ready)
        options: dict[str, Any] = {
            "foreground": True,
            "fsname": source(settings),
            "subtype": "artifactfs",
            "default_permissions": True,
            "attr_timeout": TIMEOUT_S,
            "entry_timeout": TIMEOUT_S,
            "negative_timeout": 0,
            "use_ino": True,
            # A thread that has served a burst is kept for the next; libfuse 3.14 also complains of its own default.
            "max_idle_threads": IDLE_THREADS,
        }
        if settings.allow_other:
            options["allow_other"] = True
        if settings.read_only:
            options["ro"] = True
        try:
            _fuse_class(self._mfusepy)(operations, str(settings.mountpoint), raw_fi=True, **options)
        except RuntimeError as error:
            raise DriverUnavailable(
                f"cannot mount on {settings.mountpoint} (libfuse error {error}): is /dev/fuse there and allowed? "
                "In a container: --device /dev/fuse --cap-add SYS_ADMIN"
            ) from error


def source(settings: MountSettings) -> str:
    """What the mount table shows as the mounted thing; commas and backslashes are libfuse's own, so escaped."""
    from mount.mounts import source_of

    return source_of(settings.url).replace("\\", "\\\\").replace(",", "\\,")


def _fuse_class(mfusepy: Any) -> Any:
    """mfusepy.FUSE with the requests that it would pass on without their flags or their open file."""

    class Fuse(mfusepy.FUSE):  # type: ignore[misc]
        def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
            return int(self.operations.rename(os.fsdecode(old), os.fsdecode(new), flags))

        def chmod_fuse_3(self, path: bytes | None, mode: int, fip: Any) -> int:
            return int(self.operations.chmod(_path(path), mode, _info(fip)))

        def chown_fuse_3(self, path: bytes | None, uid: int, gid: int, fip: Any) -> int:
            return int(self.operations.chown(_path(path), _id(uid), _id(gid), _info(fip)))

        def truncate_fuse_3(self, path: bytes | None, length: int, fip: Any) -> int:
            return int(self.operations.truncate(_path(path), length, _info(fip)))

        def lseek(self, path: bytes | None, offset: int, whence: int, fip: Any) -> int:
            return int(self.operations.lseek(_path(path), offset, whence, fip.contents))

        def copy_file_range(
            self,
            path: bytes | None,
            fip: Any,
            offset: int,
            new_path: bytes | None,
            new_fip: Any,
            new_offset: int,
            size: int,
            flags: int,
        ) -> int:
            return int(self.operations.copy_file_range(fip.contents, offset, new_fip.contents, new_offset, size))

        def utimens_fuse_3(self, path: bytes | None, times: Any, fip: Any) -> int:
            pair = (_time_ns(times.contents.actime), _time_ns(times.contents.modtime)) if times else None
            return int(self.operations.utimens(_path(path), pair, _info(fip)))

    return Fuse


def _path(raw: bytes | None) -> str | None:
    return None if raw is None else os.fsdecode(raw)


def _info(fip: Any) -> Any:
    return fip.contents if fip else None


def _id(number: int) -> int:
    return -1 if number == _NO_ID else number


def _operations(mfusepy: Any, vfs: Vfs, on_ready: Callable[[], None]) -> Any:
    """The operations object mfusepy looks its callbacks up in: `_Requests` with every failure turned into an errno."""

    class Operations(_Requests, mfusepy.Operations):  # type: ignore[misc]
        use_ns = True

    for name, request in vars(_Requests).items():
        if not name.startswith("_"):
            by_somebody = name in _BY_SOMEBODY
            setattr(Operations, name, _translating(mfusepy, name, request, by_somebody=by_somebody))
    return Operations(vfs, on_ready, mfusepy.fuse_get_context)


def _translating(mfusepy: Any, name: str, request: Callable[..., Any], *, by_somebody: bool) -> Callable[..., Any]:
    context = mfusepy.fuse_get_context

    def answer(*args: Any) -> Any:
        ASKING.thread = context()[2] if by_somebody else None
        try:
            return request(*args)
        except Exception as error:  # noqa: BLE001 - every failure becomes an errno, unknown ones are logged
            _fail(mfusepy, name, args, error)

    return answer


def _fail(mfusepy: Any, name: str, args: tuple[Any, ...], error: Exception) -> NoReturn:
    raise mfusepy.FuseOSError(errno_after(error, name, args[1:3])) from error


def _split(path: str) -> tuple[str, str]:
    parent, _, name = path.rpartition("/")
    return parent or "/", name


def _stat(attrs: Attrs) -> dict[str, int]:
    return {
        "st_ino": attrs.ino,
        "st_mode": attrs.mode,
        "st_nlink": attrs.nlink,
        "st_uid": attrs.uid,
        "st_gid": attrs.gid,
        "st_rdev": attrs.rdev,
        "st_size": attrs.size_bytes,
        "st_blksize": 4096,
        "st_blocks": attrs.blocks,
        "st_atime": attrs.atime_ns,
        "st_mtime": attrs.mtime_ns,
        "st_ctime": attrs.ctime_ns,
    }


class _Requests:
    """One method per request of the kernel. `info` is libfuse's file info; its `fh` is a number in `_handles`."""

    def __init__(self, vfs: Vfs, on_ready: Callable[[], None], context: Callable[[], tuple[int, int, int]]) -> None:
        self._vfs = vfs
        self._on_ready = on_ready
        self._context = context
        self._numbers = itertools.count(1)
        self._handles: dict[int, Handle] = {}
        self._directories: dict[int, Node] = {}
        self._hidden: dict[str, _Hidden] = {}
        self._replaced: dict[str, _Hidden] = {}

    def init_with_config(self, connection: Any, config: Any) -> None:
        # Requests on open files then come without a path: libfuse need not compute it, and the file may have none.
        config.nullpath_ok = 1
        self._on_ready()

    def _caller(self) -> Caller:
        uid, gid, _ = self._context()
        return Caller(uid, gid)

    def _parent(self, path: str) -> tuple[Node, str]:
        parent, name = _split(path)
        return self._vfs.resolve(parent), name

    def _is_hidden(self, path: str | None) -> bool:
        return path is not None and _split(path)[1] in self._hidden

    # -- attributes

    def getattr(self, path: str | None, info: Any = None) -> dict[str, int]:
        if info is not None:
            # Not by its name, which may be gone or another file's by now, after a commit.
            return _stat(self._vfs.getattr_of(self._handles[info.fh]))
        assert path is not None
        if self._is_hidden(path):
            return _hidden_stat(self._hidden[_split(path)[1]].fd)
        # The kernel looks a name up before it renames something to it: what was hidden before that was removed.
        self._replaced.pop(path, None)
        return _stat(self._vfs.getattr(self._vfs.resolve(path)))

    def readlink(self, path: str) -> str:
        return self._vfs.readlink(self._vfs.resolve(path))

    def _target(self, path: str | None, info: Any) -> Node | StagedFile | None:
        """What a change of attributes is about; None for a file that has lost its name and is not open."""
        if info is not None or path is None:
            handle = self._handles[info.fh] if info is not None else None
            return handle if isinstance(handle, StagedFile) else None
        if self._is_hidden(path):
            # The kernel tells of the open file when it is truncated, not for the rest.
            return self._open_file(self._hidden[_split(path)[1]].fd)
        return self._vfs.resolve(path)

    def _open_file(self, fd: OwnedFd) -> StagedFile | None:
        """The open file that `fd` stands for, if it is open."""
        found = os.fstat(fd)
        for handle in list(self._handles.values()):
            # Another thread may close it at this moment.
            with contextlib.suppress(OSError):
                if isinstance(handle, StagedFile) and os.path.samestat(os.fstat(handle.fd), found):
                    return handle
        return None

    def chmod(self, path: str | None, mode: int, info: Any = None) -> int:
        target = self._target(path, info)
        if isinstance(target, StagedFile):
            target.chmod(mode)
        elif target is not None:
            self._vfs.chmod(target, mode)
        return 0

    def chown(self, path: str | None, uid: int, gid: int, info: Any = None) -> int:
        target = self._target(path, info)
        if target is not None and not isinstance(target, StagedFile):
            self._vfs.chown(target, uid, gid)
        return 0

    def truncate(self, path: str | None, length: int, info: Any = None) -> int:
        target = self._target(path, info)
        if isinstance(target, StagedFile):
            target.truncate(length)
        elif target is not None:
            self._vfs.truncate(target, length)
        return 0

    def utimens(self, path: str | None, times_ns: tuple[int | None, int | None] | None, info: Any = None) -> int:
        target = self._target(path, info)
        if isinstance(target, StagedFile):
            target.utime(times_ns)
        elif target is not None:
            self._vfs.utime(target, times_ns)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        room = self._vfs.statfs()
        keys = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail", "f_namemax")
        return {key: getattr(room, key) for key in keys}

    # -- directories

    def opendir(self, path: str) -> int:
        node = self._vfs.resolve(path)
        number = next(self._numbers)
        self._directories[number] = node
        return number

    def readdir(self, path: str | None, number: int) -> Iterator[tuple[str, dict[str, int], int]]:
        node = self._directories[number]
        return _dirents(self._vfs.getattr(node).ino, self._vfs.readdir(node))

    def releasedir(self, path: str | None, number: int) -> int:
        del self._directories[number]
        return 0

    def fsyncdir(self, path: str | None, data_only: int, number: int) -> int:
        node = self._directories[number]
        if isinstance(node, StagedNode):
            node.tree.fsync_directory(node.path)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self._vfs.mkdir(*self._parent(path), mode, self._caller())
        return 0

    def rmdir(self, path: str) -> int:
        self._vfs.rmdir(*self._parent(path))
        return 0

    # -- names

    def mknod(self, path: str, mode: int, device: int) -> int:
        self._vfs.mknod(*self._parent(path), mode, self._caller(), device)
        return 0

    def symlink(self, path: str, target: str) -> int:
        self._vfs.symlink(*self._parent(path), target, self._caller())
        return 0

    def link(self, path: str, source: str) -> int:
        self._vfs.link(self._vfs.resolve(source), *self._parent(path))
        return 0

    def unlink(self, path: str) -> int:
        if self._hidden.pop(_split(path)[1], None) is None:
            self._vfs.unlink(*self._parent(path))
        return 0

    def rename(self, old: str, new: str, flags: int = 0) -> int:
        hidden = _split(new)[1]
        if _HIDDEN.match(hidden) and isinstance(node := self._vfs.resolve(old), StagedNode):
            fd = node.tree.pin(node.path)
            self._vfs.unlink(*self._parent(old))
            # By its name alone, which libfuse never uses twice: the directory may be renamed meanwhile.
            self._hidden[hidden] = self._replaced[old] = _Hidden(fd, node.tree)
            return 0
        replaced = self._replaced.pop(new, None)
        try:
            self._vfs.rename(*self._parent(old), *self._parent(new), flags)
        except BaseException:
            if replaced is not None and isinstance(node := self._vfs.resolve(new), StagedNode):
                node.tree.restore(node.path, replaced.fd)
            raise
        return 0

    # -- open files

    def open(self, path: str, info: Any) -> int:
        hidden = self._hidden.get(_split(path)[1])
        if hidden is not None:
            # Replaced between the kernel's look at the name and this.
            handle: Handle = hidden.tree.reopen(hidden.fd, info.flags)
        else:
            handle = self._vfs.open(self._vfs.resolve(path), info.flags)
        # What is in the page cache of an immutable file stays true.
        info.keep_cache = not isinstance(handle, StagedFile)
        self._add(handle, info)
        return 0

    def create(self, path: str, mode: int, info: Any) -> int:
        _, handle = self._vfs.create(*self._parent(path), info.flags, mode, self._caller())
        self._add(handle, info)
        return 0

    def _add(self, handle: Handle, info: Any) -> None:
        info.fh = next(self._numbers)
        self._handles[info.fh] = handle

    def _staged(self, info: Any) -> StagedFile:
        handle = self._handles[info.fh]
        assert isinstance(handle, StagedFile)
        return handle

    def read(self, path: str | None, size: int, offset: int, info: Any) -> bytes:
        return self._handles[info.fh].read(size, offset)

    def write(self, path: str | None, data: bytes, offset: int, info: Any) -> int:
        if info.writepage:
            ASKING.thread = WRITE_BACK
        return self._staged(info).write(data, offset)

    def flush(self, path: str | None, info: Any) -> int:
        handle = self._handles[info.fh]
        if isinstance(handle, StagedFile):
            handle.flush()
        return 0

    def fsync(self, path: str | None, data_only: int, info: Any) -> int:
        handle = self._handles[info.fh]
        if isinstance(handle, StagedFile):
            handle.fsync(bool(data_only))
        return 0

    def fallocate(self, path: str | None, mode: int, offset: int, size: int, info: Any) -> int:
        self._staged(info).fallocate(mode, offset, size)
        return 0

    def lseek(self, path: str | None, offset: int, whence: int, info: Any) -> int:
        return self._handles[info.fh].seek(offset, whence)

    def copy_file_range(self, info: Any, offset: int, new_info: Any, new_offset: int, size: int) -> int:
        return self._staged(new_info).copy_from(self._handles[info.fh], offset, new_offset, size)

    def release(self, path: str | None, info: Any) -> int:
        self._handles.pop(info.fh).close()
        return 0

    # -- extended attributes

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        if self._is_hidden(path):
            raise NoSuchAttribute(name)
        return self._vfs.getxattr(self._vfs.resolve(path), name)

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> int:
        self._vfs.setxattr(self._vfs.resolve(path), name, value)
        if name in (control.COMMIT, control.DISCARD):
            # The kernel may go on believing in names that are gone now: who waits for the answer, and makes the next
            # version in a directory it has just been told exists, must not meet them.
            time.sleep(TIMEOUT_S)
        return 0

    def listxattr(self, path: str) -> list[str]:
        return []

    def removexattr(self, path: str, name: str) -> int:
        raise NoSuchAttribute(name)


class _Hidden(NamedTuple):
    """A file that libfuse has hidden: a descriptor that stands for it (O_PATH), and the tree it was in."""

    fd: OwnedFd
    tree: StagedTree


def _hidden_stat(fd: OwnedFd) -> dict[str, int]:
    found = os.fstat(fd)
    keys = ("st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blksize", "st_blocks")
    times = {f"st_{which}time": getattr(found, f"st_{which}time_ns") for which in "amc"}
    return {key: getattr(found, key) for key in keys} | times


def _dirents(ino: int, entries: Iterator[Dirent]) -> Iterator[tuple[str, dict[str, int], int]]:
    yield ".", {"st_ino": ino, "st_mode": stat.S_IFDIR}, 0
    # The kernel knows the parent and shows its number; what is given here only must not be 0.
    yield "..", {"st_ino": ROOT_INO, "st_mode": stat.S_IFDIR}, 0
    for name, ino, mode in entries:
        yield name, {"st_ino": ino, "st_mode": mode}, 0


def _time_ns(spec: Any) -> int | None:
    """A timespec as nanoseconds; None for "leave it"."""
    if spec.tv_nsec == _UTIME_OMIT:
        return None
    if spec.tv_nsec == _UTIME_NOW:
        return time.time_ns()
    return int(spec.tv_sec) * 1_000_000_000 + int(spec.tv_nsec)
