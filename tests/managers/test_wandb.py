"""The store in Weights & Biases: names, errors, bytes, commits, beside the real client and a server that fails."""

from __future__ import annotations

import functools
import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance import commit
from subjects import contents, write

import artifactfs
from artifactfs import ArtifactManager, EntryKind
from artifactfs.errors import (
    AccessDenied,
    ArtifactError,
    ArtifactNotFound,
    CollectionNotFound,
    FormatError,
    IntegrityError,
    InvalidName,
    NotFound,
    SerializationError,
    StoreUnreachable,
    Unsupported,
    UnsupportedTree,
)
from artifactfs.managers.wandb import WandbArtifactManager, process, processes, side_file
from tests.mount.harness import eventually
from tests.wandb_server.handle import ENTITY, KEY, PROJECT, READER_KEY, STRANGER_KEY, WandbServer
from tests.wandb_server.shared import wandb_server

CLIENT = Path(__file__).with_name("wandb_client.py")


@pytest.fixture(scope="module")
def server() -> WandbServer:
    return wandb_server()


@pytest.fixture
def project(server: WandbServer) -> Iterator[str]:
    name = f"project-{uuid.uuid4().hex}"
    server.add_project(name)
    yield name
    heal(server)
    # What the client sent that the schema does not allow fails here, whatever came of it.
    assert server.counts().get("invalid", 0) == 0


@pytest.fixture
def manager(project: str) -> ArtifactManager:
    return artifactfs.connect(f"wandb://{ENTITY}/{project}")


def heal(server: WandbServer) -> None:
    """End the faults, and wait until calls are tried again."""
    server.heal()
    manager = artifactfs.connect(f"wandb://{ENTITY}/{PROJECT}")

    def answers() -> bool:
        try:
            manager.list_collection_names()
        except StoreUnreachable:
            return False
        return True

    eventually(answers)


def more(server: WandbServer, before: dict[str, int], name: str) -> int:
    return server.counts().get(name, 0) - before.get(name, 0)


def read(manager: ArtifactManager, path: str, artifact: str = "model", collection: str = "default") -> bytes:
    info = manager.version_info(artifact, collection)
    entry = manager.manifest(artifact, collection).find(path)
    assert entry is not None
    return manager.read_entry(info, entry)


# -- who and where ----------------------------------------------------------------------------------------------------


