"""An ordinary user on this machine: commands run without any of root's rights, in a mount namespace of their own.

Where root runs the tests, `User` becomes nobody. Where an ordinary user does, `User` is just that user.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.mount.harness import COMMAND_TIMEOUT_S

USER = "nobody"
REPOSITORY = Path(__file__).resolve().parents[2]

# Runs in a mount namespace of its own. It gives /dev/fuse to all, as udev does on a desktop. Directories that only root
# may enter, such as root's home, get an empty directory on top that holds nothing but what the tests run from.
_ENTER = """
set -e
umask 022
# The copies of other tests' mounts would keep their connections alive.
umount --all --lazy --no-canonicalize --types fuse.artifactfs || true
home=$1 closed=$2
shift 2
mknod "$home/fuse" c 10 229 && chmod 666 "$home/fuse"
mount --bind "$home/fuse" /dev/fuse
number=0
for path; do
    number=$((number + 1))
    mkdir "$home/.shown$number"
    mount --rbind "$path" "$home/.shown$number"
done
printf '%s' "$closed" | while read -r path; do mount -t tmpfs -o mode=755 none "$path"; done
number=0
for path; do
    number=$((number + 1))
    mkdir -p "$path"
    mount --move "$home/.shown$number" "$path"
done
echo ready
exec sleep infinity
"""


def why_not() -> str | None:
    """What this machine lacks for becoming an ordinary user; None when it lacks nothing."""
    missing = [tool for tool in ("setpriv", "unshare", "nsenter") if os.geteuid() == 0 and shutil.which(tool) is None]
    return f"{', '.join(missing)} of util-linux: missing" if missing else None


def _closed_above(path: Path) -> Path | None:
    """The first directory on the way to `path` that only its owner may enter."""
    return next((above for above in [*reversed(path.parents), path] if not above.stat().st_mode & 0o001), None)


class User:
    """Runs commands as an ordinary user below a home of theirs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._prefix: list[str] = []
        self._namespace: subprocess.Popen[str] | None = None
        if os.geteuid() == 0:
            self._become()

    def _become(self) -> None:
        entry = pwd.getpwnam(USER)
        os.chown(self.home, entry.pw_uid, entry.pw_gid)
        needed = {REPOSITORY, Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]}
        hidden = {path: closed for path in sorted(needed) if (closed := _closed_above(path))}
        closed = "".join(f"{path}\n" for path in sorted(set(hidden.values())))
        self._namespace = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _ENTER, "sh", self.home, closed, *hidden],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._namespace.stdout is not None
        assert self._namespace.stdout.readline() == "ready\n"
        enter = ["nsenter", f"--mount=/proc/{self._namespace.pid}/ns/mnt"]
        become = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
        self._prefix = [*enter, *become, "--inh-caps=-all"]

    def close(self) -> None:
        """End what is left of the user's processes and mounts."""
        if self._namespace is not None:
            self.run("pkill", "-u", USER, "-f", str(self.home), check=False)
            self._namespace.kill()
            self._namespace.communicate()

    def start(self, *command: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a command in the user's home; `options` are those of Popen."""
        own = {name: str(self.home / name) for name in ("state", "cache", "tmp")}
        (self.home / "tmp").mkdir(mode=0o1777, exist_ok=True)
        environment = {
            **os.environ,
            "HOME": str(self.home),
            "XDG_STATE_HOME": own["state"],
            "XDG_CACHE_HOME": own["cache"],
            "TMPDIR": own["tmp"],
        }
        arguments = [*self._prefix, "env", f"--chdir={self.home}", *map(str, command)]
        return subprocess.Popen(arguments, env=environment, text=True, **options)

    def run(self, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command; with `check` it must succeed."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.start(*command, **pipes) as process:
            try:
                out, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
            except BaseException:
                process.kill()
                raise
        if check:
            logs = "".join(path.read_text() for path in self.home.glob("state/artifactfs/logs/*.log"))
            assert process.returncode == 0, f"{command}: {out}{err}\n{logs}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def as_root(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command as root, who sees the user's mounts."""
        environment = {**os.environ, "XDG_STATE_HOME": str(self.home / "state-of-root")}
        arguments = [*self._prefix[:2], "env", f"--chdir={self.home}", *map(str, command)]
        return subprocess.run(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )


@contextlib.contextmanager
def ordinary_user() -> Iterator[User]:
    """Nobody, with a home that fusermount3 can enter."""
    home = Path(tempfile.mkdtemp(prefix="artifactfs-user-"))
    home.chmod(0o755)
    user = User(home)
    try:
        yield user
    finally:
        user.close()
        shutil.rmtree(home)
