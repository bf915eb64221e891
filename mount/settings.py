"""Every option of a mount, its default and its checks, in one frozen place.

The command line and the daemon share `MountSettings`; nothing else carries options. Immutable, safe from any thread.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from artifactfs.content.cache import DEFAULT_SIZE_BYTES, default_cache_dir
from artifactfs.content.fetching import READ_TIMEOUT_S
from mount import wire

DRIVERS = ("auto", "kernel", "libfuse")
READS = ("auto", "cache", "passthrough")
ON_FAILURE = ("hold", "commit")
MAX_SECONDS = 10 * 365 * 86400.0
# The highest number stands for no user in chown(2).
MAX_ID = (1 << 32) - 2


class SettingsError(ValueError):
    """An option has a value that makes no sense; the message names the option."""


def default_state_dir() -> Path:
    """Where mounts, logs and (for remote stores) staged files live unless ``--state-dir`` says otherwise."""
    return Path(platformdirs.user_state_dir("artifactfs"))


@dataclass(frozen=True)
class MountSettings:
    """What one mount does. Made by the command line, handed to the daemon as JSON.

    Attributes:
        url: the store, any URL that `artifactfs.connect` takes.
        mountpoint: absolute path of an existing empty directory.
        commit_after_s: seconds of quiet after which staging is committed, while somebody is left who may go on; None
            never commits by itself.
        on_failure: one of `ON_FAILURE`: what becomes of what a writer wrote that failed.
        refresh_s: how old a listing may be before the store is asked again.
        driver: one of `DRIVERS`.
        reads: one of `READS`: by which way programs get the bytes of versions, with the driver called kernel.
        read_only: no staging, no mkdir.
        min_free_bytes: what staging leaves free on its disk; writing beyond it is ENOSPC. The cache leaves as much.
        cache_dir: where bytes of stores that are not local are kept; may be shared by mounts.
        cache_size_bytes: how much of them is kept.
        read_timeout_s: how long a read waits for a store before it is EIO.
        drain_timeout_s: how long an unmount, or a daemon told to end, waits for commits.
        allow_other: other users may enter the mount.
        uid, gid: shown as the owner of everything; the mounting user by default.
        umask: permission bits taken away from what is shown; none by default.
        state_dir: where this mount keeps its records, its log and the staged files of remote stores.
        take_staging: the name of another staging area of a local store, to be used instead of this mount's own.
        options: further options of `artifactfs.connect`, such as single_writer.
    """

    url: str
    mountpoint: Path
    # Most pauses are shorter: between the commands that a person types, the cells of a notebook, the files of a script
    # that computes. Where nobody is left nothing is waited for.
    commit_after_s: float | None = 30.0
    on_failure: str = "hold"
    refresh_s: float = 2.0
    driver: str = "auto"
    reads: str = "auto"
    read_only: bool = False
    min_free_bytes: int = 1 << 30
    cache_dir: Path = field(default_factory=default_cache_dir)
    cache_size_bytes: int = DEFAULT_SIZE_BYTES
    read_timeout_s: float = READ_TIMEOUT_S
    drain_timeout_s: float = 60.0
    allow_other: bool = False
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    umask: int = 0
    state_dir: Path = field(default_factory=default_state_dir)
    verbose: bool = False
    take_staging: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises SettingsError."""
        if self.commit_after_s is not None and not 0 <= self.commit_after_s <= MAX_SECONDS:
            raise SettingsError(f"--commit-after must be 'never' or seconds ≥ 0, got {self.commit_after_s}")
        if not 0 <= self.refresh_s <= MAX_SECONDS:
            raise SettingsError(f"--refresh must be seconds ≥ 0, got {self.refresh_s}")
        if self.min_free_bytes < 0:
            raise SettingsError(f"--min-free must be a size ≥ 0, got {self.min_free_bytes}")
        if self.cache_size_bytes < 0:
            raise SettingsError(f"--cache-size must be a size ≥ 0, got {self.cache_size_bytes}")
        if not 0 < self.read_timeout_s <= MAX_SECONDS:
            raise SettingsError(f"--read-timeout must be seconds > 0, got {self.read_timeout_s}")
        if not 0 <= self.drain_timeout_s <= MAX_SECONDS:
            raise SettingsError(f"--drain-timeout must be seconds ≥ 0, got {self.drain_timeout_s}")
        if self.on_failure not in ON_FAILURE:
            raise SettingsError(f"--on-failure must be one of {', '.join(ON_FAILURE)}, got {self.on_failure!r}")
        if self.driver not in DRIVERS:
            raise SettingsError(f"--driver must be one of {', '.join(DRIVERS)}, got {self.driver!r}")
        if self.reads not in READS:
            raise SettingsError(f"--reads must be one of {', '.join(READS)}, got {self.reads!r}")
        if not 0 <= self.umask <= 0o777:
            raise SettingsError(f"--umask must be octal between 000 and 777, got {self.umask:o}")
        for name in ("uid", "gid"):
            if not 0 <= getattr(self, name) <= MAX_ID:
                raise SettingsError(f"--{name} must be a number from 0 to {MAX_ID}, got {getattr(self, name)}")
        for name in ("mountpoint", "state_dir", "cache_dir"):
            if not getattr(self, name).is_absolute():
                raise SettingsError(f"{name} must be an absolute path, got {getattr(self, name)}")

    @property
    def keeps_owner(self) -> bool:
        """Tell if staged files show the owner they have on disk; a daemon of root does, unless told what to show."""
        return os.geteuid() == 0 and (self.uid, self.gid) == (os.getuid(), os.getgid())

    def to_json(self) -> bytes:
        """As JSON, for the daemon process."""
        return wire.encode(self)

    @classmethod
    def from_json(cls, raw: bytes) -> MountSettings:
        """Raises SettingsError when `raw` is not what `to_json` gives."""
        try:
            return wire.decode(raw, cls, lambda to, value: to(value))
        except msgspec.DecodeError as error:
            raise SettingsError(f"unreadable mount settings: {error}") from error
