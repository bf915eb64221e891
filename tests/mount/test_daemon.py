"""The life of a mount: start, refusals, ends of every kind, and what is left after each."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mount import client, launch, mounts, preflight
from mount.processes import Process
from mount.settings import MountSettings
from tests.mount.conftest import MakeMount
from tests.mount.harness import EVENTUALLY_S, PROGRAM, Mount, artifactfs, eventually, run

pytestmark = pytest.mark.fuse

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def stat_field(pid: int, index: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[index]


# -- start -------------------------------------------------------------------------------------------------------------


def test_mount_answers_when_the_command_returns(mount: Mount):
    status = mount.status()
    assert (status.pid, status.store, status.driver) == (mount.daemon.pid, mount.store, mount.driver)
    assert os.listdir(mount.path) == []
    assert mount.is_mounted()


def test_daemon_is_detached(mount: Mount):
    pid = mount.daemon.pid
    assert stat_field(pid, 3) == str(pid), "the leader of a session of its own"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.readlink(f"/proc/{pid}/fd/0") == os.readlink(f"/proc/{pid}/fd/1") == "/dev/null"
    assert os.path.samefile(f"/proc/{pid}/fd/2", mount.log_file)


def test_state_belongs_to_the_user_only(mount: Mount):
    for path in (mount.state_dir, mount.state_dir / "logs", mount.state_dir / "mounts", mount.log_file):
        assert path.stat().st_mode & 0o077 == 0, path


def test_mount_table_names_the_store(mount: Mount):
    entry = mounts.entry_at(mount.path)
    assert entry is not None
    assert (entry.fstype, entry.source) == ("fuse.artifactfs", f"artifactfs:{mount.store}")


def test_mountpoint_with_odd_characters(prepare_mount: MakeMount, tmp_path: Path):
    mount = prepare_mount()
    mount.path = tmp_path / "a b\\c\tü,%2F"
    mount.path.mkdir()
    mount.mount()
    assert mount.status().mountpoint == str(mount.path)
    mount.umount()
    assert not mount.is_mounted()


def test_mountpoint_and_store_may_be_relative_and_symlinks(prepare_mount: MakeMount, tmp_path: Path):
    mount = prepare_mount()
    (tmp_path / "link").symlink_to(mount.path)
    artifactfs("mount", "./there", "link", "--state-dir", mount.state_dir, cwd=tmp_path)
    assert mount.status().store == str(tmp_path / "there")
    artifactfs("umount", "link", "--state-dir", mount.state_dir, cwd=tmp_path)


def test_read_write_mount_makes_a_local_store(mount: Mount):
    assert Path(mount.store, "artifactfs.json").is_file()


def test_settings_reach_the_daemon(make_mount: MakeMount):
    mount = make_mount("--commit-after", "7.5", "--refresh", "11", "--uid", "12", "--gid", "13", "--umask", "027")
    status = mount.status()
    assert (status.commit_after_s, status.refresh_s) == (7.5, 11)
    shown = mount.path.stat()
    assert (shown.st_uid, shown.st_gid, shown.st_mode & 0o777) == (12, 13, 0o750)


def test_read_only_mount_has_no_staging(make_mount: MakeMount, mount: Mount):
    (mount.make("models/bert") / "f").write_text("x")
    mount.commit("models/bert")
    reader = make_mount("--read-only", store=mount.store)
    assert reader.status().read_only
    assert sorted(os.listdir(reader / "models/bert")) == ["latest", "v0"]


# -- refusals ----------------------------------------------------------------------------------------------------------


def refused(mount: Mount, *arguments: str) -> str:
    """The one line that says why a mount is not made; nothing is left of the try."""
    before = mounts.entry_at(mount.path)
    done = mount.mount(*arguments, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert mounts.entry_at(mount.path) == before
    assert re.fullmatch(r"artifactfs: [^\n]+\n", done.stderr), done.stderr
    return done.stderr


@pytest.mark.parametrize("make", [None, "file", "not empty", "dangling"])
def test_unusable_mountpoint_is_refused(prepare_mount: MakeMount, make: str | None):
    mount = prepare_mount()
    if make == "not empty":
        (mount.path / "something").touch()
        assert "not empty (it holds 'something')" in refused(mount)
        return
    mount.path.rmdir()
    if make == "file":
        mount.path.touch()
    elif make == "dangling":
        mount.path.symlink_to("nowhere")
    assert ("is not a directory" if make == "file" else "does not exist") in refused(mount)
    if make:
        mount.path.unlink()


def test_second_mount_on_a_mountpoint_is_refused(mount: Mount):
    assert f"is mounted already, with the store {mount.store}" in refused(mount)
    assert mount.status().pid == mount.daemon.pid


@needs_root
def test_foreign_mount_is_refused(prepare_mount: MakeMount):
    mount = prepare_mount()
    subprocess.run(["mount", "-t", "tmpfs", "some-tmpfs", mount.path], check=True)
    try:
        assert "is a mount already: some-tmpfs (tmpfs)" in refused(mount)
    finally:
        subprocess.run(["umount", mount.path], check=True)


@pytest.mark.parametrize("through_symlink", [False, True])
def test_mountpoint_inside_the_store_is_refused(prepare_mount: MakeMount, tmp_path: Path, through_symlink: bool):
    store = tmp_path / "store"
    mount = prepare_mount(store)
    mount.path = store / "inside"
    mount.path.mkdir(parents=True)
    if through_symlink:
        (tmp_path / "link").symlink_to(store)
        mount.store = str(tmp_path / "link")
    assert "lies inside the store" in refused(mount)


@needs_root
def test_mountpoint_inside_the_store_is_refused_through_a_bind_mount(prepare_mount: MakeMount, tmp_path: Path):
    store, bound = tmp_path / "store", tmp_path / "bound"
    (store / "inside").mkdir(parents=True)
    bound.mkdir()
    subprocess.run(["mount", "--bind", store, bound], check=True)
    try:
        mount = prepare_mount(store)
        mount.path = bound / "inside"
        assert "lies inside the store" in refused(mount)
    finally:
        subprocess.run(["umount", bound], check=True)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_store_inside_the_mountpoint_is_refused(prepare_mount: MakeMount, prefix: str):
    mount = prepare_mount()
    mount.store = f"{prefix}{mount.path}/store"
    assert "lies inside the mountpoint" in refused(mount)


def test_mountpoint_that_is_the_store_is_refused(prepare_mount: MakeMount):
    mount = prepare_mount()
    mount.store = str(mount.path)
    assert "lies inside" in refused(mount)


def test_state_directory_inside_the_mountpoint_is_refused(prepare_mount: MakeMount):
    mount = prepare_mount()
    mount.state_dir = mount.path / "state"
    assert "the state directory" in refused(mount)
    assert os.listdir(mount.path) == []


def test_unknown_scheme_is_refused(prepare_mount: MakeMount):
    mount = prepare_mount("gopher://host/store")
    mount.expect_warning("gopher")
    assert "unknown scheme 'gopher'" in refused(mount)


@pytest.mark.parametrize(("scheme", "module", "extra"), [("s3", "botocore", "s3"), ("sftp", "paramiko", "sftp")])
def test_missing_extra_is_named(prepare_mount: MakeMount, scheme: str, module: str, extra: str):
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    mount = prepare_mount(f"{scheme}://bucket/store")
    mount.expect_warning("cannot go on")
    assert f"artifactfs[{extra}]" in refused(mount)


def test_store_of_a_newer_format_is_refused(mount: Mount):
    mount.umount()
    marker = Path(mount.store, "artifactfs.json")
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format": 99}))
    mount.expect_warning("cannot go on: .*99")
    assert "99" in refused(mount)


@pytest.mark.parametrize("arguments", [(), ("--read-only",)], ids=["read-write", "read-only"])
def test_directory_that_is_no_store_is_refused(prepare_mount: MakeMount, arguments: tuple[str, ...]):
    mount = prepare_mount()
    Path(mount.store).mkdir()
    Path(mount.store, "holiday.jpg").touch()
    mount.expect_warning("cannot go on")
    refused(mount, *arguments)
    assert os.listdir(mount.store) == ["holiday.jpg"]


def test_read_only_mount_of_a_missing_store_is_refused(prepare_mount: MakeMount):
    mount = prepare_mount()
    mount.expect_warning("cannot go on")
    assert mount.store in refused(mount, "--read-only")
    assert not Path(mount.store).exists()


def test_second_writer_of_a_store_is_refused(mount: Mount, prepare_mount: MakeMount):
    other = prepare_mount(mount.store)
    other.state_dir = mount.state_dir
    other.expect_warning("cannot go on")
    assert "is mounted for writing already" in refused(other)
    other.mount("--read-only")


def test_options_that_make_no_sense_are_refused(prepare_mount: MakeMount):
    mount = prepare_mount()
    assert "--refresh" in refused(mount, "--refresh", "-1")
    assert "--umask" in refused(mount, "--umask", "1777")
    assert "--driver" in artifactfs("mount", mount.store, mount.path, "--driver", "x", check=False).stderr


def settings_for(mount: Mount, **options: object) -> MountSettings:
    return MountSettings(mount.store, mount.path, state_dir=mount.state_dir, **options)  # type: ignore[arg-type]


def test_missing_fuse_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prepare_mount: MakeMount):
    monkeypatch.setattr(preflight, "FUSE_DEVICE", tmp_path / "fuse")
    with pytest.raises(preflight.MountRefused, match=r"apt install fuse3.*--device /dev/fuse --cap-add SYS_ADMIN"):
        preflight.check_fuse(settings_for(prepare_mount()))


def test_forbidden_fuse_says_what_to_do(monkeypatch: pytest.MonkeyPatch, prepare_mount: MakeMount):
    def forbid(path: object, flags: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "open", forbid)
    with pytest.raises(preflight.MountRefused, match=r"may not be used.*--device /dev/fuse --cap-add SYS_ADMIN"):
        preflight.check_fuse(settings_for(prepare_mount()))


def test_root_without_the_capability_is_told(monkeypatch: pytest.MonkeyPatch, prepare_mount: MakeMount):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(preflight, "_CAP_SYS_ADMIN", 63)
    with pytest.raises(preflight.MountRefused, match=r"CAP_SYS_ADMIN.*--cap-add SYS_ADMIN"):
        preflight.check_fuse(settings_for(prepare_mount()))


@pytest.mark.parametrize(("line", "allowed"), [("user_allow_other", True), ("#user_allow_other", False), (None, False)])
def test_allow_other_needs_consent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prepare_mount: MakeMount, line: str | None, allowed: bool
):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(preflight, "FUSE_CONF", tmp_path / "fuse.conf")
    if line is not None:
        (tmp_path / "fuse.conf").write_text(f"# settings\n{line}\n")
    settings = settings_for(prepare_mount(), allow_other=True)
    with contextlib.nullcontext() if allowed else pytest.raises(preflight.MountRefused, match="user_allow_other"):
        preflight.check_fuse(settings)


# -- a start that goes wrong -------------------------------------------------------------------------------------------


@pytest.fixture
def fake_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A program that is started in place of the daemon; the test writes it."""
    program = tmp_path / "daemon"
    program.touch(0o755)
    monkeypatch.setattr(launch.sys, "executable", str(program))
    return program


