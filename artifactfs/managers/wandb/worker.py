"""The process that holds the client of Weights & Biases: ``python -m artifactfs.managers.wandb.worker``.

It reads requests from standard input, one JSON object a line (``id``, ``call``, ``args``), and answers each on standard
output with ``id`` and ``ok`` or ``error`` (``kind``, ``text``). Credentials come by the environment, netrc or wandb's
settings, never by a request. It ends when its input does, at once, and takes wandb-core with it: that is how a drive
that was killed leaves nothing behind.

Facts about wandb 0.31 that this relies on, each measured: a missing project, type or artifact is a plain ValueError, or
a CommError about one, and anything else is no answer; `run.log_artifact` on an explicit run is the only way to say
where a version goes; the client does not retry a 409; settings on the process's singleton hold for all of it.

Threading: requests are answered by a few threads, `_lock` guards what they share and is not held across a request,
except while the first of them signs in. Commits come one at a time (`process` sees to it).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

from cachetools import LRUCache

from artifactfs.managers.wandb import processes

_THREADS = 16
_HASHING_THREADS = 4
_KNOWN_ARTIFACTS = 512
_GRAPHQL_S = 20
_COLLECTIONS_PAGE = 500
_VERSIONS_PAGE = 200
_LONGEST_TEXT = 400
# What wandb would otherwise upload about this machine and program, and how long it goes on trying.
_QUIET = {
    "console": "off",
    "disable_git": True,
    "save_code": False,
    "silent": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "x_skip_transaction_log": True,
    "x_graphql_retry_max": 1,
    "x_graphql_retry_wait_min_seconds": 0.2,
    "x_graphql_retry_wait_max_seconds": 1.0,
    "x_graphql_timeout_seconds": 15.0,
    "x_file_transfer_retry_max": 3,
    "x_file_transfer_retry_wait_min_seconds": 0.5,
    "x_file_transfer_retry_wait_max_seconds": 4.0,
    "x_file_stream_retry_max": 1,
    "x_file_stream_retry_wait_min_seconds": 0.2,
    "x_file_stream_retry_wait_max_seconds": 1.0,
    "x_file_stream_timeout_seconds": 15.0,
}
_OFFLINE = ("offline", "dryrun")
_DISABLED = ("disabled",)
_INIT_S = 45
_FINISH_S = 30
_ABSENT = re.compile(r"^Unable to parse|^Could not find|not found")
_QUERY_OF_URL = re.compile(r"(https?://[^\s?\"'<>]+)\?[^\s\"'<>]*")


# Of wandb's settings: what stays of those that files and the environment gave, besides what is set above. All else
# belongs to the caller's own runs.
_KEPT_SETTINGS = frozenset(
    {
        *("api_key", "identity_token_file", "credentials_file", "username", "email", "entity", "project"),
        *("base_url", "app_url_override", "http_proxy", "https_proxy", "insecure_disable_ssl", "x_proxies"),
        *("x_extra_http_headers", "azure_account_url_to_access_key", "init_timeout", "login_timeout"),
        *("root_dir", "settings_system", "x_executable", "x_stats_pid", "x_file_transfer_timeout_seconds"),
    }
)


class Absent(Exception):
    """W&B answered, and it is not there."""


class Off(Exception):
    """The user switched W&B off, or wandb cannot read its own settings."""


class Client:
    """The calls, by name. Arguments and answers are JSON."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._api: Any = None
        self._mode = ""
        self._artifacts: LRUCache[str, Any] = LRUCache(_KNOWN_ARTIFACTS)

    @property
    def api(self) -> Any:
        """wandb's public API, signed in at first use. Raises Off when wandb is to stay offline."""
        with self._lock:
            if self._api is None:
                import wandb

                try:
                    settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
                except ValueError as error:
                    raise Off(f"wandb cannot read its settings: {error}") from error
                self._mode = str(settings.mode)
                if self._mode in _OFFLINE:
                    raise _switched_off(self._mode)
                _forget_runs(settings)
                # Credentials stay where they were found, because those of the process win over netrc's otherwise.
                wandb.setup(settings=wandb.Settings(**_QUIET))
                self._api = wandb.Api(timeout=_GRAPHQL_S)
            return self._api

    def check_on(self) -> None:
        """Raises Off when wandb is to change nothing."""
        assert self.api is not None  # who may not sign in fails first
        if self._mode in _DISABLED:
            raise _switched_off(self._mode)

    # -- reading ----------------------------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """Where things go when nobody says so."""
        settings = self.api.settings
        return {
            "entity": settings["entity"] or self.api.default_entity,
            "project": settings["project"],
            "base_url": settings["base_url"],
        }

    def entities(self) -> list[str]:
        """The entities that whoever signed in belongs to."""
        # Not `api.viewer`, which fetches the keys of the account too.
        who = self.api._service_api.authenticate()
        return [name for name in (who.default_entity, who.username, *who.teams) if name]

    def types(self, project: str) -> list[str]:
        """The artifact types of ``entity/project``."""
        return [found.name for found in self.api.artifact_types(project)]

    def artifacts(self, project: str, type: str) -> list[str]:
        """The artifacts of a type."""
        pages = self.api.artifact_type(type, project).collections(per_page=_COLLECTIONS_PAGE)
        return [found.name for found in pages]

    def versions(self, artifact: str, type: str) -> list[dict[str, Any]]:
        """The live versions of ``entity/project/name``."""
        return [_told(found) for found in self.api.artifacts(type, artifact, per_page=_VERSIONS_PAGE)]

    def version(self, artifact: str) -> dict[str, Any]:
        """One version, of ``entity/project/name:v3``."""
        return _told(self.api.artifact(artifact))

    def manifest(self, artifact: str) -> list[list[Any]]:
        """(path, size, hex MD5, reference) of every entry of a version; what is not known is None."""
        return [_entry(str(path), entry) for path, entry in self.api.artifact(artifact).manifest.entries.items()]

    def urls(self, artifact: str, paths: list[str]) -> dict[str, str]:
        """The signed URLs of some files of a version."""
        with self._lock:
            found = self._artifacts.get(artifact)
        if found is None:
            found = self.api.artifact(artifact)
            with self._lock:
                self._artifacts[artifact] = found
        return {file.name: file.direct_url for file in found.files(names=paths, per_page=len(paths))}

    # -- changing ---------------------------------------------------------------------------------------------------

    def set_alias(self, artifact: str, alias: str) -> None:
        """Point an alias at a version; W&B takes it from another."""
        self.check_on()
        found = self.api.artifact(artifact)
        if alias not in found.aliases:
            found.aliases = [*found.aliases, alias]
            found.save()

    def annotate(self, artifact: str, description: str | None, metadata: dict[str, Any]) -> None:
        """Give a version another description, None for no other, and more metadata."""
        self.check_on()
        found = self.api.artifact(artifact)
        if description is not None:
            found.description = description
        found.metadata = {**found.metadata, **metadata}
        found.save()

    def delete_alias(self, artifact: str, alias: str) -> None:
        """Take an alias from a version."""
        self.check_on()
        found = self.api.artifact(artifact)
        found.aliases = [name for name in found.aliases if name != alias]
        found.save()

    def delete(self, artifact: str) -> None:
        """Delete a version with its aliases."""
        self.check_on()
        self.api.artifact(artifact).delete(delete_aliases=True)

    def commit(
        self,
        entity: str,
        project: str,
        type: str,
        name: str,
        files: list[list[str]],
        description: str,
        metadata: dict[str, Any],
        aliases: list[str],
        timeout_s: float,
    ) -> dict[str, Any]:
        """Log a version by a run of its own; `files` are (path in the version, path on disk).

        Gives ``version`` and ``digests``, the hex MD5 of each file, in order.
        """
        import wandb

        self.check_on()  # before anything is hashed
        artifact = wandb.Artifact(name, type, description=description or None, metadata=metadata)
        with ThreadPool(_HASHING_THREADS) as pool:
            entries = pool.starmap(
                lambda path, place: artifact.add_file(place, name=path, policy="immutable", skip_cache=True), files
            )
        with tempfile.TemporaryDirectory(prefix="artifactfs-wandb-") as directory:
            # Without SageMaker's: it names the run after the job and uploads the job's parameters.
            settings = wandb.Settings(init_timeout=_INIT_S, finish_timeout=_FINISH_S, sagemaker_disable=True)
            run = wandb.init(
                entity=entity,
                project=project,
                dir=directory,
                job_type="artifactfs",
                reinit="create_new",
                settings=settings,
            )
            logged = run.log_artifact(artifact, aliases=["latest", *aliases])
            logged.wait(timeout=int(timeout_s))
            version = logged.version
            run.finish()
        return {"version": version, "digests": [_entry("", entry)[2] for entry in entries]}


