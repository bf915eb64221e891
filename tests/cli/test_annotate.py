"""``artifactfs annotate``: what it takes, prints and changes, and where that is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifactfs import connect
from artifactfs.errors import ArtifactNotFound, InvalidName, SerializationError, VersionNotFound
from tests.cli.support import Commands


@pytest.fixture
def history(run: Commands, tmp_path: Path) -> Commands:
    """models/bert with v0 (alias best) and v1."""
    for number, more in ((0, ["-m", "first", "--alias", "best", "--metadata", "lr=0.1"]), (1, [])):
        (tmp_path / "f").write_text(str(number))
        run("put", tmp_path / "f", "models/bert", *more)
    return run


def test_it_is_shown_everywhere(history: Commands):
    done = history(
        "annotate", "models/bert@best", "-m", "in the\npaper", "--metadata", "epoch=3", "--metadata", "ok=no"
    )
    assert done.stdout == "annotated models/bert v0\n"
    newest, oldest = history.json("log", "models/bert")
    assert (oldest["message"], oldest["metadata"]) == ("in the\npaper", {"lr": 0.1, "epoch": 3, "ok": "no"})
    assert (newest["message"], newest["metadata"]) == ("", {})
    assert "    in the" in history.lines("log", "models/bert@v0")
    assert [line for line in history.lines("ls", "-l", "models/bert") if "in the paper" in line]
    found, _ = history.json("ls", "-l", "models/bert")
    assert found["message"] == "in the\npaper"
    source, _ = history.json("catalog", "models")
    assert source["metadata"]["message"] == "in the\npaper"
    assert "in the" in history("catalog").stdout
    everything = {each["version"]: each for each in history.json("ls", "-lR", "models/bert") if "message" in each}
    assert everything["v0"]["message"] == "in the\npaper"
    assert connect(history.url, collection="models").version_info("bert", version="v0").metadata["epoch"] == 3


def test_what_it_prints(history: Commands):
    found = history.json("annotate", "models/bert", "--metadata", '{"tags": ["a"], "epoch": 4}')
    assert (found["version"], found["message"], found["metadata"]) == ("v1", "", {"tags": ["a"], "epoch": 4})
    assert found == history.json("log", "models/bert@v1")[0]
    assert history.json("annotate", "models/bert", "-m", "")["message"] == ""


def test_a_copy_keeps_it(history: Commands, tmp_path: Path):
    history("annotate", "models/bert@v0", "-m", "better words", "--metadata", "epoch=3")
    history("copy", "models/bert", "--to-store", tmp_path / "other")
    (info, _) = connect(str(tmp_path / "other")).list_versions("bert", "models")
    assert (info.message, info.metadata) == ("better words", {"lr": 0.1, "epoch": 3})


def test_what_is_refused(history: Commands):
    history("annotate", "models/bert@v0", status=2)
    history("annotate", "models/bert@v0", "--metadata", "no", status=2)
    for error, *arguments in (
        (VersionNotFound, "models/bert@v9", "-m", "x"),
        (ArtifactNotFound, "models/none", "-m", "x"),
        (InvalidName, "models", "-m", "x"),
        (InvalidName, "models/bert@v0:f", "-m", "x"),
        (SerializationError, "models/bert@v0", "-m", "x" * 70_000),
    ):
        with pytest.raises(error):
            history("annotate", *arguments)
    assert history.json("log", "models/bert@v0")[0]["message"] == "first"