class TestWhoAndWhere:
    def test_without_the_package_it_says_how_to_install_it(self):
        python = os.environ.get("ARTIFACTFS_SQUIRREL_PYTHON")
        if python is None:
            pytest.skip("no environment without wandb: run scripts/test")
        code = "import artifactfs; artifactfs.connect('wandb://team/drive')"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        assert "MissingDependency" in done.stderr
        assert "pip install 'artifactfs[wandb]'" in done.stderr

    def test_the_entity_and_project_that_nobody_named(self, server: WandbServer, project: str, monkeypatch: Any):
        server.seed("ds", {"a": "1"}, project=project)
        with pytest.raises(InvalidName, match=r"no project; .*WANDB_PROJECT"):
            artifactfs.connect("wandb://").list_collection_names()
        monkeypatch.setenv("WANDB_PROJECT", project)
        manager = WandbArtifactManager(collection="dataset")
        assert manager.list_artifacts() == ["ds"]
        assert manager.store_id == WandbArtifactManager(ENTITY, project).store_id

    def test_the_active_run_says_where(self, project: str):
        code = (
            "import wandb\nfrom artifactfs.managers.wandb import WandbArtifactManager\n"
            f"wandb.init(entity={ENTITY!r}, project={project!r}, settings=wandb.Settings(console='off', silent=True))\n"
            "print(WandbArtifactManager().project_path())\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
        assert done.stdout.split() == [f"{ENTITY}/{project}"], done.stderr

    @pytest.mark.parametrize("url", ["wandb://a/b/c", "wandb://a:b@c/d", "wandb://team/pro?ject"])
    def test_urls_that_name_no_project(self, url: str):
        with pytest.raises(InvalidName):
            artifactfs.connect(url)

    def test_a_project_of_an_unknown_entity(self):
        manager = artifactfs.connect("wandb://no-such/project")
        for call in (manager.list_collection_names, manager.ensure_created, lambda: manager.list_artifacts("x")):
            with pytest.raises(NotFound, match="W&B has no project no-such/project") as caught:
                call()
            assert not isinstance(caught.value, CollectionNotFound)

    def test_a_project_that_is_not_there_yet_is_empty_and_the_first_commit_makes_it(
        self, server: WandbServer, tmp_path: Path
    ):
        name = f"new-{uuid.uuid4().hex}"
        manager = artifactfs.connect(f"wandb://{ENTITY}/{name}")
        manager.ensure_created()
        assert manager.list_collection_names() == []
        assert manager.store_to_catalog() == artifactfs.Catalog()
        assert not manager.exists("model")
        with pytest.raises(CollectionNotFound):
            manager.list_artifacts()
        with pytest.raises(ArtifactNotFound):
            manager.version_info("model")
        assert f"{ENTITY}/{name}" not in server.state()
        assert commit(manager, write(tmp_path / "t", f="1")).info.version == "v0"
        assert f"{ENTITY}/{name}" in server.state()
        assert manager.list_collection_names() == ["default"]

    def test_sources_and_pickles_say_where_it_is(self, project: str, tmp_path: Path, monkeypatch: Any):
        monkeypatch.setenv("WANDB_PROJECT", project)
        manager = artifactfs.connect("wandb://")
        source = manager.log_files("model", write(tmp_path / "t", f="1"))
        catalog = manager.store_to_catalog()
        text = catalog.to_str()
        carried = pickle.dumps(manager)
        monkeypatch.setenv("WANDB_PROJECT", "another")
        assert source.driver_kwargs["url"] == f"wandb://{ENTITY}/{project}#default/model@v0"
        assert artifactfs.Catalog.from_str(text)["default/model"].get_driver().get("f") == b"1"
        assert pickle.loads(carried).list_artifacts() == ["model"]

    @pytest.mark.parametrize(
        ("key", "says"),
        [("", "no key for W&B: run `wandb login`"), ("0" * 40, "W&B refused the key"), ("short", "API key")],
    )
    def test_a_missing_or_wrong_key(self, project: str, monkeypatch: Any, tmp_path: Path, key: str, says: str):
        monkeypatch.setenv("HOME", str(tmp_path))
        if key:
            monkeypatch.setenv("WANDB_API_KEY", key)
        else:
            monkeypatch.delenv("WANDB_API_KEY")
        with pytest.raises(AccessDenied) as caught:
            artifactfs.connect(f"wandb://{ENTITY}/{project}").list_collection_names()
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not key or key not in str(caught.value)

    def test_a_key_in_netrc(self, server: WandbServer, project: str, monkeypatch: Any, tmp_path: Path):
        monkeypatch.delenv("WANDB_API_KEY")
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / ".netrc").write_text(f"machine 127.0.0.1:{server.port}\n  login user\n  password {KEY}\n")
        (tmp_path / ".netrc").chmod(0o600)
        assert artifactfs.connect(f"wandb://{ENTITY}/{project}").list_collection_names() == []

    def test_no_permission(self, server: WandbServer, project: str, monkeypatch: Any, tmp_path: Path):
        server.seed("ds", {"a": "1"}, project=project)
        url = f"wandb://{ENTITY}/{project}"
        monkeypatch.setenv("WANDB_API_KEY", READER_KEY)
        reader = artifactfs.connect(url, collection="dataset")
        assert read(reader, "a", "ds", "dataset") == b"1"
        for call in (
            lambda: commit(reader, write(tmp_path / "t", f="1")),
            lambda: reader.set_alias("ds", "best", "v0"),
            lambda: reader.delete_version("ds", "v0"),
        ):
            with pytest.raises(AccessDenied, match="permission denied") as caught:
                call()
            assert "\n" not in str(caught.value)
        monkeypatch.setenv("WANDB_API_KEY", STRANGER_KEY)
        with pytest.raises(NotFound, match="or this key may not see it"):
            artifactfs.connect(url).list_collection_names()