def _forget_runs(settings: Any) -> None:
    """Put wandb's settings back to what they are by themselves, but for `_KEPT_SETTINGS` and `_QUIET`."""
    for name, field in type(settings).model_fields.items():
        if name not in _KEPT_SETTINGS and name not in _QUIET:
            default = field.get_default(call_default_factory=True)
            if getattr(settings, name) != default:
                setattr(settings, name, default)


def _switched_off(mode: str) -> Off:
    return Off(
        f"W&B is switched off, its mode is {mode!r} (WANDB_MODE or wandb's settings file): set WANDB_MODE=online, "
        "or run `wandb online`"
    )


def _told(artifact: Any) -> dict[str, Any]:
    return {
        "version": artifact.version,
        "type": artifact.type,
        "created": artifact.created_at,
        "size_bytes": artifact.size,
        "file_count": artifact.file_count,
        "description": artifact.description or "",
        "metadata": artifact.metadata,
        "aliases": artifact.aliases,
    }


def _entry(path: str, entry: Any) -> list[Any]:
    from wandb.sdk.lib.hashutil import b64_to_hex_id

    is_md5 = entry.ref is None and entry.digest_algorithm().name == "MANIFEST_MD5"
    return [path, entry.size, str(b64_to_hex_id(entry.digest)) if is_md5 else None, entry.ref]


