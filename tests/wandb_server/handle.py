"""The stand-in as tests hold it: started, killed, started again on the same port, filled, watched and made to fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
ENTITY = "team"
PROJECT = "drive"
# Forty characters, as the client demands of a key; no other text of a test has them.
KEY = "5ec2e7" * 6 + "5ec2"
READER_KEY = "0bad5ee" * 5 + "0bad5"
STRANGER_KEY = "57a46e4" * 5 + "57a46"


class WandbServer:
    """A server process with its state in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[str] | None = None
        self.port = 0
        self.start()
        both = [ENTITY]
        self._post("user", {"key": KEY, "username": "ann", "entity": ENTITY, "reads": both, "writes": both})
        self._post("user", {"key": READER_KEY, "username": "bob", "entity": "bob", "reads": both, "writes": []})
        self._post("user", {"key": STRANGER_KEY, "username": "eve", "entity": "eve", "reads": [], "writes": []})
        self.add_project(PROJECT)

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen, on the port it had before where there was one."""
        assert self._process is None
        command = [sys.executable, "-m", "tests.wandb_server", str(self.directory / "state"), str(self.port)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """The end, without notice."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.communicate()
            self._process = None

    @property
    def is_running(self) -> bool:
        """Whether it listens."""
        return self._process is not None

    # -- for clients --------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where clients find it (``WANDB_BASE_URL``)."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self, home: Path, key: str | None = KEY) -> dict[str, str]:
        """What makes a client use this server, `home` and nothing else of this machine."""
        places = ("", "CACHE_", "DATA_", "CONFIG_", "ARTIFACT_")
        for place in places:
            (home / f"wandb{place.lower()}").mkdir(parents=True, exist_ok=True)
        return {
            "HOME": str(home),
            "WANDB_BASE_URL": self.url,
            "WANDB_ERROR_REPORTING": "false",
            **{f"WANDB_{place}DIR": str(home / f"wandb{place.lower()}") for place in places},
            **({"WANDB_API_KEY": key} if key else {}),
        }

    def client_environment(self, home: Path, key: str | None = KEY) -> dict[str, str]:
        """The same for a process of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        return {**kept, **self.environment(home, key)}

    # -- behind the client's back -------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """How many requests of each kind there were, and how many bytes of files."""
        return self._get("counts")

    def state(self) -> Any:
        """Runs and artifacts of every project."""
        return self._get("state")

    def add_project(self, name: str) -> None:
        """An empty project of the entity."""
        self._post("project", [ENTITY, name])

    def seed(
        self, artifact: str | list[str], files: dict[str, Any], *, type: str = "dataset", project: str = PROJECT
    ) -> None:
        """A version (of each of several artifacts) as another client would have logged it."""
        names = [artifact] if isinstance(artifact, str) else artifact
        place = {"entity": ENTITY, "project": project, "type_name": type}
        self._post("seed", {**place, "names": names, "files": files})

    def fail(self, where: str, what: str, times: int | None = None, **more: Any) -> None:
        """A fault, see `faults`."""
        self._post("fault", {"where": where, "what": what, "times": times, **more})

    def heal(self) -> None:
        """No more faults."""
        self._post("clear", None)

    def expire_urls_after(self, seconds: float) -> None:
        """How long URLs signed from now on are good for."""
        self._post("expires", seconds)

    @property
    def blobs(self) -> Path:
        """The directory of files in which the server keeps all bytes."""
        return self.directory / "state" / "blobs"

    def _get(self, what: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/admin/{what}", timeout=120) as answer:
            return json.load(answer)

    def _post(self, what: str, given: Any) -> None:
        body = json.dumps(given).encode()
        with urllib.request.urlopen(f"{self.url}/admin/{what}", body, timeout=120):
            pass
