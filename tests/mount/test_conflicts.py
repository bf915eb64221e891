"""Programs that meet on one file in staging: maps, locks, appends, replaced and removed files."""

from __future__ import annotations

import errno
import fcntl
import itertools
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import artifactfs
from artifactfs.managers.commit_id import new_commit_id
from mount import disk
from tests.mount.harness import EVENTUALLY_S, Mount, eventually, run
from tests.mount.shared import mounted
from tests.scenarios import refused

pytestmark = pytest.mark.fuse

_PUNCH_HOLE, _KEEP_SIZE = 2, 1
_numbers = itertools.count()


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory, driver: str) -> Iterator[Mount]:
    """Commits on request only."""
    directory = tmp_path_factory.mktemp("conflicts")
    with mounted(directory, driver, "--commit-after", "never", "--refresh", "0.2") as mount:
        yield mount


@pytest.fixture
def label(mount: Mount) -> str:
    """A fresh artifact."""
    label = f"conflicts/a{next(_numbers)}"
    mount.make(label)
    return label


@pytest.fixture
def staging(mount: Mount, label: str) -> Path:
    """Its staging."""
    return mount / label / "staging"


def python(code: str, *arguments: str | os.PathLike[str]) -> subprocess.Popen[str]:
    """Another process."""
    command = [sys.executable, "-c", code, *map(os.fspath, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def succeed(*others: subprocess.Popen[str]) -> None:
    """Wait for other processes; none may have failed."""
    for other in others:
        other.communicate(timeout=EVENTUALLY_S)
    assert [other.returncode for other in others] == [0] * len(others)


def test_shared_maps(mount: Mount, label: str, staging: Path) -> None:
    """S1, C2: what is written through a shared map is in the version; the map counts as open for writing."""
    path = staging / "mapped"
    path.write_bytes(bytes(100_000))
    fd = os.open(path, os.O_RDWR)
    mapped = mmap.mmap(fd, 100_000)
    os.close(fd)
    mapped[:5] = b"first"
    mapped[99_995:] = b"final"
    mapped.flush()
    assert path.read_bytes()[:5] == b"first"
    staged = mount.state(label).staged
    assert staged is not None
    assert staged.open_for_writing == 1
    mapped[50_000:50_006] = b"middle"
    mapped.close()
    assert mount.commit(label)["version"] == "v0"
    data = (mount / label / "v0/mapped").read_bytes()
    assert (data[:5], data[50_000:50_006], data[99_995:]) == (b"first", b"middle", b"final")


def test_maps_of_two_processes(staging: Path) -> None:
    """S1: two processes that map a file see each other's bytes."""
    path = staging / "mapped"
    path.write_bytes(bytes(8192))
    code = (
        "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); "
        "m[4096:4100] = b'them'; print(m[:4].decode(), flush=True)"
    )
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:4] = b"here"
        other = python(code, path)
        out, _ = other.communicate(timeout=EVENTUALLY_S)
        assert out == "here\n"
        assert mapped[4096:4100] == b"them"


def test_appends_of_two_processes(mount: Mount, label: str, staging: Path) -> None:
    """S8: two processes that append lose no line and tear none."""
    code = (
        "import os, sys; fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        "for n in range(300): os.write(fd, f'{sys.argv[2]}{n:05d}\\n'.encode() * 10)\n"
    )
    writers = [python(code, staging / "log", who) for who in "ab"]
    succeed(*writers)
    lines = (staging / "log").read_text().splitlines()
    assert len(lines) == 6000
    for who in "ab":
        mine = [line for line in lines if line.startswith(who)]
        assert mine == [f"{who}{n:05d}" for n in range(300) for _ in range(10)]
    mount.commit(label)


@pytest.mark.parametrize("lock", ["flock", "fcntl"])
def test_locks(staging: Path, lock: str) -> None:
    """S8: flock and fcntl locks exclude another process and end with their holder."""
    take = "fcntl.flock" if lock == "flock" else "fcntl.lockf"
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); "
        f"{take}(f, fcntl.LOCK_EX); print('taken', flush=True); sys.stdin.read()"
    )
    holder = python(code, staging / "lock")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "taken\n"
    with open(staging / "lock", "r+") as file:
        attempt = fcntl.flock if lock == "flock" else fcntl.lockf
        with pytest.raises(BlockingIOError):
            attempt(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.communicate(timeout=EVENTUALLY_S)
        attempt(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_attributes_change_while_a_file_is_opened_and_closed(staging: Path) -> None:
    """S1: chmod, chown and utimes by name reach that file, whenever its descriptors go."""
    (staging / "f").write_bytes(b"")
    opening = "import os, sys\nwhile True: os.close(os.open(sys.argv[1], os.O_WRONLY)); print(end='.', flush=True)"
    making = (
        "import os, sys\n"
        "for n in range(700):\n"
        "    fd = os.open(f'{sys.argv[1]}{n % 20}', os.O_CREAT | os.O_WRONLY, 0o640); os.close(fd)\n"
        "    assert os.stat(f'{sys.argv[1]}{n % 20}').st_mode & 0o7777 == 0o640, n\n"
    )
    changing = (
        "import os, sys\n"
        "for n in range(1, 700):\n"
        "    os.chmod(sys.argv[1], 0o604); os.utime(sys.argv[1], ns=(n, n))\n"
        "    if not os.geteuid(): os.chown(sys.argv[1], n, n)\n"
        "found = os.stat(sys.argv[1])\n"
        "assert (found.st_mode & 0o7777, found.st_mtime_ns) == (0o604, 699), found\n"
    )
    openers = [
        subprocess.Popen([sys.executable, "-c", opening, staging / "f"], stdout=subprocess.DEVNULL) for _ in range(3)
    ]
    try:
        succeed(python(making, staging / "other"), python(changing, staging / "f"))
    finally:
        for opener in openers:
            opener.kill()
            opener.wait()


def test_fallocate(mount: Mount, label: str, staging: Path) -> None:
    """S1, S8: room is kept, holes are punched, and the version has the same bytes."""
    with open(staging / "f", "w+b") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
        assert os.fstat(file.fileno()).st_size == 1 << 20
        disk.fallocate(file.fileno(), _KEEP_SIZE, 0, 4 << 20)
        assert os.fstat(file.fileno()).st_size == 1 << 20
        file.write(b"x" * (1 << 20))
        file.flush()
        disk.fallocate(file.fileno(), _PUNCH_HOLE | _KEEP_SIZE, 65536, 65536)
        file.seek(65536)
        assert file.read(65536) == bytes(65536)
    mount.commit(label)
    expected = b"x" * 65536 + bytes(65536) + b"x" * ((1 << 20) - 131072)
    assert (mount / label / "v0/f").read_bytes() == expected


def test_sparse_copies(mount: Mount, label: str, staging: Path, tmp_path: Path) -> None:
    """S8: cp of a sparse file stays sparse in staging; its version reads the same."""
    source = tmp_path / "sparse"
    with open(source, "wb") as file:
        file.write(b"begin")
        file.seek(20 << 20)
        file.write(b"end")
    run("cp", "--sparse=always", source, staging / "f")
    assert (staging / "f").stat().st_blocks * 512 < 1 << 20
    mount.commit(label)
    run("cmp", source, mount / label / "v0/f")


def test_times_left_alone(staging: Path) -> None:
    """S1: utimensat may leave one of the times as it is, or set it to now (touch -a, touch -m)."""
    path = staging / "f"
    path.write_text("x")
    old_ns = 1_000_000_000_123_456_789
    os.utime(path, ns=(old_ns, old_ns))
    run("touch", "-a", path)
    assert path.stat().st_mtime_ns == old_ns
    assert path.stat().st_atime_ns > old_ns
    os.utime(path, ns=(old_ns, old_ns))
    run("touch", "-m", "-d", "2010-01-01 00:00:00.5 UTC", path)
    assert path.stat().st_mtime_ns == 1_262_304_000_500_000_000
    assert path.stat().st_atime_ns == old_ns
    link = staging / "link"
    link.symlink_to("f")
    os.utime(link, ns=(old_ns, old_ns), follow_symlinks=False)
    assert link.lstat().st_mtime_ns == old_ns
    assert path.stat().st_mtime_ns == 1_262_304_000_500_000_000


def test_temporary_files(mount: Mount, label: str, staging: Path) -> None:
    """S6: tempfile's nameless files work (fstat included) and are in no version."""
    with tempfile.TemporaryFile(dir=staging) as file:
        file.write(b"x" * 100_000)
        file.flush()
        assert os.fstat(file.fileno()).st_size == 100_000
        os.fchmod(file.fileno(), 0o600)
        os.utime(file.fileno(), ns=(5, 5))
        file.truncate(10)
        file.seek(0)
        assert file.read() == b"x" * 10
        (staging / "kept").write_text("x")
        assert sorted(os.listdir(staging)) == ["kept"]
        mount.commit(label)
    assert os.listdir(mount / label / "v0") == ["kept"]
    assert os.listdir(staging) == []


def test_files_replaced_while_they_are_read(mount: Mount, label: str, staging: Path) -> None:
    """S4: a reader that holds the old file open reads it to its end, whoever replaces it."""
    (staging / "f").write_bytes(b"0" * 300_000)
    with open(staging / "f", "rb") as old:
        assert old.read(1000) == b"0" * 1000
        for number in range(1, 20):
            (staging / "f.tmp").write_bytes(str(number % 10).encode() * 300_000)
            os.replace(staging / "f.tmp", staging / "f")
            assert (staging / "f").read_bytes() == str(number % 10).encode() * 300_000
        assert old.read() == b"0" * 299_000
    assert os.listdir(staging) == ["f"]


def test_readers_of_a_file_that_is_replaced(staging: Path) -> None:
    """S4: who opens a file again and again while another program saves it by rename gets the old one or the new one."""
    path = staging / "f"
    path.write_text("0" * 1000)
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not stop.is_set():
            try:
                text = path.read_text()
            except OSError as error:
                # libfuse takes an open file away before it renames the new one, and the kernel looks only twice: at
                # full speed one open in thousands meets neither the old file nor the new one.
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    wrong.append(error)
            else:
                if len(set(text)) != 1 or len(text) != 1000:
                    wrong.append(text)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(200):
        (staging / "f.tmp").write_text(str(number % 10) * 1000)
        os.replace(staging / "f.tmp", path)
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_a_name_that_is_replaced_is_always_there(staging: Path) -> None:
    """S4: rename over a file that nobody has open leaves no moment without a file of that name."""
    path = staging / "f"
    path.write_text("0")
    stop = threading.Event()
    missing: list[OSError] = []

    def look() -> None:
        while not stop.is_set():
            try:
                os.stat(path)
            except OSError as error:
                missing.append(error)

    looker = threading.Thread(target=look)
    looker.start()
    for number in range(200):
        (staging / "f.tmp").write_text(str(number))
        os.replace(staging / "f.tmp", path)
    stop.set()
    looker.join()
    assert missing == []


def test_locks_by_hard_links(staging: Path) -> None:
    """S4: link as a lock: one of many wins, and the count of links tells."""
    wins: list[int] = []

    def take(number: int) -> None:
        mine = staging / f"mine{number}"
        mine.write_text(str(number))
        try:
            os.link(mine, staging / "lock")
        except FileExistsError:
            return
        assert os.stat(mine).st_nlink == 2
        wins.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert (staging / "lock").read_text() == str(wins[0])


def test_exclusive_creation_by_many(staging: Path) -> None:
    """S8: of many that create exclusively, one wins each time."""
    for number in range(20):
        wins: list[int] = []

        def take(path: Path = staging / f"lock{number}", wins: list[int] = wins) -> None:
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                return
            wins.append(1)

        threads = [threading.Thread(target=take) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wins == [1]


def test_sqlite_with_a_write_ahead_log(mount: Mount, label: str, staging: Path) -> None:
    """S1: SQLite's WAL, with its shared memory, works between processes; its files do not stay."""
    code = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=60); db.execute('PRAGMA journal_mode=WAL')\n"
        "db.execute('CREATE TABLE IF NOT EXISTS t(a)'); db.commit()\n"
        "for n in range(50):\n"
        "    with db: db.execute('INSERT INTO t VALUES(?)', (n,))\n"
        "db.close()\n"
    )
    succeed(python(code, staging / "db"))
    writers = [python(code, staging / "db") for _ in range(2)]
    succeed(*writers)
    mount.commit(label)
    assert os.listdir(mount / label / "v0") == ["db"]
    assert run("sqlite3", "-readonly", f"file:{mount / label}/v0/db?immutable=1", "SELECT count(*) FROM t") == "150\n"


def test_copying_inside_the_drive(mount: Mount, label: str, staging: Path) -> None:
    """S1: copy_file_range, sendfile and cp from a version into staging."""
    data = os.urandom(3_000_000)
    (staging / "f").write_bytes(data)
    mount.commit(label)
    version = mount / label / "v0/f"
    with open(version, "rb") as source, open(staging / "ranged", "wb") as target:
        while os.copy_file_range(source.fileno(), target.fileno(), 1 << 20):
            pass
    with open(version, "rb") as source, open(staging / "sent", "wb") as target:
        offset = 0
        while sent := os.sendfile(target.fileno(), source.fileno(), offset, 1 << 20):
            offset += sent
    run("cp", "--reflink=auto", version, staging / "copied")
    run("mv", staging / "copied", staging / "moved")
    assert {(staging / name).read_bytes() for name in ("ranged", "sent", "moved")} == {data}
    assert mount.commit(label)["sent_bytes"] == 0


def test_many_files_and_deep_directories(mount: Mount, label: str, staging: Path) -> None:
    """S1, V1: two thousand names in one directory, and a path of sixty parts."""
    for number in range(2000):
        (staging / f"file-{number:04d}").touch()
    deep = staging.joinpath(*[f"d{number}" for number in range(60)])
    deep.mkdir(parents=True)
    (deep / "f").write_text("deep")
    assert len(os.listdir(staging)) == 2001
    mount.commit(label)
    version = mount / label / "v0"
    assert sorted(os.listdir(version))[1:] == [f"file-{number:04d}" for number in range(2000)]
    assert (version / deep.relative_to(staging) / "f").read_text() == "deep"
    run("rm", "-rf", staging / "d0")


def test_sockets_and_fifos_work(mount: Mount, label: str, staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S5: programs talk through sockets and fifos in staging."""
    monkeypatch.chdir(staging)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("sock")
        server.listen()
        client.connect("sock")
        client.sendall(b"hello")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(10) == b"hello"
    os.mkfifo("fifo")
    assert run("sh", "-c", "echo through > fifo & cat fifo; wait") == "through\n"
    os.unlink("fifo")
    os.unlink("sock")


def test_bad_flags(staging: Path) -> None:
    """S1: what a FUSE file system cannot do is an error, not something else."""
    with refused(errno.EOPNOTSUPP, errno.EISDIR):
        os.close(os.open(staging, os.O_TMPFILE | os.O_RDWR))


def test_another_process_commits(mount: Mount, label: str, staging: Path, tmp_path: Path) -> None:
    """V8: what another process commits to the store shows within --refresh, in listings and through latest."""
    (staging / "f").write_text("0")
    mount.commit(label)
    assert sorted(os.listdir(mount / label)) == ["latest", "staging", "v0"]
    code = (
        "import artifactfs, sys; from pathlib import Path; m = artifactfs.connect(sys.argv[1]); "
        "c, a = sys.argv[2].split('/'); "
        "m.commit_tree(a, Path(sys.argv[3]), c, commit_id=sys.argv[4])"
    )
    (tmp_path / "f").write_text("1")
    succeed(python(code, mount.store, label, tmp_path, new_commit_id()))
    eventually(lambda: os.path.isdir(mount / label / "v1"), 0.2 + 0.5)
    eventually(lambda: os.readlink(mount / label / "latest") == "v1", 0.2 + 0.5)
    assert (mount / label / "latest/f").read_text() == "1"
    collection, artifact = label.split("/")
    artifactfs.connect(mount.store).delete_version(artifact, "v1", collection)
    eventually(lambda: sorted(os.listdir(mount / label)) == ["latest", "staging", "v0"], 0.2 + 0.5)
    eventually(lambda: (mount / label / "latest/f").read_text() == "0", 0.2 + 1.5)


def test_the_log_is_quiet(mount: Mount) -> None:
    """S1: nothing that is in order makes a warning."""
    assert mount.alarming_lines() == []
