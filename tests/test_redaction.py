"""No secret of a URL or an option gets out: not into an error, a line of output, a log, a state file or a catalog."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from artifactfs import connect, redaction
from artifactfs.catalog.drivers import DirectoryDriver
from artifactfs.catalog.source import source_of
from artifactfs.errors import ArtifactError, NotFound, StoreUnreachable
from artifactfs.managers.base import VersionInfo
from artifactfs.objects import patience
from artifactfs.redaction import (
    is_secret_name,
    redact,
    remember,
    remember_arguments,
    secrets_in,
    without_secrets,
    without_url_secrets,
)
from mount import logs
from mount.cli import cli, main

PLANTED = "SeCrEt5511"


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_given", {})
    monkeypatch.setattr(redaction, "_pattern", None)


@pytest.mark.parametrize(
    "name",
    [
        *("key", "secret", "token", "password", "auth", "pwd", "passphrase", "credential", "account_key"),
        *("connection_string", "sas", "sas_token", "aws_secret_access_key", "private_key", "client_secret", "cookies"),
        *("Authorization", "X-Amz-Signature", "X-Amz-Security-Token", "X-Goog-Signature", "sig", "credentials"),
        *("pass", "pw", "ftp_pass", "conn_str", "connect_string", "ConnectionString", "dsn", "bearer", "jwt"),
    ],
)
def test_names_of_secrets(name: str):
    assert is_secret_name(name)
    assert without_secrets({name: PLANTED, "inner": {name: [PLANTED]}}) == {"inner": {}}
    assert secrets_in({name: {"deep": [PLANTED]}}) == {PLANTED}
    quoted = f"%{ord(name[0]):x}{name[1:]}"
    for before in (f"?a=1&{name}", f"?{name}", f";{name}", f";a=1;{name}", f"?a=1;{quoted}"):
        url = f"https://host/x{before}={PLANTED}#c/a@v0"
        assert PLANTED not in redact(url)
        assert PLANTED not in without_url_secrets(url)


@pytest.mark.parametrize(
    "name",
    [
        "region_name",
        "endpoint_url",
        "anon",
        "signed",
        "timeout",
        "user",
        "sassafras",
        "passive",
        "bypass",
        "connect_timeout",
    ],
)
def test_names_of_other_options(name: str):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("url", "shown", "kept"),
    [
        (f"s3://AKID:{PLANTED}@bucket/x", "s3://***@bucket/x", "s3://bucket/x"),
        (f"s3://AKID:ab/cd+{PLANTED}/ef@bucket/x", "s3://***@bucket/x", "s3://bucket/x"),
        (f"ftp://me:{PLANTED}@127.0.0.1:9/srv", "ftp://***@127.0.0.1:9/srv", "ftp://me@127.0.0.1:9/srv"),
        (f"sftp://me:p@{PLANTED}@h/x", "sftp://***@h/x", "sftp://me@h/x"),
        (f"https://h/x?sig={PLANTED}&v=1", "https://h/x?sig=***&v=1", "https://h/x?v=1"),
        (f"s3://AKID:ab/c?{PLANTED}#x@bucket/x", "s3://***@bucket/x", "s3://bucket/x"),
        (f"https://{PLANTED}@host/x", "https://***@host/x", "https://host/x"),
        (f"https://{PLANTED}:x-oauth-basic@host/x", "https://***@host/x", "https://host/x"),
        (f"wandb://{PLANTED}@host/x", "wandb://***@host/x", "wandb://host/x"),
        (f"abfs://container:{PLANTED}@account/x", "abfs://***@account/x", "abfs://container@account/x"),
        ("abfs://container@account/x", *["abfs://container@account/x"] * 2),
        ("sftp://me@host:22/x@y", *["sftp://me@host:22/x@y"] * 2),
        (f"https://h/x;token={PLANTED};v=1?a=b", "https://h/x;token=***;v=1?a=b", "https://h/x;v=1?a=b"),
        (f"https://h/x?pw={PLANTED};{PLANTED}&a=b", "https://h/x?pw=***&a=b", "https://h/x?a=b"),
        ("http://host:9000/a@b", "http://host:9000/a@b", "http://host:9000/a@b"),
        ("github://org:repo@main/x", "github://org:repo@main/x", "github://org:repo@main/x"),
        ("s3://bucket/a:b@c", "s3://bucket/a:b@c", "s3://bucket/a:b@c"),
        ("s3://arn:aws:s3:eu:1:accesspoint/p/x@y", *["s3://arn:aws:s3:eu:1:accesspoint/p/x@y"] * 2),
    ],
)
def test_urls(url: str, shown: str, kept: str):
    assert redact(f"cannot read {url}: no") == f"cannot read {shown}: no"
    assert without_url_secrets(url) == kept


def test_what_was_given_is_hidden_wherever_it_turns_up():
    remember("memory://x", {"client_kwargs": {"aws_secret_access_key": "Zt9/qq+Remembered"}, "secret": "secret"})
    assert redact("Zt9/qq+Remembered was refused") == "*** was refused"
    assert redact("a secret, and xZt9/qq+Rememberedx") == "a secret, and xZt9/qq+Rememberedx"
    assert str(StoreUnreachable("no: Zt9/qq+Remembered")) == "no: ***"
    error = NotFound(f"s3://a:{PLANTED}@b/c is not there")
    assert PLANTED not in f"{error} {error!r} {error.args} {pickle.loads(pickle.dumps(error))!r}"


@pytest.mark.parametrize(
    "url",
    [
        *(
            f"{scheme}://me:{before}{PLANTED}{after}@host:9/p"
            for scheme in ("s3", "ftp", "sftp", "plain+s3", "nosuch")
            for before, after in (
                ("'", "sec"),
                (" ", ""),
                ('"', "'x"),
                ("12345/", ""),
                ("a/", "/b?c"),
                ("?", "#"),
                ("p@/", ""),
            )
        ),
        *(f"{begin}AKID:p'{PLANTED}@bucket/x" for begin in ("s3:/", "s3:", "S3://", "s3+http://")),
        f"s3://bucket?secret=a'{PLANTED} x",
        f"https://host/x;token='{PLANTED}",
    ],
)
def test_a_given_url_is_known_from_end_to_end(url: str):
    remember_arguments([f"--store={url}"])
    for text in (url, f"cannot read {url}: no", repr(url), f'no bucket "{url.partition("//")[2]}"', f"({url!r}, 1)"):
        assert PLANTED not in redact(text)


def test_a_short_password_is_hidden_in_its_url():
    remember("s3://AKID:a'b@bucket/x", {})
    assert redact("s3://AKID:a'b@bucket/x is missing") == "s3:***@bucket/x is missing"
    assert redact("a'b") == "a'b"


@pytest.mark.parametrize(
    "shown", ["se/cr/et+x'y z", "se%2Fcr%2Fet%2Bx%27y%20z", "se/cr/et%2Bx%27y%20z", "se/cr/et+x\\'y z"]
)
def test_a_password_is_hidden_quoted_and_unquoted(shown: str):
    remember("sftp://me:se%2Fcr%2Fet%2Bx%27y%20z@host/p", {})
    assert redact(f"<{shown}> was refused") == "<***> was refused"


def test_secrets_of_other_types_are_hidden():
    remember(
        "s3://bucket",
        {"secret": "\ud800 lone", "token": b"Bytes+Token77", "password": 8675309123, "key": {"Set/Secret/1"}},
    )
    assert redact("b'Bytes+Token77' 8675309123 Set/Secret/1") == "b'***' *** ***"


@pytest.mark.parametrize(
    "url",
    [
        *("/data/models:2024/run@v2", "./a:b@c", "models/resnet", "file:///data/a:b@c", "memory://a:b/models@v2"),
        *(
            "s3://bucket/models@v2",
            "s3://bucket/a:models@v2",
            "github://org:models@main/x",
            "sftp://alice1@host/models",
        ),
        *(
            "https://models@host/x",
            "http://[::1]:9000/models@v2",
            "http://host:9000/models",
            "az://models/x?timeout=models",
        ),
        *("s3://arn:aws:s3:eu-1:123456789012:accesspoint/models@v2", "models:resnet50@v2", "sftp://host:22/models@v2"),
    ],
)
def test_ordinary_texts_stay_as_they_are(url: str):
    remember(url, {"timeout": 123456, "anon": True, "key": None, "client_kwargs": {"region_name": "models"}})
    for text in (
        *("cannot read models/resnet50@v2 of /data/models:2024/run@v2: 123456 bytes", "no bucket; it has models=1"),
        *(
            "alice1 has no right to main/x on host:9000",
            "see https://host:9000/models?timeout=5 or s3://bucket/models@v2",
        ),
    ):
        assert redact(text) == text


URLS: list[tuple[str, dict[str, Any]]] = [
    (f"ftp://me:{PLANTED}@127.0.0.1:9/srv", {}),
    (f"sftp://me:{PLANTED}@127.0.0.1:9/srv", {}),
    ("sftp://me@127.0.0.1:9/srv", {"password": PLANTED}),
    (f"s3://AKID:{PLANTED}@bucket/x", {"endpoint_url": "http://127.0.0.1:9"}),
    (f"s3://AKID:a/{PLANTED}@bucket/x", {"endpoint_url": "http://127.0.0.1:9"}),
    ("s3://bucket/x", {"endpoint_url": f"http://me:{PLANTED}@127.0.0.1:9", "key": PLANTED, "secret": PLANTED}),
    (f"https://me:{PLANTED}@127.0.0.1:9/x?token={PLANTED}&a=b", {}),
    ("webdav://me@127.0.0.1:9/x", {"base_url": "http://127.0.0.1:9", "auth": ["me", PLANTED]}),
    ("az://container/x", {"connection_string": f"BlobEndpoint=http://127.0.0.1:9/a;AccountKey={PLANTED}"}),
    (f"nosuch://me:{PLANTED}@h/x", {}),
    (f"plain+s3://AKID:{PLANTED}@bucket/x", {"endpoint_url": "http://127.0.0.1:9"}),
    (f"s3://AKIAX:pa'{PLANTED}sec@bucket/x", {"endpoint_url": "http://127.0.0.1:9"}),
    (f"s3://AKIAX:{PLANTED}/c?def@bucket/x", {"endpoint_url": "http://127.0.0.1:9"}),
    (f"s3:/AKIAX:pa'{PLANTED}sec@bucket/x", {}),
    (f"ftp://me:pa'{PLANTED}sec@127.0.0.1:9/srv", {}),
    (f"sftp://me:pa {PLANTED}sec@127.0.0.1:9/srv", {}),
    (f"sftp://me:se%2F{PLANTED}@127.0.0.1:9/srv", {}),
    (f"sftp://127.0.0.1:9/{PLANTED}@127.0.0.1:9/srv", {}),
    (f"wandb://{PLANTED}@host", {}),
    ("s3://bucket/x", {"endpoint_url": f"http://me:p'{PLANTED}@127.0.0.1:9", "token": PLANTED.encode()}),
]


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "ATTEMPTS", 1)


@pytest.mark.parametrize(("url", "options"), URLS)
def test_managers(url: str, options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "artifactfs")
    (tmp_path / "file").write_bytes(b"x")
    said: list[str] = []
    try:
        manager = connect(url, **options)
    except ArtifactError as error:
        said.append(f"{error} {error!r}")
    else:
        said += [repr(manager), str(manager), repr(pickle.loads(pickle.dumps(manager)))]
        for call in (
            manager.list_collection_names,
            lambda: manager.list_artifacts("c"),
            lambda: manager.version_info("a", "c"),
            lambda: manager.log_files("a", tmp_path / "file", "c"),
            lambda: manager.collection_to_catalog("c"),
        ):
            with pytest.raises(ArtifactError) as caught:
                call()
            said.append(f"{caught.value} {caught.value!r}")
    said.append(caplog.text)
    assert PLANTED not in "\n".join(said)


ARGUMENTS: dict[str, list[str]] = {
    "ls": [],
    "put": ["{file}", "c/a"],
    "get": ["c/a", "{out}"],
    "cat": ["c/a:f"],
    "log": ["c/a"],
    "verify": [],
    "gc": [],
    "catalog": [],
    "delete": ["c/a@v0", "--yes"],
    "alias": ["c/a@v0", "best"],
    "warm": ["c/a"],
    "diff": ["c/a@v0", "c/a@v1"],
}


@pytest.mark.parametrize("command", sorted(ARGUMENTS))
def test_commands(command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    assert command in cli.commands
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "file").write_bytes(b"x")
    places = {"file": str(tmp_path / "file"), "out": str(tmp_path / "out")}
    arguments = [argument.format(**places) for argument in ARGUMENTS[command]]
    for url, given in (
        (f"ftp://me:{PLANTED}@127.0.0.1:9/srv", []),
        (f"s3://AKID:a/{PLANTED}@bucket/x", ["endpoint_url=http://127.0.0.1:9"]),
        ("s3://bucket/x", [f"endpoint_url=http://me:{PLANTED}@127.0.0.1:9", "key=AKID77", f"secret={PLANTED}"]),
    ):
        options = [part for pair in given for part in ("--storage-option", pair)]
        monkeypatch.setattr(sys, "argv", ["artifactfs", command, *arguments, "--store", url, *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code
    out, err = capfd.readouterr()
    assert err
    assert PLANTED not in out + err
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if PLANTED.encode() in path.read_bytes()]


SPLIT = [
    f"s3://AKIAX:pa'{PLANTED}sec@bucket/b",
    f"s3:/AKIAX:pa'{PLANTED}sec@bucket/b",
    f"ftp://u:pa'{PLANTED}sec@127.0.0.1:9/p",
    f"sftp://127.0.0.1:9/{PLANTED}sec@127.0.0.1:9/p",
    f"nosuch://u:pa {PLANTED}sec@127.0.0.1:9/p",
]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        *(("option", url) for url in SPLIT),
        *((given, SPLIT[0]) for given in ("variable", "address", "mount")),
        ("variable", SPLIT[1]),
    ],
)
def test_programs(url: str, given: str, tmp_path: Path):
    arguments = {
        "option": ["ls", "--store", url],
        "variable": ["verify"],
        "address": ["ls", url, "--store", str(tmp_path)],
        "mount": ["mount", url, str(tmp_path / "drive"), "--state-dir", str(tmp_path / "state")],
    }[given]
    (tmp_path / "drive").mkdir()
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "AWS_EC2_METADATA_DISABLED": "true"}
    environment |= {"ARTIFACTFS_STORE": url} if given == "variable" else {}
    command = [sys.executable, "-m", "mount.cli", *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode
    assert ended.stderr
    assert PLANTED not in ended.stdout + ended.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if PLANTED.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "url", [f"https://{PLANTED}@h/x", f"s3://K:p'{PLANTED} /a?b@bucket/x", f"s3://b?secret=a'{PLANTED}"]
)
def test_catalogs(url: str):
    source = source_of(
        url, VersionInfo("c", "a", "v0", 0, 0, 0), {"endpoint_url": f"http://me:p'{PLANTED}@127.0.0.1:9", "pw": PLANTED}
    )
    assert PLANTED not in repr(source) + str(source.driver_kwargs)


def test_a_driver_of_a_catalog():
    driver = DirectoryDriver(f"ftp://me:pa'{PLANTED}sec@127.0.0.1:9/srv")
    with pytest.raises((ArtifactError, OSError)) as caught:
        list(driver.keys())
    assert PLANTED not in f"{caught.value} {caught.value!r}"


def test_the_daemons_log_hides_what_a_traceback_tells(tmp_path: Path):
    remember("memory://x", {"password": PLANTED})
    formatter = logs.RedactingFormatter()
    try:
        raise OSError(f"login {PLANTED} refused at https://a:b@host")
    except OSError:
        record = logging.LogRecord("x", logging.ERROR, "x", 1, "failed: %s", (PLANTED,), sys.exc_info())
    text = formatter.format(record)
    assert "Traceback" in text
    assert PLANTED not in text
    assert "a:b@" not in text
