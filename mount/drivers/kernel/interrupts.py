"""Programs that are killed while they wait for us: their requests are answered with EINTR, whatever takes so long.

The kernel tells of a signal once and does not say which. A program that handles a signal must get its data, because
hardly any expects EINTR from a file. One that is being killed is stuck until it is answered. So the thread that asked
is looked at: whether a signal waits for it that it will die of. As the kernel tells only of the first signal, it is
looked at again until the request is answered.

Threading: `UnderWay` is used from all workers, by single dict operations: whoever takes a request out of it answers
it. The watching thread exists while there is something to watch.
"""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from artifactfs.threads import try_start

logger = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.1
# Unless they are handled, ignored or blocked, all others end a program (signal(7)).
_HARMLESS = (
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH),
    *(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
)
_LETHAL = ~sum(1 << (number - 1) for number in _HARMLESS)
_MASKS = re.compile(r"^(SigPnd|ShdPnd|SigBlk|SigIgn|SigCgt):\s*([0-9a-f]+)$", re.MULTILINE)


class UnderWay:
    """The requests that may be given up while they are worked on, by their unique number."""

    def __init__(self, give_up: Callable[[int], None]) -> None:
        """`give_up(unique)` answers a request with EINTR."""
        self._give_up = give_up
        self._asking: dict[int, int] = {}
        self._lock = threading.Lock()
        self._watched: set[int] = set()
        self._watching = False

    def begin(self, unique: int, pid: int) -> None:
        """A request is worked on, for the thread `pid`."""
        self._asking[unique] = pid

    def is_asked(self, unique: int) -> bool:
        """Tell whether somebody still waits for a request."""
        return unique in self._asking

    def end(self, unique: int) -> bool:
        """It is done; False when it has been answered meanwhile."""
        return self._asking.pop(unique, None) is not None

    def interrupted(self, unique: int) -> bool:
        """The kernel tells of a signal. False when no such request is under way."""
        if unique not in self._asking:
            return False
        if not self._give_up_if_killed(unique):
            self._watch(unique)
        return True

    def _give_up_if_killed(self, unique: int) -> bool:
        """Tell whether the request is settled."""
        pid = self._asking.get(unique)
        if pid is None:
            return True
        if not is_being_killed(pid):
            return False
        if self.end(unique):
            self._give_up(unique)
        return True

    def _watch(self, unique: int) -> None:
        with self._lock:
            self._watched.add(unique)
            if self._watching:
                return
            self._watching = True
        if not try_start(threading.Thread(target=self._look_again, name="interrupts", daemon=True)):
            with self._lock:
                self._watching = False

    def _look_again(self) -> None:
        try:
            self._look_until_settled()
        except BaseException:
            # The next one to be watched starts another thread, which watches these too.
            with self._lock:
                self._watching = False
            raise

    def _look_until_settled(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(LOOK_AGAIN_S)
            with self._lock:
                watched = list(self._watched)
            settled = {unique for unique in watched if self._give_up_if_killed(unique)}
            with self._lock:
                self._watched -= settled
                if not self._watched:
                    self._watching = False
                    return


def is_being_killed(pid: int) -> bool:
    """Tell whether a thread is about to die. One that cannot be seen (in another namespace, say) is taken to live."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return False
    mask = {name: int(bits, 16) for name, bits in _MASKS.findall(status)}
    pending = mask["SigPnd"] | mask["ShdPnd"]
    return bool(pending & _LETHAL & ~(mask["SigBlk"] | mask["SigIgn"] | mask["SigCgt"]))
