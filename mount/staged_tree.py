"""One tree of files on the staging disk: the writable staging of an artifact, or a sealed one.

Every operation is the system call of the same name on the file below the tree's root. Neighbours: `staging` makes,
seals and removes trees, the vfs calls the operations. Threading: safe from any thread; operations that change names
or attributes run under the artifact's lock (`changed` carries it), so that a seal falls between two of them and never
into one; reads and writes of open files need no lock because a tree with writers is not sealed.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

from artifactfs import durable
from artifactfs.beneath import open_regular
from artifactfs.manifest import Entry
from mount import disk
from mount.asking import ASKING, WRITE_BACK
from mount.control import Hold
from mount.descriptors import CLOSED, OwnedFd
from mount.endings import Ending, Watched
from mount.errno_map import is_attribute_too_long, is_no_attribute, unsupported
from mount.errors import Stale
from mount.forced_seal import OpenFiles, copy_open, exchange, path_of, told_path
from mount.handles import IS_ROOT, StagedFile, set_times
from mount.places import Place, Places
from mount.references import Reference, References, referred_entry
from mount.room import DiskRoom
from mount.tree import Caller, Dirent
from mount.usage import usage_of
from mount.watched_writers import WatchedWriters

logger = logging.getLogger(__name__)

PERMISSIONS = 0o7777
_REMOVED = ".removed"
"""Where nothing is ever made beside a tree."""


class StagedTree:
    """See the module docstring. `root` changes once, when the tree is sealed."""

    def __init__(
        self,
        root: Path,
        changed: threading.Condition,
        on_dirty: Callable[[], None],
        room: DiskRoom,
        references: References,
        on_lost: Callable[[OSError], None],
        take_hold: Callable[[Hold], AbstractContextManager[object]],
        writers: WatchedWriters | None,
        on_failure: Callable[[str], None],
        *,
        sealed: bool = False,
    ) -> None:
        self._places = Places(root)
        self.room = room
        self.references = references
        self.sealed = sealed
        self.held: Hold | None = None
        """Why it is not committed by itself."""
        self.note_lost = on_lost
        """To be called when a sync of a file has failed."""
        self._take_hold = take_hold
        self._on_failure = on_failure
        self.writers = writers
        """None for a tree that is no artifact's, or is written to no more."""
        self._last_writer: int | None = None
        self._last_written = ""
        self.last_change_ns = time.monotonic_ns()
        self.touched = False
        self._on_dirty = on_dirty
        self._changed = changed
        self._handles: set[StagedFile] = set()
        self._usage: tuple[int, tuple[int, int]] | None = None

    @property
    def root(self) -> Path:
        """The place of the tree on disk."""
        return self._places.root

    @property
    def lock(self) -> threading.Condition:
        """Held while names change; who holds it can rely on a path. Re-entrant."""
        return self._changed

    def touch(self) -> None:
        """Note a change, and who makes it: the quiet time starts again."""
        if ASKING.thread != self._last_writer:
            self._note_writer()
        self.last_change_ns = time.monotonic_ns()
        if not self.touched:
            self.touched = True
            self._on_dirty()

    def _note_writer(self) -> None:
        thread = ASKING.thread
        if thread is not None and thread != WRITE_BACK and self.writers is not None:
            process = self.writers.wrote(thread)
            # Only the number of a thread that leads its process stays that of the process as long as it lives.
            self._last_writer = thread if process is not None and process.pid == thread else None

    def forget_writers(self) -> None:
        """There is nothing (any more) that anybody wrote. Called with the lock held. Raises OSError."""
        self._last_writer = None
        if self.writers is not None:
            self.writers.forget()

    def told(self, error: Exception) -> None:
        """Note that a program is told an error for a change; what hinders that is logged, for it hears of `error`."""
        if ASKING.thread is None or self.writers is None:
            return
        try:
            why = self.writers.was_told(ASKING.thread, error, self._last_written)
            if why is not None:
                self._on_failure(why)
        except OSError as hindrance:
            logger.error("cannot note that a program was told %s: %s", error, hindrance)

    def closes(self) -> None:
        """Note that a program closes a file that was open for writing."""
        if ASKING.thread is not None and self.writers is not None:
            self.writers.closes(ASKING.thread)

    def writer_ended(self, process: Watched, ending: Ending) -> str | None:
        """A process has ended; returns why that makes what is staged wait, if it does. Its number may be given away."""
        if self.writers is None:
            return None
        if self._last_writer == process.pid:
            self._last_writer = None
        return self.writers.ended(process, ending, self._last_written)

    @property
    def quiet_s(self) -> float:
        """Seconds since the last change."""
        return (time.monotonic_ns() - self.last_change_ns) / 1e9

    def is_dirty(self) -> bool:
        """Tell whether there is something to commit: something was changed, something is there, and it is not held."""
        return self.touched and self.held is None and not self.is_empty()

    def exists(self) -> bool:
        """Whether the tree is on disk; a staging nobody wrote to is not."""
        return self.root.is_dir()

    def is_empty(self) -> bool:
        """Whether there is nothing at all in it."""
        try:
            with os.scandir(self.root) as entries:
                return next(entries, None) is None
        except FileNotFoundError:
            return True

    def move(self, root: Path) -> None:
        """Seal: move the tree and make it immutable. Called with the lock held."""
        mode = os.stat(self.root).st_mode
        if not mode & stat.S_IWUSR:
            # A directory that changes its parent is written to, and no version keeps the mode of its top.
            os.chmod(self.root, stat.S_IMODE(mode) | stat.S_IRWXU)
        os.rename(self.root, root)
        self._places.root = root
        self.sealed = True
        self.let_go()

    def let_go(self) -> None:
        """Hold none of its directories: a removal would have to wait for that, and so would its room on disk."""
        self._places.note_move()

    def remove(self) -> None:
        """Remove the empty tree: nothing is found or made through it any more, whatever is made in its place.

        Called with the lock held. Raises OSError (ENOTEMPTY).
        """
        with suppress(FileNotFoundError):
            self.root.rmdir()
        self._places.root = self.root.with_name(_REMOVED)
        self._places.note_move()
        self.sealed = True

    def copy_open(self, directory: Path) -> OpenFiles:
        """Before a forced seal: copy the files that are open for writing to `directory`, once for each of their names.

        Called with the lock held. Raises OSError.
        """
        return copy_open(self._places, [handle.fd for handle in self._handles if handle.writable], directory)

    def keep_writing(self, into: StagedTree, files: OpenFiles) -> None:
        """After a forced seal: give the files that are open for writing to the tree `into`, and put their copies here.

        So what programs write from here on is staged there, and what they had written is sealed here. Called with the
        lock held. Raises OSError.
        """
        for handle in [handle for handle in self._handles if handle.writable]:
            self._handles.discard(handle)
            handle.tree = into
            into._handles.add(handle)
        if files.kept:
            into.touch()
        exchange(self._places, into._places, files)

    def usage(self) -> tuple[int, int]:
        """(files, bytes) in the tree; counted again only after a change."""
        before = self.last_change_ns
        if self._usage is None or self._usage[0] != before:
            self._usage = (before, usage_of(str(self.root)))
        return self._usage[1]

    def open_for_writing(self) -> list[str]:
        """The files that are open for writing and still have a name. Called with the lock held."""
        return [
            path_of(self._places, handle.fd) or "one whose name cannot be told"
            for handle in self._handles
            if handle.writable and os.fstat(handle.fd).st_nlink > 0
        ]

    def disk_path(self, path: str) -> str:
        """Where the file `path` of the tree lies on disk."""
        return f"{self.root}/{path}" if path else str(self.root)

    # -- reading ----------------------------------------------------------------------------------------------------

    def stat(self, path: str) -> os.stat_result:
        """lstat(2). Raises OSError."""
        if not path:
            # Before each request about what lies in it the kernel asks for the top: see `Places.at`, in one call.
            return os.lstat(self.root)
        place = self._places.at(path)
        return os.lstat(place.name, dir_fd=place.directory)

    def refers(self, path: str) -> bool:
        """Whether the file stands for bytes of a version. Raises OSError."""
        return self.referred_entry(path) is not None

    def referred_entry(self, path: str) -> Entry | None:
        """The entry of a version that the file stands for; None for all else. Raises OSError."""
        place = self._places.at(path)
        is_file = stat.S_ISREG(os.lstat(place.name, dir_fd=place.directory).st_mode)
        return referred_entry(place.path) if is_file else None

    def list(self, path: str) -> list[Dirent]:
        """The entries of a directory; none when the tree itself is not on disk. Raises OSError."""
        try:
            directory = self._places.directory(path)
            with os.scandir(f"/proc/self/fd/{directory}") as entries:
                return [Dirent(entry.name, entry.inode(), _entry_type(entry)) for entry in entries]
        except FileNotFoundError:
            if path:
                raise
            return []

    def readlink(self, path: str) -> str:
        """readlink(2). Raises OSError."""
        place = self._places.at(path)
        return os.readlink(place.name, dir_fd=place.directory)

    # -- open files -------------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int) -> StagedFile:
        """open(2) of an existing regular file. Raises Stale when it has been sealed, OSError."""
        writable = flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)
        with self._changed:
            if writable:
                self._check_writable()
            # Not O_APPEND: a descriptor in append mode would ignore the offset, which the kernel gives of every write.
            handle = StagedFile(self, self._open(path, flags & os.O_ACCMODE), writable)
            self._handles.add(handle)
            if writable:
                self._note_opened(path)
        return self._truncated(handle, flags)

    def _note_opened(self, path: str) -> None:
        """Who has a file open for writing counts as a writer before the first byte."""
        self._last_written = path
        if ASKING.thread != self._last_writer:
            self._note_writer()

    def _open(self, path: str, flags: int) -> OwnedFd:
        place = self._places.at(path)
        return OwnedFd(open_regular(place.name, flags, beneath=place.directory))

    def reopen(self, fd: OwnedFd, flags: int) -> StagedFile:
        """Open once more a file that has lost its name; `fd` stands for it. Raises OSError."""
        writable = flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)
        with self._changed:
            again = os.open(f"/proc/self/fd/{fd}", flags & os.O_ACCMODE | os.O_CLOEXEC)
            handle = StagedFile(self, OwnedFd(again), writable)
            self._handles.add(handle)
        return self._truncated(handle, flags)

    def pin(self, path: str) -> OwnedFd:
        """A descriptor that stands for a file whatever becomes of its name (O_PATH). Raises OSError."""
        place = self._places.at(path)
        return OwnedFd(os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.directory))

    def restore(self, path: str, fd: OwnedFd) -> None:
        """Put a copy of a file that has lost its name back at `path`. Raises OSError."""
        with self._changing():
            disk.copy(f"/proc/self/fd/{fd}", self._places.at(path).path)

    def create(self, path: str, flags: int, mode: int, caller: Caller) -> StagedFile:
        """open(2) with O_CREAT; a new file belongs to `caller` where the daemon may give it away. Raises OSError."""
        access = flags & os.O_ACCMODE
        with self._changing():
            place = self._places.at(path)
            is_new = True
            try:
                made = access | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                fd = OwnedFd(os.open(place.name, made, mode, dir_fd=place.directory))
            except FileExistsError:
                # Made by another program since the kernel looked; it keeps its mode and owner.
                if flags & os.O_EXCL:
                    raise
                fd, is_new = self._open(path, access), False
            else:
                self._give(place, caller)
                os.fchmod(fd, mode & PERMISSIONS)
            handle = StagedFile(self, fd, access != os.O_RDONLY, is_new=is_new)
            self._handles.add(handle)
            self._last_written = path
        return self._truncated(handle, flags)

    def _truncated(self, handle: StagedFile, flags: int) -> StagedFile:
        """Do what O_TRUNC asks for: as a step of its own, because of files that are references."""
        if flags & os.O_TRUNC:
            try:
                handle.truncate(0)
            except OSError:
                self.forget_handle(handle)
                raise
        return handle

    def refer(self, handle: StagedFile, reference: Reference) -> bool:
        """Make the empty open file stand for the bytes of a version; False where that cannot be. Raises OSError."""
        with self._changed:
            found = os.fstat(handle.fd)
            if found.st_size or not handle.writable:
                return False
            try:
                reference.attach(handle.fd)
            except OSError as error:
                if not is_no_attribute(error) and not is_attribute_too_long(error):
                    raise
                os.ftruncate(handle.fd, 0)
                return False
            renewed = self.references.renew(handle.fd)
            for other in self._handles:
                if os.path.samestat(os.fstat(other.fd), found):
                    other.reference = renewed
        return True

    def forget_handle(self, handle: StagedFile) -> None:
        """Close a handle and wake who waits for the last writer to go."""
        with self._changed:
            is_here = handle in self._handles
            if is_here:
                self._handles.discard(handle)
                if handle.writable:
                    self.touch()
                self._changed.notify_all()
        if is_here:
            handle.fd = CLOSED
        elif handle.tree is not self:
            # Given to another tree while this waited for the lock.
            handle.tree.forget_handle(handle)

    def fsync_directory(self, path: str) -> None:
        """fsync(2) of a directory: the names in it are durable. Raises OSError."""
        if path or self.exists():
            durable.sync_directory(f"/proc/self/fd/{self._places.directory(path)}")

    # -- changing names ---------------------------------------------------------------------------------------------

    def mkdir(self, path: str, mode: int, caller: Caller) -> None:
        """mkdir(2). Raises OSError."""
        with self._changing():
            place = self._places.at(path)
            os.mkdir(place.name, mode, dir_fd=place.directory)
            inherited = os.lstat(place.name, dir_fd=place.directory).st_mode & stat.S_ISGID
            self._give(place, caller)
            os.chmod(place.name, mode & PERMISSIONS | inherited, dir_fd=place.directory)

    def mknod(self, path: str, mode: int, caller: Caller, device: int = 0) -> None:
        """A regular file, fifo, socket or device by mknod(2). Raises OSError."""
        with self._changing():
            place = self._places.at(path)
            os.mknod(place.name, mode, device, dir_fd=place.directory)
            self._give(place, caller)
            os.chmod(place.name, mode & PERMISSIONS, dir_fd=place.directory)

    def symlink(self, path: str, target: str, caller: Caller) -> None:
        """symlink(2). Raises OSError."""
        with self._changing():
            place = self._places.at(path)
            os.symlink(target, place.name, dir_fd=place.directory)
            self._give(place, caller)

    def link(self, path: str, new_path: str) -> None:
        """link(2). Raises OSError."""
        with self._changing():
            old, new = self._places.at(path), self._places.at(new_path)
            between = {"src_dir_fd": old.directory, "dst_dir_fd": new.directory}
            os.link(old.name, new.name, **between, follow_symlinks=False)

    def unlink(self, path: str) -> None:
        """unlink(2). Raises OSError."""
        with self._changing():
            place = self._places.at(path)
            os.unlink(place.name, dir_fd=place.directory)

    def rmdir(self, path: str) -> None:
        """rmdir(2). Raises OSError."""
        with self._changing():
            place = self._places.at(path)
            os.rmdir(place.name, dir_fd=place.directory)
            self._places.note_removal(path)

    def rename(self, path: str, new_path: str, flags: int) -> None:
        """rename(2), or renameat2(2) with `flags`. Raises OSError."""
        with self._changing():
            old, new = self._places.at(path), self._places.at(new_path)
            moves_directory = _is_directory(old) or (flags & disk.RENAME_EXCHANGE and _is_directory(new))
            disk.rename(*old, *new, flags)
            if moves_directory:
                self._places.note_move()

    def rename_into(self, other: StagedTree, path: str, new_path: str, flags: int) -> None:
        """rename(2) from this tree to another on the same disk, such as the trash. Raises OSError.

        A hold goes along with what it is about: the other tree may be committed, or give the file back to one that is.
        """
        # Two files may go in opposite directions at once, so every thread takes the locks in the same order.
        first, second = sorted((self, other), key=lambda tree: str(tree.root))
        ways = [(self, other), (other, self)] if flags & disk.RENAME_EXCHANGE else [(self, other)]
        with first._changing(), second._changing():
            with ExitStack() as holds:
                for source, target in ways:
                    if source.held is not None:
                        holds.enter_context(target._take_hold(source.held))
                disk.rename(*self._places.at(path), *other._places.at(new_path), flags)
            self._places.note_move()
            other._places.note_move()
            for source, target in ways:
                source._hand_over(target)

    def _hand_over(self, other: StagedTree) -> None:
        """Give the open files that lie in the other tree now to that. Called with both locks held."""
        for handle in [handle for handle in self._handles if told_path(other._places, handle.fd) is not None]:
            self._handles.discard(handle)
            handle.tree = other
            other._handles.add(handle)

    def become(self, other: StagedTree) -> None:
        """After a rename of the whole tree to the place of `other`: its open files go on there, and nothing is here.

        Called with the lock held.
        """
        for handle in self._handles:
            handle.tree = other
        other._handles |= self._handles
        self._handles.clear()
        self._places.note_move()

    def make_top(self, mode: int, caller: Caller) -> None:
        """mkdir(2) of the tree itself. Raises OSError."""
        with self._changed:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            self.root.mkdir()
            self._places.note_move()
            if IS_ROOT:
                os.chown(self.root, caller.uid, caller.gid, follow_symlinks=False)
            os.chmod(self.root, mode & PERMISSIONS)

    # -- changing attributes ----------------------------------------------------------------------------------------

    def chmod(self, path: str, mode: int) -> None:
        """chmod(2). Raises OSError, also for a symlink: it has no permissions, and what it leads to is not meant."""
        with self._changing():
            place = self._places.at(path)
            # With the lock held nothing else takes the name. Before Linux 6.6 no call refuses symlinks by itself.
            if stat.S_ISLNK(os.lstat(place.name, dir_fd=place.directory).st_mode):
                raise unsupported(path)
            os.chmod(place.name, mode & PERMISSIONS, dir_fd=place.directory)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """lchown(2) where the daemon may; accepted and not kept elsewhere, as a version keeps no owner."""
        with self._changing():
            place = self._places.at(path)
            if IS_ROOT:
                os.chown(place.name, uid, gid, dir_fd=place.directory, follow_symlinks=False)

    def utime(self, path: str, times_ns: tuple[int | None, int | None] | None) -> None:
        """utimensat(2), with the arguments of `set_times`. Raises OSError."""
        with self._changing():
            place = self._places.at(path)
            set_times(place.name, times_ns, place.directory)

    def truncate(self, path: str, size_bytes: int) -> None:
        """truncate(2). Raises OSError."""
        with self._changing():
            handle = StagedFile(self, self._open(path, os.O_WRONLY), writable=True)
            self._handles.add(handle)
        try:
            handle.truncate(size_bytes)
        finally:
            self.forget_handle(handle)

    def _give(self, place: Place, caller: Caller) -> None:
        """Give what was made at a place to `caller`, in the group of the directory where that is setgid.

        Permissions come after this, because a change of the owner takes setuid and setgid bits away.
        """
        if not IS_ROOT:
            return
        directory = os.fstat(place.directory)
        gid = directory.st_gid if directory.st_mode & stat.S_ISGID else caller.gid
        if caller.uid or gid:
            os.chown(place.name, caller.uid, gid, dir_fd=place.directory, follow_symlinks=False)

    def _check_writable(self) -> None:
        if self.sealed:
            raise Stale("these files have been sealed for their commit, or removed; look staging/ up again")

    def _changing(self) -> _Change:
        return _Change(self)


class _Change:
    """The bracket around an operation that changes the tree: the lock, the checks before, the note after."""

    def __init__(self, tree: StagedTree) -> None:
        self._tree = tree

    def __enter__(self) -> None:
        tree = self._tree
        tree._changed.acquire()
        try:
            tree._check_writable()
            if ASKING.thread != tree._last_writer:
                # Before the change: a daemon that is killed after it shall have left a note of who made it.
                tree._note_writer()
            if not tree._places.holds_top() and not tree.exists():
                tree.root.mkdir(parents=True)
                tree._places.note_move()
        except BaseException:
            tree._changed.release()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        try:
            if kind is None:
                self._tree.touch()
            elif isinstance(error, Exception):
                self._tree.told(error)
        finally:
            self._tree._changed.release()


def _is_directory(place: Place) -> bool:
    return stat.S_ISDIR(os.lstat(place.name, dir_fd=place.directory).st_mode)


def _entry_type(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
