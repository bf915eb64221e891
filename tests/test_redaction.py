"""No secret of a URL or an option gets out: not into an error, a line of output, a log, a state file or a catalog."""

from __future__ import annotations

import logging
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from artifactfs import connect
from artifactfs.errors import ArtifactError, NotFound, StoreUnreachable
from artifactfs.objects import patience
from artifactfs.redaction import is_secret_name, redact, remember, secrets_in, without_secrets, without_url_secrets
from mount import logs
from mount.cli import cli, main

PLANTED = "SeCrEt5511"


@pytest.mark.parametrize(
    "name",
    [
        *("key", "secret", "token", "password", "auth", "pwd", "passphrase", "credential", "account_key"),
        *("connection_string", "sas", "sas_token", "aws_secret_access_key", "private_key", "client_secret", "cookies"),
        *("Authorization", "X-Amz-Signature", "X-Amz-Security-Token", "X-Goog-Signature", "sig", "credentials"),
    ],
)
def test_names_of_secrets(name: str):
    assert is_secret_name(name)
    assert without_secrets({name: PLANTED, "inner": {name: [PLANTED]}}) == {"inner": {}}
    assert secrets_in({name: {"deep": [PLANTED]}}) == {PLANTED}
    assert PLANTED not in redact(f"https://host/x?a=1&{name}={PLANTED}#c/a@v0")


@pytest.mark.parametrize("name", ["region_name", "endpoint_url", "anon", "signed", "timeout", "user", "sassafras"])
def test_names_of_other_options(name: str):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("url", "shown", "kept"),
    [
        (f"s3://AKID:{PLANTED}@bucket/x", "s3://***@bucket/x", "s3://AKID@bucket/x"),
        (f"s3://AKID:ab/cd+{PLANTED}/ef@bucket/x", "s3://***@bucket/x", "s3://AKID@bucket/x"),
        (f"ftp://me:{PLANTED}@127.0.0.1:9/srv", "ftp://***@127.0.0.1:9/srv", "ftp://me@127.0.0.1:9/srv"),
        (f"sftp://me:p@{PLANTED}@h/x", "sftp://***@h/x", "sftp://me@h/x"),
        (f"https://h/x?sig={PLANTED}&v=1", "https://h/x?sig=***&v=1", "https://h/x?v=1"),
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