def test_start_is_bounded_in_time(fake_daemon: Path, monkeypatch: pytest.MonkeyPatch, prepare_mount: MakeMount):
    mount = prepare_mount()
    fake_daemon.write_text(f"#!/bin/sh\ncat >/dev/null\necho $$ >{fake_daemon}.pid\nexec sleep 1000\n")
    monkeypatch.setattr(launch, "START_TIMEOUT_S", 0.5)
    monkeypatch.setattr(launch, "_FAILED_END_S", 0.2)
    with pytest.raises(launch.StartFailed, match=rf"not ready within 0.5 s; see {re.escape(str(mount.log_file))}"):
        launch.in_background(settings_for(mount))
    assert Process.of(int(Path(f"{fake_daemon}.pid").read_text())) is None


@pytest.mark.parametrize(("script", "how"), [("exit 3", "with status 3"), ("kill -9 $$", "by signal 9")])
def test_daemon_that_dies_at_once_is_told(fake_daemon: Path, prepare_mount: MakeMount, script: str, how: str):
    mount = prepare_mount()
    fake_daemon.write_text(f"#!/bin/sh\ncat >/dev/null\n{script}\n")
    with pytest.raises(launch.StartFailed, match=f"ended {how} before the mount was ready; see "):
        launch.in_background(settings_for(mount))


