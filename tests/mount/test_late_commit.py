"""`artifactfs commit` of files that the drive has sealed, or committed, by itself a moment before."""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Iterator

import pytest

import artifactfs as store
from mount import control
from mount.control import CommitState
from tests.mount.harness import Mount, artifactfs, eventually
from tests.mount.shared import mounted
from tests.scenarios import refused

pytestmark = pytest.mark.fuse

_numbers = itertools.count()


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory, driver: str) -> Iterator[Mount]:
    """Commits by itself almost at once."""
    directory = tmp_path_factory.mktemp("late")
    with mounted(directory, driver, "--commit-after", "0.1", "--refresh", "0.2") as mount:
        yield mount


@pytest.fixture
def label(mount: Mount) -> str:
    """A fresh artifact."""
    label = f"late/a{next(_numbers)}"
    mount.make(label)
    return label


def message(mount: Mount, label: str, version: str) -> str:
    """What the version says."""
    return os.getxattr(mount / label / version, control.MESSAGE).decode()


def test_it_is_a_version_already(mount: Mount, label: str) -> None:
    """C13: the version gets the aliases, and is told; its message does not change, which is another exit status."""
    (mount / label / "staging" / "f").write_text("x")
    mount.committed(label, "v0")
    eventually(lambda: not mount.state(label).pending)
    done = artifactfs("commit", mount / label)
    assert done.stdout.startswith(f"{label} v0: 1 file")
    assert "had been committed by itself" in done.stderr
    done = artifactfs("commit", mount / label, "--alias", "best", "--alias", "first", "--json")
    answer = json.loads(done.stdout)
    assert (answer["version"], answer["message_recorded"]) == ("v0", True)
    assert os.readlink(mount / label / "best") == os.readlink(mount / label / "first") == "v0"
    done = artifactfs("commit", mount / label, "-m", "too late", "--alias", "late", check=False)
    assert done.returncode == 3
    assert f"the message is not recorded: {label} v0 has another already" in done.stderr
    assert os.readlink(mount / label / "late") == "v0"
    assert message(mount, label, "v0") == ""
    assert store.connect(mount.store).list_version_names(*reversed(label.split("/"))) == ["v0"]


def test_it_is_sealed_and_waits(mount: Mount, label: str) -> None:
    """C13: what waits for its turn is committed with the message and aliases of the request, after a crash too."""
    mount.expect_warning(r"cannot commit pending\.1 of late/")
    staging = mount / label / "staging"
    (staging / "away").symlink_to("/etc/hostname")
    eventually(lambda: [p for p in mount.state(label).pending if p.state is CommitState.BLOCKED])
    (staging / "f").write_text("x")
    eventually(lambda: len(mount.state(label).pending) == 2)
    done = artifactfs("commit", mount / label, "-m", "in time", "--alias", "best", check=False)
    assert done.returncode == 1
    assert "not committed" in done.stderr
    assert [p.automatic for p in mount.state(label).pending] == [True, False]
    mount.kill9()
    mount.mount("--commit-after", "0.1", "--refresh", "0.2")
    artifactfs("discard", "--yes", mount / label / "pending.1")
    mount.committed(label, "v0")
    assert message(mount, label, "v0") == "in time"
    assert os.readlink(mount / label / "best") == "v0"


def test_names_of_versions(mount: Mount, label: str) -> None:
    """V8: the attribute gives a version more names, and nothing else has any."""
    (mount / label / "staging" / "f").write_text("x")
    mount.committed(label, "v0")
    os.setxattr(mount / label / "v0", control.ALIASES, b'["one", "two"]')
    assert json.loads(os.getxattr(mount / label / "v0", control.ALIASES)) == ["latest", "one", "two"]
    assert os.readlink(mount / label / "two") == "v0"
    with refused(errno.EINVAL):
        os.setxattr(mount / label / "v0", control.ALIASES, b'["latest"]')
    with refused(errno.EINVAL):
        os.setxattr(mount / label / "v0", control.ALIASES, b"one")
    with refused(errno.EPERM):
        os.setxattr(mount / label / "staging", control.ALIASES, b'["one"]')
