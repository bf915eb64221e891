"""What the processes of a mount tell each other survives in every byte; requests of others are read strictly."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from mount import control, mounts, wire
from mount.control import CommitRequest
from mount.mounts import Record
from mount.processes import Process
from mount.settings import MountSettings

ODD = [os.fsdecode(name) for name in (b"\xff\xfe", b"a\nb", b"a\x0cb", b"\xe2\x80\xa8", b"\xed\xa0\x80", b'"\\', b"%")]


@pytest.mark.parametrize("name", ODD)
def test_paths_of_any_bytes(name: str, tmp_path: Path) -> None:
    """Settings and records come back as they were."""
    settings = MountSettings(f"/s/{name}", Path("/m", name), state_dir=Path("/state", name), cache_dir=Path("/c", name))
    assert MountSettings.from_json(settings.to_json()) == settings
    record = Record(f"/m/{name}", name, f"/log/{name}", Process(1, 2, "boot"))
    mounts.write_record(tmp_path, record)
    assert mounts.records(tmp_path) == [record]


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 60_000, b'{"mountpoint": 1}', b"null"])
def test_what_is_no_answer(raw: bytes) -> None:
    """One kind of error, whatever is wrong."""
    with pytest.raises(msgspec.DecodeError):
        wire.decode(raw, Record)


def test_a_message_that_is_not_utf8_is_no_request() -> None:
    """It would be written into a version."""
    with pytest.raises(msgspec.DecodeError):
        control.decode(b'{"message": "\\udcff"}', CommitRequest)


@pytest.mark.parametrize("name", [name for name in ODD if "\n" not in name and "\\" not in name])
def test_the_mount_table_has_names_of_any_bytes(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name that anybody may mount on is one line, as the kernel writes it."""
    table = tmp_path / "mountinfo"
    line = f"36 35 0:50 / /mnt/{name} rw shared:1 - fuse.artifactfs artifactfs:/store rw\n"
    table.write_bytes(os.fsencode(line + line.replace("/mnt/", "/two/")))
    monkeypatch.setattr(mounts, "TABLE", table)
    assert [str(entry.mountpoint) for entry in mounts.our_entries()] == [f"/mnt/{name}", f"/two/{name}"]


def test_records_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    """Whatever lies there: nobody waits for it, and the others are told."""
    record = Record("/m", "/s", "/log", Process(1, 2, "boot"))
    mounts.write_record(tmp_path, record)
    directory = tmp_path / "mounts"
    os.mkfifo(directory / "fifo.json")
    (directory / "directory.json").mkdir()
    (directory / "link.json").symlink_to("/dev/zero")
    (directory / "damaged.json").write_bytes(b"{")
    (directory / "foreign.json").write_bytes(b"[1]")
    with open(directory / "sparse.json", "wb") as file:
        file.truncate(1 << 40)
    assert mounts.records(tmp_path) == [record]
    assert mounts.records(tmp_path / "nothing") == []
    assert mounts.records(directory / "damaged.json") == []
