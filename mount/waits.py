"""The reason why what is staged is not sealed yet, for the status.

Pure functions, safe from any thread. Neighbours: the committer decides, `staging` asks here what to tell of it.
"""

from __future__ import annotations

from typing import NamedTuple

from mount.control import Hold


class Wait(NamedTuple):
    """Seconds until a seal if nothing changes, or else what it waits for; `on_request`: for somebody to ask for it."""

    seconds: float | None
    what: str = ""
    on_request: bool = False


def wait_of(
    *, quiet_s: float, commit_after_s: float | None, open_files: int, untouched: bool, held: Hold | None, is_run: bool
) -> Wait:
    """Tell what staging that is not empty waits for.

    `commit_after_s` is None where it is committed on request only; `is_run`: a program lives that commits it itself.
    """
    if held is not None:
        return Wait(None, f"it is held: {held.why}", on_request=True)
    if untouched:
        return Wait(None, "a change, or a request", on_request=True)
    if is_run:
        return Wait(None, "'artifactfs run', which commits it")
    if commit_after_s is None:
        return Wait(None, "a request", on_request=True)
    if open_files:
        return Wait(None, f"{open_files} file{'' if open_files == 1 else 's'} open for writing")
    return Wait(round(max(0.0, commit_after_s - quiet_s), 3))
