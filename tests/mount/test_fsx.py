"""Random I/O on a staged file, and on one that is only a reference to a version; `scripts/soak fsx` does far more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mount import client
from tests.fsx import LARGEST_BYTES, Fsx
from tests.mount.harness import Mount

pytestmark = pytest.mark.fuse

OPERATIONS = 2000
SEED = 20


def make_donor(mount: Mount, label: str, size_bytes: int) -> Path:
    """A file of a version, of random bytes."""
    staging = mount.make(label)
    (staging / "f").write_bytes(random.Random(size_bytes).randbytes(size_bytes))
    mount.commit(label)
    return mount / label / "v0/f"


def test_on_the_disk_itself(tmp_path: Path) -> None:
    """The model is that of a local file: what fails here fails in the test, not in the drive."""
    donor = tmp_path / "donor"
    donor.write_bytes(random.Random(0).randbytes(100_000))
    Fsx(tmp_path / "f", SEED, donor).run(OPERATIONS)


def test_a_new_file(mount: Mount) -> None:
    """S1, S8: reads, writes, truncation, mappings, holes, appending and copies give what was written, and commit it."""
    staging = mount.make("fsx/new")
    written = Fsx(staging / "f", SEED).run(OPERATIONS)
    assert mount.commit("fsx/new")["version"] == "v0"
    assert (mount / "fsx/new/v0/f").read_bytes() == written


@pytest.mark.parametrize("size_bytes", [LARGEST_BYTES // 2, LARGEST_BYTES - 1])
def test_a_file_staged_by_reference(mount: Mount, size_bytes: int) -> None:
    """S1: the same for a file that begins as a reference, and becomes one again by whole copies; its version stays."""
    label = "fsx/reference"
    donor = make_donor(mount, label, size_bytes)
    before = donor.read_bytes()
    client.stage(mount / label / "staging", "v0")
    written = Fsx(mount / label / "staging/f", SEED, donor).run(OPERATIONS)
    assert mount.commit(label)["version"] == "v1"
    assert (mount / label / "v1/f").read_bytes() == written
    assert donor.read_bytes() == before
