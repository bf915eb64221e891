"""Which project of which entity on which server, and asking the client about it.

What was not given is taken from the run that is active in this process, then from wandb's settings, then from the
account; it is asked for once. Threading: any thread; `_lock` guards what is known and is not held while asking.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from typing import Any, NamedTuple

from artifactfs.errors import ArtifactError, InvalidName, NotFound
from artifactfs.managers.wandb import process
from artifactfs.managers.wandb.versions import stored_name

SCHEME = "wandb"


class _Where(NamedTuple):
    base_url: str
    entity: str
    project: str


class Project:
    """See the module docstring. `url` is what :func:`artifactfs.connect` opens it with."""

    def __init__(self, entity: str | None, project: str | None) -> None:
        """Nothing is asked yet. Raises InvalidName."""
        for given in (entity, project):
            if given is not None and (not given.strip() or any(character in given for character in "/:?#\n")):
                raise InvalidName(f"{given!r} is no name of an entity or project of W&B")
        self._entity = entity
        self._project = project
        self.url = f"{SCHEME}://{entity or ''}{'/' + project if project else ''}"
        self._lock = threading.Lock()
        self._known: _Where | None = None

    def path(self) -> str:
        """``entity/project``. Raises InvalidName when nothing says which, AccessDenied, StoreUnreachable."""
        where = self._where()
        return f"{where.entity}/{where.project}"

    def id(self) -> str:
        """The same for this project of this server, and no other. Raises as :meth:`path`."""
        return hashlib.sha256("\n".join(self._where()).encode()).hexdigest()[:32]

    def address(self, artifact: str, version: str | None = None) -> str:
        """What W&B calls an artifact or a version, as shown here. Raises InvalidName, and as :meth:`path`."""
        name = stored_name(artifact)
        return f"{self.path()}/{name}" if version is None else f"{self.path()}/{name}:{version}"

    def full_url(self) -> str:
        """The URL that names this project anywhere. Raises as :meth:`path`."""
        return f"{SCHEME}://{self.path()}"

    def named(self) -> tuple[str | None, str | None]:
        """Entity and project as far as they are known without asking."""
        with self._lock:
            known = self._known
        return (self._entity, self._project) if known is None else (known.entity, known.project)

    def types(self) -> list[str]:
        """The artifact types, none of a project that is not there yet: the first commit makes it.

        Raises NotFound where the entity is none of whoever signed in, AccessDenied, StoreUnreachable.
        """
        path = self.path()
        nothing = NotFound(f"W&B has no project {path}, or this key may not see it")
        try:
            found: list[str] = self.ask(nothing, "types", project=path)
        except NotFound:
            if path.partition("/")[0] not in self.ask(nothing, "entities"):
                raise
            return []
        return found

    def check_writable(self) -> None:
        """Raises Unsupported where wandb is switched off, and as :meth:`types`."""
        self.types()
        self.ask(NotFound(), "check_on")

    @staticmethod
    def ask(absent: ArtifactError, call: str, /, timeout_s: float = process.CALL_S, **arguments: Any) -> Any:
        """The client's answer. Raises `absent` where W&B says that it is not there."""
        try:
            return process.reader().call(call, timeout_s, **arguments)
        except NotFound as error:
            raise absent from error

    def _where(self) -> _Where:
        with self._lock:
            if self._known is not None:
                return self._known
        run = getattr(sys.modules.get("wandb"), "run", None)
        entity = self._entity or getattr(run, "entity", None)
        project = self._project or getattr(run, "project", None)
        told = process.reader().call("identity")
        found = _Where(told["base_url"], entity or told["entity"] or "", project or told["project"] or "")
        for what, name, variable in (
            ("entity", found.entity, "WANDB_ENTITY"),
            ("project", found.project, "WANDB_PROJECT"),
        ):
            if not name:
                raise InvalidName(
                    f"{self.url}: no {what}; name it ({SCHEME}://ENTITY/PROJECT), set {variable} or start a run first"
                )
        with self._lock:
            self._known = found
        return found
