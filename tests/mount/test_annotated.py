"""Messages and metadata that come after the version, on mounts: who may give them, and who sees them when."""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import artifactfs as store
from mount import control
from tests.mount.conftest import MakeMount
from tests.mount.harness import Mount, artifactfs, eventually
from tests.mount.shared import mounted
from tests.scenarios import refused
from tests.servers.fixtures import MakeProxy, StartServer

pytestmark = pytest.mark.fuse

_numbers = itertools.count()


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory, driver: str) -> Iterator[Mount]:
    """Commits on request only, and goes on with a listing for a long time."""
    directory = tmp_path_factory.mktemp("said")
    with mounted(directory, driver, "--commit-after", "never", "--refresh", "600") as mount:
        yield mount


@pytest.fixture
def label(mount: Mount) -> str:
    """A fresh artifact with a version."""
    label = f"said/a{next(_numbers)}"
    (mount.make(label) / "f").write_text("x")
    mount.commit(label, "-m", "first")
    return label


def said(mount: Mount, label: str, version: str = "v0") -> tuple[str, dict[str, object]]:
    """The message and metadata that the drive tells."""
    place = mount / label / version
    return os.getxattr(place, control.MESSAGE).decode(), json.loads(os.getxattr(place, control.METADATA))


def test_the_attributes_are_written(mount: Mount, label: str) -> None:
    """V9: what is written is seen at once here, and in the store; the files stay what they are."""
    version = mount / label / "v0"
    before = version.stat(), sorted(os.listdir(version)), (version / "f").read_text()
    assert said(mount, label) == ("first", {})
    os.setxattr(version, control.MESSAGE, "zwei\nZeilen, ün".encode())
    assert said(mount, label) == ("zwei\nZeilen, ün", {})
    os.setxattr(version, control.METADATA, b'{"epoch": 3, "good": true}')
    os.setxattr(version, control.METADATA, b'{"epoch": 4}')
    assert said(mount, label) == ("zwei\nZeilen, ün", {"epoch": 4, "good": True})
    assert said(mount, label, "latest") == said(mount, label)
    os.setxattr(version, control.MESSAGE, b"")
    assert said(mount, label)[0] == ""
    assert (version.stat(), sorted(os.listdir(version)), (version / "f").read_text()) == before
    collection, artifact = label.split("/")
    info = store.connect(mount.store).version_info(artifact, collection)
    assert (info.message, info.metadata) == ("", {"epoch": 4, "good": True})


def test_what_is_refused(mount: Mount, label: str) -> None:
    """V9, S14: only the top of a version has them, a message is UTF-8, metadata a JSON object, both have a bound."""
    version = mount / label / "v0"
    for place in (version / "f", mount / label / "staging", mount / label, mount.path):
        for name, value in ((control.MESSAGE, b"m"), (control.METADATA, b'{"a": 1}')):
            with refused(errno.EPERM):
                os.setxattr(place, name, value)
            with refused(errno.ENODATA):
                os.getxattr(place, name)
    for name, value in (
        (control.MESSAGE, b"\xff"),
        (control.MESSAGE, b"x" * (64 << 10)),
        (control.METADATA, b"[1]"),
        (control.METADATA, b"{"),
        (control.METADATA, b"{}"),
        (control.METADATA, b'{"a": "\xff"}'),
    ):
        with refused(errno.EINVAL):
            os.setxattr(version, name, value)
    assert said(mount, label) == ("first", {})


def test_a_deleted_version(mount: Mount, label: str) -> None:
    """V9: of a version that is gone nothing can be said."""
    version = mount / label / "v0"
    assert said(mount, label) == ("first", {})
    store.connect(mount.store).delete_version(label.split("/")[1], "v0", "said")
    with refused(errno.ENOENT):
        os.setxattr(version, control.MESSAGE, b"too late")
    assert list(Path(mount.store, "collections", label).glob("*.annotation")) == []


def test_a_read_only_mount_and_another_host(mount: Mount, label: str, make_mount: MakeMount) -> None:
    """V9: seen elsewhere within --refresh; a read-only mount refuses to change it."""
    other = make_mount("--read-only", "--refresh", "0.2", store=mount.store)
    assert said(other, label) == ("first", {})
    os.setxattr(mount / label / "v0", control.MESSAGE, b"here")
    eventually(lambda: said(other, label)[0] == "here")
    artifactfs("annotate", "--store", mount.store, f"{label}@v0", "-m", "by command", "--metadata", "a=1")
    eventually(lambda: said(other, label) == ("by command", {"a": 1}))
    with refused(errno.EROFS, errno.EPERM):
        os.setxattr(other / label / "v0", control.MESSAGE, b"no")
    with refused(errno.EROFS, errno.EPERM):
        os.setxattr(other / label / "v0", control.METADATA, b'{"a": 2}')
    assert said(other, label) == ("by command", {"a": 1})


def test_a_store_on_a_server(start_server: StartServer, make_proxy: MakeProxy, prepare_mount: MakeMount) -> None:
    """V9, O1: there it is the same; what was known of it is told while the server is away, after a remount too."""
    server = start_server("moto")
    url, proxy = server.fresh(), make_proxy(server)
    one, two = prepare_mount(url), prepare_mount(url)
    for mount, port in ((one, proxy.port), (two, None)):
        mount.mount("--commit-after", "0.1", "--refresh", "0.2", *server.arguments(port))
    (one.make("said/far") / "f").write_text("x")
    one.committed("said/far", "v0")
    eventually(lambda: not one.state("said/far").pending)
    two.committed("said/far", "v0")
    assert said(two, "said/far") == ("", {})
    artifactfs("commit", one / "said/far", "-m", "late words")
    assert said(one, "said/far") == ("late words", {})
    eventually(lambda: said(two, "said/far") == ("late words", {}))
    os.setxattr(two / "said/far/v0", control.METADATA, b'{"a": 1}')
    eventually(lambda: said(one, "said/far") == ("late words", {"a": 1}))
    proxy.cut_network()
    one.expect_warning("the store does not answer|mounting what is known|Could not connect")
    assert said(one, "said/far") == ("late words", {"a": 1})
    one.remount()
    assert said(one, "said/far") == ("late words", {"a": 1})
