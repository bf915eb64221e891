"""What directories of versions tell, by READDIR and by READDIRPLUS, with names that the manifest does not list."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.managers.filesystem import FileSystemArtifactManager
from mount.drivers.kernel.directories import Listing
from tests.kernel.serving import served
from tests.kernel.test_reading import counting

pytestmark = pytest.mark.fuse

# Without a stat of the entries the kernel goes over to READDIR, which has other numbers and types to give.
LIST = """
import json, os, sys
with os.scandir(sys.argv[1]) as entries:
    names = [(entry.name, entry.inode(), entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in entries]
told = {}
for name, ino, is_directory, is_link in names:
    found = os.lstat(os.path.join(sys.argv[1], name))
    told[name] = [
        ino, is_directory, is_link,
        found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_uid,
    ]
json.dump([[name for name, *_ in names], told], sys.stdout)
"""

# With one of each entry it stays with READDIRPLUS.
LIST_LONG = """
import json, os, sys
names, told = [], {}
with os.scandir(sys.argv[1]) as entries:
    for entry in entries:
        found = entry.stat(follow_symlinks=False)
        names.append(entry.name)
        told[entry.name] = [
            entry.inode(), entry.is_dir(follow_symlinks=False), entry.is_symlink(),
            found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_uid,
        ]
json.dump([names, told], sys.stdout)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with names of many lengths, directories that the manifest lists, others that it implies, and links."""
    source = tmp_path_factory.mktemp("source")
    for number in range(700):
        name = source / f"{number:03}{'x' * (number % 11)}"
        if number % 97 == 5:
            name.mkdir()
        elif number % 89 == 7:
            name.mkdir()
            (name / "file").write_bytes(b"inside")
        elif number % 83 == 3:
            name.symlink_to("000")
        else:
            name.write_bytes(bytes(number))
            name.chmod(0o755 if number % 2 else 0o600)
            os.utime(name, ns=(0, number // 3 * 1_000_000_007 - 50_000_000_000))
    return source


@pytest.mark.parametrize("program", [LIST, LIST_LONG], ids=["names", "long"])
def test_every_entry_is_told_once_and_as_it_is(source: Path, tmp_path: Path, program: str) -> None:
    """D4: whichever way the kernel asks, with many replies to one directory."""
    store = FileSystemArtifactManager(str(tmp_path / "store"))
    store.log_files("a", source, "c")
    with served(store, tmp_path) as session:
        seen = counting(session)
        version = tmp_path / "mnt/c/a/v0"
        listing = subprocess.run(
            [sys.executable, "-c", program, version], stdout=subprocess.PIPE, check=True, timeout=60
        ).stdout
    names, told = json.loads(listing)
    assert names == sorted(os.listdir(source))
    assert seen["FUSE_READDIRPLUS"] > (1 if program is LIST_LONG else 0)
    assert seen["FUSE_READDIR"] > 0 or program is LIST_LONG
    numbers = set()
    for name, (ino, is_directory, is_link, st_ino, mode, size_bytes, mtime_ns, uid) in told.items():
        original = source / name
        before = original.lstat()
        assert (is_directory, is_link) == (original.is_dir() and not original.is_symlink(), original.is_symlink())
        assert ino == st_ino
        assert uid == os.geteuid()
        numbers.add(ino)
        if not is_directory:
            assert (size_bytes, mode) == (before.st_size, before.st_mode)
        if not is_directory and not is_link:
            assert mtime_ns == before.st_mtime_ns
    assert len(numbers) == len(names)


class Names(Listing):
    """Names alone."""

    identities = entries = pack_ahead = None  # type: ignore[assignment]


@given(
    lengths=st.lists(st.integers(1, 255), max_size=50),
    first=st.integers(0, 60) | st.just(2**64 - 1),
    room=st.integers(0, 4000),
    head_bytes=st.sampled_from([24, 152]),
)
def test_a_reply_has_as_many_names_as_fit(lengths: list[int], first: int, room: int, head_bytes: int) -> None:
    """None that does not, from wherever it begins."""
    stop = Names([b"x" * length for length in lengths]).end_of_room(first, room, head_bytes)
    needed = [head_bytes + (length + 7) // 8 * 8 for length in lengths]
    assert sum(needed[first:stop]) <= room
    assert stop >= len(lengths) or sum(needed[first : stop + 1]) > room
    assert stop >= first