def test_interrupted_start_leaves_nothing(prepare_mount: MakeMount, tmp_path: Path):
    """Ctrl-C while the daemon is still opening the store."""
    mount = prepare_mount()
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "if sys.argv[0] == '-m':\n"
        "    import artifactfs\n"
        "    artifactfs.connect = lambda *_, **__: (print('opening', file=sys.stderr, flush=True), time.sleep(1000))\n"
    )
    command = [PROGRAM, "mount", mount.store, str(mount.path), "--state-dir", str(mount.state_dir)]
    starter = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children")
    daemon = Process.of(int(eventually(lambda: children.read_text().split())[0]))
    assert daemon is not None
    eventually(lambda: "opening" in mount.log())
    starter.send_signal(signal.SIGINT)
    assert starter.wait(EVENTUALLY_S) == 130
    assert not daemon.is_alive()
    assert "told to end before the mount was made" in mount.log()


def test_start_that_cannot_leave_its_record_leaves_no_mount(prepare_mount: MakeMount):
    mount = prepare_mount()
    mount.expect_warning("cannot go on")
    record = mounts._record_file(mount.state_dir, mount.path)
    record.mkdir(parents=True)
    assert "Is a directory" in refused(mount)
    assert not mount.is_mounted()


# -- ends --------------------------------------------------------------------------------------------------------------


