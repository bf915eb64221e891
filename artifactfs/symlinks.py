"""The rule for symlinks of a version: each is relative, and leads to a place inside, also through the others.

Trees that are logged, manifests that come from a store and side files of W&B are all held to it. Pure functions on
bytes, safe from any thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

MAX_TARGET_BYTES = 4095
"""PATH_MAX less the NUL: Linux makes none that is longer, and takes none from a file system."""

# As many as Linux follows (MAXSYMLINKS, linux/namei.h).
_MOST_LINKS = 40
# Following all of a version's symlinks takes a few steps each; links that lead through one another for more are made
# to cost time.
_FREE_STEPS = 1 << 18
_STEPS_PER_LINK = 64
_PARTS_PER_STEP = 16


def stays_inside(path: bytes, target: bytes) -> bool:
    """Tell whether the symlink at `path` is relative and, read literally, leads to a place inside the version."""
    if not 0 < len(target) <= MAX_TARGET_BYTES or target.startswith(b"/") or b"\0" in target:
        return False
    depth = path.count(b"/")
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
        elif part not in (b"", b"."):
            depth += 1
        if depth < 0:
            return False
    return True


def leading_out(links: Mapping[bytes, bytes], paths: Sequence[bytes] = ()) -> set[bytes]:
    """The symlinks (path → target) that lead out of the version, or may. Without them, none of the others does.

    With `paths`, all paths of the version in the order of their bytes, symlinks that have something beneath them are
    among those: what lies there would be elsewhere.
    """
    out = {path for path, target in links.items() if not stays_inside(path, target)}
    out.update(path for path in links if _has_below(paths, path))
    steps = _FREE_STEPS + _STEPS_PER_LINK * len(links)
    for path, target in links.items():
        # Where ".." comes first only, it climbs real directories, and whatever link is met behind is itself inside.
        if path not in out and _climbs_later(target):
            inside, steps = _follow(links, path, target, steps)
            if not inside:
                out.add(path)
    return out


def _has_below(paths: Sequence[bytes], path: bytes) -> bool:
    below = path + b"/"
    i = bisect_left(paths, below)
    return i < len(paths) and paths[i].startswith(below)


def _climbs_later(target: bytes) -> bool:
    """Tell whether ".." comes after a name: "a/../b" leads elsewhere than it reads when a is a symlink."""
    if b"/.." not in target:
        return False
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    climbs = parts.count(b"..")
    return any(part != b".." for part in parts[:climbs])


def _follow(links: Mapping[bytes, bytes], path: bytes, target: bytes, steps: int) -> tuple[bool, int]:
    """Tell whether the symlink at `path` stays inside when it is followed as the kernel does, and the steps left.

    Where there are none left, or more links than the kernel follows, it counts as leading out.
    """
    place = path.split(b"/")[:-1]
    left = target.split(b"/")[::-1]
    followed = 1
    while left:
        part = left.pop()
        if part == b"..":
            if not place:
                return False, steps
            place.pop()
        elif part not in (b"", b"."):
            steps -= 1 + len(place) // _PARTS_PER_STEP
            if steps < 0:
                return False, steps
            place.append(part)
            inner = links.get(b"/".join(place))
            if inner is None:
                continue
            followed += 1
            if inner.startswith(b"/") or followed > _MOST_LINKS:
                return False, steps
            place.pop()
            left += inner.split(b"/")[::-1]
    return True, steps
