"""The other end of `worker`: processes with the client, started when first needed, told apart by who signs in.

`reader()` is the process that answers questions, for all managers of this one; `committer()` lends one for the time of
a commit, and keeps it for the next. Every call is bounded in time: what does not answer is killed, with wandb-core, and
the next call gets a new process. Errors arrive as those of `artifactfs.errors`.

Threading: any thread. `_lock` (of the module) guards the table of processes; a Worker's lock guards its pipe and the
calls under way. Neither is held while waiting for an answer. After a fork the child starts processes of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import IO, Any

from artifactfs.errors import (
    AccessDenied,
    ArtifactError,
    InvalidName,
    MissingDependency,
    NotFound,
    StoreTimeout,
    StoreUnreachable,
    Unsupported,
)
from artifactfs.managers.wandb import processes
from artifactfs.threads import try_start

logger = logging.getLogger(__name__)

# The client gives up by itself after 20 s a request, of which long listings need several; but not with the manifest,
# which it fetches with no bound in time and tries again for minutes.
CALL_S = 75.0
MANIFEST_S = 30.0
_OWED = 6
# How long a failure to reach W&B stands for all calls.
_LOST_S = 1.5
# A commit that moves less than this many bytes in so many seconds is stuck.
STALL_S = 150.0
_STALL_BYTES = 64 << 10
_LOOK_S = 0.5
# It ends at once when its input does, unless it hangs.
_END_S = 5.0
_IDLE_COMMITTERS = 2
# Who signs in where, how the server is reached, and where files lie. Nothing else of wandb's variables is handed down:
# they say which run the caller's own program is, and a version is logged by a run that has nothing to do with that.
_HANDED_DOWN = frozenset(
    {
        *("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_CREDENTIALS_FILE", "WANDB_USERNAME", "WANDB_USER_EMAIL"),
        *("WANDB_BASE_URL", "WANDB_APP_URL", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_MODE"),
        *("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"),
        *("WANDB_HTTP_TIMEOUT", "WANDB_INIT_TIMEOUT", "WANDB_FILE_PUSHER_TIMEOUT", "WANDB_ERROR_REPORTING"),
        *("WANDB_HTTP_PROXY", "WANDB_HTTPS_PROXY", "WANDB__PROXIES", "WANDB_INSECURE_DISABLE_SSL"),
        *("WANDB__EXTRA_HTTP_HEADERS", "WANDB_X_EXTRA_HTTP_HEADERS"),
    }
)
_OF_WANDB = ("WANDB_", "_WANDB_")


class Conflict(StoreUnreachable):
    """Somebody else committed meanwhile: the whole commit has to be made again."""


_KINDS: dict[str, type[ArtifactError]] = {
    "absent": NotFound,
    "denied": AccessDenied,
    "conflict": Conflict,
    "timeout": StoreTimeout,
    "off": Unsupported,
    "refused": InvalidName,
    "lost": StoreUnreachable,
}


class Worker:
    """One process. `call` may be used from any thread, several at once."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Any]] = {}
        self._lost: tuple[float, StoreUnreachable] | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "artifactfs.managers.wandb.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        if not try_start(threading.Thread(target=self._listen, name="wandb answers", daemon=True)):
            self._process.kill()
            self._process.communicate()
            raise StoreUnreachable("the system gives no thread to listen to the process that talks to W&B")

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Tell whether it may still answer."""
        return self._process.poll() is None

    def start(self, name: str, /, **arguments: Any) -> Future[Any]:
        """Ask, and wait for the answer later. Raises StoreUnreachable when the process is gone."""
        number = next(self._numbers)
        answer: Future[Any] = Future()
        line = json.dumps({"id": number, "call": name, "args": arguments}).encode() + b"\n"
        pipe = self._process.stdin
        assert pipe is not None
        with self._lock:
            self._waiting[number] = answer
            try:
                pipe.write(line)
                pipe.flush()
            except (OSError, ValueError) as error:
                del self._waiting[number]
                raise StoreUnreachable("the process that talks to W&B has ended") from error
        return answer

    def call(self, name: str, /, timeout_s: float = CALL_S, **arguments: Any) -> Any:
        """Ask and wait. Raises what the answer says, StoreTimeout, StoreUnreachable."""
        with self._lock:
            if self._lost is not None and time.monotonic() - self._lost[0] < _LOST_S:
                raise type(self._lost[1])(str(self._lost[1]))
        try:
            found = self._answered(self.start(name, **arguments), timeout_s)
        except StoreUnreachable as error:
            with self._lock:
                self._lost = time.monotonic(), error
            raise
        with self._lock:
            self._lost = None
        return found

    def _answered(self, answer: Future[Any], timeout_s: float) -> Any:
        try:
            return answer.result(timeout_s)
        except FutureTimeout as error:
            if answer.done():
                raise
            with self._lock:
                owed = len(self._waiting)
            if owed >= _OWED:
                self.kill()
            raise StoreTimeout(f"W&B did not answer within {timeout_s:.0f} s") from error

    def watched(self, answer: Future[Any], on_moved: Callable[[int], None]) -> Any:
        """Wait as long as bytes move; `on_moved` is told now and then how many have. Raises as :meth:`call`."""
        first = seen = self._moved()
        since = time.monotonic()
        while True:
            with contextlib.suppress(FutureTimeout):
                return answer.result(_LOOK_S)
            if answer.done():
                continue
            moved = self._moved()
            on_moved(moved - first)
            if moved - seen >= _STALL_BYTES:
                seen, since = moved, time.monotonic()
            elif time.monotonic() - since > STALL_S:
                self.kill()
                raise StoreTimeout(f"W&B took nothing for {STALL_S:.0f} s of a commit")

    def kill(self) -> None:
        """The end of it and of what it started."""
        children = processes.children_of(self.pid) if self.alive else []
        assert self._process.stdin is not None
        # A writer that fills the pipe of a process that hangs has the lock: then there is nothing to wait for.
        if self._lock.acquire(timeout=_END_S):
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._lock.release()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            for pid in children:
                processes.kill(pid)
            self._process.wait()

    def _moved(self) -> int:
        return sum(map(processes.moved_bytes, [self.pid, *processes.children_of(self.pid)]))

    def _listen(self) -> None:
        """Hand out the answers until the process ends. Whatever ends this thread ends the process, and all waiting."""
        pipe, output = self._process.stdin, self._process.stdout
        assert pipe is not None
        assert output is not None
        try:
            with output:
                self._hand_out(output)
        except Exception as error:  # noqa: BLE001 - told to those who wait, as the end of the process
            logger.error("cannot understand the process that talks to W&B: %r", error)
            self._process.kill()
        # Where it was killed from outside, wandb-core follows it by itself.
        self._process.wait()
        with self._lock, contextlib.suppress(OSError):
            pipe.close()
        with self._lock:
            left, self._waiting = list(self._waiting.values()), {}
        for waiting in left:
            waiting.set_exception(StoreUnreachable("the process that talks to W&B ended while it was asked"))

    def _hand_out(self, output: IO[bytes]) -> None:
        for line in output:
            answer = json.loads(line)
            with self._lock:
                waiting = self._waiting.pop(answer["id"])
            if "error" in answer:
                waiting.set_exception(_KINDS[answer["error"]["kind"]](_told(answer["error"])))
            else:
                waiting.set_result(answer["ok"])


def _told(error: dict[str, str]) -> str:
    if "No API key configured" in error["text"]:
        return "no key for W&B: run `wandb login` or set WANDB_API_KEY"
    if error["kind"] == "denied" and "verify credentials" in error["text"]:
        return f"W&B refused the key: run `wandb login` or correct WANDB_API_KEY ({error['text']})"
    return error["text"] if error["kind"] == "off" else f"W&B: {error['text']}"


Who = tuple[tuple[str, str], ...]

_lock = threading.Lock()
_readers: dict[Who, Worker] = {}
_committers: dict[Who, list[Worker]] = {}
_owner = os.getpid()


def reader() -> Worker:
    """The process that answers questions of whom the environment names."""
    who = _who()
    with _lock:
        _forget_parents()
        found = _readers.get(who)
        if found is None or not found.alive:
            found = _readers[who] = Worker(_environment())
        return found


@contextlib.contextmanager
def committer() -> Iterator[Worker]:
    """A process for one commit. One that saw an error is killed, others are kept for the next commit."""
    who = _who()
    with _lock:
        _forget_parents()
        idle = _committers.setdefault(who, [])
        worker = idle.pop() if idle else None
    if worker is None or not worker.alive:
        worker = Worker(_environment())
    try:
        yield worker
    except BaseException:
        worker.kill()
        raise
    with _lock:
        if len(idle) < _IDLE_COMMITTERS:
            idle.append(worker)
            return
    worker.kill()


def close_all() -> None:
    """End every process; the next call starts new ones."""
    with _lock:
        if os.getpid() != _owner:
            return
        mine = [*_readers.values(), *itertools.chain.from_iterable(_committers.values())]
        _readers.clear()
        _committers.clear()
    for worker in mine:
        worker.kill()


atexit.register(close_all)


def _forget_parents() -> None:
    """A process that was forked must not share the pipes of the one it came from."""
    global _owner
    if os.getpid() != _owner:
        _readers.clear()
        _committers.clear()
        _owner = os.getpid()


def _who() -> Who:
    """What in the environment says who signs in where."""
    names = sorted(name for name in os.environ if name in _HANDED_DOWN or name in ("HOME", "NETRC"))
    return tuple((name, os.environ[name]) for name in names)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in _HANDED_DOWN or not name.startswith(_OF_WANDB)}


def require_client() -> None:
    """Raises MissingDependency unless wandb is installed. Does not import it."""
    from importlib.util import find_spec

    if find_spec("wandb") is None:
        raise MissingDependency("W&B needs the package wandb: install it with pip install 'artifactfs[wandb]'")