def test_umount_returns_when_the_daemon_is_gone(mount: Mount):
    daemon = mount.daemon
    mount.umount()
    assert not daemon.is_alive()
    assert not mount.is_mounted()
    assert mounts.read_record(mount.state_dir, mount.path) is None
    assert "is unmounted" in mount.log()


def test_staged_files_survive_umount_and_mount(mount: Mount):
    (mount.make("models/bert") / "f").write_text("precious")
    mount.remount()
    assert (mount / "models/bert/staging/f").read_text() == "precious"


def test_unmounted_behind_our_back_ends_cleanly(mount: Mount):
    (mount.make("models/bert") / "f").write_text("precious")
    daemon = mount.daemon
    subprocess.run(["fusermount3", "-u", mount.path], check=True)
    assert daemon.wait_gone(EVENTUALLY_S)
    assert mounts.read_record(mount.state_dir, mount.path) is None
    mount.mount()
    assert (mount / "models/bert/staging/f").read_text() == "precious"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_unmounts(mount: Mount, number: signal.Signals):
    daemon = mount.daemon
    daemon.send(number)
    assert daemon.wait_gone(EVENTUALLY_S)
    assert not mount.is_mounted()
    assert mounts.read_record(mount.state_dir, mount.path) is None


def test_umount_that_failed_changes_nothing(make_mount: MakeMount):
    """C12: a mount in use stays mounted, and its daemon commits at its end as ever."""
    mount = make_mount("--commit-after", "1000")
    staging = mount.make("models/bert")
    (staging / "one").write_bytes(b"x")
    with subprocess.Popen(["sleep", "1000"], cwd=mount / "models") as process:
        assert mount.umount(check=False).returncode == 1
        process.kill()
    # By a writer that is done: what a living one is in the middle of is left at the end (C8).
    run("setsid", "--wait", "sh", "-c", 'printf x > "$1"', "sh", staging / "two")
    daemon = mount.daemon
    daemon.send(signal.SIGTERM)
    assert daemon.wait_gone(EVENTUALLY_S)
    mount.mount("--read-only")
    assert sorted(os.listdir(mount / "models/bert/v1")) == ["two"]


