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


def is_idle(mount: Mount, label: str) -> bool:
    """Nothing is staged or pending."""
    state = mount.state(label)
    return state.staged is None and not state.pending


def test_it_is_a_version_already(mount: Mount, label: str) -> None:
    """C13: the version gets the aliases, then the message, and is told; then it is as if it had been asked for."""
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
    done = artifactfs("commit", mount / label, "-m", "late, but\nsaid", "--alias", "late", "--json")
    answer = json.loads(done.stdout)
    assert (answer["version"], answer["message_recorded"]) == ("v0", True)
    assert "had been committed by itself" in done.stderr
    assert os.readlink(mount / label / "late") == "v0"
    assert message(mount, label, "v0") == "late, but\nsaid"
    collection, artifact = label.split("/")
    [info] = store.connect(mount.store).list_versions(artifact, collection)
    assert (info.version, info.message) == ("v0", "late, but\nsaid")
    done = artifactfs("commit", mount / label, "-m", "once more", check=False)
    assert done.returncode == 1
    assert f"nothing is staged for {label}; the last commit gave v0; to give it a message: " in done.stderr
    told = done.stderr.rpartition("message: ")[2].strip()
    assert told == f"artifactfs annotate --store {mount.store} {label}@v0 -m …"
    assert message(mount, label, "v0") == "late, but\nsaid"
    artifactfs(*told.split()[1:-1], "said as was told")
    eventually(lambda: message(mount, label, "v0") == "said as was told")


def test_it_is_a_version_already_and_nobody_waits(mount: Mount, label: str) -> None:
    """C13: the words are not lost with --no-wait either."""
    (mount / label / "staging" / "f").write_text("x")
    mount.committed(label, "v0")
    eventually(lambda: not mount.state(label).pending)
    done = artifactfs("commit", mount / label, "-m", "said", "--no-wait")
    assert done.stdout.startswith(f"{label} v0: 1 file")
    assert message(mount, label, "v0") == "said"


def test_the_same_content_makes_no_version(mount: Mount, label: str) -> None:
    """C5, C13: equal content that was committed by itself changes the message of no version, and that is told."""
    for _ in range(2):
        (mount / label / "staging" / "f").write_text("x")
        mount.committed(label, "v0")
        eventually(lambda: is_idle(mount, label))
        done = artifactfs("commit", mount / label, "-m", "words", "--json", check=False)
        assert done.returncode == 0
    assert (json.loads(done.stdout)["created"], json.loads(done.stdout)["message_recorded"]) == (False, False)
    assert "v0 keeps its message; 'artifactfs annotate' gives it another" in done.stderr
    assert message(mount, label, "v0") == "words"


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
