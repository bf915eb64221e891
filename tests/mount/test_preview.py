"""``artifactfs diff`` of what is staged: what the next commit would change."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.harness import Mount, artifactfs
from tests.mount.shared import mounted

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory, driver: str) -> Iterator[Mount]:
    """Commits on request only."""
    with mounted(tmp_path_factory.mktemp("preview"), driver, "--commit-after", "never") as mount:
        yield mount


def changes(path: Path, *arguments: str) -> dict[str, list[str]]:
    """The paths that ``artifactfs diff --json`` names, by what is with them."""
    done = artifactfs("diff", path, *arguments, "--json", check=False)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)
    named = {kind: [entry["path"] for entry in found[kind]] for kind in ("added", "removed", "changed")}
    assert (done.returncode == 1) == any(named.values())
    return named


def test_preview_is_what_the_commit_does(mount: Mount) -> None:
    """Before the first version, after a stage, after changes; and afterwards the two versions differ the same."""
    label = "preview/a"
    staging = mount.make(label)
    for name in ("kept", "changed", "same-size", "gone", "script"):
        (staging / name).write_text(f"{name}\n")
    assert changes(staging)["added"] == ["changed", "gone", "kept", "same-size", "script"]
    mount.commit(label)
    assert changes(mount / label) == {
        "added": [],
        "removed": ["changed", "gone", "kept", "same-size", "script"],
        "changed": [],
    }
    said = f"nothing is staged for {label}: a commit would make no version\n"
    assert artifactfs("diff", mount / label, check=False).stderr == said
    artifactfs("stage", mount / label)
    assert changes(staging) == {"added": [], "removed": [], "changed": []}
    assert artifactfs("diff", mount / label).stderr == ""
    (staging / "changed").write_text("longer than before\n")
    (staging / "same-size").write_text("SAME-SIZE\n")
    (staging / "gone").unlink()
    (staging / "script").chmod(0o755)
    (staging / "empty").mkdir()
    (staging / "link").symlink_to("kept")
    (staging / ".DS_Store").write_text("junk")
    os.utime(staging / "kept", ns=(1, 1))
    foreseen = changes(staging)
    assert foreseen == {"added": ["empty", "link"], "removed": ["gone"], "changed": ["changed", "same-size", "script"]}
    mount.commit(label)
    done = artifactfs("diff", "--store", mount.store, f"{label}@v0", "v1", "--json", check=False)
    assert [entry["path"] for entry in json.loads(done.stdout)["changed"]] == foreseen["changed"]


def test_preview_against_another_version(mount: Mount) -> None:
    """A second argument names the version; one that is not there is an error with status 2."""
    label = "preview/b"
    staging = mount.make(label)
    for text in ("one", "two"):
        (staging / "f").write_text(text)
        mount.commit(label, "--alias", f"was-{text}")
    (staging / "f").write_text("one")
    assert changes(staging, "was-one") == {"added": [], "removed": [], "changed": []}
    assert changes(staging) == {"added": [], "removed": [], "changed": ["f"]}
    done = artifactfs("diff", staging, "v9", check=False)
    assert done.returncode == 2
    assert "no version or alias 'v9'" in done.stderr