def test_as_many_files_as_the_system_allows(prepare_mount: MakeMount):
    """C16: the daemon raises its own soft limit of descriptors to the hard one."""
    mount = prepare_mount()
    mount.within = ["sh", "-c", 'ulimit -Sn 200; ulimit -Hn 400; exec "$0" "$@"']
    mount.mount("--commit-after", "never")
    limits = Path(f"/proc/{mount.daemon.pid}/limits").read_text()
    assert re.search(r"^Max open files +400 +400 ", limits, re.MULTILINE)
    staging = mount.make("models/bert")
    with contextlib.ExitStack() as stack:
        for number in range(250):
            stack.enter_context(open(staging / f"{number}", "wb")).write(b"x")
    assert mount.commit("models/bert")["files"] == 250


def test_more_files_than_the_system_allows(prepare_mount: MakeMount):
    """C14, C21: while no more files can be opened the status may say so; afterwards everything can be committed."""
    mount = prepare_mount()
    mount.expect_warning("Too many open files")
    mount.within = ["sh", "-c", 'ulimit -n 200; exec "$0" "$@"']
    mount.mount("--commit-after", "0.3", "--refresh", "0.2")
    staging = mount.make("models/bert")
    opened = []
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        for number in range(300):
            opened.append(stack.enter_context(open(staging / f"{number}", "wb", buffering=0)))
            opened[-1].write(b"x")
        time.sleep(1.0)
    assert 50 < len(opened) < 300

    def can_make() -> bool:
        """Whether there is room for further files: the kernel tells the daemon a moment later what was closed."""
        try:
            (mount / "models/gpt").mkdir(exist_ok=True)
            (mount / "models/gpt/staging/f").write_bytes(b"x")
        except OSError:
            return False
        return True

    def is_held() -> bool:
        staged = mount.state("models/bert").staged
        return staged is not None and staged.held is not None

    eventually(can_make)
    mount.committed("models/gpt", "v0")
    # A program that is told that a file cannot be made has not written all that it meant to (C21).
    eventually(lambda: is_held() or (mount / "models/bert/v0").is_dir())
    if is_held():
        assert mount.commit("models/bert")["version"] == "v0"
    eventually(lambda: not mount.status().faults)


def test_signal_ends_a_mount_that_is_in_use(mount: Mount):
    mount.expect_warning("in use by .*unmounting all the same")
    daemon = mount.daemon
    with open(mount.make("models/bert") / "f", "wb", buffering=0) as file:
        file.write(b"precious")
        daemon.send(signal.SIGTERM)
        assert daemon.wait_gone(EVENTUALLY_S)
        assert not mount.is_mounted()
        with pytest.raises(OSError, match=r"Transport endpoint|connection abort|No such device"):
            file.write(b"more")
        with contextlib.suppress(OSError):
            file.close()
    mount.mount()
    assert (mount / "models/bert/staging/f").read_bytes() == b"precious"


def test_hangup_is_ignored(mount: Mount):
    mount.daemon.send(signal.SIGHUP)
    mount.status()
    assert not mount.daemon.wait_gone(0.3)


def test_killed_daemon_leaves_a_dead_mountpoint_and_the_next_mount_clears_it(mount: Mount):
    """An empty directory in its place would make a mirror job delete everything."""
    (mount.make("models/bert") / "f").write_text("precious")
    mount.kill9()
    assert client.liveness(mount.path) is client.Liveness.DEAD
    with pytest.raises(OSError, match=r"not connected|abort"):
        os.listdir(mount.path)
    done = mount.mount()
    assert f"cleared the dead mount of {mount.store}" in done.stderr
    assert (mount / "models/bert/staging/f").read_text() == "precious"


