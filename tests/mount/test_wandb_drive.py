"""A project of Weights & Biases as a drive: real programs, the plain client beside it, and a server that goes away."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.managers.wandb import processes, side_file
from mount import control
from mount.control import CommitState
from tests import trees
from tests.mount.harness import COMMAND_TIMEOUT_S, EVENTUALLY_S, Mount, artifactfs, eventually, run, same_tree
from tests.mount.shared import mounted
from tests.mount.test_programs import PROGRAMS, Program
from tests.scenarios import refused
from tests.wandb_server.handle import ENTITY, KEY, PROJECT, WandbServer
from tests.wandb_server.shared import use

pytestmark = pytest.mark.fuse

URL = f"wandb://{ENTITY}/{PROJECT}"
GRANULE_BYTES = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    """A server of this module's own, because it is killed."""
    directory = tmp_path_factory.mktemp("wandb")
    before = dict(os.environ)
    made = WandbServer(directory / "server")
    use(made, directory / "home")
    yield made
    made.kill()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def shared(server: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """The project, mounted."""
    directory = tmp_path_factory.mktemp("drive")
    with mounted(directory, "auto", "--commit-after", "never", "--refresh", "0.2", store=URL) as mount:
        yield mount


@pytest.fixture
def drive(server: WandbServer, shared: Mount) -> Iterator[Mount]:
    """The mount; faults end with the test, and nothing was sent that the server's schema does not allow."""
    yield shared
    server.heal()
    assert server.counts().get("invalid", 0) == 0


def more(server: WandbServer, before: dict[str, int], name: str) -> int:
    return server.counts().get(name, 0) - before.get(name, 0)


# -- real programs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is copied: everything that W&B, or the side file, can keep."""
    tree = trees.make_tree(tmp_path_factory.mktemp("source") / "tree")
    before = tree.stat()
    (odd,) = (name for name in os.listdir(os.fsencode(tree)) if b"\xff" in name)
    os.unlink(os.path.join(os.fsencode(tree), odd))
    (tree / "a:b").write_text("what W&B takes for a drive of Windows")
    os.utime(tree, ns=(before.st_atime_ns, before.st_mtime_ns))
    return tree


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.write.__name__)
def test_programs(program: Program, drive: Mount, source: Path, tmp_path: Path) -> None:
    """W1: what a program left on the drive comes back from W&B as it would from a disk."""
    native = tmp_path / "native"
    native.mkdir()
    program.write(source, native)
    label = f"programs/{program.write.__name__}"
    program.write(source, drive.make(label))
    assert drive.commit(label)["version"] == "v0"
    version = drive / label / "v0"
    trees.assert_same(native, version, ignore=program.ignore)
    if "content" not in program.ignore:
        same_tree(native, version)
    assert not (version / side_file.SIDE_FILE).exists()


def test_names_that_are_no_utf8(drive: Mount) -> None:
    """W2, C6, C19: the commit waits, and says which, by its path on the drive, until the name is gone from staging."""
    staging = drive.make("odd/names")
    (staging / "good").write_text("1")
    odd = os.fsdecode(os.fsencode(staging) + b"/d\xff")
    drive.expect_warning("UTF-8")
    for make, says in (
        (Path(odd).mkdir, "is not named in UTF-8"),
        (lambda: os.symlink(os.fsdecode(b"to-\xff"), staging / "link"), "leads to a name that is no UTF-8"),
    ):
        make()
        done = artifactfs("commit", drive / "odd/names", check=False)
        assert done.returncode != 0
        assert says in done.stderr
        assert f"{drive.path}/odd/names/pending.1/" in done.stderr
        artifactfs("reopen", drive / "odd/names")
        run("sh", "-c", 'rm -r "$1"/d* "$1"/link || true', "-", staging)
    assert drive.commit("odd/names")["version"] == "v0"
    assert sorted(os.listdir(drive / "odd/names/v0")) == ["good"]


def test_collections_that_wandb_does_not_have(drive: Mount) -> None:
    """W3: a type of W&B's own, a colon, or a name taken by another type refuse the commit."""
    (drive.make("first/taken") / "f").write_text("1")
    drive.commit("first/taken")
    drive.expect_warning("artifact type|type")
    for label, says in (("job/x", "keeps for itself"), ("a:b/x", "no ':'"), ("second/taken", "type")):
        (drive.make(label) / "f").write_text("1")
        done = artifactfs("commit", drive / label, check=False)
        assert done.returncode != 0
        assert says in done.stderr
        artifactfs("discard", drive / label / "pending.1", "--yes")


# -- the plain client beside it ---------------------------------------------------------------------------------------


