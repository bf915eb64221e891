"""The plug-in that squirrel-core finds: the driver of our catalogs, and our managers where it asks for its own.

squirrel-core loads this module by the entry point ``squirrel`` when its plug-ins are first wanted, and with its package
of managers; nothing of artifactfs imports it. It must not import what squirrel-core is in the middle of importing.

Threading: drivers are safe from any thread.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from squirrel.driver.driver import Driver, MapDriver
from squirrel.framework.plugins.hookimpl import hookimpl

from artifactfs.catalog import DRIVER_NAME
from artifactfs.catalog.drivers import VersionDriver
from artifactfs.managers.base import ArtifactManager

_MANAGERS = "squirrel.artifact_manager"


class ArtifactfsDriver(MapDriver):  # type: ignore[misc]
    """The files of one version by their paths; their bytes are the items."""

    name = DRIVER_NAME

    def __init__(
        self, url: str, storage_options: Mapping[str, Any] | None = None, catalog: Any = None, **more: Any
    ) -> None:
        """`url` is a version's, as our catalogs have it. Raises InvalidName."""
        super().__init__(catalog=catalog, **more)
        self._files = VersionDriver(url, storage_options)

    def keys(self, **_: Any) -> Iterator[str]:
        """The paths of the version's files, sorted."""
        return self._files.keys()

    def get(self, key: str, **_: Any) -> bytes:
        """The bytes of one file, checked against its digest."""
        return self._files.get(key)


@hookimpl  # type: ignore[untyped-decorator]
def squirrel_drivers() -> list[type[Driver]]:
    """Answer squirrel-core's question for drivers.

    Catalogs of the plain layout name squirrel-core's own driver ``directory``, which it has only once its managers are
    imported; what is registered while it asks comes too late for the answer.
    """
    found: list[type[Driver]] = [ArtifactfsDriver]
    if _MANAGERS not in sys.modules and importlib.util.find_spec(_MANAGERS) is not None:
        found.append(importlib.import_module(f"{_MANAGERS}.drivers").DirectoryDriver)
    register_managers()
    return found


def register_managers() -> None:
    """Make our managers instances of squirrel-core's type, where its package of managers was imported."""
    if _MANAGERS in sys.modules:
        base = importlib.import_module(f"{_MANAGERS}.base")
        base.ArtifactManager.register(ArtifactManager)


register_managers()