def test_a_start_that_fails_leaves_the_dead_mountpoint(mount: Mount, prepare_mount: MakeMount):
    """It is cleared when everything else is ready, so that programs meet errors there, and not an empty directory."""
    mount.expect_warning("cannot go on")
    mount.kill9()
    marker = Path(mount.store, "artifactfs.json")
    whole = marker.read_bytes()
    marker.write_text('{"format": 99}')
    with pytest.raises(AssertionError, match="99"):
        mount.mount()
    assert client.liveness(mount.path) is client.Liveness.DEAD
    marker.chmod(0o600)
    marker.write_bytes(whole)
    mount.mount()


def test_same_mountpoint_can_die_again_and_again(mount: Mount):
    for _ in range(3):
        mount.kill9()
        mount.mount()
    assert [entry.mountpoint for entry in mounts.our_entries()].count(mount.path) == 1


def test_umount_of_a_dead_mountpoint(mount: Mount):
    mount.kill9()
    assert "its daemon was gone" in mount.umount().stdout
    assert not mount.is_mounted()
    assert mounts.read_record(mount.state_dir, mount.path) is None


@needs_root
def test_umount_ends_a_daemon_that_another_namespace_holds(mount: Mount):
    daemon = mount.daemon
    # A mount namespace made at this moment has a copy of the mount, which umount here does not reach.
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000"]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        started = time.monotonic()
        mount.umount()
        assert not daemon.is_alive()
        assert time.monotonic() - started < 30  # it ended by itself
        assert not mount.is_mounted()
    finally:
        holder.kill()
        holder.communicate()


# -- foreground --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def in_foreground(mount: Mount) -> Iterator[subprocess.Popen[str]]:
    command = [PROGRAM, "mount", mount.store, str(mount.path), "--state-dir", str(mount.state_dir)]
    process = subprocess.Popen(
        [*command, "--driver", mount.driver, "--foreground"],
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_foreground_stays_until_a_signal(prepare_mount: MakeMount, number: signal.Signals):
    mount = prepare_mount()
    with in_foreground(mount) as process:
        record = eventually(lambda: mounts.read_record(mount.state_dir, mount.path))
        assert record.daemon.pid == process.pid == mount.status().pid
        process.send_signal(number)
        _, log = process.communicate(timeout=EVENTUALLY_S)
        assert process.returncode == 0
        assert "INFO" in log
        assert f"mounted {mount.store} on {mount.path}" in log
        assert not mount.is_mounted()


def test_foreground_ends_when_unmounted(prepare_mount: MakeMount):
    mount = prepare_mount()
    with in_foreground(mount) as process:
        eventually(lambda: mounts.read_record(mount.state_dir, mount.path))
        # The zombie has ended as far as umount is concerned.
        mount.umount()
        process.communicate(timeout=EVENTUALLY_S)
        assert process.returncode == 0


def test_foreground_says_why_it_cannot(prepare_mount: MakeMount):
    mount = prepare_mount("gopher://host/store")
    mount.expect_warning("gopher")
    with in_foreground(mount) as process:
        _, log = process.communicate(timeout=EVENTUALLY_S)
        assert process.returncode == 1
        assert log.splitlines()[-1].startswith("artifactfs: cannot open gopher://host/store: unknown scheme")


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_credentials_are_shown_nowhere(prepare_mount: MakeMount):
    mount = prepare_mount("memory://user:hunter2@host/store")
    mount.mount("--storage-option", "single_writer=true")
    entry = mounts.entry_at(mount.path)
    assert entry is not None
    shown = [
        entry.source,
        mount.log(),
        artifactfs("status", mount.path, "--json", "--state-dir", mount.state_dir).stdout,
        *[path.read_text() for path in (mount.state_dir / "mounts").iterdir()],
        *mount.daemon.command_line(),
    ]
    assert not [text for text in shown if "hunter2" in text]
    assert entry.source == "artifactfs:memory://***@host/store"


def test_credentials_are_not_in_errors(prepare_mount: MakeMount):
    mount = prepare_mount("gopher://user:hunter2@host/store")
    mount.expect_warning("gopher")
    assert "hunter2" not in refused(mount)
    assert "hunter2" not in mount.log()