# -- errors -----------------------------------------------------------------------------------------------------------


def kind_of(error: BaseException) -> str:
    """The meaning of an error of the client: ``absent``, ``denied``, ``conflict``, ``timeout``, ``off`` and so on."""
    if isinstance(error, Off):
        return "off"
    from wandb.apis.public.service_api import WandbApiFailedError
    from wandb.errors import UsageError

    chain = list(_causes(error))
    for found in chain:
        response = getattr(found, "response", None) if isinstance(found, WandbApiFailedError) else None
        status = getattr(response, "http_status", 0) or 0
        if status in (401, 403):
            return "denied"
        if status == 409:
            return "conflict"
    text = " ".join(map(str, chain))
    if isinstance(error, Absent) or any(_says_absent(found) for found in chain):
        return "absent"
    if any(isinstance(found, UsageError) for found in chain) or re.search(
        r"\b(401|403)\b|permission denied|not logged in|API key must|API key may only", text
    ):
        return "denied"
    if re.search(r"\b409\b|rebase required", text):
        return "conflict"
    if re.search(r"is of type|Artifact type|type .* specified but|already exists with type", text):
        return "refused"
    if re.search(r"time[d ]*out|deadline exceeded", text, re.IGNORECASE):
        return "timeout"
    return "lost"


def _says_absent(error: BaseException) -> bool:
    # Exactly ValueError: what pydantic raises for an answer that makes no sense is a subclass.
    return (
        type(error) is ValueError and re.search(r"^Unable to parse|^Could not find|not found", str(error)) is not None
    )


def _causes(error: BaseException | None) -> Iterable[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        inner = getattr(error, "exc", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    return seen


def one_line(text: str, secrets: Iterable[str]) -> str:
    """The text without line breaks, keys and the signatures of URLs."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "…")
    text = " ".join(_QUERY_OF_URL.sub(r"\1", text).split())
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"


# -- the process ------------------------------------------------------------------------------------------------------


class _Session:
    """Answers requests until the input ends."""

    def __init__(self, answers: int) -> None:
        self._client = Client()
        self._answers = answers
        self._answer_lock = threading.Lock()

    def serve(self) -> None:
        pool = ThreadPoolExecutor(_THREADS)
        for line in sys.stdin.buffer:
            request = json.loads(line)
            pool.submit(self._answer, request["id"], getattr(self._client, request["call"]), request["args"])

    def _answer(self, number: int, call: Callable[..., Any], arguments: dict[str, Any]) -> None:
        try:
            answer: dict[str, Any] = {"ok": call(**arguments)}
        except Exception as error:  # noqa: BLE001 - whatever it is, the other process tells it
            answer = {"error": {"kind": kind_of(error), "text": self._described(error)}}
        raw = json.dumps({"id": number, **answer}).encode() + b"\n"
        with self._answer_lock, os.fdopen(os.dup(self._answers), "wb") as output:
            output.write(raw)

    def _described(self, error: Exception) -> str:
        key = getattr(self._client._api, "api_key", None)
        text = str(error) or type(error).__name__
        return one_line(text, (key or "", os.environ.get("WANDB_API_KEY", "")))


def main() -> None:
    """Run until the input ends."""
    answers = os.dup(1)
    # wandb prints here.
    os.dup2(2, 1)
    try:
        _Session(answers).serve()
    finally:
        # At once: exit hooks of wandb wait for a server that may be down.
        for pid in processes.children_of(os.getpid()):
            processes.kill(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        os._exit(0)


if __name__ == "__main__":
    main()