# -- the caller's own runs --------------------------------------------------------------------------------------------


OF_THE_CALLERS_RUN = {
    "WANDB_RUN_ID": "train1",
    "WANDB_RESUME": "allow",
    "WANDB_NAME": "other",
    "WANDB_NOTES": "other",
    "WANDB_TAGS": "other",
    "WANDB_RUN_GROUP": "other",
    "WANDB_JOB_TYPE": "other",
    "WANDB_SWEEP_ID": "sweep1",
    "WANDB_FORK_FROM": "train1?_step=1",
    "WANDB_LAUNCH": "true",
    "WANDB_HOST": "other",
    "WANDB_PROGRAM": "other.py",
    "WANDB_CONFIG_PATHS": "/none",
    "WANDB_SERVICE": "3-1-tcp-localhost-1",
    "SM_TRAINING_ENV": json.dumps({"hyperparameter": "other"}),
    "TRAINING_JOB_NAME": "train1",
}


class TestTheCallersRuns:
    @pytest.fixture
    def training(self, server: WandbServer, project: str, tmp_path: Path) -> dict[str, Any]:
        """A run of the user's, which a commit must leave as it is."""
        code = (
            "import wandb\n"
            f"wandb.init(entity={ENTITY!r}, project={project!r}, id='train1', name='my training').finish()\n"
        )
        environment = {**server.client_environment(tmp_path / "home"), "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=240)
        (run,) = server.state()[f"{ENTITY}/{project}"]["runs"]
        assert (run["name"], run["displayName"]) == ("train1", "my training")
        return run

    def test_a_version_is_logged_by_a_run_that_has_nothing_of_theirs(
        self,
        server: WandbServer,
        project: str,
        training: dict[str, Any],
        manager: ArtifactManager,
        tmp_path: Path,
        monkeypatch: Any,
    ):
        for name, value in OF_THE_CALLERS_RUN.items():
            monkeypatch.setenv(name, value)
        lines = ("run_id = train1", "run_notes = other", "resume = allow", "run_job_type = other", "sweep_id = sweep1")
        monkeypatch.setenv("WANDB_CONFIG_DIR", str(configured(tmp_path, *lines)))
        before = set(server.state())
        process.close_all()
        assert commit(manager, write(tmp_path / "t", f="1")).info.version == "v0"
        assert set(server.state()) == before
        left, mine = server.state()[f"{ENTITY}/{project}"]["runs"]
        assert left == training
        assert "train1" not in mine["name"]
        assert "other" not in json.dumps(mine)

    def test_what_is_not_known_is_not_handed_down(self, monkeypatch: Any):
        monkeypatch.setenv("WANDB_WHATEVER_COMES", "1")
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        handed = process._environment()
        assert "WANDB_WHATEVER_COMES" not in handed
        assert {"WANDB_API_KEY", "WANDB_BASE_URL", "HTTPS_PROXY", "PATH"} <= set(handed)
        assert not set(OF_THE_CALLERS_RUN) & {name for name in handed if name.startswith("WANDB_")}

    @pytest.mark.parametrize(("mode", "by"), [("disabled", "variables"), ("offline", "files")])
    def test_switched_off_it_says_so(
        self,
        server: WandbServer,
        project: str,
        manager: ArtifactManager,
        tmp_path: Path,
        monkeypatch: Any,
        mode: str,
        by: str,
    ):
        server.seed("ds", {"a": "1"}, project=project)
        if by == "variables":
            monkeypatch.setenv("WANDB_MODE", mode)
        else:
            monkeypatch.setenv("WANDB_CONFIG_DIR", str(configured(tmp_path, f"mode = {mode}")))
        before = server.counts()
        calls: list[Callable[[], Any]] = [
            manager.ensure_created,
            lambda: commit(manager, write(tmp_path / "t", f="1")),
            lambda: manager.set_alias("ds", "best", "v0", "dataset"),
            lambda: manager.delete_version("ds", "v0", "dataset"),
        ]
        if mode == "offline":
            calls += [manager.list_collection_names, lambda: manager.version_info("ds", "dataset")]
        else:
            assert read(manager, "a", "ds", "dataset") == b"1"
        for call in calls:
            with pytest.raises(
                Unsupported, match=f"W&B is switched off, its mode is '{mode}'.*WANDB_MODE=online"
            ) as told:
                call()
            assert "\n" not in str(told.value)
        assert more(server, before, "graphql UpsertBucket") == 0

    def test_settings_that_wandb_cannot_read(self, manager: ArtifactManager, monkeypatch: Any):
        monkeypatch.setenv("WANDB_MODE", "sometimes")
        with pytest.raises(Unsupported, match="wandb cannot read its settings") as told:
            manager.list_collection_names()
        assert "\n" not in str(told.value)


def configured(directory: Path, *lines: str) -> Path:
    """A directory of wandb's settings."""
    write(directory / "config", settings="\n".join(["[default]", *lines, ""]))
    return directory / "config"


# -- names ------------------------------------------------------------------------------------------------------------


class TestNames:
    def test_types_of_wandb_itself_are_not_listed_nor_written(
        self, server: WandbServer, project: str, manager: ArtifactManager, tmp_path: Path
    ):
        for kind in ("job", "wandb-history", "run_table", "my type.2"):
            server.seed(f"of {kind}", {"a": "1"}, type=kind, project=project)
        assert manager.list_collection_names() == ["my%20type.2", "run_table"]
        assert manager.list_artifacts("my%20type.2") == ["of%20my%20type.2"]
        assert read(manager, "a", "of%20my%20type.2", "my%20type.2") == b"1"
        for bad in ("job", "wandb-x", "a:b"):
            with pytest.raises(InvalidName):
                commit(manager, write(tmp_path / "t", f="1"), collection=bad)

    def test_a_name_is_taken_once_in_a_project(self, manager: ArtifactManager, tmp_path: Path):
        commit(manager, write(tmp_path / "t", f="1"), collection="one")
        with pytest.raises(InvalidName, match="type"):
            commit(manager, write(tmp_path / "t", f="1"), collection="two")
        with pytest.raises(ArtifactNotFound):
            manager.version_info("model", "two", "v0")

    def test_files_that_wandb_has_no_names_for(self, server: WandbServer, manager: ArtifactManager, tmp_path: Path):
        tree = write(tmp_path / "t", **{"a:b": "drive", "a%3Ab": "not", "c\\..\\d": "windows", "plain": "plain"})
        write(tree, **{side_file.SIDE_FILE: "mine"})
        commit(manager, tree)
        assert contents(Path(str(manager.download_artifact("model", to=tmp_path / "out")))) == contents(tree)
        assert read(manager, side_file.SIDE_FILE) == b"mine"

    def test_what_is_in_the_way_of_a_commit(self, manager: ArtifactManager, tmp_path: Path):
        tree = write(tmp_path / "t", f="1")
        for metadata in ({"artifactfs": 1}, {str(n): n for n in range(100)}, {"x": float("nan")}):
            with pytest.raises(SerializationError):
                commit(manager, tree, metadata=metadata)
        os.symlink(b"\xff", os.fsencode(tree) + b"/link")
        with pytest.raises(UnsupportedTree, match="UTF-8"):
            commit(manager, tree)
        assert not manager.exists("model")


# -- beside the plain client ------------------------------------------------------------------------------------------


class TestBesideThePlainClient:
    def test_each_reads_what_the_other_logged(
        self, server: WandbServer, project: str, manager: ArtifactManager, tmp_path: Path
    ):
        tree = write(tmp_path / "t", **{"a.txt": "alpha", "run.sh": "#!/bin/sh\n"})
        write(tree / "sub", **{"b.bin": os.urandom(50_000)})
        (tree / "run.sh").chmod(0o755)
        (tree / "hollow").mkdir()
        commit(manager, tree, message="by copy", metadata={"lr": 0.1})
        (tmp_path / "work").mkdir()
        done = subprocess.run(
            [sys.executable, CLIENT, ENTITY, project],
            cwd=tmp_path / "work",
            env=server.client_environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert (told["description"], told["metadata"]["lr"], told["aliases"]) == ("by copy", 0.1, ["latest"])
        for place in ("downloaded", "got"):
            found = contents(tmp_path / "work" / place)
            assert found.pop(side_file.SIDE_FILE)
            assert found == contents(tree)
        # What the client logged.
        assert manager.list_version_names("theirs", "dataset") == ["v0", "v1"]
        assert manager.aliases("theirs", "dataset") == {"%73taging": "v1", "best": "v0"}
        assert manager.version_info("theirs", "dataset", "%73taging").version == "v1"
        path = Path(str(manager.download_artifact("theirs", "dataset", "best", tmp_path / "out")))
        assert contents(path) == {"x/one": b"first", "two": b"second"}
        assert manager.version_info("theirs", "dataset", "v0").metadata == {"by": "client"}
        # Its version of ours: changed by the client, with our side file in it.
        assert contents(Path(str(manager.download_artifact("model", to=tmp_path / "out")))) == {
            **contents(tree),
            "added": b"added",
        }
        assert os.access(tmp_path / "out" / "model" / "run.sh", os.X_OK)

    def test_nothing_about_this_machine_is_uploaded(
        self, server: WandbServer, project: str, manager: ArtifactManager, tmp_path: Path
    ):
        commit(manager, write(tmp_path / "t", f="1"))
        (run,) = server.state()[f"{ENTITY}/{project}"]["runs"]
        assert "host" not in run
        told = json.dumps(run)
        for secret in (os.uname().nodename, str(tmp_path), "test_wandb", KEY):
            assert secret not in told
        assert not {"wandb-metadata.json", "requirements.txt", "output.log"} & set(run.get("files", ()))

    def test_the_side_file_of_somebody_else(self, server: WandbServer, project: str, manager: ArtifactManager):
        hostile = {
            "format": 1,
            "files": {"a": [0o7777, -(1 << 80)]},
            "symlinks": {"out": ["/etc/passwd", 0], "up": ["../../x", 0], "a": ["b", 0], "in": ["a", 5]},
            "directories": {"../x": [0o755, 0]},
            "names": {"a": "../../evil"},
        }
        for number, (text, paths) in enumerate(
            (
                ("not ours", [side_file.SIDE_FILE, "a"]),
                (json.dumps({**hostile, "directories": {}, "files": {"a": [0o7777, 7]}}), ["a", "in"]),
                (json.dumps({"format": 1, "names": {"a": "b", "c": "b"}}), ["b", "c"]),
                (json.dumps(hostile), None),
                (json.dumps({"format": 99}), None),
            )
        ):
            files = {side_file.SIDE_FILE: text, "a": "1", **({"c": "2"} if number == 2 else {})}
            server.seed(f"m{number}", files, project=project)
            if paths is None:
                with pytest.raises(FormatError):
                    manager.manifest(f"m{number}", "dataset")
                continue
            entries = list(manager.manifest(f"m{number}", "dataset"))
            assert [entry.path for entry in entries] == paths
            assert all(entry.mode <= 0o777 for entry in entries)
            for entry in entries:
                if entry.kind is EntryKind.FILE:
                    assert manager.read_entry(manager.version_info(f"m{number}", "dataset"), entry)

    def test_paths_that_lead_out(self, server: WandbServer, project: str, manager: ArtifactManager):
        server.seed("evil", {"../../x": "1"}, project=project)
        with pytest.raises(FormatError):
            manager.manifest("evil", "dataset")


# -- references -------------------------------------------------------------------------------------------------------


class TestReferences:
    def test_they_are_listed_and_followed_where_that_is_allowed(
        self, server: WandbServer, project: str, tmp_path: Path
    ):
        write(tmp_path, there="0123456789")
        files = {
            "disk": {"digest": "etag", "ref": f"file://{tmp_path}/there", "size": 10},
            "gone": {"digest": "etag", "ref": f"file://{tmp_path}/gone", "size": 10},
            "longer": {"digest": "etag", "ref": f"file://{tmp_path}/there", "size": 11},
            "sizeless": {"digest": "etag", "ref": f"file://{tmp_path}/there"},
            "s3": {"digest": "etag", "ref": "s3://bucket/key?versionId=secret", "size": 3},
            "own": "stored",
        }
        server.seed("refs", files, project=project)
        url = f"wandb://{ENTITY}/{project}"
        shy = artifactfs.connect(url)
        manifest = shy.manifest("refs", "dataset")
        assert [(e.path, e.size_bytes) for e in manifest] == [
            ("disk", 10),
            ("gone", 10),
            ("longer", 11),
            ("own", 6),
            ("s3", 3),
        ]
        with pytest.raises(AccessDenied, match="references to file are not followed"):
            read(shy, "disk", "refs", "dataset")
        assert read(shy, "own", "refs", "dataset") == b"stored"
        bold = artifactfs.connect(url, references="file")
        assert read(bold, "disk", "refs", "dataset") == b"0123456789"
        assert read(bold, "sizeless", "refs", "dataset") == b"0123456789"
        entry = manifest.find("disk")
        assert entry is not None
        assert bold.read_entry(bold.version_info("refs", "dataset"), entry, 3, 4) == b"3456"
        for path in ("gone", "longer"):
            with pytest.raises(IntegrityError):
                read(bold, path, "refs", "dataset")
        with pytest.raises(AccessDenied) as caught:
            read(bold, "s3", "refs", "dataset")
        assert "secret" not in str(caught.value)

    def test_those_of_the_web_are_followed_unasked(self, server: WandbServer, project: str, tmp_path: Path):
        write(tmp_path, page="0123456789")
        handler = functools.partial(QuietFiles, directory=str(tmp_path))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
            thread = threading.Thread(target=web.serve_forever)
            thread.start()
            place = f"http://127.0.0.1:{web.server_address[1]}"
            files = {
                "page": {"digest": "etag", "ref": f"{place}/page", "size": 10},
                "gone": {"digest": "etag", "ref": f"{place}/gone", "size": 10},
            }
            server.seed("web", files, project=project)
            manager = artifactfs.connect(f"wandb://{ENTITY}/{project}")
            assert read(manager, "page", "web", "dataset") == b"0123456789"
            entry = manager.manifest("web", "dataset").find("page")
            assert entry is not None
            # This server knows no ranges.
            assert manager.read_entry(manager.version_info("web", "dataset"), entry, 2, 5) == b"23456"
            with pytest.raises(IntegrityError, match="not there"):
                read(manager, "gone", "web", "dataset")
            web.shutdown()
            thread.join()


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    """The files of a directory."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


# -- requests ---------------------------------------------------------------------------------------------------------


class TestRequests:
    def test_the_root_of_a_large_project_is_one_page(self, server: WandbServer):
        name = f"large-{uuid.uuid4().hex}"
        server.seed([f"artifact{n:05}" for n in range(10_000)], {"f": "in all"}, project=name)
        server.seed([f"m{n:03}" for n in range(600)], {"f": "in all"}, type="models", project=name)
        manager = artifactfs.connect(f"wandb://{ENTITY}/{name}")
        assert manager.store_id  # signs in
        before = server.counts()
        assert manager.list_collection_names() == ["dataset", "models"]
        assert more(server, before, "graphql") == more(server, before, "graphql ProjectArtifactTypes") == 1
        assert len(manager.list_artifacts("models")) == 600
        assert more(server, before, "graphql ArtifactTypeArtifactCollections") == 2
        assert read(manager, "f", "artifact07777", "dataset") == b"in all"

    def test_urls_come_in_batches_and_content_once(self, server: WandbServer, project: str, manager: ArtifactManager):
        server.seed("many", {f"f{n:03}": f"content {n}" for n in range(300)}, project=project)
        info = manager.version_info("many", "dataset")
        manifest = manager.manifest("many", "dataset")
        before = server.counts()
        for entry in manifest:
            assert manager.read_entry(info, entry) == f"content {int(entry.path[1:])}".encode()
        assert more(server, before, "file") == 300
        assert more(server, before, "graphql ArtifactMembershipFiles") <= 4
        before = server.counts()
        manager.read_entry(info, manifest[7], 3, 5)
        assert (more(server, before, "file_bytes"), more(server, before, "graphql")) == (5, 0)

    def test_equal_content_sends_nothing(self, server: WandbServer, manager: ArtifactManager, tmp_path: Path):
        commit(manager, write(tmp_path / "t", f="1" * 5000))
        before = server.counts()
        assert not commit(manager, write(tmp_path / "t", f="1" * 5000)).created
        for what in ("upload", "graphql CreateArtifact", "graphql UpsertBucket"):
            assert more(server, before, what) == 0
        # In a version that differs by one file the other is not sent again.
        result = commit(manager, write(tmp_path / "t", g="2" * 300))
        assert (result.sent_bytes, result.deduplicated_bytes) == (300, 5000)
        assert more(server, before, "upload_bytes") < 3000


# -- a server that fails ----------------------------------------------------------------------------------------------


@pytest.fixture
def logged(manager: ArtifactManager, tmp_path: Path) -> ArtifactManager:
    commit(manager, write(tmp_path / "logged", f="content", g="other"))
    return manager


class TestReadingFromAServerThatFails:
    @pytest.mark.parametrize("fault", [{"what": "status", "status": 503}, {"what": "cut"}, {"what": "expired"}])
    def test_what_passes_is_not_noticed(self, server: WandbServer, logged: ArtifactManager, fault: dict[str, Any]):
        server.fail("file", times=1 if fault["what"] == "expired" else 2, **fault)
        assert read(logged, "f") == b"content"
        assert logged.read_entry(logged.version_info("model"), logged.manifest("model")[0], 2, 3) == b"nte"

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            ({"what": "status", "status": 500}, StoreUnreachable),
            ({"what": "cut"}, StoreUnreachable),
            ({"what": "expired"}, AccessDenied),
            ({"what": "wrong"}, IntegrityError),
        ],
    )
    def test_what_lasts_is_told(
        self, server: WandbServer, logged: ArtifactManager, fault: dict[str, Any], kind: type[ArtifactError]
    ):
        logged.manifest("model")
        server.fail("file", **fault)
        with pytest.raises(kind) as caught:
            read(logged, "f")
        for secret in (KEY, "Signature", "Expires"):
            assert secret not in str(caught.value)
        heal(server)
        assert read(logged, "f") == b"content"

    def test_urls_that_ran_out_are_asked_for_again(self, server: WandbServer, logged: ArtifactManager):
        info, manifest = logged.version_info("model"), logged.manifest("model")
        server.expire_urls_after(-1)
        try:
            with pytest.raises(AccessDenied):
                logged.read_entry(info, manifest[0])
        finally:
            server.expire_urls_after(3600)
        assert logged.read_entry(info, manifest[0]) == b"content"

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            ({"what": "status", "status": 500}, StoreUnreachable),
            ({"what": "status", "status": 403, "message": "permission denied"}, AccessDenied),
            ({"what": "cut"}, StoreUnreachable),
        ],
    )
    def test_no_answer_is_not_an_absence(
        self, server: WandbServer, logged: ArtifactManager, fault: dict[str, Any], kind: type[ArtifactError]
    ):
        server.fail("graphql", **fault)
        calls: tuple[Callable[[], Any], ...] = (
            logged.list_collection_names,
            lambda: logged.list_artifacts("none"),
            lambda: logged.version_info("none", version="v3"),
            lambda: logged.exists_in_collection("none"),
        )
        for call in calls:
            with pytest.raises(kind) as caught:
                call()
            assert not isinstance(caught.value, NotFound)
        heal(server)
        assert logged.list_collection_names() == ["default"]

    def test_one_call_finds_out_for_all(self, server: WandbServer, logged: ArtifactManager):
        server.fail("graphql", "status", status=503)
        before = server.counts()
        for _ in range(50):
            with pytest.raises(StoreUnreachable, match="503"):
                logged.list_version_names("model")
        assert more(server, before, "graphql") < 10

    def test_what_passes_quickly_is_tried_again(self, server: WandbServer, logged: ArtifactManager):
        server.fail("graphql", "status", times=1, status=503)
        assert logged.list_collection_names() == ["default"]
        server.fail("manifest", "status", times=1, status=503)
        assert logged.manifest("model").file_count == 2


class TestCommittingToAServerThatFails:
    def test_a_conflict_is_committed_again(self, server: WandbServer, logged: ArtifactManager, tmp_path: Path):
        server.fail("CommitArtifact", "status", times=1, status=409, message="rebase required")
        assert commit(logged, write(tmp_path / "t", f="new")).info.version == "v1"
        assert logged.list_version_names("model") == ["v0", "v1"]

    def test_new_bytes_in_two_artifacts_at_once(self, manager: ArtifactManager, tmp_path: Path):
        results = []

        def work(number: int) -> None:
            tree = write(tmp_path / f"t{number}", f="the same new bytes", g=str(number))
            results.append(commit(manager, tree, f"model{number}").info.version)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == ["v0", "v0"]
        assert read(manager, "f", "model0") == read(manager, "f", "model1") == b"the same new bytes"

    @pytest.mark.parametrize(
        ("where", "fault"),
        [("upload", {"what": "status", "status": 403}), ("CommitArtifact", {"what": "status", "status": 500})],
    )
    def test_a_commit_that_failed_is_made_once(
        self, server: WandbServer, logged: ArtifactManager, tmp_path: Path, where: str, fault: dict[str, Any]
    ):
        server.fail(where, **fault)
        tree = write(tmp_path / "t", f=uuid.uuid4().hex)
        with pytest.raises((StoreUnreachable, AccessDenied)) as caught:
            commit(logged, tree, commit_id="once")
        assert KEY not in str(caught.value)
        assert logged.list_version_names("model") == ["v0"]
        heal(server)
        assert commit(logged, tree, commit_id="once").info.version == "v1"
        assert commit(logged, tree, commit_id="once").info.version == "v1"
        assert logged.list_version_names("model") == ["v0", "v1"]

    @pytest.mark.parametrize("where", ["upload", "ArtifactByID"])
    def test_a_worker_that_dies_midway(self, server: WandbServer, logged: ArtifactManager, tmp_path: Path, where: str):
        tree = write(tmp_path / "t", f=uuid.uuid4().hex)
        server.fail(where, "latency", seconds=60)
        before = server.counts()
        errors: list[BaseException] = []

        def work() -> None:
            try:
                commit(logged, tree, commit_id="once")
            except ArtifactError as error:
                errors.append(error)

        process.close_all()
        thread = threading.Thread(target=work)
        thread.start()
        eventually(lambda: more(server, before, "faults") > 0)
        (worker,) = has_core() - {process.reader().pid}
        (core,) = processes.children_of(worker)
        processes.kill(worker)
        thread.join(60)
        assert [type(error) for error in errors] == [StoreUnreachable]
        eventually(lambda: not is_running(core), what="wandb-core to follow its worker")
        heal(server)
        assert commit(logged, tree, commit_id="once").info.version == "v1"
        assert logged.list_version_names("model") == ["v0", "v1"]

    def test_a_commit_that_makes_no_headway_is_given_up(
        self, server: WandbServer, logged: ArtifactManager, tmp_path: Path, monkeypatch: Any
    ):
        monkeypatch.setattr(process, "STALL_S", 1.0)
        server.fail("upload", "latency", seconds=60)
        with pytest.raises(StoreUnreachable, match="took nothing"):
            commit(logged, write(tmp_path / "t", f=uuid.uuid4().hex), commit_id="once")


def has_core() -> set[int]:
    """The processes of ours that hold wandb's client, where that has begun and has a wandb-core of its own."""
    ours = processes.children_of(os.getpid())
    clients = [pid for pid in ours if b"managers.wandb.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return {pid for pid in clients if processes.children_of(pid)}


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
