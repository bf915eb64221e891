"""A store whose clock the tests set, and whose callers can be stopped at each call."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from artifactfs.managers import filesystem
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.objects import layout
from artifactfs.objects.hashing import HashedFile
from artifactfs.objects.open import open_store
from artifactfs.objects.store import Buffer, Listing, ObjectStore, Outcome, StoredFile

Hook = Callable[[str, str], None]
HOUR_S = 3600
GRACE_S = 24 * HOUR_S


class ClockedStore(ObjectStore):
    """Passes every call on to `inner` and keeps its own times: when a key was last put, as a backend does.

    `hook` is called with the method and its key before each call of a thread that set one.
    """

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.url = inner.url
        self.now_ns = 1_700_000_000 * 10**9
        self.changed: dict[str, int] = {}
        self._hooks: dict[int, Hook] = {}

    def pass_time(self, seconds: float) -> None:
        self.now_ns += int(seconds * 10**9)

    def set_hook(self, hook: Hook | None) -> None:
        """For calls of this thread, None for no more."""
        if hook is None:
            self._hooks.pop(threading.get_ident(), None)
        else:
            self._hooks[threading.get_ident()] = hook

    def _before(self, method: str, key: str) -> None:
        hook = self._hooks.get(threading.get_ident())
        if hook is not None:
            hook(method, key)

    def _written(self, key: str) -> None:
        self.changed[key] = self.now_ns

    def put(self, key: str, data: Buffer) -> None:
        self._before("put", key)
        self.inner.put(key, data)
        self._written(key)

    def put_file(self, key: str, file: HashedFile) -> None:
        self._before("put_file", key)
        self.inner.put_file(key, file)
        self._written(key)

    def put_exclusive(self, key: str, data: Buffer) -> Outcome:
        self._before("put_exclusive", key)
        outcome = self.inner.put_exclusive(key, data)
        if outcome is Outcome.CREATED:
            self._written(key)
        return outcome

    def replace(self, key: str, data: Buffer) -> None:
        self._before("replace", key)
        self.inner.replace(key, data)
        self._written(key)

    def get(self, key: str) -> bytes:
        self._before("get", key)
        return self.inner.get(key)

    def get_range(self, key: str, offset: int, size_bytes: int) -> bytes:
        self._before("get_range", key)
        return self.inner.get_range(key, offset, size_bytes)

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        self._before("get_many", keys[0] if keys else "")
        return self.inner.get_many(keys)

    def listing(self, prefix: str) -> Listing:
        self._before("listing", prefix)
        return self.inner.listing(prefix)

    def walk(self, prefix: str) -> Iterator[StoredFile]:
        self._before("walk", prefix)
        for file in self.inner.walk(prefix):
            yield file._replace(changed_ns=self.changed[file.key])

    def delete(self, key: str) -> None:
        self._before("delete", key)
        self.inner.delete(key)

    def exists(self, key: str) -> bool:
        self._before("exists", key)
        return self.inner.exists(key)

    def size(self, key: str) -> int:
        self._before("size", key)
        return self.inner.size(key)

    def flush(self, keys: Sequence[str]) -> None:
        self._before("flush", keys[0] if keys else "")
        self.inner.flush(keys)

    def require_exclusive(self) -> None:
        self._before("require_exclusive", "")
        self.inner.require_exclusive()


class Stopped:
    """Runs something in a thread up to one of its store calls, and then to its end when told."""

    def __init__(self, store: ClockedStore, action: Callable[[], Any], calls: int, *, never_at: str = "-") -> None:
        """Stop before the call that comes after `calls` others; not before one of method `never_at`."""
        self.began_ns = store.now_ns
        self.result: Any = None
        self._left = calls
        self._never_at = never_at
        self._error: BaseException | None = None
        self._at_rest = threading.Event()
        self._go_on = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(store, action))
        self._thread.start()
        self._at_rest.wait()

    def _run(self, store: ClockedStore, action: Callable[[], Any]) -> None:
        store.set_hook(self._count)
        try:
            self.result = action()
        except BaseException as error:
            self._error = error
        finally:
            store.set_hook(None)
            self._at_rest.set()

    def _count(self, method: str, key: str) -> None:
        self._left -= 1
        if self._left < 0 and not self._at_rest.is_set() and method != self._never_at:
            self._at_rest.set()
            self._go_on.wait()

    @property
    def over(self) -> bool:
        """Whether there was no such call."""
        return not self._thread.is_alive()

    def finish(self) -> Any:
        self._go_on.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self.result


class Clocked:
    """A manager on a store whose clock the test sets."""

    def __init__(self) -> None:
        self.store = ClockedStore(open_store(f"memory://gc-{uuid.uuid4().hex}"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(filesystem, "open_store", lambda *_, **__: self.store)
            self.manager = FileSystemArtifactManager(self.store.url)

    def commit(self, tree: Path, artifact: str = "m") -> str:
        return self.manager.commit_tree(artifact, tree, commit_id=uuid.uuid4().hex).info.version

    def gc(self, **options: object) -> int:
        return self.manager.gc(**options).deleted_objects  # type: ignore[arg-type]

    def days(self, days: float) -> None:
        self.store.pass_time(days * GRACE_S)

    def check(self) -> None:
        report = self.manager.verify()
        assert report.ok, report.damage


def tree_of(root: Path, *files: str) -> Path:
    """A tree with these files, each holding its own name. Made anew where there is one."""
    tree = root / uuid.uuid4().hex
    tree.mkdir()
    for name in files:
        (tree / name).write_text(name)
    return tree


def objects_in(store: ObjectStore) -> set[str]:
    return {file.key for file in store.walk(layout.OBJECTS)}