def client(server: WandbServer, directory: Path, code: str) -> str:
    """What the plain client prints, in a process of its own."""
    directory.mkdir(exist_ok=True)
    environment = server.client_environment(directory / "home")
    preamble = f"""
import wandb
PLACE = "{ENTITY}/{PROJECT}/"
def run():
    quiet = wandb.Settings(console="off", silent=True)
    return wandb.init(entity="{ENTITY}", project="{PROJECT}", settings=quiet)
"""
    done = subprocess.run(
        [sys.executable, "-c", preamble + code],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_the_client_logs_and_reads(server: WandbServer, drive: Mount, tmp_path: Path) -> None:
    """W4, V8: versions and aliases of the plain client show within `--refresh`; what the drive logs it reads."""
    staging = drive.make("models/exchanged")
    (staging / "weights").write_bytes(os.urandom(70_000))
    assert drive.commit("models/exchanged", "-m", "by copy", "--alias", "best")["version"] == "v0"
    code = """
path = wandb.Api().artifact(PLACE + "exchanged:best").download(root="got")
with run() as r:
    a = wandb.Artifact("exchanged", "models")
    with a.new_file("theirs") as f:
        f.write("theirs")
    r.log_artifact(a, aliases=["latest", "staging"]).wait()
"""
    client(server, tmp_path / "client", code)
    assert (tmp_path / "client/got/weights").read_bytes() == (drive / "models/exchanged/v0/weights").read_bytes()
    top = drive / "models/exchanged"
    eventually(lambda: (top / "v1").is_dir())
    assert (top / "v1/theirs").read_text() == "theirs"
    assert os.readlink(top / "latest") == "v1"
    assert {name: os.readlink(top / name) for name in ("best", "%73taging")} == {"best": "v0", "%73taging": "v1"}
    assert (top / "staging").is_dir()
    assert oct((top / "v1/theirs").stat().st_mode) == oct(0o100644)
    # An older content again is a new version, as in every store; that of the latest is none.
    (top / "staging/theirs").write_text("theirs")
    assert drive.commit("models/exchanged")["version"] == "v1"
    run("cp", top / "v0/weights", top / "staging")
    assert drive.commit("models/exchanged")["version"] == "v2"


def test_what_is_said_later(server: WandbServer, drive: Mount, tmp_path: Path) -> None:
    """W10, V9: a message is W&B's description, metadata W&B's; each shows what the other changed."""
    (drive.make("models/said") / "f").write_text("x")
    drive.commit("models/said", "-m", "first")
    version = drive / "models/said/v0"
    os.setxattr(version, control.MESSAGE, "später".encode())
    os.setxattr(version, control.METADATA, b'{"epoch": 3}')
    code = """
found = wandb.Api().artifact(PLACE + "said:v0")
assert found.description == "sp\u00e4ter", found.description
assert found.metadata["epoch"] == 3 and found.metadata["artifactfs"]["commit_id"], found.metadata
found.description = "theirs"
found.metadata["more"] = "m"
found.save()
"""
    client(server, tmp_path / "client", code)
    eventually(lambda: os.getxattr(version, control.MESSAGE) == b"theirs")
    assert json.loads(os.getxattr(version, control.METADATA)) == {"epoch": 3, "more": "m"}
    with refused(errno.EINVAL):
        os.setxattr(version, control.METADATA, b'{"artifactfs": {}}')
    done = artifactfs("annotate", "--store", URL, "models/said@v0", "-m", "by command", "--json")
    assert json.loads(done.stdout)["metadata"] == {"epoch": 3, "more": "m"}
    eventually(lambda: os.getxattr(version, control.MESSAGE) == b"by command")


def test_references(server: WandbServer, drive: Mount, tmp_path: Path) -> None:
    """W5: files that lie elsewhere are listed, and opened where the option allows their scheme."""
    (tmp_path / "elsewhere").write_text("far away")
    there = {"digest": "etag", "ref": f"file://{tmp_path}/elsewhere", "size": 8}
    server.seed("pointing", {"far": there, "near": "stored"})
    version = drive / "dataset/pointing/v0"
    eventually(version.is_dir)
    assert (version / "far").stat().st_size == 8
    assert (version / "near").read_text() == "stored"
    with pytest.raises(PermissionError):
        (version / "far").read_text()
    options = ("--read-only", "--storage-option", "references=file,s3")
    with mounted(tmp_path / "bold", "auto", *options, store=URL) as bold:
        assert (bold / "dataset/pointing/v0/far").read_text() == "far away"


# -- requests ---------------------------------------------------------------------------------------------------------


def test_listing_moves_no_bytes_of_files(server: WandbServer, drive: Mount) -> None:
    """W5: sizes come with the list of files; reading takes the next files along and asks for nothing twice."""
    server.seed("thousand", {f"d{n // 100}/f{n:04}": f"content {n}" for n in range(1000)})
    version = drive / "dataset/thousand/v0"
    before = server.counts()
    eventually(version.is_dir)
    assert run("ls", "-lR", version).count("content") == 0
    assert run("find", version, "-type", "f", "-size", "-20c").count("\n") == 1000
    assert more(server, before, "file") == 0
    assert more(server, before, "manifest") == 1
    text = run("sh", "-c", 'cat "$1"/*/*', "-", version)
    assert text == "".join(f"content {n}" for n in range(1000))
    assert more(server, before, "file") == 1000
    assert more(server, before, "graphql ArtifactMembershipFiles") < 20
    before = server.counts()
    assert run("sh", "-c", 'cat "$1"/*/*', "-", version) == text
    assert (more(server, before, "file"), more(server, before, "graphql ArtifactMembershipFiles")) == (0, 0)


def test_a_few_bytes_of_a_large_file(server: WandbServer, drive: Mount) -> None:
    """W5, O2: sixteen bytes cost a granule, and the second time nothing."""
    staging = drive.make("models/large")
    with open(staging / "large", "wb") as file:
        file.truncate(200 << 20)
        os.pwrite(file.fileno(), b"in the middle", 77 << 20)
    drive.commit("models/large")
    before = server.counts()
    for _ in range(2):
        with open(drive / "models/large/v0/large", "rb") as file:
            file.seek(77 << 20)
            assert file.read(16) == b"in the middle\0\0\0"
    assert 0 < more(server, before, "file_bytes") <= GRANULE_BYTES


def test_keys_are_nowhere_to_be_seen(server: WandbServer, drive: Mount) -> None:
    """W6: not in logs, status, records, arguments of processes, or what fails."""
    (drive.make("models/secret") / "f").write_text(f"{time.time()}")
    server.fail("CommitArtifact", "status", status=403, message="permission denied")
    drive.expect_warning("cannot commit pending.1 of models/secret")
    done = artifactfs("commit", drive / "models/secret", check=False)
    assert done.returncode != 0
    seen = [drive.log(), done.stdout, done.stderr, artifactfs("status", drive.path, "--json").stdout]
    family = [drive.daemon.pid]
    for pid in family:
        family += processes.children_of(pid)
        seen.append(Path(f"/proc/{pid}/cmdline").read_text())
    assert len(family) >= 3
    seen += [path.read_text(errors="replace") for path in drive.state_dir.rglob("*") if path.is_file()]
    for text in seen:
        assert KEY not in text
        assert "Signature" not in text
    server.heal()
    artifactfs("discard", drive / "models/secret/pending.1", "--yes")


# -- a server that goes away ------------------------------------------------------------------------------------------


def test_an_outage(server: WandbServer, drive: Mount) -> None:
    """W7, O1: the known goes on, the unknown is EIO, and what is staged meanwhile is published afterwards."""
    server.seed("known", {"f": "known content"})
    server.seed("unknown", {"f": "never seen"})
    known, unknown = drive / "dataset/known", drive / "dataset/unknown"
    eventually(unknown.is_dir)
    assert (known / "v0/f").read_text() == "known content"
    assert "v0" in os.listdir(known)
    staging = drive.make("models/offline")
    drive.expect_warning("the store does not answer|cannot commit pending.1 of models/offline|giving up after")
    server.kill()
    try:
        # Older than --refresh: asked again, and not answered.
        eventually(lambda: "v0" in os.listdir(known) and not drive.status().reachable)
        assert (known / "v0/f").read_text() == "known content"
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            os.listdir(unknown)
        (staging / "f").write_text("written in the dark")
        committing = threading.Thread(target=lambda: artifactfs("commit", drive / "models/offline", check=False))
        committing.start()
        eventually(lambda: any(p.state is CommitState.RETRYING for p in drive.state("models/offline").pending))
    finally:
        server.start()
    artifactfs("retry", drive / "models/offline", check=False)  # it may be on its way already
    assert drive.committed("models/offline", "v0").joinpath("f").read_text() == "written in the dark"
    committing.join(EVENTUALLY_S)
    eventually(lambda: "v0" in os.listdir(unknown))
    assert (unknown / "v0/f").read_text() == "never seen"


def test_a_server_killed_during_a_commit(server: WandbServer, drive: Mount) -> None:
    """W7, C7: one version, no process left over."""
    staging = drive.make("models/interrupted")
    for number in range(20):
        (staging / f"f{number}").write_bytes(os.urandom(20_000))
    drive.expect_warning("cannot commit pending.1 of models/interrupted|the store does not answer|giving up after")
    server.fail("upload", "latency", seconds=2)
    before = server.counts()
    committing = threading.Thread(target=lambda: artifactfs("commit", drive / "models/interrupted", check=False))
    committing.start()
    eventually(lambda: more(server, before, "faults") > 2)
    server.kill()
    server.start()
    drive.committed("models/interrupted", "v0")
    committing.join(EVENTUALLY_S)
    eventually(lambda: not drive.state("models/interrupted").pending)
    versions = server.state()[f"{ENTITY}/{PROJECT}"]["artifacts"]["interrupted"]
    assert [version["version"] for version in versions if version["state"] == "COMMITTED"] == [0]
    assert len(os.listdir(drive / "models/interrupted/v0")) == 20


def test_a_daemon_killed_during_a_commit(server: WandbServer, tmp_path: Path) -> None:
    """W7, C7: its helpers follow it, and the next mount makes the one version."""
    mount = Mount(tmp_path / "killed", URL, driver="auto")
    mount.mount("--commit-after", "never", "--refresh", "0.2")
    try:
        (mount.make("models/killed") / "f").write_bytes(os.urandom(1000))
        server.fail("CommitArtifact", "latency", seconds=5)
        before = server.counts()
        command = ["artifactfs", "commit", str(mount / "models/killed")]
        committing = subprocess.Popen(
            [sys.executable, "-m", "mount.cli", *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        eventually(lambda: more(server, before, "faults") > 0)
        helpers = processes.children_of(mount.daemon.pid)
        helpers += [core for helper in helpers for core in processes.children_of(helper)]
        assert len(helpers) >= 3
        mount.kill9()
        committing.wait(EVENTUALLY_S)
        eventually(lambda: not [pid for pid in helpers if is_running(pid)], what="helpers to end")
        server.heal()
        mount.mount()
        mount.committed("models/killed", "v0")
        eventually(lambda: not mount.state("models/killed").pending)
        assert [name for name in os.listdir(mount / "models/killed") if name.startswith("v")] == ["v0"]
        helpers = processes.children_of(mount.daemon.pid)
        mount.umount()
        eventually(lambda: not [pid for pid in helpers if is_running(pid)], what="helpers to end")
    finally:
        assert mount.tear_down() == []


def test_mounting_while_the_server_is_away(server: WandbServer, tmp_path: Path) -> None:
    """W7, O2: what was read before is there, also for a mount that begins without the server."""
    server.seed("kept", {"f": "kept content", "g": "not read"})
    mount = Mount(tmp_path / "offline", URL, driver="auto")
    try:
        mount.mount("--read-only")
        assert (mount / "dataset/kept/latest/f").read_text() == "kept content"
        assert os.listdir(mount / "dataset/kept")
        mount.umount()
        server.kill()
        mount.expect_warning("does not answer|giving up after|W&B's storage")
        mount.mount()
        assert (mount / "dataset/kept/latest/f").read_text() == "kept content"
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            os.listdir(mount / "dataset/known-to-nobody")
    finally:
        if not server.is_running:
            server.start()
        assert mount.tear_down() == []


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_project_that_is_not_there_yet(server: WandbServer, tmp_path: Path) -> None:
    """W8, W9: an empty drive; the first commit makes the project, by a run that has nothing of the caller's."""
    mount = Mount(tmp_path / "new", f"wandb://{ENTITY}/not-yet", driver="auto")
    of_the_caller = {"WANDB_RUN_ID": "train1", "WANDB_NAME": "training", "WANDB_SWEEP_ID": "sweep1"}
    os.environ.update(of_the_caller)
    try:
        mount.mount("--commit-after", "never")
        assert os.listdir(mount.path) == []
        assert f"{ENTITY}/not-yet" not in server.state()
        (mount.make("models/bert") / "f").write_text("first")
        artifactfs("commit", mount / "models/bert")
        assert (mount / "models/bert/v0/f").read_text() == "first"
        (run,) = server.state()[f"{ENTITY}/not-yet"]["runs"]
        assert run["name"] != "train1"
        assert run.get("displayName") is None
    finally:
        for name in of_the_caller:
            del os.environ[name]
        assert mount.tear_down() == []


def test_mounting_what_cannot_be(server: WandbServer, tmp_path: Path) -> None:
    """W6: the project of an unknown entity, a wrong key and a wandb that is switched off are one line each."""
    nobodys, off = "wandb://nobody/project", "W&B is switched off, its mode is "
    for number, (url, key, mode, says) in enumerate(
        (
            (nobodys, KEY, "online", "W&B has no project nobody/project"),
            (URL, "0" * 40, "online", "W&B refused the key"),
            (URL, KEY, "offline", f"{off}'offline'"),
            (URL, KEY, "disabled", f"{off}'disabled'"),
        )
    ):
        mount = Mount(tmp_path / str(number), url, driver="auto")
        done = artifactfs(
            "mount",
            url,
            mount.path,
            "--state-dir",
            mount.state_dir,
            check=False,
            env={**os.environ, "WANDB_API_KEY": key, "WANDB_MODE": mode},
        )
        assert done.returncode != 0
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert key not in done.stderr
    assert json.loads(artifactfs("status", "--json").stdout) is not None
